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

// TestCLI runs the commands of the plugin that need no cluster, on the page about it and in the tutorial, in a copy of the samples with the files
// of the page, and compares their output with the page. With UPDATE_DOCS=1 it writes the page instead.
func TestCLI(t *testing.T) {
	for _, test := range []struct {
		page, samples string
		commands      int
	}{{"cli.md", ".", 5}, {"tutorial.md", "config/samples", 1}} {
		t.Run(test.page, func(t *testing.T) { runCommands(t, test.page, test.samples, test.commands) })
	}
}

func runCommands(t *testing.T, name, samples string, least int) {
	t.Helper()
	content, blocks := readPage(t, name)
	page, err := filepath.Abs(name)
	if err != nil {
		t.Fatal(err)
	}
	directory := t.TempDir()
	if err := os.CopyFS(filepath.Join(directory, samples), os.DirFS("../config/samples")); err != nil {
		t.Fatal(err)
	}
	t.Chdir(directory)
	commands := 0
	shown := console.ReplaceAllStringFunc(content, func(block string) string {
		defer writeFiles(t, blocks) // after the first block
		parts := console.FindStringSubmatch(block)
		if !strings.HasPrefix(parts[3], "$ kubectl netbox ") {
			return block
		}
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
		return text.String() + "```"
	})
	if commands < least {
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
