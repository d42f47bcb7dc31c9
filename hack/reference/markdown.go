package main

import (
	"regexp"
	"strings"
)

// table returns a table of Markdown. Its cells are Markdown without line breaks.
func table(header []string, rows [][]string) string {
	var text strings.Builder
	row := func(cells []string) { text.WriteString("| " + strings.Join(cells, " | ") + " |\n") }
	row(header)
	row(strings.Split(strings.Repeat("--- ", len(header)-1)+"---", " "))
	for _, cells := range rows {
		row(cells)
	}
	return text.String()
}

// code returns a code span for a cell of a table.
func code(text string) string { return "`" + strings.ReplaceAll(text, "|", `\|`) + "`" }

// codeStart matches where a comment has code: text between backquotes, JSON or a template, whose end bracketed finds, a URL, a name with a
// prefix, a placeholder, the path of a field, or a name with underscores.
var codeStart = regexp.MustCompile("`[^`]+`|" + `\$?\{["a-z]|\[["{]|https?://[^\s,;]*[^\s,;.:)]|netbox-events\.io/[a-z-]+|` +
	`[\w/-]*<\w+>(?:/<\w+>)*|\b(?:spec|status|metadata)\.[\w.]*\w|\b[A-Za-z]+(?:_[A-Za-z]+)+\b`)

var special = strings.NewReplacer("*", `\*`, "_", `\_`, "|", `\|`, "<", `\<`, "[", `\[`, "`", "\\`")

// prose returns the text of a comment as Markdown without line breaks, with code spans for what is code.
func prose(comment string) string {
	comment = strings.Join(strings.Fields(comment), " ")
	var text strings.Builder
	for comment != "" {
		found := codeStart.FindStringIndex(comment)
		if found == nil {
			break
		}
		start, end := found[0], found[1]
		if comment[start] == '{' || comment[start] == '[' || comment[start] == '$' {
			end = start + bracketed(comment[start:])
		}
		text.WriteString(special.Replace(comment[:start]) + code(strings.Trim(comment[start:end], "`")))
		comment = comment[end:]
	}
	return text.String() + special.Replace(comment)
}

// bracketed returns the length of the text from its first bracket to the one that closes it, or of the whole text.
func bracketed(text string) int {
	depth := 0
	for i, char := range text {
		switch char {
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return len(text)
}
