// Package source holds what the receiver and the source controller must agree on: which path a source is served at, and which of two
// sources with one path is served.
package source

import (
	"cmp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// PathIndex is the name of the cache's index of sources by Path.
const PathIndex = "path"

// Path returns the path that a source is served at, without a slash at its end.
func Path(source *v1alpha1.NetBoxSource) string {
	if source.Spec.Path != "" {
		return CleanPath(source.Spec.Path)
	}
	return "/webhook/" + source.Namespace + "/" + source.Name
}

// CleanPath takes the slashes off the end of a path: they make no difference.
func CleanPath(path string) string {
	if cleaned := strings.TrimRight(path, "/"); cleaned != "" {
		return cleaned
	}
	return "/"
}

// Owner returns the source that a path belongs to, of those that claim it: the one that holds it on record, or else the one that claimed it
// first. It is nil where there is none, and where nothing tells who was first: a path is never handed over on a guess.
//
// It depends on the objects alone, so that all replicas come to the same result.
func Owner(sources []v1alpha1.NetBoxSource) *v1alpha1.NetBoxSource {
	if len(sources) == 1 {
		return &sources[0]
	}
	var first *v1alpha1.NetBoxSource
	for i := range sources {
		if isKnown(&sources[i]) && (first == nil || compareClaims(&sources[i], first) < 0) {
			first = &sources[i]
		}
	}
	if first == nil || isHeld(first) {
		return first
	}
	since, _ := claimedSince(first)
	for i := range sources {
		// Its claim may be as old as the object.
		if !isKnown(&sources[i]) && !sources[i].CreationTimestamp.After(since) {
			return nil
		}
	}
	return first
}

// Claim returns the claim that is to be recorded of a source, in view of the owner of its path: nil where the owner is unknown and
// so is since when the source claims the path, because a record would decide what is unknown.
func Claim(source, owner *v1alpha1.NetBoxSource, now time.Time) *v1alpha1.PathClaim {
	held := owner != nil && owner.UID == source.UID
	since, known := claimedSince(source)
	if !known {
		if owner == nil {
			return nil
		}
		since = now
	}
	return &v1alpha1.PathClaim{Path: Path(source), Since: metav1.NewMicroTime(since), Held: held}
}

// recorded returns the claim on record, nil where the path has changed since.
func recorded(source *v1alpha1.NetBoxSource) *v1alpha1.PathClaim {
	if claim := source.Status.Claim; claim != nil && claim.Path == Path(source) {
		return claim
	}
	return nil
}

// claimedSince returns since when a source claims its path. Without a record it is known only where the spec has never changed: the API
// server counts that in the generation, which no user can set.
func claimedSince(source *v1alpha1.NetBoxSource) (since time.Time, known bool) {
	if claim := recorded(source); claim != nil {
		return claim.Since.Time, true
	}
	return source.CreationTimestamp.Time, source.Generation == 1
}

func isKnown(source *v1alpha1.NetBoxSource) bool {
	_, known := claimedSince(source)
	return known
}

func isHeld(source *v1alpha1.NetBoxSource) bool {
	claim := recorded(source)
	return claim != nil && claim.Held
}

// compareClaims orders sources whose claims are known: those that hold the path before the others, whatever the clocks of two leaders said,
// then by age, and by name where that is the same.
func compareClaims(a, b *v1alpha1.NetBoxSource) int {
	if aHeld := isHeld(a); aHeld != isHeld(b) {
		if aHeld {
			return -1
		}
		return 1
	}
	aSince, _ := claimedSince(a)
	bSince, _ := claimedSince(b)
	return cmp.Or(aSince.Compare(bSince), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
}
