// Package site_test checks the documentation site: its navigation, and the pages that make docs builds.
package site_test

import (
	"bytes"
	"io/fs"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/html"
	"sigs.k8s.io/yaml"
)

const root = "../.."

// TestNavigation compares the navigation of the site with the pages.
func TestNavigation(t *testing.T) {
	content, err := os.ReadFile(root + "/hack/site/data/navigation.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var sections []struct {
		Title, Path string
		Pages       []string
	}
	if err := yaml.UnmarshalStrict(content, &sections); err != nil {
		t.Fatal(err)
	}
	listed := map[string]int{}
	for _, section := range sections {
		for _, page := range section.Pages {
			if listed[page]++; listed[page] > 1 {
				t.Errorf("hack/site/data/navigation.yaml has %s twice", page)
			}
			if _, err := os.Stat(filepath.Join(root, "docs", page)); err != nil {
				t.Errorf("hack/site/data/navigation.yaml: %v", err)
			}
		}
	}
	docs := os.DirFS(root + "/docs")
	err = fs.WalkDir(docs, ".", func(name string, _ fs.DirEntry, err error) error {
		if path.Ext(name) == ".md" && listed[name] == 0 {
			t.Errorf("docs/%s is not in hack/site/data/navigation.yaml", name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// page is a page of the built site.
type page struct {
	ids   map[string]bool
	links []string
	loads []string // URLs that a browser loads to show the page
}

// TestSite follows the links of the built site, and checks that it loads nothing from elsewhere.
func TestSite(t *testing.T) {
	directory := os.Getenv("SITE")
	if directory == "" {
		t.Skip("make docs builds the site, and runs this test")
	}
	base, err := url.Parse(os.Getenv("SITE_URL"))
	if err != nil || !strings.HasSuffix(base.Path, "/") {
		t.Fatalf("SITE_URL is %q, %v; want a URL that ends with /", os.Getenv("SITE_URL"), err)
	}
	site := os.DirFS(directory)
	pages := map[string]*page{}
	err = fs.WalkDir(site, ".", func(name string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		switch path.Ext(name) {
		case ".html":
			pages[name] = readPage(t, site, name)
		case ".css":
			checkStyles(t, site, name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(pages) < 20 {
		t.Errorf("the site has %d pages, want all of docs/", len(pages))
	}
	for name, page := range pages {
		at := base.JoinPath(strings.TrimSuffix(name, "index.html"))
		for _, load := range page.loads {
			if file, _, ok := fileOf(base, at, load); !ok {
				t.Errorf("%s loads %s, which is not of the site", name, load)
			} else if _, err := fs.Stat(site, file); err != nil {
				t.Errorf("%s loads %s: %v", name, load, err)
			}
		}
		for _, link := range page.links {
			if _, inRepository, ok := strings.Cut(link, "/netbox-event-operator/blob/"); ok {
				_, file, _ := strings.Cut(inRepository, "/")
				file, _, _ = strings.Cut(file, "#")
				if _, err := os.Stat(filepath.Join(root, file)); err != nil {
					t.Errorf("%s links to %s: %v", name, link, err)
				}
				continue
			}
			file, anchor, ok := fileOf(base, at, link)
			if !ok {
				continue // elsewhere
			}
			if _, err := fs.Stat(site, file); err != nil {
				t.Errorf("%s links to %s: %v", name, link, err)
			} else if anchor != "" && (pages[file] == nil || !pages[file].ids[anchor]) {
				t.Errorf("%s links to %s: %s has no such anchor", name, link, file)
			}
		}
	}
}

// fileOf returns the file and the anchor of a reference from a page, and false if it is not of the site.
func fileOf(base, at *url.URL, reference string) (file, anchor string, ok bool) {
	target, err := at.Parse(reference)
	if err != nil || target.Scheme != base.Scheme || target.Host != base.Host {
		return "", "", false
	}
	file, ok = strings.CutPrefix(target.Path, base.Path)
	if file == "" || strings.HasSuffix(file, "/") {
		file += "index.html"
	}
	return file, target.Fragment, ok
}

func readPage(t *testing.T, site fs.FS, name string) *page {
	t.Helper()
	content, err := fs.ReadFile(site, name)
	if err != nil {
		t.Fatal(err)
	}
	document, err := html.Parse(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	found := &page{ids: map[string]bool{}}
	for node := range document.Descendants() {
		if node.Type != html.ElementNode {
			continue
		}
		attributes := map[string]string{}
		for _, attribute := range node.Attr {
			attributes[attribute.Key] = attribute.Val
		}
		found.ids[attributes["id"]] = true
		switch node.Data {
		case "a":
			if href, ok := attributes["href"]; ok {
				found.links = append(found.links, href)
			}
		case "link":
			if !slices.Contains([]string{"canonical", "alternate"}, attributes["rel"]) {
				found.loads = append(found.loads, attributes["href"])
			}
		default:
			if src := attributes["src"]; src != "" {
				found.loads = append(found.loads, src)
			}
		}
	}
	return found
}

// remote matches a URL in a style sheet that is not of the site.
var remote = regexp.MustCompile(`(@import|url\(["']?(https?:)?//)`)

func checkStyles(t *testing.T, site fs.FS, name string) {
	t.Helper()
	styles, err := fs.ReadFile(site, name)
	if err != nil {
		t.Fatal(err)
	}
	if found := remote.Find(styles); found != nil {
		t.Errorf("%s loads styles or files: %s", name, found)
	}
}
