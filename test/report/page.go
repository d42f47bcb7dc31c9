package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/template"

	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// busy is the number of cores used by other processes above which the page reports the load.
const busy = 0.2

var functions = template.FuncMap{
	"thousands": thousands,
	"sum":       func(a, b int) int { return a + b },
	"mib":       func(bytes int64) string { return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20)) },
	"gib":       func(bytes int64) string { return fmt.Sprintf("%.0f GiB", float64(bytes)/(1<<30)) },
	"kb":        func(bytes float64) string { return fmt.Sprintf("%.1f kB", bytes/1000) },
	"ms": func(quantiles []figures.Quantile, quantile float64) string {
		for _, one := range quantiles {
			if one.Quantile == quantile {
				return fmt.Sprintf("%.0f ms", one.Milliseconds)
			}
		}
		return "–"
	},
	"of": func(faults []figures.Fault, kind string) string {
		count, length := 0, 0.0
		for _, fault := range faults {
			if fault.Kind == kind {
				count, length = count+1, length+fault.To-fault.From
			}
		}
		return fmt.Sprintf("%d times, %.0f s in all", count, length)
	},
	"program": func(process figures.Process) int64 { return process.RSS - process.Anonymous },
	"percent": func(ratio float64) string { return fmt.Sprintf("%+d %%", int(math.Round(100*(ratio-1)))) },
}

func thousands(number int) string {
	text := strconv.Itoa(number)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + " " + text[i:]
	}
	return text
}

// oneRun has the page's data of each measurement's run.
type oneRun struct {
	Name    string
	Machine figures.Machine
	Day     string
	Broken  []string
}

// stored adds up the verdicts of all runs that have one.
func (a *all) stored() (sum figures.Verdict) {
	verdicts := []figures.Verdict{a.Connections.Figures.Verdict, a.Soak.Figures.Verdict, a.Chaos.Figures.Verdict}
	for _, level := range a.Memory.Figures.Levels {
		verdicts = append(verdicts, level.Verdict)
	}
	for _, verdict := range verdicts {
		sum.Answered += verdict.Answered
		sum.Duplicates += verdict.Duplicates
		sum.Lost += verdict.Lost
		sum.Doubled += verdict.Doubled
	}
	return sum
}

func of[T any](name string, from figures.Run[T]) oneRun {
	return oneRun{Name: name, Machine: from.Machine, Day: from.Began.UTC().Format("2006-01-02"), Broken: from.Broken}
}

func (a *all) write(to io.Writer) error {
	var broken []string
	var loaded []string
	machines := map[string]bool{}
	for _, run := range a.runs {
		for _, promise := range run.Broken {
			broken = append(broken, run.Name+": "+promise)
		}
		if run.Machine.Load > busy {
			loaded = append(loaded, run.Name)
		}
		machine := run.Machine
		machine.Load = 0
		machines[fmt.Sprint(machine)] = true
	}
	// The page names one machine and one build, because figures of several are not comparable.
	if len(machines) > 1 {
		return fmt.Errorf("the figures are from different machines or builds; repeat the measurements")
	}
	return page.Execute(to, map[string]any{
		"A": a, "Stored": a.stored(), "Machine": a.Memory.Machine, "Day": a.runs[0].Day, "Broken": broken, "Loaded": strings.Join(loaded, ", "),
	})
}

var page = template.Must(template.New("page").Funcs(functions).Parse(`{{/**/}}# Endurance

Resource use of the operator, and its behaviour under load and faults. ` + "`make report`" + ` generates this page from the measurements of
` + "`make bench`, `make backlog`, `make soak`, `make chaos` and `make netbox-test`" + `; each of these fails if a promise is broken.

Measured on {{.Day}}: {{.Machine.CPU}}, {{.Machine.Cores}} cores, {{gib .Machine.MemoryBytes}}; {{.Machine.OS}}; Kubernetes {{.Machine.Kubernetes}}, one API server
and one etcd on the same machine as the operator's two replicas, the senders and the sink; {{.Machine.Operator}}.
{{- if .Loaded}}

**Other processes used the machine when these measurements started: {{.Loaded}}.** Their times and rates are worse than on an idle machine; counts are not
affected.
{{- end}}
{{with .Broken}}
Broken promises:
{{range .}}
- {{.}}
{{- end}}
{{else}}
All promises were kept.
{{end}}
| promise | measured |
| --- | --- |
{{with .Stored}}| an event that was answered with 2xx is stored | {{.Lost}} of {{thousands .Answered}} lost, in the runs about memory, connections, faults and the steady stream |
| it is stored once | {{.Doubled}} stored twice in these runs; {{thousands .Duplicates}} were sent again after a lost answer |
{{end}}{{with .A.Chaos.Figures}}| a rule acts on it at least once, even if replicas, API server, etcd and sink fail | {{thousands .Delivered}} delivered, {{.Unfinished}} not; {{.Doubles}} of them repeatedly |
| the events of an object keep their order | {{.Overtaken}} out of order |
{{end}}{{with .A.NetBox.Figures}}| with NetBox's API: each change is acted on once, and none is missed | {{.Missing}} of {{thousands .Wanted}} missed, {{.Doubled}} stored twice; {{.Unacted}} not acted on, {{.Twice}} acted on as several events |
{{end}}{{with .A.Backlog.Figures}}| events that wait for a sink that hangs fit into the memory of a pod, and keep their order | {{thousands (sum .Events .More)}} events pending: {{mib .PeakRSS}} at the peak, of {{mib .MemoryLimit}}; {{.Overtaken}} out of order, {{.Doubles}} duplicates |
| meanwhile events are stored at half of the first rate at least | {{printf "%.0f" .FirstRate}} a second at first, {{printf "%.0f" .LastRate}} at last |
{{end}}{{with .A.Memory.Figures}}| memory does not grow with stored events | {{range .Levels}}{{mib .Leader.RSS}} with {{thousands .Stored}}; {{end}}the leader, after a load |
{{end}}{{with .A.Connections.Figures}}| silent senders do not stop others | {{thousands .Answered}} of {{thousands .Sent}} stored beside {{thousands .Opened}} connections, p99 {{ms .During 0.99}} |
{{end}}
That every NetBox works is no measurement, but [tests](compatibility.md) with recorded deliveries of each version.

{{with .A.Memory.Figures -}}
## Memory, and what is stored

Both replicas were restarted with the given number of finished events in the cluster, received 40 deliveries a second for 10 seconds, and became idle.

| stored events | start to ready | start to first finished event | leader, idle | leader, after the load | leader, peak | leader, Go heap | other replica | API server |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{{range .Levels}}| {{thousands .Stored}} | {{printf "%.1f" .ReadySeconds}} s | {{printf "%.1f" .WorkSeconds}} s | {{mib .LeaderIdle.RSS}} | {{mib .Leader.RSS}} | {{mib .LeaderPeakRSS}} | {{mib .Leader.Heap}} | {{mib .Follower.RSS}} | {{mib .APIServerRSS}} |
{{end}}
![memory of the managers against stored events](endurance/memory.svg)

{{with index .Levels 0}}{{mib (program .Leader)}} of each are pages of the program, which the kernel may evict.{{end}}

{{with .Deletion}}Then the source's ` + "`maxEvents`" + ` was set to {{thousands .Kept}}: {{thousands .Events}} events were deleted within {{printf "%.0f" .Seconds}} s. Meanwhile the answers to
{{printf "%.0f" .Rate}} deliveries a second took {{ms .During 0.5}} (p50) and {{ms .During 0.99}} (p99); just before, {{ms .Before 0.5}} and {{ms .Before 0.99}}.
{{end -}}
{{end -}}
{{with .A.Backlog.Figures}}
## Unavailable sinks

{{thousands .Events}} events, and then {{thousands .More}} more, waited for a sink that accepted requests and never answered. The managers had a memory limit of {{mib .MemoryLimit}}, as
in the chart{{if .HardLimit}}, enforced by the kernel{{end}}, and a ` + "`GOMEMLIMIT`" + ` of {{mib .GoLimit}}. Then the leader was killed, and later the sink recovered. With as many objects as
events, and with few:
{{end -}}
{{define "each"}}{{kb .BytesEachRSS}} of memory, {{kb .BytesEachHeap}} of Go's heap{{end}}
{{- define "meanwhile"}}{{printf "%.1f" .AttemptsPerSec}} attempts, {{printf "%.1f" .StatusWritesPerSec}} status writes a second{{end}}
{{- define "next"}}another replica led after {{printf "%.0f" .LeadSeconds}} s, and counted all events after {{printf "%.0f" .KnowSeconds}} s{{end}}
{{- define "drained"}}{{printf "%.0f" .DrainSeconds}} s after the sink recovered; {{.Doubles}} duplicates, {{.Overtaken}} out of order{{end}}
{{- with .A}}
| | {{thousands .Backlog.Figures.Objects}} objects | {{thousands .BacklogFew.Figures.Objects}} objects |
| --- | --- | --- |
| leader, idle | {{mib .Backlog.Figures.Idle.RSS}} | {{mib .BacklogFew.Figures.Idle.RSS}} |
| leader, with the first | {{mib .Backlog.Figures.Waiting.RSS}} | {{mib .BacklogFew.Figures.Waiting.RSS}} |
| leader, with all | {{mib .Backlog.Figures.All.RSS}} | {{mib .BacklogFew.Figures.All.RSS}} |
| next leader, with all | {{mib .Backlog.Figures.Next.RSS}} | {{mib .BacklogFew.Figures.Next.RSS}} |
| peak | {{mib .Backlog.Figures.PeakRSS}} | {{mib .BacklogFew.Figures.PeakRSS}} |
| per event | {{template "each" .Backlog.Figures}} | {{template "each" .BacklogFew.Figures}} |
| answers a second, first and last | {{printf "%.0f, %.0f" .Backlog.Figures.FirstRate .Backlog.Figures.LastRate}} | {{printf "%.0f, %.0f" .BacklogFew.Figures.FirstRate .BacklogFew.Figures.LastRate}} |
| while pending | {{template "meanwhile" .Backlog.Figures}} | {{template "meanwhile" .BacklogFew.Figures}} |
| after the kill | {{template "next" .Backlog.Figures}} | {{template "next" .BacklogFew.Figures}} |
| all delivered | {{template "drained" .Backlog.Figures}} | {{template "drained" .BacklogFew.Figures}} |

![how the backlog drains](endurance/backlog.svg)
{{end -}}
{{with .A.Throttled.Figures}}
A sink that accepted {{.Rate}} a second, and answered 429 with ` + "`Retry-After`" + ` otherwise, received {{.Requests}} requests for {{.Events}} events; {{.Delivered}} were delivered within
{{printf "%.0f" .Seconds}} s, and {{.Failed}} failed.
{{end -}}
{{with .A.Down.Figures}}
A sink was down for {{printf "%.0f" .Seconds}} s, a third of it in each way, while {{thousands .Events}} events arrived; the backoff was {{.Backoff}} s to {{.MaxBackoff}} s:

| the sink | attempts a second | status writes a second |
| --- | --- | --- |
{{range .Ways}}| {{.Name}} | {{printf "%.1f" .AttemptsPerSec}} | {{printf "%.2f" .StatusWritesPerSec}} |
{{end}}
{{thousands .Delivered}} were delivered within {{printf "%.0f" .DrainSeconds}} s after it recovered: {{.Doubles}} duplicates, {{.Overtaken}} out of order; {{.Failed}} failed.
{{end}}
## Throughput, and what an event costs
{{range .A.Memory.Figures.Levels}}{{if .RefillPerSec}}
{{thousands .Verdict.Sent}} deliveries, 64 concurrent ones, each on its own connection: {{.Verdict.Lost}} lost, {{.Verdict.Doubled}} duplicated. {{printf "%.0f" .AnswersPerSec}} a second were answered with 200
(p50 {{ms .Answers 0.5}}, p99 {{ms .Answers 0.99}}), and {{printf "%.0f" .RefillPerSec}} a second finished.
{{end}}{{end}}
![how long answers take](endurance/answers.svg)

{{with .A.Bench.Figures -}}
Comparison with a lower bound of the work (bare API clients), and with ConfigMaps of the size of events, created and updated once; the sides took turns in
one run. The ratio is the operator's rate divided by the row's, as the median over the turns, with its 96 % confidence interval in parentheses, and a ↓ if
the median is below the aim. The promise is broken if the whole interval is below the aim. CPU, heap and writes are the API server's, per operation.
{{- with .Before}}
"before" is {{.}}, with its own CRDs, on its own control plane.{{end}}

| operation | concurrency | client | per second | ratio | aim | p50 | p99 | CPU | heap | writes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{{range $pair := .Pairs}}{{range .Sides}}| {{$pair.What}} | {{$pair.AtOnce}} | {{.Who}} | {{printf "%.0f" .Rate}} | {{if ne .Who "operator"}}{{printf "%.2f" .Ratio}}{{if and (eq .Who "bare") (lt .Ratio $pair.Aim)}} ↓{{end}} {{printf "(%.2f to %.2f)" .From .To}}{{end}} | {{if and (eq .Who "bare") $pair.Aim}}{{printf "%.2f" $pair.Aim}}{{end}} | {{printf "%.1f" .P50}} ms | {{printf "%.1f" .P99}} ms | {{printf "%.2f" .CPU}} ms | {{kb .Heap}} | {{printf "%.2f" .Writes}} |
{{end}}{{end}}
{{- end}}
{{with .A.Connections.Figures}}
## Slow and silent senders

{{thousands .Opened}} connections to the leader were kept open for {{printf "%.0f" .Seconds}} s. A third each sent nothing, a byte of a head a second, or a byte of a body a second
(slowloris); connections that the receiver closed were replaced. Of {{printf "%.0f" .Rate}} deliveries a second to the same source and replica {{thousands .Answered}} of {{thousands .Sent}} were
stored (p50 {{ms .During 0.5}}, p99 {{ms .During 0.99}}); without the connections p50 was {{ms .Before 0.5}}, p99 {{ms .Before 0.99}}. The replica's memory was {{mib .RSS}} before, and {{mib .PeakRSS}}
at the peak.
{{end -}}
{{- with .A.Chaos}}
## Fault injection

{{with .Figures}}{{.Rate}} deliveries a second for {{len .Seconds}} seconds; failed ones were retried after 2 s, as by NetBox with retries. Faults: replicas were killed, the leader was stopped
(suspended, partly for longer than its Lease, and resumed), the API server stopped (suspended and resumed) or killed and restarted, etcd stopped; the sink
failed one request in ten, was down, or hung.

| | |
| --- | --- |
| sent, attempts | {{thousands .Sent}}, {{thousands .Attempts}} |
| answered with 200 | {{thousands .Answered}}; {{.Duplicates}} of them as duplicates, because the first answer was lost |
| **lost** | **{{.Lost}}** |
| **stored twice** | **{{.Doubled}}** |
| **not finished at the end** | **{{.Unfinished}}**; the last one finished {{printf "%.0f" .Healed}} s after the last fault |
| accepted by the sink | {{thousands .Delivered}}; {{.Doubles}} of them repeatedly |
| **unfinished again** | **{{.Undone}}** |
| **out of order at the sink** | **{{.Overtaken}}**; {{.Late}} repeated after a later event of the object was finished |
| refused, or no answer | p50 {{ms .Refusals 0.5}}, maximum {{ms .Refusals 1.0}} |
| replica killed | {{.Kills}} times{{if .Ended}}; {{.Ended}} exited because they started during an outage of the API server, and were restarted{{end}} |
| leader stopped | {{of .Faults "leader stopped"}} |
| API server stopped | {{of .Faults "API server stopped"}} |
| API server killed | {{of .Faults "API server killed"}} |
| etcd stopped | {{of .Faults "etcd stopped"}} |
| sink down | {{of .Faults "sink down"}} |
| sink hangs | {{of .Faults "sink hangs"}} |
{{end}}
![cumulative counts, and the faults](endurance/chaos.svg)
{{end -}}
{{with .A.Soak.Figures}}
## Steady stream

{{.Rate}} deliveries a second, {{thousands .Answered}} in total, each delivered by a rule. {{.Lost}} lost, {{.Doubled}} duplicated. Memory growth from the second to the last third
of the run: {{range $i, $growth := .Growth}}{{if $i}}, {{end}}{{percent $growth}}{{end}}. Answers took {{ms .Answers 0.5}} (p50) and {{ms .Answers 0.99}} (p99).

![memory over time](endurance/soak.svg)
{{end -}}
{{with .A.NetBox.Figures}}
## A real NetBox

NetBox 4.7, whose webhook the operator sets up, and whose change log it reads. {{thousands .Requests}} requests changed NetBox, {{.RolledBack}} of them were rolled back; meanwhile
the leader was killed, the API server stopped, NetBox's worker was killed, its queue emptied, its event rule disabled, and the operator stopped:

| | |
| --- | --- |
| changes in the change log, of types that NetBox sends | {{thousands .Changes}}, {{thousands .Wanted}} |
| webhooks, answered with 200 | {{thousands .Webhooks}}, {{thousands .Answered}} |
| changes without a webhook | {{thousands .Lost}} |
| events by a webhook, from the change log | {{thousands .ByWebhook}}, {{thousands .FromLog}} |
| **changes without an event** | **{{.Missing}}** |
| **changes with several events** | **{{.Doubled}}** |
| **not acted on** | **{{.Unacted}}** |
| acted on once, again after a kill | {{thousands .Once}}, {{.Again}} |
| webhooks that came after their event was made from the change log | {{.Late}}; {{.Equal}} of these events are equal to what the webhook would have made |
| webhooks while the signing key was rotated, refused | {{.Rotation}}, {{.Refused}} |
| no source to ` + "`Receiving=True`" + ` | {{printf "%.1f" .SetUpSeconds}} s |
| requests to NetBox at rest | {{printf "%.0f" .RequestsPerHour}} an hour |
{{end -}}
`))
