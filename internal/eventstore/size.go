package eventstore

import (
	"encoding/json"
	"strings"
)

// storedSize returns the length of the JSON that the API server stores for an event, given the output of encoding/json. The API server
// decodes it and encodes it again, also by encoding/json. Text keeps its length or becomes shorter ("\u00e9"). Numbers with an exponent
// grow: 1e20 is stored as 100000000000000000000.
func storedSize(event []byte) int {
	size := len(event)
	for at := 0; at < len(event); at++ {
		switch c := event[at]; {
		case c == '"':
			at = endOfText(event, at)
		case c == '-' || '0' <= c && c <= '9':
			end := at
			for end < len(event) && strings.IndexByte("+-.0123456789eE", event[end]) >= 0 {
				end++
			}
			size += growth(string(event[at:end]))
			at = end - 1
		}
	}
	return size
}

// endOfText returns the index of the closing quote of the text whose opening quote is at the given index.
func endOfText(event []byte, at int) int {
	for at++; at < len(event) && event[at] != '"'; at++ {
		if event[at] == '\\' {
			at++
		}
	}
	return at
}

// growth returns the difference between the stored and the written length of a number.
func growth(literal string) int {
	if !strings.ContainsAny(literal, "eE") {
		return 0 // integers keep their digits, and fractions never grow
	}
	var value float64
	if err := json.Unmarshal([]byte(literal), &value); err != nil {
		return 0 // out of range of a float64: the API server refuses it
	}
	stored, _ := json.Marshal(value) // cannot fail: a parsed float64 is finite
	return len(stored) - len(literal)
}
