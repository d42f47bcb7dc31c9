package netboxapi

import (
	"html"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

const (
	// fragmentBytes is the length from which a part of a secret is redacted.
	fragmentBytes = 8
	redactedText  = "[redacted]"
	// maxRedactedBytes bounds the text that is searched for secrets: the rest is cut off.
	maxRedactedBytes = 8 << 10
)

// redactor removes secrets, which are in lower case, from texts of servers.
type redactor []string

func newRedactor(secrets ...string) redactor {
	var r redactor
	for _, secret := range secrets {
		if secret != "" {
			r = append(r, strings.ToLower(secret))
		}
	}
	return r
}

// redact replaces the secrets in the beginning of a text and all their parts from fragmentBytes on, in any case of the letters. A text
// that has one in an escaped form is replaced as a whole.
func (r redactor) redact(text string) string {
	text = strings.ToValidUTF8(text[:min(len(text), maxRedactedBytes)], "\uFFFD")
	redacted := r.replace(text)
	for plain, depth := redacted, 0; depth < 3; depth++ {
		plain = unescape(plain)
		if r.replace(plain) != plain {
			return redactedText
		}
	}
	return redacted
}

func (r redactor) replace(text string) string {
	folded := lower(text)
	secret := make([]bool, len(text))
	for _, whole := range r {
		for at := range folded {
			size := min(len(whole), fragmentBytes)
			if at+size <= len(folded) && strings.Contains(whole, folded[at:at+size]) {
				for i := range size {
					secret[at+i] = true
				}
			}
		}
	}
	var redacted strings.Builder
	for at := range len(text) {
		switch {
		case !secret[at]:
			redacted.WriteByte(text[at])
		case at == 0 || !secret[at-1]:
			redacted.WriteString(redactedText)
		}
	}
	return redacted.String()
}

// lower maps the letters of ASCII to lower case, and leaves the length as it is.
func lower(text string) string {
	bytes := []byte(text)
	for i, b := range bytes {
		if b >= 'A' && b <= 'Z' {
			bytes[i] = b + 'a' - 'A'
		}
	}
	return string(bytes)
}

var (
	percentEscape = regexp.MustCompile(`%[0-9A-Fa-f]{2}`)
	// codeEscape matches the escapes of JSON, JavaScript and Python: \u0041 and \x41.
	codeEscape = regexp.MustCompile(`\\+(?:u00|x)[0-9A-Fa-f]{2}`)
)

// unescape undoes the escapes of URLs, JSON and HTML.
func unescape(text string) string {
	text = percentEscape.ReplaceAllStringFunc(text, func(escape string) string {
		plain, _ := url.PathUnescape(escape)
		return plain
	})
	text = codeEscape.ReplaceAllStringFunc(text, func(escape string) string {
		code, _ := strconv.ParseUint(escape[len(escape)-2:], 16, 8)
		return string(rune(code))
	})
	return html.UnescapeString(text)
}
