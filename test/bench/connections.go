package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/netbox-events/netbox-event-operator/test/fleet"
	"github.com/netbox-events/netbox-event-operator/test/fleet/figures"
)

// intakeRate is the rate per second of deliveries that another load must not disturb.
const intakeRate = 40

// deletion lets retention delete all but kept stored events during deliveries, and compares the answer times with those just before.
func deletion(ctx context.Context, f *fleet.Fleet, kept int, result *figures.Deletion, promises *fleet.Promises) error {
	const before, step, limit = 30 * time.Second, 5 * time.Second, 20 * time.Minute
	sender, err := f.NewSender()
	if err != nil {
		return err
	}
	sender.Steady(ctx, intakeRate, before)
	quiet := len(sender.Answers(0))
	had, err := f.Stored(ctx)
	if err != nil {
		return err
	}
	fleet.Say("deleting all but %d of %d events", kept, had)
	if err := f.Keep(ctx, kept); err != nil {
		return err
	}
	// Events that arrive between two sweeps are stored too: at most those of a minute when retention has nothing else to delete.
	most := kept + intakeRate*60
	began, stored := time.Now(), had
	for stored > most && time.Since(began) < limit && ctx.Err() == nil {
		sender.Steady(ctx, intakeRate, step)
		if stored, err = f.Stored(ctx); err != nil {
			return err
		}
	}
	took := time.Since(began)
	*result = figures.Deletion{
		Events: had + len(sender.Answers(quiet)) - stored, Kept: kept, Seconds: took.Seconds(), Rate: intakeRate,
		Before: fleet.Quantiles(sender.Answers(0)[:quiet], true), During: fleet.Quantiles(sender.Answers(quiet), true),
	}
	answered := sender.Answered()
	promises.Holds(stored <= most, "after %s %d events are left, want %d", took.Round(time.Second), stored, kept)
	promises.Holds(answered == len(sender.Answers(0)), "%d of %d deliveries were stored while others were deleted", answered, len(sender.Answers(0)))
	promises.Holds(fleet.At(result.During, 0.99) < answerTime, "99 %% of the deliveries were answered within %.0f ms while others were deleted",
		fleet.At(result.During, 0.99))
	return fleet.Table(
		fmt.Sprintf("deleted\t%d events in %.0f s, %.0f a second", result.Events, result.Seconds, float64(result.Events)/result.Seconds),
		fleet.AnswerRow("answers before", result.Before),
		fleet.AnswerRow("answers meanwhile", result.During),
	)
}

// connections opens many connections to the leader that send nothing, or a byte a second of a head or a body (slowloris), and measures the answer
// times of deliveries meanwhile.
func connections(ctx context.Context, size size) error {
	began := time.Now()
	return with(ctx, func(f *fleet.Fleet) error {
		const before, during, rest = 20 * time.Second, 60 * time.Second, 5
		leader := f.Replicas[0]
		sender, err := f.NewSender(leader)
		if err != nil {
			return err
		}
		sender.Steady(ctx, intakeRate, before)
		quiet := len(sender.Answers(0))
		had, err := leader.Rest(ctx, rest)
		if err != nil {
			return err
		}
		fleet.Say("opening %d connections", size.connections)
		open, cancel := context.WithCancel(ctx)
		defer cancel()
		opened, ended := make(chan error, 1), make(chan struct{})
		go func() {
			defer close(ended)
			dribble(open, leader, size.connections, opened)
		}()
		opening := time.Now()
		if err := <-opened; err != nil {
			return err
		}
		fleet.Say("they are open after %.1f s", time.Since(opening).Seconds())
		sender.Steady(ctx, intakeRate, during)
		took := time.Since(opening)
		memory, err := leader.Process().Memory()
		cancel()
		<-ended
		if err := errors.Join(err, f.Finished(ctx, time.Minute)); err != nil {
			return err
		}
		verdict, err := f.Judge(ctx, sender)
		if err != nil {
			return err
		}
		result := figures.Connections{
			Opened: size.connections, Seconds: took.Seconds(), Rate: intakeRate, Verdict: verdict, RSS: had.RSS, PeakRSS: memory.Peak,
			Before: fleet.Quantiles(sender.Answers(0)[:quiet], true), During: fleet.Quantiles(sender.Answers(quiet), true),
		}
		var promises fleet.Promises
		promises.HoldsVerdict(verdict)
		promises.Holds(verdict.Answered == verdict.Sent, "%d of %d deliveries were answered", verdict.Answered, verdict.Sent)
		promises.Holds(fleet.At(result.During, 0.99) < answerTime, "99 %% of the deliveries were answered within %.0f ms", fleet.At(result.During, 0.99))
		promises.Holds(result.PeakRSS < peakMemory*1000, "the manager took %s", fleet.MiB(result.PeakRSS))
		rows := append(fleet.VerdictRows(verdict),
			fmt.Sprintf("memory\t%s before, peak %s with %d connections", fleet.MiB(result.RSS), fleet.MiB(result.PeakRSS), result.Opened),
			fleet.AnswerRow("answers before", result.Before), fleet.AnswerRow("answers meanwhile", result.During))
		return errors.Join(fleet.Table(rows...), fleet.Publish("connections", began, f.Machine, promises, result))
	})
}

// dribble opens connections to a replica, a third of each kind: silent, or sending a head or a body at a byte a second. It replaces each one that
// the replica closes, until ctx is done.
func dribble(ctx context.Context, to *fleet.Replica, count int, opened chan<- error) {
	begun := []string{"", "POST / HTTP/1.1\r\nHost: ", to.Head(900_000) + "\r\n{"}
	var dialer net.Dialer
	var all sync.WaitGroup
	defer all.Wait()
	for n := range count {
		conn, err := dialer.DialContext(ctx, "tcp", to.Webhooks())
		if err != nil {
			opened <- err
			return
		}
		all.Go(func() {
			for ctx.Err() == nil {
				if conn == nil {
					conn, _ = dialer.DialContext(ctx, "tcp", to.Webhooks()) // too many at once may be refused
				} else {
					hold(ctx, conn, begun[n%len(begun)])
					conn = nil
				}
				fleet.Pause(ctx, time.Second)
			}
			if conn != nil {
				_ = conn.Close()
			}
		})
	}
	opened <- nil
}

// hold sends the given beginning, and then, unless it is empty, a byte a second, until the server closes or ctx is done.
func hold(ctx context.Context, conn net.Conn, begun string) {
	defer func() { _ = conn.Close() }()
	ctx, closed := context.WithCancel(ctx)
	go func() {
		defer closed()
		_, _ = io.Copy(io.Discard, conn)
	}()
	_, _ = io.WriteString(conn, begun)
	for ctx.Err() == nil {
		if fleet.Pause(ctx, time.Second); begun != "" {
			_, _ = io.WriteString(conn, " ") // fails if the server has closed
		}
	}
}
