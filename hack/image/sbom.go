package main

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

const (
	modulePath  = "github.com/netbox-events/netbox-event-operator"
	noAssertion = "NOASSERTION"
)

// writeSBOM writes an SBOM of the Go modules in the build info of the binaries of an image.
func writeSBOM(file, version string, created time.Time, index v1.ImageIndex, binaries []string) error {
	digest, err := index.Digest()
	if err != nil {
		return err
	}
	modules := map[string]string{} // by purl, which deduplicates modules of several binaries
	for _, binary := range binaries {
		info, err := buildinfo.ReadFile(binary)
		if err != nil {
			return err
		}
		// The main module has the version of the image, not the one in the build info.
		modules[purl(modulePath, version)] = modulePath
		modules[purl("stdlib", strings.TrimPrefix(info.GoVersion, "go"))] = "stdlib"
		for _, module := range info.Deps {
			if module.Replace != nil {
				module = module.Replace
			}
			modules[purl(module.Path, module.Version)] = module.Path
		}
	}
	image := newPackage("image", "netbox-event-operator", version,
		"pkg:oci/netbox-event-operator@"+url.QueryEscape(digest.String())+"?repository_url=ghcr.io/netbox-events/netbox-event-operator")
	image.PrimaryPackagePurpose, image.PackageLicenseDeclared = "CONTAINER", "Apache-2.0"
	image.PackageChecksums = []spdx.Checksum{{Algorithm: spdx.SHA256, Value: digest.Hex}}
	document := &spdx.Document{
		SPDXVersion:       spdx.Version,
		DataLicense:       spdx.DataLicense,
		SPDXIdentifier:    "DOCUMENT",
		DocumentName:      "netbox-event-operator " + version,
		DocumentNamespace: "https://" + modulePath + "/sbom/" + digest.Hex,
		CreationInfo: &spdx.CreationInfo{
			Creators: []spdx.Creator{{CreatorType: "Tool", Creator: modulePath + "/hack/image"}},
			Created:  created.Format(time.RFC3339),
		},
		Packages:      []*spdx.Package{image},
		Relationships: []*spdx.Relationship{relationship("DOCUMENT", common.TypeRelationshipDescribe, "image")},
	}
	for number, purl := range slices.Sorted(maps.Keys(modules)) {
		id := fmt.Sprintf("module-%d", number)
		_, version, _ := strings.Cut(purl, "@")
		document.Packages = append(document.Packages, newPackage(id, modules[purl], version, purl))
		document.Relationships = append(document.Relationships, relationship("image", common.TypeRelationshipContains, id))
	}
	output, err := os.Create(file) //nolint:gosec // the path is an argument of the user
	if err != nil {
		return err
	}
	return errors.Join(json.Write(document, output, json.Indent("  ")), output.Close())
}

func purl(module, version string) string {
	return "pkg:golang/" + module + "@" + version
}

func newPackage(id, name, version, purl string) *spdx.Package {
	return &spdx.Package{
		PackageSPDXIdentifier:   common.ElementID(id),
		PackageName:             name,
		PackageVersion:          version,
		PackageDownloadLocation: noAssertion,
		PackageLicenseConcluded: noAssertion,
		PackageLicenseDeclared:  noAssertion,
		PackageCopyrightText:    noAssertion,
		PackageExternalReferences: []*spdx.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
		}},
	}
}

func relationship(source, kind, target string) *spdx.Relationship {
	return &spdx.Relationship{
		RefA: common.MakeDocElementID("", source), RefB: common.MakeDocElementID("", target), Relationship: kind,
	}
}
