// Package secretkeys reads keys from the entries of a Secret.
package secretkeys

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	corev1 "k8s.io/api/core/v1"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// Key is one key of a Secret.
type Key struct {
	// Name is the name of the entry. It is not confidential.
	Name  string
	Value []byte
}

// Of returns the keys of a Secret that ref selects, sorted by name. Trailing white space of an entry is not part of the key: NetBox's
// form strips it, and editors and echo add it. Entries that are empty otherwise are ignored.
func Of(secret *corev1.Secret, ref *v1alpha1.SecretKeysReference) ([]Key, error) {
	var keys []Key
	for _, name := range slices.Sorted(maps.Keys(secret.Data)) {
		value := []byte(Trim(secret.Data[name]))
		if len(value) > 0 && (ref.Key == "" || ref.Key == name) {
			keys = append(keys, Key{Name: name, Value: value})
		}
	}
	switch {
	case len(keys) > 0:
		return keys, nil
	case ref.Key != "":
		return nil, fmt.Errorf("Secret %s has no entry %s, or it is empty", ref.Name, ref.Key)
	default:
		return nil, fmt.Errorf("Secret %s has no non-empty entry", ref.Name)
	}
}

// Trim returns an entry of a Secret without trailing white space.
func Trim(entry []byte) string { return strings.TrimRightFunc(string(entry), unicode.IsSpace) }
