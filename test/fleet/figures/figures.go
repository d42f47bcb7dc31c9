// Package figures has the measurements of the programs under test/, as they write them to bin/report and test/report reads them. It only imports
// the standard library, so that the report, which is a separate module, does not depend on Kubernetes.
package figures

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// Directory of the files, relative to the root of the project.
const Directory = "bin/report"

// Run is one run of one measurement.
type Run[T any] struct {
	Machine Machine   `json:"machine"`
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	// Broken are the promises that were not kept.
	Broken  []string `json:"broken"`
	Figures T        `json:"figures"`
}

// Machine describes the machine and the software under test.
type Machine struct {
	CPU         string `json:"cpu"`
	Cores       int    `json:"cores"`
	MemoryBytes int64  `json:"memoryBytes"`
	OS          string `json:"os"`
	Kubernetes  string `json:"kubernetes"`
	// Operator is the version line of bin/manager: version, commit, Go.
	Operator string `json:"operator"`
	// Load is the number of cores that other processes kept busy just before.
	Load float64 `json:"load"`
}

// Memory is a manager's at each number of stored, finished events.
type Memory struct {
	Levels   []Level  `json:"levels"`
	Deletion Deletion `json:"deletion"`
}

// Deletion measures retention when nearly all stored events expire at once, during deliveries.
type Deletion struct {
	Events  int        `json:"events"`  // deleted events
	Kept    int        `json:"kept"`    // maxEvents of the source
	Seconds float64    `json:"seconds"` // until no more than that and some were left
	Rate    float64    `json:"rate"`    // of deliveries, a second
	Before  []Quantile `json:"before"`  // the answers just before
	During  []Quantile `json:"during"`
}

// Connections are those of senders that send nothing, or a byte a second.
type Connections struct {
	Opened  int     `json:"opened"`
	Seconds float64 `json:"seconds"` // for which they were open
	Rate    float64 `json:"rate"`    // of deliveries, a second
	Verdict
	Before  []Quantile `json:"before"` // the answers without them
	During  []Quantile `json:"during"`
	RSS     int64      `json:"rss"`     // of the manager before, bytes
	PeakRSS int64      `json:"peakRSS"` // with them
}

// Level is one number of stored events. Both replicas were started new, took the same short load, and came to rest.
type Level struct {
	Stored        int        `json:"stored"`
	ReadySeconds  float64    `json:"readySeconds"`  // from the start of the process to /readyz
	WorkSeconds   float64    `json:"workSeconds"`   // from the start of the process to the first event finished
	Verdict       Verdict    `json:"verdict"`       // of the events that were stored for this level, as fast as they were taken,
	Answers       []Quantile `json:"answers"`       // their answers,
	AnswersPerSec float64    `json:"answersPerSec"` // how fast these came,
	RefillPerSec  float64    `json:"refillPerSec"`  // and how fast all were stored and finished, 0 for none
	APIServerRSS  int64      `json:"apiServerRSS"`  // bytes
	EtcdBytes     int64      `json:"etcdBytes"`     // of the whole file
	LeaderIdle    Process    `json:"leaderIdle"`    // before the load
	Leader        Process    `json:"leader"`        // after it
	Follower      Process    `json:"follower"`      // after it
	LeaderPeakRSS int64      `json:"leaderPeakRSS"` // since its start
}

// Process is the resource use of a manager.
type Process struct {
	RSS        int64 `json:"rss"`       // bytes
	Anonymous  int64 `json:"anonymous"` // bytes of it that are not pages of the program
	Heap       int64 `json:"heap"`      // bytes of Go's heap, garbage excluded as far as some samples tell
	Goroutines int   `json:"goroutines"`
	Files      int   `json:"files"` // open file descriptors
}

// Backlog measures a sink that hangs, a crash of the leader, and the recovery. The managers have a memory limit.
type Backlog struct {
	Events      int   `json:"events"`  // that wait at first,
	More        int   `json:"more"`    // and that come to them
	Objects     int   `json:"objects"` // of which they are
	MemoryLimit int64 `json:"memoryLimit"`
	HardLimit   bool  `json:"hardLimit"` // the kernel enforces it
	GoLimit     int64 `json:"goLimit"`   // as Go knows it

	Idle    Process `json:"idle"`    // the leader, nothing pending
	Waiting Process `json:"waiting"` // with the first events
	All     Process `json:"all"`     // with all
	Next    Process `json:"next"`    // the leader after the kill, with all
	After   Process `json:"after"`   // when all are delivered
	PeakRSS int64   `json:"peakRSS"` // of any leader

	BytesEachRSS       float64 `json:"bytesEachRSS"`
	BytesEachHeap      float64 `json:"bytesEachHeap"`
	StoreSeconds       float64 `json:"storeSeconds"` // of the first events
	FirstRate          float64 `json:"firstRate"`    // of answers with 200, a second: the first tenth,
	LastRate           float64 `json:"lastRate"`     // and the last
	AttemptsPerSec     float64 `json:"attemptsPerSec"`
	StatusWritesPerSec float64 `json:"statusWritesPerSec"`
	WritesPerSec       float64 `json:"writesPerSec"` // of all clients to the API server
	LeadSeconds        float64 `json:"leadSeconds"`  // from the kill of the leader until another leads,
	KnowSeconds        float64 `json:"knowSeconds"`  // and knows all events
	DrainSeconds       float64 `json:"drainSeconds"`
	MaxBackoff         float64 `json:"maxBackoff"` // seconds; the rule's retry.maxBackoff
	Doubles            int     `json:"doubles"`
	Overtaken          int     `json:"overtaken"` // events that the sink took after a later one of their object

	Samples []BacklogSample `json:"samples"`
	Drain   []DrainSample   `json:"drain"`
}

// BacklogSample is a moment of a run with a backlog, seconds from its beginning.
type BacklogSample struct {
	At      float64 `json:"at"`
	Stored  int     `json:"stored"`  // by now
	Pending int     `json:"pending"` // as the leader counts them
	RSS     int64   `json:"rss"`     // of the leader
	Heap    int64   `json:"heap"`    // of Go, garbage included
}

// Throttled is a sink that accepts few events per second, and answers 429 otherwise.
type Throttled struct {
	Events    int     `json:"events"`
	Rate      float64 `json:"rate"` // that it takes, a second
	Delivered int     `json:"delivered"`
	Doubles   int     `json:"doubles"`
	Requests  int     `json:"requests"`
	Failed    int     `json:"failed"`
	Seconds   float64 `json:"seconds"`
}

// Down is a sink that is down in several ways, one after the other, while events arrive.
type Down struct {
	Events             int       `json:"events"`
	Seconds            float64   `json:"seconds"`
	Backoff            float64   `json:"backoff"`    // seconds
	MaxBackoff         float64   `json:"maxBackoff"` // seconds
	Ways               []DownWay `json:"ways"`
	StatusWritesPerSec float64   `json:"statusWritesPerSec"` // after the first events have failed
	DrainSeconds       float64   `json:"drainSeconds"`
	Delivered          int       `json:"delivered"`
	Doubles            int       `json:"doubles"`
	Failed             int       `json:"failed"`
	Overtaken          int       `json:"overtaken"`
}

// DownWay is one kind of outage of a sink, with the operator's rates during it.
type DownWay struct {
	Name               string  `json:"name"`
	AttemptsPerSec     float64 `json:"attemptsPerSec"`
	StatusWritesPerSec float64 `json:"statusWritesPerSec"`
	WritesPerSec       float64 `json:"writesPerSec"`
}

// DrainSample is a moment of a run with a backlog. Zero is the sink's recovery.
type DrainSample struct {
	At      float64 `json:"at"`
	Pending int     `json:"pending"` // as the leader counts them
	Waiting int     `json:"waiting"` // that the sink has not taken
	RSS     int64   `json:"rss"`
}

// Quantile is a quantile of the time that answers took.
type Quantile struct {
	Quantile     float64 `json:"quantile"`
	Milliseconds float64 `json:"milliseconds"`
}

// Verdict has the outcomes of deliveries.
type Verdict struct {
	Sent       int `json:"sent"`
	Attempts   int `json:"attempts"`   // at sending; more than sent where some were sent again
	Answered   int `json:"answered"`   // with 200
	Duplicates int `json:"duplicates"` // of these, as stored before
	GivenUp    int `json:"givenUp"`    // by the sender, after its last attempt
	Lost       int `json:"lost"`       // answered with 200, and not in the cluster
	Doubled    int `json:"doubled"`    // in the cluster more than once
	Unfinished int `json:"unfinished"` // in the cluster, and Pending
	Failed     int `json:"failed"`     // in the cluster, and Failed
}

// Sample is a moment of a steady stream.
type Sample struct {
	At       float64   `json:"at"`
	Replicas []Process `json:"replicas"`
	Leader   int       `json:"leader"`
}

// Chaos is a stream under fault injection, or without faults.
type Chaos struct {
	Verdict
	Rate      float64    `json:"rate"`
	Seed      uint64     `json:"seed"`
	Faults    []Fault    `json:"faults"`
	Starts    int        `json:"starts"`    // of managers
	Kills     int        `json:"kills"`     // of managers
	Delivered int        `json:"delivered"` // events that the sink has taken
	Doubles   int        `json:"doubles"`   // that it was given once more
	Undone    int        `json:"undone"`    // events that were finished, and then pending again
	Overtaken int        `json:"overtaken"` // events that the sink took after a later one of their object
	Late      int        `json:"late"`      // events that it took again after a later one of their object was finished
	Healed    float64    `json:"healed"`    // seconds from the last fault's end to the last event finished
	Answers   []Quantile `json:"answers"`   // with 200
	Refusals  []Quantile `json:"refusals"`  // with anything else
	Seconds   []Second   `json:"seconds"`
	Samples   []Sample   `json:"samples"` // where nothing fails,
	Growth    []float64  `json:"growth"`  // and of each replica: the memory of the last third over that of the second
}

// Ended is the number of managers that exited by themselves, as they do if they start during an outage of the API server. Two run at the end.
func (c Chaos) Ended() int { return c.Starts - c.Kills - 2 }

// Fault is one of them; seconds from the beginning.
type Fault struct {
	Kind string  `json:"kind"`
	From float64 `json:"from"`
	To   float64 `json:"to"`
}

// Second is one second of a run.
type Second struct {
	Stored    int `json:"stored"`    // answered with 200
	Refused   int `json:"refused"`   // answered otherwise, or not answered
	Delivered int `json:"delivered"` // taken by the sink for the first time
}

// Bench compares the operator with lower bounds of the same work.
type Bench struct {
	// Before is the version line of the manager whose sides are called before, if one was measured.
	Before string `json:"before,omitempty"`
	Pairs  []Pair `json:"pairs"`
}

// Pair is an operation, and the sides that do it or a comparable one.
type Pair struct {
	What   string  `json:"what"`
	AtOnce int     `json:"atOnce"`
	Aim    float64 `json:"aim"` // minimum of the operator's ratio to the bare client, 0 for none
	Sides  []Side  `json:"sides"`
}

// Side is a participant of a comparison: rates per second, milliseconds.
type Side struct {
	Who   string  `json:"who"`
	Rate  float64 `json:"rate"`
	Ratio float64 `json:"ratio"` // of the operator's rate to this one
	From  float64 `json:"from"`  // lower bound of the ratio,
	To    float64 `json:"to"`    // and upper bound, of the 96 % confidence interval
	P50   float64 `json:"p50"`
	P99   float64 `json:"p99"`
	// Per operation: milliseconds of the API server's CPU, bytes of its heap, and writes to it.
	CPU    float64 `json:"cpu"`
	Heap   float64 `json:"heap"`
	Writes float64 `json:"writes"`
}

// NetBox is a run with a real NetBox. Changes are the rows of one request and object in its change log since the source began.
type NetBox struct {
	Seed         uint64  `json:"seed"`
	SetUpSeconds float64 `json:"setUpSeconds"` // from no source to Receiving=True
	Drift        int     `json:"drift"`        // fields and objects that were changed in NetBox, and put right

	Requests   int            `json:"requests"` // of the driver, with those that
	RolledBack int            `json:"rolledBack"`
	Background int            `json:"background"` // were left to NetBox's worker
	Kinds      map[string]int `json:"kinds"`
	Rows       int            `json:"rows"`
	Changes    int            `json:"changes"`
	Wanted     int            `json:"wanted"` // changes of object types that NetBox sends

	Webhooks   int `json:"webhooks"` // that came, with those that
	Answered   int `json:"answered"` // were answered with 200
	Duplicates int `json:"duplicates"`
	Lost       int `json:"lost"` // wanted changes without a webhook that was answered with 200

	ByWebhook int   `json:"byWebhook"` // events, by origin
	FromLog   int   `json:"fromLog"`
	Unlogged  int   `json:"unlogged"` // events of updates that changed nothing, and of jobs
	Missed    int64 `json:"missed"`   // according to the status
	Phantoms  int64 `json:"phantoms"`
	Missing   int   `json:"missing"` // changes without an event
	Doubled   int   `json:"doubled"` // changes with several

	Once        int `json:"once"`  // events that were sent once
	Again       int `json:"again"` // repetitions of a call for one event
	Twice       int `json:"twice"` // changes that were sent as several events
	Unacted     int `json:"unacted"`
	Confirmed   int `json:"confirmed"` // changes that the rule with confirm acted on
	Skipped     int `json:"skipped"`
	Lookups     int `json:"lookups"`
	NullLookups int `json:"nullLookups"`

	Late      int `json:"late"`      // webhooks that came after their event was made from the change log
	Equal     int `json:"equal"`     // of these, those of which that event is what they would have made,
	EqualData int `json:"equalData"` // also in data
	Rotation  int `json:"rotation"`  // webhooks during the rotation of the key
	Refused   int `json:"refused"`   // of these, those answered with 401

	RequestsPerHour float64 `json:"requestsPerHour"` // to NetBox, at rest, with the default intervals
	RequestKinds    string  `json:"requestKinds"`

	WhileDown     int     `json:"whileDown"` // changes made while the operator was down
	StoredSeconds float64 `json:"storedSeconds"`
	ActedSeconds  float64 `json:"actedSeconds"`
	// IntakeBeside and IntakeAlone are the deliveries to another source that were stored a second, while missed changes were stored and after
	// that.
	IntakeBeside float64 `json:"intakeBeside"`
	IntakeAlone  float64 `json:"intakeAlone"`
}

// Write writes a run as the file of its name.
func Write[T any](name string, run Run[T]) error {
	if err := os.MkdirAll(Directory, 0o750); err != nil {
		return err
	}
	text, err := json.MarshalIndent(run, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(Directory, name+".json"), text, 0o600)
}

// Read reads a run from a directory.
func Read[T any](directory, name string) (run Run[T], err error) {
	text, err := os.ReadFile(filepath.Join(directory, name+".json"))
	if err == nil {
		err = json.Unmarshal(text, &run)
	}
	if err != nil {
		err = fmt.Errorf("the figures of %s: %w", name, err)
	}
	return run, err
}
