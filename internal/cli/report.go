package cli

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/netbox-events/netbox-event-operator/internal/oneline"
)

const reportExample = `  # See everything that would be written, and then decide
  kubectl netbox report -n netbox --show

  # A report without the operator's log
  kubectl netbox report -n netbox --logs=false --file report.tar.gz`

func newReportCommand(p *plugin) *cobra.Command {
	command := &reportCommand{plugin: p}
	report := &cobra.Command{
		Use:   "report",
		Short: "Write an archive for a bug report, without secrets and values of NetBox",
		Long: "Write an archive with what a bug report needs: versions, the sources, rules and newest events of a namespace, the Kubernetes " +
			"Events of these, and the state and log of the operator. Secrets, and values that NetBox sent, are replaced by their type and " +
			"length; equal values have the same number. It lists the files, what is left out and what you may not read, and asks before it " +
			"writes.",
		Example: reportExample,
		Args:    cobra.NoArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return command.run(c.Context()) },
	}
	flags := report.Flags()
	flags.StringVarP(&command.file, "file", "f", "", "the archive to write (default netbox-report-NAMESPACE-TIME.tar.gz)")
	flags.IntVar(&command.events, "events", defaultReportEvents, "most events in the report: failed and pending ones first, then the newest")
	flags.BoolVar(&command.hasLogs, "logs", true, "include the log of the operator's pods")
	flags.Int64Var(&command.tail, "tail", defaultTail, "lines of the log of each pod")
	flags.BoolVar(&command.isShown, "show", false, "print all that would be written")
	flags.BoolVarP(&command.isConfirmed, "yes", "y", false, "do not ask")
	return report
}

const (
	defaultReportEvents = 50
	defaultTail         = 500
)

type reportCommand struct {
	*plugin

	file        string
	events      int
	hasLogs     bool
	tail        int64
	isShown     bool
	isConfirmed bool
}

func (c *reportCommand) run(ctx context.Context) error {
	if c.events < 0 || c.tail < 1 {
		return errors.New("--events must not be negative, and --tail at least 1")
	}
	namespace, err := c.namespace()
	if err != nil {
		return err
	}
	now := c.clock.Now().UTC()
	name := fmt.Sprintf("netbox-report-%s-%s", namespace, now.Format("20060102T150405Z"))
	if c.file == "" {
		c.file = name + ".tar.gz"
	}
	if _, err := os.Stat(c.file); err == nil {
		return fmt.Errorf("%s exists; remove it, or choose another --file", c.file)
	}
	evidence, err := c.collect(ctx)
	if err != nil {
		return err
	}
	files, err := evidence.files()
	if err != nil {
		return err
	}
	files = append([]reportFile{{"README.txt", evidence.readme()}}, files...)
	if err := c.announceReport(evidence, files); err != nil {
		return err
	}
	if err := c.confirm(ctx, c.isConfirmed, "Write "+c.file+"?"); err != nil {
		return err
	}
	if err := writeArchive(c.file, name, files, now); err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.Out, "Wrote %s. Look at it before you send it.\n", c.file)
	return err
}

// reportFile is a file of the archive.
type reportFile struct {
	name    string
	content []byte
}

// leftOut says what a report does not have.
var leftOut = []string{
	"values of Secrets: names, keys and lengths are there",
	"values that NetBox sent, users, names of objects, branches, messages of event actions: replaced by type, number and length",
	"URLs, headers, bodies and templates of rules, except for expressions; string literals in expressions",
	"values of labels and annotations, except for those of the operator, of Helm and of app.kubernetes.io",
	"environment variables of the operator's pods, except for their names",
	"metrics, and events that were deleted",
}

// announceReport says what would be written.
func (c *reportCommand) announceReport(evidence *evidence, files []reportFile) error {
	rows := [][]cell{cells("FILE", "SIZE")}
	for _, file := range files {
		rows = append(rows, cells(file.name, fmt.Sprintf("%d KiB", (len(file.content)+1023)/1024)))
	}
	if err := c.section(rows); err != nil {
		return err
	}
	var text strings.Builder
	if c.isShown {
		for _, file := range files {
			fmt.Fprintf(&text, "--- %s\n", file.name)
			for line := range strings.Lines(string(file.content)) {
				indent := line[:len(line)-len(strings.TrimLeft(line, " "))]
				text.WriteString(indent + oneline.Of(line, len(line)) + "\n")
			}
		}
		text.WriteByte('\n')
	}
	text.WriteString(listed("Left out:", leftOut))
	if len(evidence.unread) > 0 {
		text.WriteString("\n" + listed("Not read:", evidence.unread))
	}
	text.WriteString("\nMessages and log lines are free text: known values, quoted texts, URLs and IP addresses are replaced in them. " +
		"--show prints all of it.\n\n")
	_, err := io.WriteString(c.Out, text.String())
	return err
}

// listed returns a list with a heading.
func listed(heading string, lines []string) string {
	var text strings.Builder
	text.WriteString(heading + "\n")
	for _, line := range lines {
		text.WriteString("- " + oneline.Of(line, maxLineBytes) + "\n")
	}
	return text.String()
}

// writeArchive writes files into a directory of a new archive, which the user alone may read.
func writeArchive(file, directory string, files []reportFile, at time.Time) error {
	var archive bytes.Buffer
	compressor := gzip.NewWriter(&archive)
	writer := tar.NewWriter(compressor)
	for _, file := range files {
		header := &tar.Header{Name: directory + "/" + file.name, Mode: 0o644, Size: int64(len(file.content)), ModTime: at}
		if err := writer.WriteHeader(header); err != nil {
			return err
		}
		if _, err := writer.Write(file.content); err != nil {
			return err
		}
	}
	if err := errors.Join(writer.Close(), compressor.Close()); err != nil {
		return err
	}
	output, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = archive.WriteTo(output)
	return errors.Join(err, output.Close())
}
