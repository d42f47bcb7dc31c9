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

// busy is how many cores others keep busy where they are no longer left out of account.
const busy = 0.2

var functions = template.FuncMap{
	"thousands": thousands,
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

// run is what the page says of each program's run.
type oneRun struct {
	Name    string
	Machine figures.Machine
	Day     string
	Broken  []string
}

func (a *all) runs() []oneRun {
	return []oneRun{
		of("memory", a.Memory), of("backlog", a.Backlog), of("backlog-few", a.BacklogFew),
		of("throttled", a.Throttled), of("down", a.Down), of("bench", a.Bench),
		of("connections", a.Connections), of("soak", a.Soak), of("chaos", a.Chaos),
	}
}

func of[T any](name string, from figures.Run[T]) oneRun {
	return oneRun{Name: name, Machine: from.Machine, Day: from.Began.UTC().Format("2006-01-02"), Broken: from.Broken}
}

func (a *all) write(to io.Writer) error {
	var broken []string
	var loaded []string
	machines := map[string]bool{}
	for _, run := range a.runs() {
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
	// The page names one machine and one build: figures of several would be compared although they cannot be.
	if len(machines) > 1 {
		return fmt.Errorf("the figures are of different machines or builds; make them again")
	}
	return page.Execute(to, map[string]any{
		"A": a, "Machine": a.Memory.Machine, "Day": of("", a.Memory).Day, "Broken": broken, "Loaded": strings.Join(loaded, ", "),
	})
}

var page = template.Must(template.New("page").Funcs(functions).Parse(`{{/**/}}# Endurance

What the operator takes, and what it lives through. ` + "`make report`" + ` writes this page from what ` + "`make bench`, `make backlog`, `make soak` and `make chaos`" + ` have
measured; each of them fails if a promise is broken.

Measured on {{.Day}}: {{.Machine.CPU}}, {{.Machine.Cores}} cores, {{gib .Machine.MemoryBytes}}; {{.Machine.OS}}; Kubernetes {{.Machine.Kubernetes}}, one API server
and one etcd on the same machine as the operator's two replicas, the senders and the sink; {{.Machine.Operator}}.
{{- if .Loaded}}

**Something else worked on the machine when these began: {{.Loaded}}.** Their times and rates are worse than they would be; what is counted is not.
{{- end}}
{{with .Broken}}
Promises that were broken:
{{range .}}
- {{.}}
{{- end}}
{{else}}
Every promise was kept.
{{end -}}
{{with .A.Memory.Figures}}
## Memory, and what is stored

Both replicas were started again with so many finished events in the cluster, took 40 deliveries a second for 10 seconds, and came to rest.

| stored | ready after a start | the first event finished after | leader, idle | leader, after the load | its peak | its Go heap | the other replica | API server |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
{{range .Levels}}| {{thousands .Stored}} | {{printf "%.1f" .ReadySeconds}} s | {{printf "%.1f" .WorkSeconds}} s | {{mib .LeaderIdle.RSS}} | {{mib .Leader.RSS}} | {{mib .LeaderPeakRSS}} | {{mib .Leader.Heap}} | {{mib .Follower.RSS}} | {{mib .APIServerRSS}} |
{{end}}
![memory of the managers against stored events](endurance/memory.svg)

{{with index .Levels 0}}{{mib (program .Leader)}} of each are pages of the program, which the kernel may drop.{{end}}

{{with .Deletion}}Then the source was told to keep {{thousands .Kept}}: {{thousands .Events}} events were deleted within {{printf "%.0f" .Seconds}} s. Of {{printf "%.0f" .Rate}} deliveries a second meanwhile half
were answered within {{ms .During 0.5}}, 99 % within {{ms .During 0.99}}; just before, within {{ms .Before 0.5}} and {{ms .Before 0.99}}.
{{end -}}
{{end -}}
{{with .A.Backlog.Figures}}
## Sinks that do not take events

{{thousands .Events}} events, and then {{thousands .More}} more, waited for a sink that accepted requests and never answered. The managers had {{mib .MemoryLimit}} of memory, as
in the chart{{if .HardLimit}}, which the kernel enforced{{end}}; {{mib .GoLimit}} of it Go's. Then the leader was killed, and then the sink answered. Of as many objects as events,
and of few:
{{end}}
{{define "each"}}{{kb .BytesEachRSS}} of memory, {{kb .BytesEachHeap}} of Go's heap{{end}}
{{- define "meanwhile"}}{{printf "%.1f" .AttemptsPerSec}} attempts, {{printf "%.1f" .StatusWritesPerSec}} status writes a second{{end}}
{{- define "next"}}another led after {{printf "%.0f" .LeadSeconds}} s, and knew all after {{printf "%.0f" .KnowSeconds}} s{{end}}
{{- define "drained"}}{{printf "%.0f" .DrainSeconds}} s after the sink answered; {{.Doubles}} twice, {{.Overtaken}} out of order{{end}}
{{- with .A}}
| | {{thousands .Backlog.Figures.Objects}} objects | {{thousands .BacklogFew.Figures.Objects}} objects |
| --- | --- | --- |
| leader, idle | {{mib .Backlog.Figures.Idle.RSS}} | {{mib .BacklogFew.Figures.Idle.RSS}} |
| with the first | {{mib .Backlog.Figures.Waiting.RSS}} | {{mib .BacklogFew.Figures.Waiting.RSS}} |
| with all | {{mib .Backlog.Figures.All.RSS}} | {{mib .BacklogFew.Figures.All.RSS}} |
| the next leader, with all | {{mib .Backlog.Figures.Next.RSS}} | {{mib .BacklogFew.Figures.Next.RSS}} |
| at the most | {{mib .Backlog.Figures.PeakRSS}} | {{mib .BacklogFew.Figures.PeakRSS}} |
| each event | {{template "each" .Backlog.Figures}} | {{template "each" .BacklogFew.Figures}} |
| answers a second, first and last | {{printf "%.0f, %.0f" .Backlog.Figures.FirstRate .Backlog.Figures.LastRate}} | {{printf "%.0f, %.0f" .BacklogFew.Figures.FirstRate .BacklogFew.Figures.LastRate}} |
| while they waited | {{template "meanwhile" .Backlog.Figures}} | {{template "meanwhile" .BacklogFew.Figures}} |
| after the kill | {{template "next" .Backlog.Figures}} | {{template "next" .BacklogFew.Figures}} |
| all delivered | {{template "drained" .Backlog.Figures}} | {{template "drained" .BacklogFew.Figures}} |

![how the backlog drains](endurance/backlog.svg)
{{end -}}
{{with .A.Throttled.Figures}}
A sink that took {{.Rate}} a second, and answered 429 with ` + "`Retry-After`" + ` otherwise, got {{.Requests}} requests for {{.Events}} events; {{.Delivered}} were delivered within {{printf "%.0f" .Seconds}} s,
and {{.Failed}} failed.
{{end -}}
{{with .A.Down.Figures}}
A sink was down for {{printf "%.0f" .Seconds}} s, a third of it in each way, while {{thousands .Events}} events came; deliveries were tried again after {{.Backoff}} s, and {{.MaxBackoff}} s at the most:

| the sink | attempts a second | status writes a second |
| --- | --- | --- |
{{range .Ways}}| {{.Name}} | {{printf "%.1f" .AttemptsPerSec}} | {{printf "%.2f" .StatusWritesPerSec}} |
{{end}}
{{thousands .Delivered}} were delivered within {{printf "%.0f" .DrainSeconds}} s after it was up: {{.Doubles}} twice, {{.Overtaken}} out of order; {{.Failed}} failed.
{{end -}}
## As fast as the API server takes them
{{range .A.Memory.Figures.Levels}}{{if .RefillPerSec}}
{{thousands .Verdict.Sent}} deliveries, 64 at once, each on a connection of its own: {{.Verdict.Lost}} lost, {{.Verdict.Doubled}} doubled. {{printf "%.0f" .AnswersPerSec}} a second were answered with 200,
half of them within {{ms .Answers 0.5}}, 99 % within {{ms .Answers 0.99}}; {{printf "%.0f" .RefillPerSec}} a second to the end of the last.
{{end}}{{end}}
![how long answers take](endurance/answers.svg)

{{with .A.Bench.Figures -}}
Beside what it cannot be faster than, in turns in one run, and beside ConfigMaps that are as long as events, created and changed once. The ratio is that of
the operator's rate to the row's, the median of the turns', with a ↓ where that is below the aim, and lies with a confidence of 96 % where the
parentheses say. The promise is broken where all of that is below the aim. CPU, heap and writes are what the API server took for each:

| what | at once | who | a second | operator to it | aim | p50 | p99 | CPU | heap | writes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
{{range $pair := .Pairs}}{{range .Sides}}| {{$pair.What}} | {{$pair.AtOnce}} | {{.Who}} | {{printf "%.0f" .Rate}} | {{if ne .Who "operator"}}{{printf "%.2f" .Ratio}}{{if and (eq .Who "bare") (lt .Ratio $pair.Aim)}} ↓{{end}} {{printf "(%.2f to %.2f)" .From .To}}{{end}} | {{if and (eq .Who "bare") $pair.Aim}}{{printf "%.2f" $pair.Aim}}{{end}} | {{printf "%.1f" .P50}} ms | {{printf "%.1f" .P99}} ms | {{printf "%.2f" .CPU}} ms | {{kb .Heap}} | {{printf "%.2f" .Writes}} |
{{end}}{{end}}
{{- end}}
{{with .A.Connections.Figures}}
## Senders that are slow, or silent

{{thousands .Opened}} connections to the replica that leads were kept open for {{printf "%.0f" .Seconds}} s. A third of each sent nothing, a byte of a head a second, or a byte of a body a
second; where the receiver closed one, another was opened. Of {{printf "%.0f" .Rate}} deliveries a second to the same source and replica {{thousands .Answered}} of {{thousands .Sent}} were stored,
half of them within {{ms .During 0.5}}, 99 % within {{ms .During 0.99}}; without the connections within {{ms .Before 0.5}} and {{ms .Before 0.99}}. The replica took {{mib .RSS}} before,
and {{mib .PeakRSS}} at the most.
{{end -}}
{{- with .A.Chaos}}
## While everything fails

{{with .Figures}}{{.Rate}} deliveries a second for {{len .Seconds}} seconds, sent again after 2 s where they failed, as NetBox does with retries. Replicas were killed, the leader stopped
(it hung, in part for longer than its lease, and went on), the API server stopped (it hung, and came back) or killed and started again, etcd stopped; the sink failed one request in ten, was down, or hung.

| | |
| --- | --- |
| sent, attempts | {{thousands .Sent}}, {{thousands .Attempts}} |
| answered with 200 | {{thousands .Answered}}; {{.Duplicates}} of them as stored before: the first answer was lost on the way |
| **lost** | **{{.Lost}}** |
| **stored twice** | **{{.Doubled}}** |
| **not finished at the end** | **{{.Unfinished}}**; all were {{printf "%.0f" .Healed}} s after the last fault |
| taken by the sink | {{thousands .Delivered}}; {{.Doubles}} of them once more |
| **finished, and then not** | **{{.Undone}}** |
| **out of order at the sink** | **{{.Overtaken}}**; {{.Late}} given again after a later event of the object was finished |
| refused, or no answer | half within {{ms .Refusals 0.5}}, the longest {{ms .Refusals 1.0}} |
| replica killed | {{.Kills}} times{{if .Ended}}; {{.Ended}} ended by themselves, because they started while the API server was away, and were started again{{end}} |
| leader stopped | {{of .Faults "leader stopped"}} |
| API server stopped | {{of .Faults "API server stopped"}} |
| API server killed | {{of .Faults "API server killed"}} |
| etcd stopped | {{of .Faults "etcd stopped"}} |
| sink down | {{of .Faults "sink down"}} |
| sink hangs | {{of .Faults "sink hangs"}} |
{{end}}
![what happened up to each second, and the faults](endurance/chaos.svg)
{{end -}}
{{with .A.Soak.Figures}}
## A steady stream

{{.Rate}} deliveries a second, {{thousands .Answered}} in all, each sent on by a rule. {{.Lost}} lost, {{.Doubled}} doubled. Memory of the last third of the time beside
the second: {{range $i, $growth := .Growth}}{{if $i}}, {{end}}{{percent $growth}}{{end}}. Half of the answers came within {{ms .Answers 0.5}}, 99 % within {{ms .Answers 0.99}}.

![memory over time](endurance/soak.svg)
{{end -}}
`))
