// Package source holds the rules that the receiver and the source controller share: the path of a source, and the owner of a path that
// several sources claim.
package source

import (
	"cmp"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// PathIndex is the name of the cache index of sources by Path.
const PathIndex = "path"

// Path returns the path of a source, without a trailing slash.
func Path(source *v1alpha1.NetBoxSource) string {
	if source.Spec.Path != "" {
		return CleanPath(source.Spec.Path)
	}
	return "/webhook/" + source.Namespace + "/" + source.Name
}

// CleanPath removes trailing slashes, which are ignored.
func CleanPath(path string) string {
	if cleaned := strings.TrimRight(path, "/"); cleaned != "" {
		return cleaned
	}
	return "/"
}

// Owner returns the owner of a path among the sources that claim it: the recorded holder, or else the first claimant. It returns nil if
// there is none, or if the first claimant is unknown: a path is never reassigned on a guess.
//
// The result depends on the objects alone, so that all replicas agree.
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
		// The claim may be as old as the object.
		if !isKnown(&sources[i]) && !sources[i].CreationTimestamp.After(since) {
			return nil
		}
	}
	return first
}

// Claim returns the claim to record for a source, given the owner of its path. It returns nil if both the owner and the start of the
// source's claim are unknown, because a record would decide the ownership.
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

// recorded returns the recorded claim, or nil if the path has changed since.
func recorded(source *v1alpha1.NetBoxSource) *v1alpha1.PathClaim {
	if claim := source.Status.Claim; claim != nil && claim.Path == Path(source) {
		return claim
	}
	return nil
}

// claimedSince returns the start of a source's claim to its path. Without a record it is known only if the spec has never changed: the API
// server counts changes in the generation, which users cannot set.
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

// compareClaims orders sources with known claims: holders of the path first, regardless of clock differences between leaders, then by age
// and by name.
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
