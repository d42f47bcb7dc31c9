// Package source holds what the receiver and the source controller must agree on: which path a source is served at, which of two
// sources with one path is served, and which entries of a Secret are keys.
package source

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/internal/netbox"
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

// Owner returns the source that a path belongs to, of those that claim it: the oldest. It is nil where there is none.
func Owner(claims []v1alpha1.NetBoxSource) *v1alpha1.NetBoxSource {
	if len(claims) == 0 {
		return nil
	}
	oldest := slices.MinFunc(claims, func(a, b v1alpha1.NetBoxSource) int {
		return cmp.Or(
			a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace),
			strings.Compare(a.Name, b.Name),
		)
	})
	return &oldest
}

// Keys returns the keys that ref selects of a Secret, in the order of their names. White space at the end of an entry is no part of
// the key: NetBox's form strips it, and editors and echo add it. An entry that is empty otherwise is no key.
func Keys(secret *corev1.Secret, ref *v1alpha1.SecretKeysReference) ([]netbox.Key, error) {
	var keys []netbox.Key
	for _, name := range slices.Sorted(maps.Keys(secret.Data)) {
		value := []byte(strings.TrimRightFunc(string(secret.Data[name]), unicode.IsSpace))
		if len(value) > 0 && (ref.Key == "" || ref.Key == name) {
			keys = append(keys, netbox.Key{Name: name, Value: value})
		}
	}
	switch {
	case len(keys) > 0:
		return keys, nil
	case ref.Key != "":
		return nil, fmt.Errorf("Secret %s has no entry %s, or it is empty", ref.Name, ref.Key)
	default:
		return nil, fmt.Errorf("Secret %s has no entry that is not empty", ref.Name)
	}
}
