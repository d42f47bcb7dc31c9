// Package sbom writes SBOMs of Go binaries, as SPDX JSON.
package sbom

import (
	"debug/buildinfo"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

// ModulePath is the path of the main module of the binaries.
const ModulePath = "github.com/netbox-events/netbox-event-operator"

const noAssertion = "NOASSERTION"

// Subject is an artifact that contains binaries.
type Subject struct {
	// ID identifies the subject within the document, and Name is for people.
	ID, Name string
	// PURL is the subject's package URL.
	PURL string
	// Purpose is a primary package purpose of SPDX, such as CONTAINER.
	Purpose string
	// SHA256 is the subject's digest in hex.
	SHA256 string
	// Binaries are files: the Go modules in their build info are contained in the subject.
	Binaries []string
}

// Document describes subjects of one version.
type Document struct {
	// Name is the name of the document, without the version, and Digest a SHA-256 in hex that makes its namespace unique.
	Name, Digest string
	Version      string
	Created      time.Time
	Subjects     []Subject
}

// Write writes the document to a file.
func (d *Document) Write(file string) error {
	document := &spdx.Document{
		SPDXVersion:       spdx.Version,
		DataLicense:       spdx.DataLicense,
		SPDXIdentifier:    "DOCUMENT",
		DocumentName:      d.Name + " " + d.Version,
		DocumentNamespace: "https://" + ModulePath + "/sbom/" + d.Digest,
		CreationInfo: &spdx.CreationInfo{
			Creators: []spdx.Creator{{CreatorType: "Tool", Creator: ModulePath + "/hack/image"}},
			Created:  d.Created.Format(time.RFC3339),
		},
	}
	perSubject, names := make([]map[string]string, len(d.Subjects)), map[string]string{}
	for i := range d.Subjects {
		modules, err := modulesOf(d.Subjects[i].Binaries, d.Version)
		if err != nil {
			return err
		}
		perSubject[i] = modules
		maps.Copy(names, modules)
		subject := &d.Subjects[i]
		described := newPackage(subject.ID, subject.Name, d.Version, subject.PURL)
		described.PrimaryPackagePurpose, described.PackageLicenseDeclared = subject.Purpose, "Apache-2.0"
		described.PackageChecksums = []spdx.Checksum{{Algorithm: spdx.SHA256, Value: subject.SHA256}}
		document.Packages = append(document.Packages, described)
		document.Relationships = append(document.Relationships, relationship("DOCUMENT", common.TypeRelationshipDescribe, subject.ID))
	}
	for number, purl := range slices.Sorted(maps.Keys(names)) {
		id := fmt.Sprintf("module-%d", number)
		_, version, _ := strings.Cut(purl, "@")
		document.Packages = append(document.Packages, newPackage(id, names[purl], version, purl))
		for i := range d.Subjects {
			if _, ok := perSubject[i][purl]; ok {
				document.Relationships = append(document.Relationships, relationship(d.Subjects[i].ID, common.TypeRelationshipContains, id))
			}
		}
	}
	output, err := os.Create(file) //nolint:gosec // the path is an argument of the user
	if err != nil {
		return err
	}
	return errors.Join(json.Write(document, output, json.Indent("  ")), output.Close())
}

// modulesOf returns the names of the modules in binaries by their purl, which deduplicates those of several binaries. The main module has
// the given version, not the one in the build info.
func modulesOf(binaries []string, version string) (map[string]string, error) {
	modules := map[string]string{purl(ModulePath, version): ModulePath}
	for _, binary := range binaries {
		info, err := buildinfo.ReadFile(binary)
		if err != nil {
			return nil, err
		}
		modules[purl("stdlib", strings.TrimPrefix(info.GoVersion, "go"))] = "stdlib"
		for _, module := range info.Deps {
			if module.Replace != nil {
				module = module.Replace
			}
			modules[purl(module.Path, module.Version)] = module.Path
		}
	}
	return modules, nil
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
