package netbox

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Queue counts the jobs of NetBox's worker: webhooks that are not yet sent, updates of its search index, and background jobs.
type Queue struct {
	// Waiting jobs were not started.
	Waiting int
	// Running jobs were started and have not ended.
	Running int
	// Scheduled jobs start at a later time: retries, and NetBox's own housekeeping.
	Scheduled int
	// Failed jobs ended with an error, as webhooks with an answer other than 2xx without retries.
	Failed int
}

// The keys of RQ, for a queue. Between waiting and running, a job is in an intermediate list.
const queueScript = `
local counts = {0, 0, 0, 0}
for _, queue in ipairs({"high", "default", "low"}) do
  counts[1] = counts[1] + redis.call("llen", "rq:queue:" .. queue)
  counts[2] = counts[2] + redis.call("llen", "rq:queue:" .. queue .. ":intermediate") + redis.call("zcard", "rq:wip:" .. queue)
  counts[3] = counts[3] + redis.call("zcard", "rq:scheduled:" .. queue)
  counts[4] = counts[4] + redis.call("zcard", "rq:failed:" .. queue)
end
return counts`

// Queue returns the counts of jobs at one time.
func (n *NetBox) Queue(ctx context.Context) (Queue, error) {
	counts, err := n.redis(ctx, "EVAL", queueScript, "0")
	if err != nil {
		return Queue{}, err
	}
	if len(counts) != 4 {
		return Queue{}, fmt.Errorf("redis answered %v, want 4 counts", counts)
	}
	return Queue{Waiting: counts[0], Running: counts[1], Scheduled: counts[2], Failed: counts[3]}, nil
}

// Drain waits until no job waits or runs: all webhooks of earlier changes were tried once. RQ takes a job from the queue a moment before it
// counts it as running, therefore the counts have to be zero for half a second.
func (n *NetBox) Drain(ctx context.Context) error {
	for idle := 0; idle < 5; idle++ {
		queue, err := n.Queue(ctx)
		if err != nil {
			return err
		}
		if queue.Waiting+queue.Running > 0 {
			idle = -1
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d jobs of NetBox: %w", queue.Waiting+queue.Running, context.Cause(ctx))
		case <-time.After(100 * time.Millisecond):
		}
	}
	return nil
}

// FlushQueue drops all jobs, as a loss of Redis would, also those that a worker had begun when it was killed: RQ takes them for running for
// minutes. NetBox does not know of it. The worker must not run.
func (n *NetBox) FlushQueue(ctx context.Context) error {
	command := []string{"DEL"}
	for _, queue := range []string{"high", "default", "low"} {
		command = append(command, "rq:queue:"+queue, "rq:queue:"+queue+":intermediate", "rq:wip:"+queue)
	}
	_, err := n.redis(ctx, command...)
	return err
}

// redis runs a command whose answer is an integer or a list of integers.
func (n *NetBox) redis(ctx context.Context, command ...string) ([]int, error) {
	connection, err := new(net.Dialer).DialContext(ctx, "unix", filepath.Join(n.Directory, "redis.sock"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = connection.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = connection.Close() })
	defer stop()

	var request strings.Builder
	fmt.Fprintf(&request, "*%d\r\n", len(command))
	for _, argument := range command {
		fmt.Fprintf(&request, "$%d\r\n%s\r\n", len(argument), argument)
	}
	if _, err := io.WriteString(connection, request.String()); err != nil {
		return nil, err
	}
	reader := bufio.NewReader(connection)
	first, err := integer(reader, '*', ':')
	if err != nil || first.kind == ':' {
		return []int{first.value}, err
	}
	counts := make([]int, first.value)
	for i := range counts {
		element, err := integer(reader, ':')
		if err != nil {
			return nil, err
		}
		counts[i] = element.value
	}
	return counts, nil
}

type reply struct {
	kind  byte
	value int
}

// integer reads a line of Redis' protocol that is one of these kinds: the length of a list (*) or an integer (:).
func integer(reader *bufio.Reader, kinds ...byte) (reply, error) {
	line, err := reader.ReadString('\n')
	if err != nil {
		return reply{}, err
	}
	value, err := strconv.Atoi(strings.TrimSpace(line[1:]))
	if err != nil || !strings.ContainsRune(string(kinds), rune(line[0])) {
		return reply{}, fmt.Errorf("redis answered %q", line)
	}
	return reply{line[0], value}, nil
}
