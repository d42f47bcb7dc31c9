package netbox

import (
	"strconv"
	"strings"
)

// survives reports whether the Kubernetes API server preserves the value of a JSON number. The API server reads an integer as int64 and
// everything else as float64 (sigs.k8s.io/json), so an integer beyond int64 and a fraction with more digits than a float64 holds do not
// survive. 14.0 becomes 14 and survives: its value is the same.
func survives(literal string) bool {
	if len(literal) <= 15 && !strings.ContainsAny(literal, "eE") {
		return true // at most 15 digits: any int64 and any float64 holds them
	}
	if !strings.ContainsAny(literal, ".eE") {
		_, err := strconv.ParseInt(literal, 10, 64)
		return err == nil
	}
	float, err := strconv.ParseFloat(literal, 64)
	if err != nil {
		return false // out of range
	}
	sent, ok := parseDecimal(literal)
	kept, _ := parseDecimal(strconv.FormatFloat(float, 'e', -1, 64))
	return ok && sent == kept
}

// decimal is digits times ten to the power of exponent; equal values are equal decimals.
type decimal struct {
	negative bool
	digits   string // without zeros at either end; "" is zero
	exponent int
}

// parseDecimal reads a JSON number. It fails only if the exponent does not fit an int.
func parseDecimal(literal string) (decimal, bool) {
	mantissa, exponent, _ := strings.Cut(strings.ToLower(literal), "e")
	rest, negative := strings.CutPrefix(mantissa, "-")
	whole, fraction, _ := strings.Cut(rest, ".")

	digits := strings.TrimLeft(whole+fraction, "0")
	trimmed := strings.TrimRight(digits, "0")
	if trimmed == "" {
		return decimal{}, true
	}
	power := 0
	if exponent != "" {
		var err error
		if power, err = strconv.Atoi(exponent); err != nil {
			return decimal{}, false
		}
	}
	return decimal{negative, trimmed, power - len(fraction) + len(digits) - len(trimmed)}, true
}
