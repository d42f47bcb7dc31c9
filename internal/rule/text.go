package rule

import (
	"context"
	"fmt"
	"strings"
)

// Text is a text that may hold expressions.
type Text struct {
	parts []part
}

// part is a literal text, or an expression.
type part struct {
	literal    string
	expression *expression
}

// maxExpressionBytes bounds one expression in a template.
const maxExpressionBytes = 4096

// text compiles a text in which ${…} holds an expression and $${ stands for ${.
func (c *compiler) text(path, source string) *Text {
	var compiled Text
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			compiled.parts = append(compiled.parts, part{literal: literal.String()})
			literal.Reset()
		}
	}
	for rest := source; rest != ""; {
		at := strings.Index(rest, "${")
		if at < 0 {
			literal.WriteString(rest)
			break
		}
		if at > 0 && rest[at-1] == '$' {
			literal.WriteString(rest[:at-1] + "${")
			rest = rest[at+len("${"):]
			continue
		}
		literal.WriteString(rest[:at])
		flush()
		rest = rest[at+len("${"):]
		end := expressionEnd(rest)
		if end < 0 || end > maxExpressionBytes {
			c.fault(path, fmt.Errorf("${%.40s…: no } closes it within %d bytes, but for those in strings; write $${ for ${ itself",
				rest, maxExpressionBytes))
			break
		}
		text := rest[:end]
		compiled.parts = append(compiled.parts, part{expression: c.expression(fmt.Sprintf("%s: ${%.60s}", path, text), text, nil)})
		rest = rest[end+len("}"):]
	}
	flush()
	return &compiled
}

// expressionEnd finds the brace that closes the expression at the beginning of a text, -1 where none does. Braces in CEL's strings and
// comments do not count, and those of a map come in pairs.
func expressionEnd(from string) int {
	depth := 0
	for at := 0; at < len(from); at++ {
		switch rest := from[at:]; {
		case rest[0] == '{':
			depth++
		case rest[0] == '}':
			if depth == 0 {
				return at
			}
			depth--
		case strings.HasPrefix(rest, "//"):
			line := strings.IndexByte(rest, '\n')
			if line < 0 {
				return -1
			}
			at += line
		case rest[0] == '"' || rest[0] == '\'':
			raw := at > 0 && (from[at-1] == 'r' || from[at-1] == 'R')
			length := stringLength(rest, raw)
			if length < 0 {
				return -1
			}
			at += length - 1
		}
	}
	return -1
}

// stringLength is the length of the string of CEL at the beginning of a text, -1 where nothing ends it.
func stringLength(from string, raw bool) int {
	quote := from[:1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(from, triple) {
		quote = triple
	}
	for at := len(quote); at < len(from); at++ {
		switch {
		case from[at] == '\\' && !raw:
			at++
		case strings.HasPrefix(from[at:], quote):
			return at + len(quote)
		}
	}
	return -1
}

// whole returns the expression of a text that is nothing else.
func (t *Text) whole() (*expression, bool) {
	if len(t.parts) == 1 && t.parts[0].expression != nil {
		return t.parts[0].expression, true
	}
	return nil, false
}

// Value returns what a text stands for: a value of JSON of any type where the text is one expression, else a string.
func (t *Text) Value(ctx context.Context, in *Input) (any, error) {
	left := budget(maxRendered)
	return t.value(ctx, in, &left)
}

func (t *Text) value(ctx context.Context, in *Input, left *budget) (any, error) {
	if whole, ok := t.whole(); ok {
		return whole.native(ctx, in, left)
	}
	return t.join(ctx, in, left, func(_ int, value any) (string, error) { return text(value) })
}

// Text returns the text with the values of its expressions. Null is an error.
func (t *Text) Text(ctx context.Context, in *Input) (string, error) {
	left := budget(maxRendered)
	return t.join(ctx, in, &left, func(_ int, value any) (string, error) { return text(value) })
}

// Message is as Text, for people: null is the word null.
func (t *Text) Message(ctx context.Context, in *Input) (string, error) {
	left := budget(maxRendered)
	return t.join(ctx, in, &left, func(_ int, value any) (string, error) {
		if value == nil {
			return "null", nil
		}
		return text(value)
	})
}

// join writes the parts of a text, and the values of its expressions as write does, which gets their place among the parts.
func (t *Text) join(
	ctx context.Context, in *Input, left *budget, write func(at int, value any) (string, error),
) (string, error) {
	var joined strings.Builder
	for at, part := range t.parts {
		if part.expression == nil {
			joined.WriteString(part.literal)
			continue
		}
		value, err := part.expression.native(ctx, in, left)
		if err != nil {
			return "", err
		}
		written, err := write(at, value)
		if err != nil {
			return "", part.expression.fault(err)
		}
		joined.WriteString(written)
	}
	return joined.String(), nil
}

// native returns the value of an expression as one of JSON.
func (e *expression) native(ctx context.Context, in *Input, left *budget) (any, error) {
	value, err := e.evaluate(ctx, in)
	if err != nil {
		return nil, err
	}
	converted, err := native(value, left)
	if err != nil {
		return nil, e.fault(err)
	}
	return converted, nil
}

// fault says which expression has a value that cannot be used.
func (e *expression) fault(err error) error { return fmt.Errorf("${%.60s} %w", e.text, bounded(err)) }
