package monitoring

import (
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/labels"
)

// TestAlerts evaluates the alerts on metrics of half an hour and more. Series are in promtool's notation, a sample each minute: "1x3" is
// one and three more, "_x3" is four times none, "stale" ends a series. Series that a case does not set are those of a healthy release.
func TestAlerts(t *testing.T) {
	const requests, deliveries = "netbox_events_receiver_requests_total", "netbox_events_deliveries_total"
	fine := []string{
		`up{pod="a"} 1x200`, `up{pod="b"} 1x200`,
		`leader_election_master_status{pod="a",name="netbox-event-operator"} 1x200`,
		`leader_election_master_status{pod="b",name="netbox-event-operator"} 0x200`,
	}
	cases := []struct {
		reason  string
		series  []string
		minutes int
		want    []string
	}{
		{
			reason: "healthy, with counters that start at 1 or are reset",
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 5+5x10 0+5x200`,
				requests + `{pod="a",source="n/s",result="duplicate"} _x20 1x200`,
				requests + `{pod="a",source="n/s",result="unauthorized"} 900x200`,
				requests + `{pod="a",source="n/s",result="unavailable"} 900x200`,
				requests + `{pod="a",source="n/s",result="suspended"} 900x200`,
				deliveries + `{pod="a",rule="n/r",action="x",result="succeeded"} _x20 1+1x200`,
				deliveries + `{pod="a",rule="n/r",action="x",result="retried"} _x20 1+1x200`,
				deliveries + `{pod="a",rule="n/r",action="x",result="failed"} 7x200`,
				`netbox_events_rule_expression_errors_total{pod="a",rule="n/r"} 7x200`,
				`netbox_events_pending_events{pod="a",source="n/s"} 900x200`,
				`netbox_events_sink_available{pod="a",rule="n/r",action="x"} 1x200`,
				`netbox_events_oldest_pending_event_seconds{pod="a",source="n/s"} 60x200`,
				`netbox_events_netbox_missed_total{pod="a",source="n/s"} 0x20 9x200`,
				`netbox_events_netbox_receiving{pod="a",source="n/s"} 1x200`,
				`netbox_events_netbox_changelog_up_to_date_timestamp_seconds{pod="a",source="n/s"} 0+60x200`,
				`kube_deployment_status_replicas_available{job="ksm",namespace="ops",deployment="netbox-event-operator"} 2x200`,
				`apiserver_resource_objects{job="apiserver",namespace="default",group="netbox-events.io",resource="netboxevents"} 19999x200`,
			},
			minutes: 60,
		},
		{
			reason: "failures of another release do not fire",
			series: []string{
				`up{job="other-metrics",pod="x"} 0x200`,
				`leader_election_master_status{job="other-metrics",pod="x",name="netbox-event-operator"} 0x200`,
				requests + `{job="other-metrics",pod="x",source="n/s",result="unavailable"} 0+9x200`,
				requests + `{namespace="elsewhere",pod="x",source="n/s",result="throttled"} 0+9x200`,
				`netbox_events_pending_events{job="other-metrics",pod="x",source="n/s"} 5000x200`,
				`netbox_events_netbox_missed_total{job="other-metrics",pod="x",source="n/s"} 0+9x200`,
				`netbox_events_netbox_receiving{job="other-metrics",pod="x",source="n/s"} 0x200`,
				`netbox_events_netbox_changelog_up_to_date_timestamp_seconds{job="other-metrics",pod="x",source="n/s"} 0x200`,
				`kube_deployment_status_replicas_available{job="ksm",namespace="elsewhere",deployment="netbox-event-operator"} 0x200`,
				`kube_deployment_status_replicas_available{job="ksm",namespace="ops",deployment="other"} 0x200`,
			},
			minutes: 60,
		},

		{reason: "one of two replicas is down", series: []string{`up{pod="b"} 1x10 0x200`}, minutes: 60},
		{
			reason: "all replicas are down for 4 minutes", minutes: 24,
			series: []string{`up{pod="a"} 1x19 0x200`, `up{pod="b"} 1x19 0x200`},
		},
		{
			reason: "all replicas are down for longer", minutes: 25, want: []string{`NetBoxEventsIntakeDown`},
			series: []string{`up{pod="a"} 1x19 0x200`, `up{pod="b"} 1x19 0x200`},
		},
		{
			reason: "no replica exists, nor its metrics", minutes: 40, want: []string{`NetBoxEventsIntakeDown`},
			series: []string{
				`up{pod="a"} 1x19 stale`, `up{pod="b"} 1x19 stale`,
				`leader_election_master_status{pod="a",name="netbox-event-operator"} 1x19 stale`,
				`leader_election_master_status{pod="b",name="netbox-event-operator"} 0x19 stale`,
			},
		},
		{
			reason: "the pods run, and none is ready", minutes: 40, want: []string{`NetBoxEventsIntakeDown`},
			series: []string{`kube_deployment_status_replicas_available{job="ksm",namespace="ops",deployment="netbox-event-operator"} 2x19 0x200`},
		},

		{
			reason: "the API server is unavailable, and NetBox continues to send", minutes: 45,
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+9x20 189x200`,
				requests + `{pod="a",source="n/s",result="unavailable"} _x20 1+9x200`,
			},
			want: []string{`NetBoxEventsNothingStored{source="n/s"}`, `NetBoxEventsUnavailable{source="n/s"}`},
		},
		{
			reason: "the API server is unavailable, and sources cannot be looked up either", minutes: 45,
			series: []string{requests + `{pod="a",source="",result="unavailable"} _x20 1+1x200`},
			want:   []string{`NetBoxEventsNothingStored`, `NetBoxEventsUnavailable`},
		},
		{
			reason: "the source is suspended", minutes: 45, want: []string{`NetBoxEventsUnavailable{source="n/s"}`},
			series: []string{requests + `{pod="a",source="n/s",result="suspended"} _x20 1+9x200`},
		},
		{
			reason: "one replica of two stores", minutes: 45, want: []string{`NetBoxEventsUnavailable{source="n/s"}`},
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+9x200`,
				requests + `{pod="b",source="n/s",result="unavailable"} _x20 1+9x200`,
			},
		},
		{
			reason: "one delivery alone was refused, the first ever", minutes: 25, want: []string{`NetBoxEventsUnavailable{source="n/s"}`},
			series: []string{requests + `{pod="a",source="n/s",result="unavailable"} _x18 1x200`},
		},
		{
			reason: "the alert of a single refusal resolves", minutes: 40,
			series: []string{requests + `{pod="a",source="n/s",result="unavailable"} _x18 1x200`},
		},
		{
			reason: "NetBox retries deliveries that were stored but not answered", minutes: 45, want: []string{`NetBoxEventsUnavailable{source="n/s"}`},
			series: []string{
				requests + `{pod="a",source="n/s",result="duplicate"} 0+9x200`,
				requests + `{pod="b",source="n/s",result="unavailable"} _x20 1+9x200`,
			},
		},
		{
			reason: "the outage is over", minutes: 120,
			series: []string{
				requests + `{pod="a",source="n/s",result="unavailable"} _x20 1+9x10 91x200`,
				requests + `{pod="a",source="n/s",result="throttled"} _x20 1+9x10 91x200`,
				requests + `{pod="a",source="n/s",result="backlog_full"} _x20 1+9x10 91x200`,
				`netbox_events_sink_available{pod="a",rule="n/r",action="x"} 1x20 0x20 1x200`,
				requests + `{pod="a",source="n/s",result="unauthorized"} _x20 1+9x10 91x200`,
				deliveries + `{pod="a",rule="n/r",action="x",result="failed"} _x20 1+9x10 91x200`,
			},
		},

		{
			reason: "over the source's rate", minutes: 25, want: []string{`NetBoxEventsThrottled{source="n/s"}`},
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+9x200`,
				requests + `{pod="a",source="n/s",result="throttled"} _x20 1x200`,
			},
		},
		{
			reason: "more requests in flight than there is memory for", minutes: 25, want: []string{`NetBoxEventsThrottled`},
			series: []string{requests + `{pod="a",source="",result="throttled"} _x20 3x200`},
		},

		{
			reason: "a backlog is full, and NetBox continues to send", minutes: 45, want: []string{`NetBoxEventsBacklogFull{source="n/s"}`},
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+9x20 189x200`,
				requests + `{pod="a",source="n/s",result="backlog_full"} _x20 1+9x200`,
			},
		},
		{
			reason: "a backlog has been full for more than an hour, and the source has stored nothing since", minutes: 120,
			series: []string{requests + `{pod="a",source="n/s",result="backlog_full"} _x20 1+9x200`},
			want:   []string{`NetBoxEventsBacklogFull{source="n/s"}`},
		},
		{
			reason: "one delivery alone was refused for a full backlog, by one of two replicas", minutes: 25,
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+9x200`,
				requests + `{pod="b",source="n/s",result="backlog_full"} _x20 1x200`,
			},
			want: []string{`NetBoxEventsBacklogFull{source="n/s"}`},
		},

		{
			reason: "a sink is unavailable for nine minutes, twice", minutes: 60,
			series: []string{`netbox_events_sink_available{pod="a",rule="n/r",action="x"} 1x20 0x8 1x5 0x8 1x200`},
		},
		{
			reason: "a sink is unavailable, and the rule's other one is not", minutes: 40,
			want: []string{`NetBoxEventsSinkUnavailable{action="x", rule="n/r"}`},
			series: []string{
				`netbox_events_sink_available{pod="a",rule="n/r",action="x"} 1x20 0x200`,
				`netbox_events_sink_available{pod="a",rule="n/r",action="y"} 1x200`,
			},
		},
		{
			reason: "a sink is unavailable during a change of leader", minutes: 40,
			want: []string{`NetBoxEventsSinkUnavailable{action="x", rule="n/r"}`},
			series: []string{
				`netbox_events_sink_available{pod="a",rule="n/r",action="x"} 1x20 0x10 stale`,
				`netbox_events_sink_available{pod="b",rule="n/r",action="x"} _x30 0x200`,
			},
		},
		{
			reason: "a sink of a deleted rule is unavailable", minutes: 60,
			series: []string{`netbox_events_sink_available{pod="a",rule="n/r",action="x"} 1x20 0x15 stale`},
		},

		{
			reason: "a few wrong signatures, among right ones", minutes: 45,
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+1x200`,
				requests + `{pod="a",source="n/s",result="unauthorized"} 0+0.4x200`,
			},
		},
		{
			reason: "wrong signatures continue, among right ones", minutes: 45, want: []string{`NetBoxEventsSignatureFailures{source="n/s"}`},
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+1x200`,
				requests + `{pod="a",source="n/s",result="unauthorized"} _x20 1+1x200`,
			},
		},

		{
			reason: "NetBox's secret was changed; the last stored delivery is more than an hour old", minutes: 100,
			series: []string{
				requests + `{pod="a",source="n/s",result="stored"} 0+1x10 11x200`,
				requests + `{pod="a",source="n/s",result="unauthorized"} _x30 1x40 2x200`,
			},
			want: []string{`NetBoxEventsAllRefused{source="n/s"}`},
		},
		{
			reason: "a source is being set up, and its first delivery is refused", minutes: 30,
			series: []string{requests + `{pod="a",source="n/s",result="invalid"} _x20 1x200`},
		},
		{
			reason: "a body template in NetBox, and a source without other deliveries", minutes: 60,
			series: []string{requests + `{pod="a",source="n/s",result="invalid"} _x20 1x200`},
			want:   []string{`NetBoxEventsAllRefused{source="n/s"}`},
		},
		{
			reason: "scanners request paths that no source has", minutes: 60,
			series: []string{
				requests + `{pod="a",source="",result="not_found"} 0+9x200`,
				requests + `{pod="a",source="",result="method_not_allowed"} 0+9x200`,
			},
		},

		{
			reason: "no replica leads", minutes: 40, want: []string{`NetBoxEventsNoLeader{name="netbox-event-operator"}`},
			series: []string{`leader_election_master_status{pod="a",name="netbox-event-operator"} 1x19 0x200`},
		},
		{
			reason: "another replica leads after a minute", minutes: 40,
			series: []string{
				`leader_election_master_status{pod="a",name="netbox-event-operator"} 1x19 0x200`,
				`leader_election_master_status{pod="b",name="netbox-event-operator"} 0x20 1x200`,
			},
		},

		{
			reason: "events arrive faster than they are processed", minutes: 60, want: []string{`NetBoxEventsBacklog{source="n/s"}`},
			series: []string{`netbox_events_pending_events{pod="a",source="n/s"} 0+50x200`},
		},
		{
			reason: "the backlog of a bulk import drains in ten minutes", minutes: 17,
			series: []string{`netbox_events_pending_events{pod="a",source="n/s"} 0x10 5000-500x10 stale`},
		},
		{
			reason: "many events wait for their groups to close", minutes: 60,
			series: []string{`netbox_events_pending_events{pod="a",source="n/s"} 0x200`, `netbox_events_grouping_events{pod="a",source="n/s"} 5000x200`},
		},
		{
			reason: "an event is retried for long", minutes: 60, want: []string{`NetBoxEventsStuck{source="n/s"}`},
			series: []string{`netbox_events_oldest_pending_event_seconds{pod="a",source="n/s"} 0+60x200`},
		},

		{
			reason: "no webhook arrives for nine minutes", minutes: 60,
			series: []string{`netbox_events_netbox_receiving{pod="a",source="n/s"} 1x20 0x8 1x200`},
		},
		{
			reason: "no webhook arrives, also after a change of leader", minutes: 40, want: []string{`NetBoxEventsNotReceiving{source="n/s"}`},
			series: []string{
				`netbox_events_netbox_receiving{pod="a",source="n/s"} 1x20 0x10 stale`,
				`netbox_events_netbox_receiving{pod="b",source="n/s"} _x30 0x200`,
			},
		},
		{
			reason: "the change log was not read for a quarter of an hour", minutes: 40, want: []string{`NetBoxEventsChangeLogUnread{source="n/s"}`},
			series: []string{`netbox_events_netbox_changelog_up_to_date_timestamp_seconds{pod="a",source="n/s"} 0+60x20 1200x200`},
		},
		{
			reason: "another leader reads the change log, which one could not", minutes: 40,
			series: []string{
				`netbox_events_netbox_changelog_up_to_date_timestamp_seconds{pod="a",source="n/s"} 0+60x10 600x10 stale`,
				`netbox_events_netbox_changelog_up_to_date_timestamp_seconds{pod="b",source="n/s"} _x20 1260+60x200`,
			},
		},
		{
			reason: "a new leader finds many changes at once that were missed", minutes: 25, want: []string{`NetBoxEventsMissedChanges{source="n/s"}`},
			series: []string{
				`netbox_events_netbox_missed_total{pod="a",source="n/s"} 0x20 stale`,
				`netbox_events_netbox_missed_total{pod="b",source="n/s"} _x20 11x200`,
			},
		},
		{
			reason: "webhooks are lost all the time, a few in half an hour", minutes: 120,
			series: []string{`netbox_events_netbox_missed_total{pod="a",source="n/s"} 0+0.25x200`},
		},

		{
			reason: "a single permanent failure of a rule, a day after its last event", minutes: 25, want: []string{`NetBoxEventsDeliveriesFailed{rule="n/r"}`},
			series: []string{deliveries + `{pod="a",rule="n/r",action="x",result="failed"} _x20 1x200`},
		},
		{
			reason: "a rule's expression fails", minutes: 25, want: []string{`NetBoxEventsRuleErrors{rule="n/r"}`},
			series: []string{`netbox_events_rule_expression_errors_total{pod="a",rule="n/r"} _x20 1x200`},
		},

		{
			reason: "a source has nearly reached maxEvents, another has not", minutes: 40,
			want: []string{`NetBoxEventsRetentionNearlyFull{source="n/s"}`},
			series: []string{
				`netbox_events_stored_events{pod="a",source="n/s"} 4600x200`, `netbox_events_max_stored_events{pod="a",source="n/s"} 5000x200`,
				`netbox_events_stored_events{pod="a",source="n/t"} 4400x200`, `netbox_events_max_stored_events{pod="a",source="n/t"} 5000x200`,
			},
		},
		{
			reason: "many events are stored", minutes: 40, want: []string{`NetBoxEventsManyStored`},
			series: []string{
				`apiserver_resource_objects{job="apiserver",namespace="default",instance="1",group="netbox-events.io",resource="netboxevents"} 30000x200`,
				`apiserver_resource_objects{job="apiserver",namespace="default",instance="2",group="netbox-events.io",resource="netboxevents"} 29000x200`,
				`apiserver_storage_objects{job="apiserver",namespace="default",instance="1",resource="netboxevents.netbox-events.io"} 30000x200`,
			},
		},
		{
			reason: "many events are stored, before Kubernetes 1.34", minutes: 40, want: []string{`NetBoxEventsManyStored`},
			series: []string{`apiserver_storage_objects{job="apiserver",namespace="default",resource="netboxevents.netbox-events.io"} 30000x200`},
		},
	}

	rules := rules(t)
	page, err := os.ReadFile(root + "/docs/monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, c := range cases {
		start := time.Unix(0, 0)
		m := newMemory()
		for _, series := range fine {
			m.load(t, start, series)
		}
		for _, series := range c.series {
			m.load(t, start, series)
		}
		got := []string{}
		for _, alert := range m.run(t, rules, start, start.Add(time.Duration(c.minutes)*time.Minute)) {
			seen[alert.name] = true
			shown := labels.NewBuilder(alert.labels).Del("job", "namespace", "severity", "result").Labels()
			got = append(got, strings.TrimSuffix(alert.name+shown.String(), "{}"))
			if severity := alert.labels.Get("severity"); severity != "critical" && severity != "warning" || alert.labels.Get("namespace") != namespace {
				t.Errorf("%s: the labels are %s", alert.name, alert.labels)
			}
			for name, text := range alert.annotations {
				if text == "" || strings.ContainsAny(text, "%{\n") || strings.Contains(text, "  ") || strings.Contains(text, "no value") {
					t.Errorf("%s: %s is %q", alert.name, name, text)
				}
			}
			if _, anchor, _ := strings.Cut(alert.annotations["runbook_url"], "docs/monitoring.md#"); anchor != strings.ToLower(alert.name) {
				t.Errorf("%s: runbook_url is %s", alert.name, alert.annotations["runbook_url"])
			}
			t.Logf("%s\n\t%s\n\t%s", alert.name, alert.annotations["summary"], alert.annotations["description"])
		}
		slices.Sort(got)
		slices.Sort(c.want)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: after %d minutes %q fire, want %q", c.reason, c.minutes, got, c.want)
		}
	}
	for _, rule := range rules {
		if rule.Alert == "" {
			continue
		}
		if !seen[rule.Alert] {
			t.Errorf("no test case fires %s", rule.Alert)
		}
		if !strings.Contains(string(page), "\n### "+rule.Alert+"\n") {
			t.Errorf("docs/monitoring.md has no section for %s", rule.Alert)
		}
	}
}

// load adds a series in promtool's notation. Its default labels are those of our release, and it replaces an existing series.
func (m *memory) load(t *testing.T, start time.Time, series string) {
	t.Helper()
	metric, values, err := promQL.ParseSeriesDesc(series)
	if err != nil {
		t.Fatalf("%v in %s", err, series)
	}
	defaults := labels.NewBuilder(metric)
	for name, text := range map[string]string{"job": job, "namespace": namespace} {
		if !metric.Has(name) {
			defaults.Set(name, text)
		}
	}
	metric = defaults.Labels()
	delete(m.series, metric.String())
	for minute, v := range values {
		if !v.Omitted {
			m.add(metric, start.Add(time.Duration(minute)*time.Minute), v.Value)
		}
	}
}

// TestServiceMonitor checks that the ServiceMonitor finds the Service of the metrics, and no other.
func TestServiceMonitor(t *testing.T) {
	monitor := one(t, "servicemonitor.yaml")
	found := 0
	for _, service := range render(t, "service.yaml") {
		for name, text := range monitor.Spec.Selector.MatchLabels {
			if service.Metadata.Labels[name] != text {
				service.Spec.Ports = nil
			}
		}
		for _, port := range service.Spec.Ports {
			if port.Name == monitor.Spec.Endpoints[0].Port {
				found++
				if service.Metadata.Name != job {
					t.Errorf("Prometheus would name the job %s; the alerts select %s", service.Metadata.Name, job)
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("the ServiceMonitor finds %d ports, want one", found)
	}
}
