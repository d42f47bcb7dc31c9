package app_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/netbox-events/netbox-event-operator/internal/app"
	"github.com/netbox-events/netbox-event-operator/internal/version"
)

func TestVersion(t *testing.T) {
	m := start(t, plane.Config)
	binary, err := plane.Manager()
	if err != nil {
		t.Fatal(err)
	}
	printed, err := exec.Command(binary, "--version").CombinedOutput()
	if want := version.ThisBuild().Go; err != nil || !strings.HasPrefix(string(printed), "netbox-event-operator ") ||
		!strings.HasSuffix(string(printed), ", "+want+"\n") {
		t.Errorf("--version prints %q, %v", printed, err)
	}
	m.signal(t, syscall.SIGTERM)
	if err := m.waitEnd(t); err != nil {
		t.Error(err)
	}
	fields := strings.Split(strings.TrimPrefix(strings.TrimSpace(string(printed)), "netbox-event-operator "), ", ")
	want := `"msg":"starting","version":"` + fields[0] + `","commit":"` + strings.TrimPrefix(fields[1], "commit ") + `"`
	if !strings.Contains(m.log.String(), want) {
		t.Errorf("the log lacks %s", want)
	}
}

func TestBuildMetric(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	app.RegisterBuild(registry, version.Build{Version: "v1.2.3", Commit: "abc", Go: "go1.26.0"})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, family := range families {
		got["name"] = family.GetName()
		for _, label := range family.GetMetric()[0].GetLabel() {
			got[label.GetName()] = label.GetValue()
		}
	}
	want := map[string]string{"name": "netbox_events_build_info", "version": "v1.2.3", "commit": "abc", "goversion": "go1.26.0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the metric (-want +got):\n%s", diff)
	}
}
