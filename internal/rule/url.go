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
	text   *Text
	places []place // by part of text
}

func (c *compiler) url(path, source string) *URL {
	text := c.text(path, source)
	compiled := &URL{text: text, places: make([]place, len(text.parts))}
	example := "" // the URL up to a part, with 0 for each value
	for i, part := range text.parts {
		example += part.literal
		_, rest, hasScheme := strings.Cut(example, "://")
		switch {
		case !hasScheme:
			c.addError(path, errors.New("must begin with http:// or https://, before any expression"))
			return nil
		case strings.ContainsAny(rest, "?#"):
			compiled.places[i] = inQuery
		case strings.Contains(rest, "/"):
			compiled.places[i] = inPath
		default:
			compiled.places[i] = inAuthority
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

// Text renders the URL. Values cannot change its structure: each is escaped as part of a path segment, of the query, or of the host name.
func (u *URL) Text(ctx context.Context, in *Input) (string, error) {
	remaining := budget(maxRendered)
	rendered, err := u.text.join(ctx, in, &remaining, func(at int, value any) (string, error) {
		written, err := text(value)
		if err != nil {
			return "", err
		}
		return u.places[at].write(written)
	})
	if err != nil {
		return "", err
	}
	return rendered, checkURL(rendered)
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
