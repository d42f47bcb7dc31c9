package cli

import (
	"io"
	"strings"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

// printTree prints nodes below each other.
func (p *plugin) printTree(root *traceNode) error {
	var text strings.Builder
	root.write(&text, painter(p.hasColors()), "", "")
	_, err := io.WriteString(p.Out, text.String())
	return err
}

// maxNodeBytes bounds a line of a tree.
const maxNodeBytes = 2048

// write writes a node and those below it. The prefixes are of its first line and of the others.
func (n *traceNode) write(text *strings.Builder, paint painter, first, others string) {
	line := func(prefix, content string) {
		text.WriteString(strings.TrimRight(prefix+content, " "))
		text.WriteByte('\n')
	}
	head := oneline.Of(n.Kind+" "+n.Name, maxNodeBytes) + ": " + paint.paint(n.State, n.color)
	if n.Text != "" {
		head += ": " + oneline.Of(n.Text, maxNodeBytes)
	}
	line(first, head)
	below := others
	if len(n.Children) > 0 {
		below += "│ "
	} else {
		below += "  "
	}
	for _, more := range n.Lines {
		indent := more[:len(more)-len(strings.TrimLeft(more, " "))]
		line(below, "  "+indent+oneline.Of(more, maxNodeBytes))
	}
	for i, child := range n.Children {
		if i < len(n.Children)-1 {
			child.write(text, paint, others+"├─ ", others+"│  ")
		} else {
			child.write(text, paint, others+"└─ ", others+"   ")
		}
	}
}
