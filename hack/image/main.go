// Command image packs static binaries into a container image without other files, and writes an SPDX SBOM of it. The image is reproducible:
// it depends on the binaries and flags alone. See --help, and the targets image, image-tar and image-push of the Makefile.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/netbox-events/netbox-event-operator/hack/image/sbom"
)

// binaryName is the name of the binary in the directory of each platform and in the image.
const binaryName = "manager"

type options struct {
	binaries, platforms, version, revision string
	time                                   time.Time
	tar, tag, layout, push, sbom           string
}

func main() {
	var o options
	flag.StringVar(&o.binaries, "binaries", "bin", "`directory` of <os>/<architecture>/"+binaryName)
	flag.StringVar(&o.platforms, "platforms", "linux/amd64 linux/arm64", "`platforms` of the image, separated by spaces")
	flag.StringVar(&o.version, "version", "", "`version` for labels and the SBOM")
	flag.StringVar(&o.revision, "revision", "", "`commit` for labels")
	seconds := flag.Int64("time", 0, "creation time of the image, in `seconds` since 1970: use the time of the commit")
	flag.StringVar(&o.tar, "tar", "", "write the image of the first platform to this `file`, in the format of docker save")
	flag.StringVar(&o.tag, "tag", "", "`name` of the image in -tar")
	flag.StringVar(&o.layout, "layout", "", "write the image of all platforms to this `directory`, as an OCI layout, and print its digest")
	flag.StringVar(&o.push, "push", "", "push the image of all platforms to a registry as this `name`, and print the name with its digest")
	flag.StringVar(&o.sbom, "sbom", "", "write an SBOM as SPDX JSON to this `file`")
	flag.Parse()
	o.time = time.Unix(*seconds, 0).UTC()

	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(o options) error {
	labels := map[string]string{
		"org.opencontainers.image.title":         "netbox-event-operator",
		"org.opencontainers.image.description":   "Receives NetBox's webhooks, stores each as a Kubernetes resource, and acts on them by rules",
		"org.opencontainers.image.url":           "https://" + sbom.ModulePath,
		"org.opencontainers.image.source":        "https://" + sbom.ModulePath,
		"org.opencontainers.image.documentation": "https://" + sbom.ModulePath + "#readme",
		"org.opencontainers.image.licenses":      "Apache-2.0",
		"org.opencontainers.image.version":       o.version,
		"org.opencontainers.image.revision":      o.revision,
		"org.opencontainers.image.created":       o.time.Format(time.RFC3339),
	}
	images, binaries := []mutate.IndexAddendum(nil), []string(nil)
	for platform := range strings.FieldsSeq(o.platforms) {
		parsed, err := v1.ParsePlatform(platform)
		if err != nil {
			return err
		}
		binary := filepath.Join(o.binaries, filepath.FromSlash(platform), binaryName)
		image, err := newImage(binary, *parsed, o.time, labels)
		if err != nil {
			return err
		}
		images = append(images, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: parsed}})
		binaries = append(binaries, binary)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), images...)
	index = mutate.Annotations(index, labels).(v1.ImageIndex) // registries read the description here

	var errs []error
	if o.tar != "" {
		errs = append(errs, writeTar(o.tar, o.tag, images[0].Add.(v1.Image)))
	}
	if o.layout != "" {
		errs = append(errs, writeLayout(o.layout, index))
	}
	if o.sbom != "" {
		errs = append(errs, writeSBOM(o.sbom, o.version, o.time, index, binaries))
	}
	if o.push != "" {
		errs = append(errs, push(o.push, index))
	}
	return errors.Join(errs...)
}

// writeSBOM writes an SBOM of the image.
func writeSBOM(file, version string, created time.Time, index v1.ImageIndex, binaries []string) error {
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	document := &sbom.Document{
		Name: "netbox-event-operator", Digest: digest.Hex, Version: version, Created: created,
		Subjects: []sbom.Subject{{
			ID: "image", Name: "netbox-event-operator", Purpose: "CONTAINER", SHA256: digest.Hex, Binaries: binaries,
			PURL: "pkg:oci/netbox-event-operator@" + url.QueryEscape(digest.String()) +
				"?repository_url=ghcr.io/netbox-events/netbox-event-operator",
		}},
	}
	return document.Write(file)
}

// newImage returns an image of one binary, without a base image.
func newImage(binary string, platform v1.Platform, created time.Time, labels map[string]string) (v1.Image, error) {
	content, err := os.ReadFile(binary) //nolint:gosec // the path is an argument of the user
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	header := &tar.Header{Name: binaryName, Mode: 0o555, Size: int64(len(content)), ModTime: created, Format: tar.FormatPAX}
	err = writer.WriteHeader(header)
	if err == nil {
		_, err = writer.Write(content)
	}
	if err = errors.Join(err, writer.Close()); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(
		func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil },
		tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.ConfigFile(image, &v1.ConfigFile{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Created: v1.Time{Time: created},
		RootFS:  v1.RootFS{Type: "layers"},
		Config: v1.Config{
			User:       "65532:65532",
			Entrypoint: []string{"/" + binaryName},
			Labels:     maps.Clone(labels),
		},
	})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, mutate.Addendum{
		Layer:   layer,
		History: v1.History{Created: v1.Time{Time: created}, CreatedBy: "hack/image", Comment: "/" + binaryName},
	})
}

func writeTar(file, tag string, image v1.Image) error {
	reference, err := name.NewTag(tag, name.StrictValidation)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, reference, image)
}

func writeLayout(directory string, index v1.ImageIndex) error {
	if err := os.RemoveAll(directory); err != nil {
		return err
	}
	path, err := layout.Write(directory, empty.Index)
	if err != nil {
		return err
	}
	if err := path.AppendIndex(index); err != nil {
		return err
	}
	digest, err := index.Digest()
	fmt.Println(digest)
	return err
}

func push(repository string, index v1.ImageIndex) error {
	reference, err := name.NewTag(repository, name.StrictValidation)
	if err != nil {
		return err
	}
	if err := remote.WriteIndex(reference, index, remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	fmt.Println(reference.Context().Digest(digest.String()))
	return nil
}
