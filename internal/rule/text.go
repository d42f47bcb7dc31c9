package rule

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Text is a template of a string.
type Text struct {
	parts []part
}

// part is a literal or an expression.
type part struct {
	literal    string
	expression *expression
}

// maxExpressionBytes bounds one expression in a template.
const maxExpressionBytes = 4096

// text compiles a template in which ${…} is an expression and $${ an escaped ${.
func (c *compiler) text(path, source string) *Text {
	var compiled Text
	var literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			compiled.parts = append(compiled.parts, part{literal: literal.String()})
			literal.Reset()
		}
	}
	for found := range segments(source) {
		if found.kind == literalSegment {
			literal.WriteString(strings.ReplaceAll(found.text, "$${", "${"))
			continue
		}
		flush()
		if found.kind == unclosedSegment || len(found.text) > maxExpressionBytes {
			c.addError(path, fmt.Errorf("${%.40s…: missing closing } within %d bytes, outside of string literals; write $${ for a literal ${",
				found.text, maxExpressionBytes))
			return &compiled
		}
		compiled.parts = append(compiled.parts,
			part{expression: c.expression(fmt.Sprintf("%s: ${%.60s}", path, found.text), found.text, nil)})
	}
	flush()
	return &compiled
}

// segment is a part of a template.
type segment struct {
	kind segmentKind
	text string
}

type segmentKind int

const (
	// literalSegment is text beside the expressions, in which ${ is still written as $${.
	literalSegment segmentKind = iota
	// expressionSegment is the expression between ${ and }.
	expressionSegment
	// unclosedSegment is all that follows a ${ that no } closes.
	unclosedSegment
)

// segments returns the parts of a template. Several literals may follow each other.
func segments(template string) iter.Seq[segment] {
	return func(yield func(segment) bool) {
		for rest := template; rest != ""; {
			at := strings.Index(rest, "${")
			if at < 0 {
				yield(segment{literalSegment, rest})
				return
			}
			after := at + len("${")
			if at > 0 && rest[at-1] == '$' {
				if !yield(segment{literalSegment, rest[:after]}) {
					return
				}
				rest = rest[after:]
				continue
			}
			if at > 0 && !yield(segment{literalSegment, rest[:at]}) {
				return
			}
			rest = rest[after:]
			end := expressionEnd(rest)
			if end < 0 {
				yield(segment{unclosedSegment, rest})
				return
			}
			if !yield(segment{expressionSegment, rest[:end]}) {
				return
			}
			rest = rest[end+len("}"):]
		}
	}
}

// expressionEnd returns the index of the brace that closes the expression at the start of a text, -1 for none. It skips braces in CEL's
// string literals and comments, and pairs of braces.
func expressionEnd(text string) int {
	depth := 0
	for at := 0; at < len(text); at++ {
		switch rest := text[at:]; {
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
			raw := at > 0 && (text[at-1] == 'r' || text[at-1] == 'R')
			length := stringLength(rest, raw)
			if length < 0 {
				return -1
			}
			at += length - 1
		}
	}
	return -1
}

// stringLength returns the length of the CEL string literal at the start of a text, -1 if it is not terminated.
func stringLength(text string, raw bool) int {
	quote := text[:1]
	if triple := strings.Repeat(quote, 3); strings.HasPrefix(text, triple) {
		quote = triple
	}
	for at := len(quote); at < len(text); at++ {
		switch {
		case text[at] == '\\' && !raw:
			at++
		case strings.HasPrefix(text[at:], quote):
			return at + len(quote)
		}
	}
	return -1
}

// UsesSecrets reports whether an expression of the template names a Secret.
func (t *Text) UsesSecrets() bool {
	return slices.ContainsFunc(t.parts, func(part part) bool { return part.expression != nil && part.expression.isSecret })
}

// whole returns the expression of a template that consists of one.
func (t *Text) whole() (*expression, bool) {
	if len(t.parts) == 1 && t.parts[0].expression != nil {
		return t.parts[0].expression, true
	}
	return nil, false
}

// isVariable reports whether the template has an expression.
func (t *Text) isVariable() bool {
	return slices.ContainsFunc(t.parts, func(part part) bool { return part.expression != nil })
}

// Value renders the template: as a JSON value of any type if it consists of one expression, otherwise as a string.
func (t *Text) Value(ctx context.Context, in *Input) (any, error) {
	remaining := budget(maxRendered)
	return t.value(ctx, in, &remaining)
}

func (t *Text) value(ctx context.Context, in *Input, remaining *budget) (any, error) {
	if whole, ok := t.whole(); ok {
		return whole.native(ctx, in, remaining)
	}
	return t.asText(ctx, in, remaining)
}

// Text renders the template as a string. Null is an error.
func (t *Text) Text(ctx context.Context, in *Input) (string, error) {
	remaining := budget(maxRendered)
	return t.asText(ctx, in, &remaining)
}

func (t *Text) asText(ctx context.Context, in *Input, remaining *budget) (string, error) {
	return t.join(ctx, in, remaining, func(_ int, value any) (string, error) { return text(value) })
}

// Message is like Text, for messages: null becomes "null".
func (t *Text) Message(ctx context.Context, in *Input) (string, error) {
	remaining := budget(maxRendered)
	return t.join(ctx, in, &remaining, func(_ int, value any) (string, error) {
		if value == nil {
			return "null", nil
		}
		return text(value)
	})
}

// join joins the parts of a template. The function write converts the value of an expression, and gets the index of its part.
func (t *Text) join(
	ctx context.Context, in *Input, remaining *budget, write func(at int, value any) (string, error),
) (string, error) {
	var joined strings.Builder
	for at, part := range t.parts {
		if part.expression == nil {
			joined.WriteString(part.literal)
			continue
		}
		value, err := part.expression.native(ctx, in, remaining)
		if err != nil {
			return "", err
		}
		written, err := write(at, value)
		if err != nil {
			return "", part.expression.wrap(err)
		}
		joined.WriteString(written)
	}
	return joined.String(), nil
}

// native returns the value of an expression as a JSON value.
func (e *expression) native(ctx context.Context, in *Input, remaining *budget) (any, error) {
	value, err := e.evaluate(ctx, in)
	if err != nil {
		return nil, err
	}
	converted, err := native(value, remaining)
	if err != nil {
		return nil, e.wrap(err)
	}
	if e.isSecret && in.confidential != nil {
		reportTexts(converted, in.confidential)
	}
	return converted, nil
}

// wrap adds the expression to an error about its value.
func (e *expression) wrap(err error) error { return fmt.Errorf("${%.60s} %w", e.text, bounded(err)) }
