package rule

import "strings"

// Mask returns a template with everything that may be a secret replaced by the function: what is beside its expressions, and the string
// literals and comments within them.
func Mask(template string, mask func(string) string) string {
	var masked, literal strings.Builder
	flush := func() {
		if literal.Len() > 0 {
			masked.WriteString(mask(literal.String()))
			literal.Reset()
		}
	}
	for found := range segments(template) {
		switch found.kind {
		case literalSegment:
			literal.WriteString(found.text)
		case unclosedSegment:
			literal.WriteString("${" + found.text)
		case expressionSegment:
			flush()
			masked.WriteString("${" + MaskExpression(found.text, mask) + "}")
		}
	}
	flush()
	return masked.String()
}

// MaskExpression returns a CEL expression with its string literals and comments replaced by the function, which gets them without quotes.
func MaskExpression(expression string, mask func(string) string) string {
	var masked strings.Builder
	for at := 0; at < len(expression); {
		switch rest := expression[at:]; {
		case strings.HasPrefix(rest, "//"):
			length := strings.IndexByte(rest, '\n')
			if length < 0 {
				length = len(rest)
			}
			masked.WriteString("// " + mask(strings.TrimSpace(rest[len("//"):length])))
			at += length
		case rest[0] == '"' || rest[0] == '\'':
			raw := at > 0 && (expression[at-1] == 'r' || expression[at-1] == 'R')
			length := stringLength(rest, raw)
			if length < 0 {
				length = len(rest)
			}
			masked.WriteString(`"` + mask(strings.Trim(rest[:length], rest[:1])) + `"`)
			at += length
		default:
			masked.WriteByte(rest[0])
			at++
		}
	}
	return masked.String()
}
