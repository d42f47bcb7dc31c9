package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/go-logr/logr"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// Main runs a measurement with a time-out, and exits with 1 on an error or a broken promise.
func Main(name string, limit time.Duration, run func(context.Context) error) {
	ctrl.SetLogger(logr.Discard()) // the informers' messages about outages
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ctx, cancel := context.WithTimeout(ctx, limit)
	err := run(ctx)
	cancel()
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// Say prints progress to standard error.
func Say(format string, arguments ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format("15:04:05 ")+format+"\n", arguments...)
}

// Promises collects broken promises.
type Promises struct{ Broken []string }

// Holds records a broken promise unless kept.
func (p *Promises) Holds(kept bool, format string, arguments ...any) {
	if !kept {
		p.Broken = append(p.Broken, fmt.Sprintf(format, arguments...))
	}
}

// None records a broken promise unless count is 0.
func (p *Promises) None(count int, what string) { p.Holds(count == 0, "%d %s", count, what) }

// HoldsVerdict checks the promises of every run.
func (p *Promises) HoldsVerdict(verdict figures.Verdict) {
	p.Holds(verdict.Answered > 0, "nothing was stored")
	p.None(verdict.Lost, "events were answered with 200 and are not in the cluster")
	p.None(verdict.Doubled, "deliveries are in the cluster more than once")
	p.None(verdict.Unfinished, "events are not finished")
	p.None(verdict.Failed, "events have failed")
}

// Publish writes the figures of a run for the report. It fails if promises were broken.
func Publish[T any](name string, began time.Time, machine figures.Machine, promises Promises, result T) error {
	err := figures.Write(name, figures.Run[T]{
		Machine: machine, Began: began, Seconds: time.Since(began).Seconds(), Broken: promises.Broken, Figures: result,
	})
	if len(promises.Broken) > 0 {
		err = errors.Join(err, fmt.Errorf("broken promises of %s:\n  %s", name, strings.Join(promises.Broken, "\n  ")))
	}
	return err
}

// Table prints rows whose cells are separated by tabs.
func Table(rows ...string) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(table, row)
	}
	fmt.Fprintln(table)
	return table.Flush()
}

// VerdictRows are the rows of a verdict.
func VerdictRows(v figures.Verdict) []string {
	return []string{
		fmt.Sprintf("sent\t%d, in %d attempts", v.Sent, v.Attempts),
		fmt.Sprintf("answered with 200\t%d, %d of them as stored before", v.Answered, v.Duplicates),
		fmt.Sprintf("abandoned by the sender\t%d", v.GivenUp),
		fmt.Sprintf("lost\t%d", v.Lost), fmt.Sprintf("doubled\t%d", v.Doubled),
		fmt.Sprintf("not finished\t%d", v.Unfinished), fmt.Sprintf("failed\t%d", v.Failed),
	}
}

// AnswerRow is the row of the time that answers took.
func AnswerRow(what string, quantiles []figures.Quantile) string {
	return fmt.Sprintf("%s\tp50 %.1f ms, p99 %.1f ms, longest %.0f ms", what, At(quantiles, 0.5), At(quantiles, 0.99), At(quantiles, 1))
}

// MiB writes bytes.
func MiB(bytes int64) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
