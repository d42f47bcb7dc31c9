package eventstore

import (
	"encoding/json"
	"strings"
)

// storedSize returns the length of an event as the API server stores it, given its JSON as encoding/json writes it. The API server decodes
// the JSON and encodes it again, also by encoding/json. Text keeps its length or becomes shorter ("\u00e9"). Numbers with an exponent
// become longer: 1e20 is stored as 100000000000000000000.
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

// endOfText returns the index of the quote that ends the text whose first quote is at an index.
func endOfText(event []byte, at int) int {
	for at++; at < len(event) && event[at] != '"'; at++ {
		if event[at] == '\\' {
			at++
		}
	}
	return at
}

// growth returns how many bytes longer a number is stored than it is written.
func growth(literal string) int {
	if !strings.ContainsAny(literal, "eE") {
		return 0 // an integer keeps its digits, and a fraction has as many or fewer
	}
	var value float64
	if err := json.Unmarshal([]byte(literal), &value); err != nil {
		return 0 // beyond a float64, which the API server refuses
	}
	stored, _ := json.Marshal(value) // a float64 that was read is finite
	return len(stored) - len(literal)
}
