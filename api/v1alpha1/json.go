package v1alpha1

import (
	"encoding/json"
	"errors"
)

// JSON is any JSON value, verbatim.
//
// +kubebuilder:pruning:PreserveUnknownFields
// +kubebuilder:validation:Type=""
type JSON struct {
	// Raw is the text of the value; empty means null.
	Raw []byte `json:"-"`
}

// MarshalJSON returns the text of the value.
func (j JSON) MarshalJSON() ([]byte, error) {
	if len(j.Raw) == 0 {
		return []byte("null"), nil
	}
	return j.Raw, nil
}

// UnmarshalJSON keeps a copy of the text of a value.
func (j *JSON) UnmarshalJSON(text []byte) error {
	if j == nil {
		return errors.New("v1alpha1.JSON: UnmarshalJSON on a nil pointer")
	}
	j.Raw = append(j.Raw[:0], text...)
	return nil
}

// JSONObject is a JSON object of any shape.
type JSONObject map[string]JSON

var (
	_ json.Marshaler   = JSON{}
	_ json.Unmarshaler = &JSON{}
)
