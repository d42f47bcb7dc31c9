// Command plugin packs binaries of kubectl-netbox into an archive for each platform, and writes their checksums, an SBOM of them, and a
// manifest for krew. All are reproducible: they depend on the files and flags alone. See --help, and the target plugin of the Makefile.
package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/netbox-events/netbox-event-operator/hack/image/sbom"
)

// program is the name of the plugin's program, and completion that of the program with which kubectl completes arguments.
const (
	program    = "kubectl-netbox"
	completion = "kubectl_complete-netbox"
)

// Names of the other files of a release.
const (
	checksumsName = "checksums.txt"
	manifestName  = "netbox.yaml"
)

//go:embed krew.yaml.tmpl
var manifestText string

type options struct {
	binaries, platforms, version string
	time                         time.Time
	license, completion, out     string
}

func main() {
	var o options
	flag.StringVar(&o.binaries, "binaries", "bin", "`directory` of <os>/<architecture>/"+program)
	flag.StringVar(&o.platforms, "platforms", "", "`platforms` of the archives, separated by spaces")
	flag.StringVar(&o.version, "version", "", "`version`, the tag of the release")
	seconds := flag.Int64("time", 0, "time of all files in archives, in `seconds` since 1970: use the time of the commit")
	flag.StringVar(&o.license, "license", "LICENSE", "`file` of the license")
	flag.StringVar(&o.completion, "completion", completion, "`file` of the program for completion")
	flag.StringVar(&o.out, "out", "bin/plugin", "`directory` for the results, which replaces its contents")
	flag.Parse()
	o.time = time.Unix(*seconds, 0).UTC()

	if err := run(&o); err != nil {
		fmt.Fprintln(os.Stderr, "plugin:", err)
		os.Exit(1)
	}
}

// archive is the archive of a platform.
type archive struct {
	OS, Architecture string
	// Name is the name of the file, Binary that of the program in it.
	Name, Binary string
	SHA256       string
}

func run(o *options) error {
	if len(strings.Fields(o.platforms)) == 0 {
		return errors.New("--platforms is empty")
	}
	if err := os.RemoveAll(o.out); err != nil {
		return err
	}
	if err := os.MkdirAll(o.out, 0o755); err != nil { //nolint:gosec // the files are public
		return err
	}
	var archives []archive
	document := &sbom.Document{Name: program, Version: o.version, Created: o.time}
	for platform := range strings.FieldsSeq(o.platforms) {
		made, err := o.pack(platform)
		if err != nil {
			return fmt.Errorf("%s: %w", platform, err)
		}
		archives = append(archives, made)
		document.Subjects = append(document.Subjects, sbom.Subject{
			ID: made.OS + "-" + made.Architecture, Name: made.Name, Purpose: "ARCHIVE", SHA256: made.SHA256,
			PURL: "pkg:generic/" + program + "@" + o.version + "?download_url=" +
				url.QueryEscape(downloads(o.version)+made.Name),
			Binaries: []string{o.binary(platform)},
		})
	}
	var checksums bytes.Buffer
	for _, made := range archives {
		fmt.Fprintf(&checksums, "%s  %s\n", made.SHA256, made.Name)
	}
	document.Digest = digest(checksums.Bytes()) // of all archives
	bill := program + "_" + o.version + ".spdx.json"
	if err := document.Write(filepath.Join(o.out, bill)); err != nil {
		return err
	}
	if err := o.writeManifest(archives); err != nil {
		return err
	}
	for _, name := range []string{bill, manifestName} {
		content, err := os.ReadFile(filepath.Join(o.out, name)) //nolint:gosec // the path is an argument of the user
		if err != nil {
			return err
		}
		fmt.Fprintf(&checksums, "%s  %s\n", digest(content), name)
	}
	return o.write(checksumsName, checksums.Bytes())
}

func (o *options) binary(platform string) string {
	return filepath.Join(o.binaries, filepath.FromSlash(platform), program)
}

// member is a file of an archive.
type member struct {
	name    string
	mode    fs.FileMode
	content []byte
}

// pack writes the archive of a platform.
func (o *options) pack(platform string) (archive, error) {
	system, architecture, ok := strings.Cut(platform, "/")
	if !ok {
		return archive{}, errors.New("is no <os>/<architecture>")
	}
	made := archive{OS: system, Architecture: architecture, Binary: program}
	made.Name = strings.Join([]string{program, o.version, system, architecture}, "_")
	files := map[string]string{"LICENSE": o.license}
	write := writeTar
	if system == "windows" { // where kubectl cannot run the program for completion
		made.Binary, made.Name, write = program+".exe", made.Name+".zip", writeZip
	} else {
		made.Name += ".tar.gz"
		files[completion] = o.completion
	}
	files[made.Binary] = o.binary(platform)

	var members []member
	for name, path := range files {
		content, err := os.ReadFile(path) //nolint:gosec // the path is an argument of the user
		if err != nil {
			return archive{}, err
		}
		mode := fs.FileMode(0o755)
		if name == "LICENSE" {
			mode = 0o644
		}
		members = append(members, member{name, mode, content})
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.name, b.name) })
	var content bytes.Buffer
	if err := write(&content, members, o.time); err != nil {
		return archive{}, err
	}
	made.SHA256 = digest(content.Bytes())
	return made, o.write(made.Name, content.Bytes())
}

func writeTar(to io.Writer, members []member, at time.Time) error {
	compressor, err := gzip.NewWriterLevel(to, gzip.BestCompression)
	if err != nil {
		return err
	}
	writer := tar.NewWriter(compressor)
	for _, file := range members {
		err := writer.WriteHeader(&tar.Header{
			Name: file.name, Mode: int64(file.mode), Size: int64(len(file.content)), ModTime: at, Format: tar.FormatUSTAR,
		})
		if err != nil {
			return err
		}
		if _, err := writer.Write(file.content); err != nil {
			return err
		}
	}
	return errors.Join(writer.Close(), compressor.Close())
}

func writeZip(to io.Writer, members []member, at time.Time) error {
	writer := zip.NewWriter(to)
	for _, file := range members {
		header := &zip.FileHeader{Name: file.name, Method: zip.Deflate, Modified: at}
		header.SetMode(file.mode)
		entry, err := writer.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := entry.Write(file.content); err != nil {
			return err
		}
	}
	return writer.Close()
}

// writeManifest writes the manifest for krew.
func (o *options) writeManifest(archives []archive) error {
	parsed, err := template.New(manifestName).Option("missingkey=error").Parse(manifestText)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	err = parsed.Execute(&text, map[string]any{
		"Module": sbom.ModulePath, "Version": o.version, "Downloads": downloads(o.version), "Archives": archives, "Completion": completion,
	})
	if err != nil {
		return err
	}
	return o.write(manifestName, text.Bytes())
}

func (o *options) write(name string, content []byte) error {
	return os.WriteFile(filepath.Join(o.out, name), content, 0o644) //nolint:gosec // the files are public
}

// downloads returns the start of the URLs of a release's files.
func downloads(version string) string {
	return "https://" + sbom.ModulePath + "/releases/download/" + version + "/"
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
