package source_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/source"
)

func second(n int64) metav1.MicroTime { return metav1.NewMicroTime(time.Unix(n, 0)) }

// claimant returns a source with path /x.
func claimant(namespace string, created, generation int64, claim *v1alpha1.PathClaim) v1alpha1.NetBoxSource {
	s := v1alpha1.NetBoxSource{ObjectMeta: metav1.ObjectMeta{
		Namespace: namespace, Name: "netbox", UID: types.UID(namespace), Generation: generation, CreationTimestamp: metav1.Unix(created, 0),
	}}
	s.Spec.Path, s.Status.Claim = "/x/", claim
	return s
}

func TestOwner(t *testing.T) {
	held := func(since int64) *v1alpha1.PathClaim {
		return &v1alpha1.PathClaim{Path: "/x", Since: second(since), Held: true}
	}
	waiting := func(since int64) *v1alpha1.PathClaim { return &v1alpha1.PathClaim{Path: "/x", Since: second(since)} }
	elsewhere := &v1alpha1.PathClaim{Path: "/y", Since: second(1), Held: true}
	for _, test := range []struct {
		reason  string
		sources []v1alpha1.NetBoxSource
		want    string // a namespace
	}{
		{"no claimant", nil, ""},
		{"a single claimant, regardless of records", []v1alpha1.NetBoxSource{claimant("a", 1, 7, elsewhere)}, "a"},
		{"an older object takes the path of another", []v1alpha1.NetBoxSource{claimant("old", 1, 2, elsewhere), claimant("new", 5, 1, held(5))}, "new"},
		{"the clock of another leader was slow", []v1alpha1.NetBoxSource{claimant("a", 1, 2, waiting(4)), claimant("b", 2, 2, held(5))}, "b"},
		{"two recorded holders", []v1alpha1.NetBoxSource{claimant("a", 1, 2, held(6)), claimant("b", 2, 2, held(5))}, "b"},
		{"the holder was deleted: the longest waiting claimant", []v1alpha1.NetBoxSource{claimant("a", 1, 2, waiting(6)), claimant("b", 2, 2, waiting(5))}, "b"},
		{"neither changed since it was created", []v1alpha1.NetBoxSource{claimant("a", 6, 1, nil), claimant("b", 5, 1, nil)}, "b"},
		{"created in one second", []v1alpha1.NetBoxSource{claimant("b", 5, 1, nil), claimant("a", 5, 1, nil)}, "a"},
		{"changed, but created later", []v1alpha1.NetBoxSource{claimant("a", 5, 1, nil), claimant("b", 6, 2, nil)}, "a"},
		{"changed, perhaps before the other was created", []v1alpha1.NetBoxSource{claimant("a", 5, 1, nil), claimant("b", 5, 2, nil)}, ""},
		{"both changed, and the records are lost", []v1alpha1.NetBoxSource{claimant("a", 1, 2, nil), claimant("b", 2, 2, nil)}, ""},
		{"the holder's record is lost", []v1alpha1.NetBoxSource{claimant("a", 1, 2, nil), claimant("b", 2, 2, waiting(5))}, ""},
	} {
		for range len(test.sources) + 1 {
			got := ""
			if owner := source.Owner(test.sources); owner != nil {
				got = owner.Namespace
			}
			if got != test.want {
				t.Errorf("%s: the owner is %q, want %q", test.reason, got, test.want)
			}
			slices.Reverse(test.sources)
		}
	}
}

// world simulates sources that share a path, the leader's records of their claims, and the expected owner.
type world struct {
	random  *rand.Rand
	now     int64
	sources map[string]*v1alpha1.NetBoxSource // by namespace
	changed map[string]int                    // length of history at the last change of each
	history []map[string]v1alpha1.NetBoxSource
	queue   []string // claimants, in order
	holder  string   // the last served source
	log     []string
}

var namespaces = []string{"a", "b", "c"}

func (w *world) claims() (claims []v1alpha1.NetBoxSource) { return claimsOf(w.view()) }

func (w *world) view() map[string]v1alpha1.NetBoxSource {
	view := map[string]v1alpha1.NetBoxSource{}
	for name, s := range w.sources {
		view[name] = *s.DeepCopy()
	}
	return view
}

func claimsOf(view map[string]v1alpha1.NetBoxSource) (claims []v1alpha1.NetBoxSource) {
	for _, s := range view {
		if source.Path(&s) == "/x" {
			claims = append(claims, s)
		}
	}
	return claims
}

func (w *world) did(namespace, what string) {
	w.log = append(w.log, fmt.Sprintf("%d: %s %s", w.now, namespace, what))
	w.queue = slices.DeleteFunc(w.queue, func(name string) bool {
		return w.sources[name] == nil || source.Path(w.sources[name]) != "/x"
	})
	if s := w.sources[namespace]; s != nil && source.Path(s) == "/x" && !slices.Contains(w.queue, namespace) {
		w.queue = append(w.queue, namespace)
	}
	w.changed[namespace] = len(w.history)
	w.history = append(w.history, w.view())
}

// user creates, changes or deletes a source.
func (w *world) user(namespace string) {
	s := w.sources[namespace]
	switch {
	case s == nil:
		created := claimant(namespace, w.now, 1, nil)
		created.UID = types.UID(fmt.Sprintf("%s-%d", namespace, w.now))
		if w.random.IntN(2) == 0 {
			created.Spec.Path = ""
		}
		w.sources[namespace] = &created
		w.did(namespace, "is created at "+source.Path(&created))
	case w.random.IntN(4) == 0:
		delete(w.sources, namespace)
		w.did(namespace, "is deleted")
	default:
		path := "/x"
		if source.Path(s) == "/x" {
			path = "/" + namespace
		}
		if s.Status.Claim != nil && s.Status.Claim.Path == path {
			return // changed and reverted before the leader saw it: the claim is kept
		}
		s.Spec.Path = path
		s.Generation++
		w.did(namespace, "moves to "+path)
	}
}

// lose removes the status of a source.
func (w *world) lose(namespace string) {
	if s := w.sources[namespace]; s != nil {
		s.Status = v1alpha1.NetBoxSourceStatus{}
		w.did(namespace, "loses its status")
	}
}

// leader records the claim of a source, from a cache that may be outdated: it may lack the last change to another source.
func (w *world) leader(namespace string, lag bool) {
	if w.sources[namespace] == nil || len(w.history) == 0 {
		return
	}
	view := w.history[len(w.history)-1]
	if last := len(w.history) - 1; lag && w.changed[namespace] < last {
		view = w.history[last-w.random.IntN(2)]
	}
	s := view[namespace]
	var rivals []v1alpha1.NetBoxSource
	for _, rival := range view {
		if source.Path(&rival) == source.Path(&s) {
			rivals = append(rivals, rival)
		}
	}
	claim := source.Claim(&s, source.Owner(rivals), time.Unix(w.now, 500_000_000))
	if before := w.sources[namespace].Status.Claim; before == nil && claim == nil || before != nil && claim != nil && *before == *claim {
		return
	}
	w.sources[namespace].Status.Claim = claim
	w.did(namespace, fmt.Sprintf("is recorded: %+v", claim))
}

// No sequence of changes, with a leader or without, takes a path away from the source that is served at it.
func TestPathIsNotTaken(t *testing.T) {
	served, unknown := 0, 0
	for seed := range uint64(20000) {
		w := &world{random: rand.New(rand.NewPCG(seed, 17)), sources: map[string]*v1alpha1.NetBoxSource{}, changed: map[string]int{}}
		for range 20 {
			w.now++
			namespace := namespaces[w.random.IntN(len(namespaces))]
			switch w.random.IntN(6) {
			case 0, 1:
				w.user(namespace)
			case 2:
				w.lose(namespace)
			default:
				w.leader(namespace, true)
			}
			if !slices.Contains(w.queue, w.holder) {
				w.holder = ""
			}
			owner := source.Owner(w.claims())
			switch {
			case owner == nil && len(w.queue) > 0:
				unknown++
			case owner == nil:
			case w.holder == "" || w.holder == owner.Namespace:
				served++
				w.holder = owner.Namespace
			default:
				t.Fatalf("seed %d: %s took the path from %s:\n%s", seed, owner.Namespace, w.holder, w.log)
			}
		}
	}
	if served < 50000 || unknown < 1000 {
		t.Errorf("the path had an owner %d times, and an unknown one %d times", served, unknown)
	}
}

// If the leader records every change, the path always belongs to its first claimant.
func TestPathBelongsToTheFirst(t *testing.T) {
	for seed := range uint64(5000) {
		w := &world{random: rand.New(rand.NewPCG(seed, 18)), sources: map[string]*v1alpha1.NetBoxSource{}, changed: map[string]int{}}
		for range 20 {
			w.now++
			w.user(namespaces[w.random.IntN(len(namespaces))])
			for range 2 { // the second round records effects of the first
				for _, i := range w.random.Perm(len(namespaces)) {
					w.leader(namespaces[i], false)
				}
			}
			got, want := "", ""
			if owner := source.Owner(w.claims()); owner != nil {
				got = owner.Namespace
			}
			if len(w.queue) > 0 {
				want = w.queue[0]
			}
			if got != want {
				t.Fatalf("seed %d: the path belongs to %q, want %q:\n%s", seed, got, want, w.log)
			}
		}
	}
}
