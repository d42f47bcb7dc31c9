package app_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// TestLarge sends bodies of all sizes up to the maximum of maxBodyBytes. Each is stored and finished, or refused with 413.
func TestLarge(t *testing.T) {
	target := newSource(t)
	target.Spec.MaxBodyBytes = 3_000_000
	if err := plane.Client.Update(t.Context(), target); err != nil {
		t.Fatal(err)
	}
	m := start(t, plane.Config)
	served(t, m.url(target))
	fill := map[string]func(bytes int) string{
		"one text": func(bytes int) string { return `"` + strings.Repeat("x", bytes-2) + `"` },
		"many small members": func(bytes int) string {
			var members []string
			for n := range bytes / 20 {
				members = append(members, fmt.Sprintf(`"field_%06d":%4d`, n, n%1000))
			}
			return "{" + strings.Join(members, ",") + "}"
		},
		"many secrets": func(bytes int) string {
			return "[" + strings.Repeat(`{"password":"x"},`, bytes/17) + "0]"
		},
		"secrets under a long name": func(bytes int) string {
			return `{"` + strings.Repeat("x", bytes/5) + `":[` + strings.Repeat(`{"password":"x"},`, bytes*4/5/17) + "0]}"
		},
		"many long numbers": func(bytes int) string {
			return "[" + strings.Repeat(`12345678901234567890123,`, bytes/24) + "0]"
		},
		"many short numbers, which are long when they are stored": func(bytes int) string {
			return "[" + strings.Repeat(`1e20,`, bytes/5) + "0]"
		},
	}
	n := 0
	for name, fill := range fill {
		var answers []string
		for _, kilobytes := range []int{345, 1000, 1538, 1545, 2900} {
			n++
			sent := strings.Replace(body(n), `"data":{`, `"data":{"x":`+fill(kilobytes*1000)+`,`, 1)
			status, event := post(t.Context(), m.url(target), sent)
			answers = append(answers, fmt.Sprintf("%d kB: %d", kilobytes, status))
			switch status {
			case http.StatusOK, http.StatusRequestEntityTooLarge:
			default:
				t.Errorf("%s of %d kB: answered with %d", name, kilobytes, status)
			}
			if (status == http.StatusOK) != (event != "") || name == "one text" && (status == http.StatusOK) != (kilobytes < 1540) {
				t.Errorf("%s of %d kB: answered with %d, event %q", name, kilobytes, status, event)
			}
		}
		t.Log(name, answers)
	}
	allDone(t, target)
	for event, phase := range phases(t, target) {
		if phase != v1alpha1.PhaseSucceeded {
			t.Errorf("%s is %s", event, phase)
		}
	}
	t.Logf("peak memory %d MiB", peakMemory(t, m.process.Pid)>>20)
}
