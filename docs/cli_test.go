package docs_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/netbox-events/netbox-event-operator/internal/cli"
)

var console = regexp.MustCompile("(?ms)^```console( exit=(\\d))?\n(.*?)^```$")

// TestCLI runs the commands of the page about kubectl netbox, in a copy of the samples with the files of the page, and compares their output with
// the page. With UPDATE_DOCS=1 it writes the page instead.
func TestCLI(t *testing.T) {
	content, blocks := readPage(t, "cli.md")
	page, err := filepath.Abs("cli.md")
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.CopyFS(directory, os.DirFS("../config/samples")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(directory)
	commands := 0
	shown := console.ReplaceAllStringFunc(content, func(block string) string {
		parts := console.FindStringSubmatch(block)
		var text strings.Builder
		fmt.Fprintf(&text, "```console%s\n", parts[1])
		for line := range strings.Lines(parts[3]) {
			command, isCommand := strings.CutPrefix(line, "$ kubectl netbox ")
			if !isCommand {
				continue
			}
			commands++
			var output bytes.Buffer
			code := cli.Run(t.Context(), strings.Fields(command), genericiooptions.IOStreams{In: strings.NewReader(""), Out: &output, ErrOut: &output})
			if want := "0" + parts[2]; fmt.Sprint(code) != want[len(want)-1:] {
				t.Errorf("%s: exit code %d", command, code)
			}
			text.WriteString(line + output.String())
		}
		writeFiles(t, blocks) // after the first block
		return text.String() + "```"
	})
	if commands < 5 {
		t.Errorf("ran %d commands, want all of the page", commands)
	}
	if os.Getenv("UPDATE_DOCS") != "" {
		if err := os.WriteFile(page, []byte(shown), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(content, shown); diff != "" {
		t.Errorf("the page differs from what the commands print; run this test with UPDATE_DOCS=1 (-page +printed):\n%s", diff)
	}
}

// writeFiles writes the blocks of a page that have the name of a file.
func writeFiles(t *testing.T, blocks []block) {
	t.Helper()
	for _, block := range blocks {
		if block.language == "yaml" && block.info != "" {
			if err := os.WriteFile(block.info, []byte(block.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}
