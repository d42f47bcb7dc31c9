package cli

import (
	"encoding/json"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/text/width"
	"k8s.io/apimachinery/pkg/util/duration"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// Values of --output.
const (
	outputJSON = "json"
	outputName = "name"
)

// color is the escape code of a color, "" for none.
type color string

const (
	red    color = "\x1b[31m"
	green  color = "\x1b[32m"
	yellow color = "\x1b[33m"
	dim    color = "\x1b[2m"

	resetColor = "\x1b[0m"
)

// painter colors texts, or not.
type painter bool

func (p painter) paint(text string, in color) string {
	if !p || in == "" || text == "" {
		return text
	}
	return string(in) + text + resetColor
}

// cell is a text of a table. What NetBox sent may hold anything; the table makes one line of it.
type cell struct {
	text  string
	color color
}

func cells(texts ...string) []cell {
	row := make([]cell, len(texts))
	for i, text := range texts {
		row[i] = cell{text: text}
	}
	return row
}

// table prints rows in columns, as kubectl does. Rows that are printed later are aligned with earlier ones as far as they fit.
type table struct {
	out    io.Writer
	paint  painter
	indent string
	// maxBytes bounds each cell.
	maxBytes int
	widths   []int
}

func (p *plugin) newTable() *table {
	return &table{out: p.Out, paint: painter(p.hasColors()), maxBytes: maxCellBytes}
}

const (
	// columnGap is the space between two columns.
	columnGap = "   "
	// maxCellBytes bounds a cell of most tables.
	maxCellBytes = 200
)

// print prints rows.
func (t *table) print(rows ...[]cell) error {
	for _, row := range rows {
		for i := range row {
			if row[i].text = oneline.Of(row[i].text, t.maxBytes); row[i].text == "" {
				row[i].text = "-"
			}
			if i == len(t.widths) {
				t.widths = append(t.widths, 0)
			}
			t.widths[i] = max(t.widths[i], columns(row[i].text))
		}
	}
	var lines strings.Builder
	for _, row := range rows {
		lines.WriteString(t.indent)
		for i, cell := range row {
			lines.WriteString(t.paint.paint(cell.text, cell.color))
			if i < len(row)-1 {
				lines.WriteString(strings.Repeat(" ", t.widths[i]-columns(cell.text)) + columnGap)
			}
		}
		lines.WriteByte('\n')
	}
	_, err := io.WriteString(t.out, lines.String())
	return err
}

// columns returns the number of columns that a terminal needs for a text.
func columns(text string) (total int) {
	for _, r := range text {
		switch kind := width.LookupRune(r).Kind(); {
		case unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf):
		case kind == width.EastAsianWide || kind == width.EastAsianFullwidth:
			total += 2
		default:
			total++
		}
	}
	return total
}

// printJSON prints a value as JSON.
func (p *plugin) printJSON(value any) error {
	encoder := json.NewEncoder(p.Out)
	encoder.SetIndent("", "    ")
	encoder.SetEscapeHTML(false)
	return encoder.Encode(value)
}

// age returns the time since then as kubectl writes it, "" for the zero time.
func (p *plugin) age(then time.Time) string {
	if then.IsZero() {
		return ""
	}
	return duration.HumanDuration(p.clock.Since(then))
}

// plural counts something.
func plural(number int, one, more string) string {
	if number == 1 {
		return "1 " + one
	}
	return strconv.Itoa(number) + " " + more
}
