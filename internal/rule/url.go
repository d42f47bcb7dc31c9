package rule

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// place is where in a URL an expression stands, which says how its value must be written to stay there.
type place int

const (
	inAuthority place = iota
	inPath
	inQuery
)

// URL is the template of a URL.
type URL struct {
	text   *Text
	places []place // of the text's parts
}

func (c *compiler) url(path, source string) *URL {
	text := c.text(path, source)
	compiled := &URL{text: text, places: make([]place, len(text.parts))}
	example := "" // the URL up to a part, with 0 in place of the values
	for i, part := range text.parts {
		example += part.literal
		_, rest, hasScheme := strings.Cut(example, "://")
		switch {
		case !hasScheme:
			c.fault(path, errors.New("must begin with http:// or https://, before any expression"))
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
	if err := checkURL(example); err != nil { // what is literal must be good by itself
		c.fault(path, err)
	}
	return compiled
}

// Text returns the URL. What the values of expressions hold makes no difference to its structure: each is one part of the path or the
// query, or of the name of the host.
func (u *URL) Text(ctx context.Context, in *Input) (string, error) {
	left := budget(maxRendered)
	rendered, err := u.text.join(ctx, in, &left, func(at int, value any) (string, error) {
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
			return "", fmt.Errorf("is %.60q, which cannot be part of the name of a host", value)
		}
		return value, nil
	case inPath:
		if value == "" {
			return "", errors.New("is empty, which would make it another path")
		}
		return url.PathEscape(value), nil
	default:
		return url.QueryEscape(value), nil
	}
}

// checkURL tells what is wrong with a URL that is to be sent to. It does not show the URL, which may hold a password.
func checkURL(text string) error {
	parsed, err := url.Parse(text)
	if err != nil {
		if fault, ok := errors.AsType[*url.Error](err); ok {
			err = fault.Err // without the URL, which may be long
		}
		return fmt.Errorf("is no URL: %w", bounded(err))
	}
	if parsed.Scheme != "http" && parsed.Scheme != "https" || parsed.Host == "" {
		return errors.New("must begin with http:// or https:// and a host")
	}
	// Some servers take \ for /, and some take what is escaped for what is not.
	for segment := range strings.SplitSeq(strings.ReplaceAll(parsed.Path, `\`, "/"), "/") {
		if segment == "." || segment == ".." {
			return fmt.Errorf("the path %.100q has a part %q, which would lead elsewhere", parsed.Path, segment)
		}
	}
	return nil
}
