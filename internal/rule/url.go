package rule

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// place is the component of a URL in which an expression is. It determines how the value is escaped.
type place int

const (
	inAuthority place = iota
	inPath
	inQuery
)

// URL is the template of a URL.
type URL struct {
	text *Text
}

func (c *compiler) url(path, source string) *URL {
	text := c.text(path, source)
	compiled := &URL{text}
	if compiled.beginsWithSecret() {
		if next := text.parts[1:]; len(next) > 0 && (next[0].literal == "" || !strings.ContainsAny(next[0].literal[:1], "/?")) {
			c.addError(path, errors.New("must go on with / or ? after a URL from a Secret"))
		}
		return compiled
	}
	example := "" // the URL up to a part, with 0 for each value
	for _, part := range text.parts {
		example += part.literal
		if !strings.Contains(example, "://") {
			c.addError(path, errors.New("must begin with http:// or https://, before any expression but a Secret's, as in ${secrets.url}"))
			return nil
		}
		if part.expression != nil {
			example += "0"
		}
	}
	if err := checkURL(example); err != nil { // the literals must form a valid URL
		c.addError(path, err)
	}
	return compiled
}

func (u *URL) beginsWithSecret() bool {
	return len(u.text.parts) > 0 && u.text.parts[0].expression != nil && u.text.parts[0].expression.isSecretAlone
}

// UsesSecrets reports whether an expression of the URL names a Secret.
func (u *URL) UsesSecrets() bool { return u.text.UsesSecrets() }

// HasSecretHost reports whether the host of the URL may be the value of a Secret.
func (u *URL) HasSecretHost() bool {
	prefix := ""
	for _, part := range u.text.parts {
		if part.expression != nil && part.expression.isSecret && placeAfter(prefix) == inAuthority {
			return true
		}
		prefix += part.literal
	}
	return false
}

// placeAfter returns the place of a value after the beginning of a URL.
func placeAfter(prefix string) place {
	_, rest, _ := strings.Cut(prefix, "://")
	switch {
	case strings.ContainsAny(rest, "?#"):
		return inQuery
	case strings.Contains(rest, "/"):
		return inPath
	default:
		return inAuthority
	}
}

// Text renders the URL. Values cannot change its structure: each is escaped as part of a path segment, of the query, or of the host name.
// Only the value of a Secret, which the rule's author knows, may be the whole beginning of the URL, or several segments of the path.
func (u *URL) Text(ctx context.Context, in *Input) (string, error) {
	remaining := budget(maxRendered)
	prefix, next := "", 0 // the URL up to a part
	rendered, err := u.text.join(ctx, in, &remaining, func(at int, value any) (string, error) {
		for ; next < at; next++ {
			prefix += u.text.parts[next].literal
		}
		next++
		written, err := text(value)
		if err != nil {
			return "", err
		}
		part := u.text.parts[at].expression
		switch place := placeAfter(prefix); {
		case at == 0 && part.isSecretAlone:
		case place == inPath && part.isSecretAlone:
			written = strings.ReplaceAll(url.PathEscape(written), "%2F", "/")
		default:
			if written, err = place.write(written); err != nil && part.isSecret {
				return "", errors.New("is not valid in its place of the URL; correct the Secret")
			} else if err != nil {
				return "", err
			}
		}
		prefix += written
		return written, nil
	})
	if err != nil {
		return "", err
	}
	if err := checkURL(rendered); err != nil && u.UsesSecrets() {
		return "", errors.New("is not a valid URL that begins with http:// or https:// and a host; correct the Secret")
	} else if err != nil {
		return "", err
	}
	return rendered, nil
}

// write escapes a value for its place.
func (p place) write(value string) (string, error) {
	switch p {
	case inAuthority:
		if strings.Trim(value, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-") != "" || value == "" {
			return "", fmt.Errorf("is %.60q, which is not valid in a host name", value)
		}
		return value, nil
	case inPath:
		if value == "" {
			return "", errors.New("is empty, but a path segment must not be")
		}
		return url.PathEscape(value), nil
	default:
		return url.QueryEscape(value), nil
	}
}

// checkURL validates a URL. Its error omits the URL, which may hold a password.
func checkURL(text string) error {
	parsed, err := url.Parse(text)
	if err != nil {
		if urlErr, ok := errors.AsType[*url.Error](err); ok {
			err = urlErr.Err // without the URL, which may be long
		}
		return fmt.Errorf("is not a valid URL: %w", bounded(err))
	}
	if parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return errors.New("must begin with http:// or https:// and a host")
	}
	// Some servers treat \ as /, and some unescape before they resolve dot segments.
	for segment := range strings.SplitSeq(strings.ReplaceAll(parsed.Path, `\`, "/"), "/") {
		if segment == "." || segment == ".." {
			return fmt.Errorf("the path %.100q has a segment %q, which is not allowed", parsed.Path, segment)
		}
	}
	return nil
}
