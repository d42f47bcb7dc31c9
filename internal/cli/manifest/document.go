// Package manifest reads YAML and JSON files as the API server takes them: strictly, with the defaults and the validation of the operator's
// CustomResourceDefinitions. Its errors name the file and the line.
package manifest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	kjson "sigs.k8s.io/json"
	sigsyaml "sigs.k8s.io/yaml"
)

// Document is one document of a file.
type Document struct {
	metav1.TypeMeta

	// File is the name of the file, for errors, and Line is where the document begins, counted from 1.
	File string
	Line int
	// JSON is the document as JSON.
	JSON []byte

	text []byte
}

// Documents splits a file into its documents. Empty ones are left out, and a List is replaced by its items.
func Documents(file string, content []byte) ([]Document, error) {
	var documents []Document
	reader := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(content)))
	for line := 1; ; {
		text, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return documents, nil
		} else if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		document := Document{File: file, Line: line, text: text}
		line += bytes.Count(text, []byte("\n")) + 1 // of the separator
		if document.JSON, err = sigsyaml.YAMLToJSONStrict(text); err != nil {
			return nil, document.syntaxError(err)
		}
		if string(document.JSON) == "null" {
			continue
		}
		if err := kjson.UnmarshalCaseSensitivePreserveInts(document.JSON, &document.TypeMeta); err != nil {
			return nil, fmt.Errorf("%s:%d: is not a Kubernetes object: %w", file, document.Line, err)
		}
		if !strings.HasSuffix(document.Kind, "List") {
			documents = append(documents, document)
			continue
		}
		items, err := document.items()
		if err != nil {
			return nil, err
		}
		documents = append(documents, items...)
	}
}

// items returns the items of a List.
func (d *Document) items() ([]Document, error) {
	var list struct {
		Items []json.RawMessage `json:"items"`
	}
	if err := json.Unmarshal(d.JSON, &list); err != nil {
		return nil, d.At("", err)
	}
	items := make([]Document, len(list.Items))
	for i, item := range list.Items {
		items[i] = Document{File: d.File, Line: d.lineOf(fmt.Sprintf("items[%d]", i)), JSON: item}
		if err := json.Unmarshal(item, &items[i].TypeMeta); err != nil {
			return nil, items[i].At("", err)
		}
	}
	return items, nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

// syntaxError returns the error of a document that is not valid YAML. The parser counts its lines from the beginning of the document.
func (d *Document) syntaxError(err error) error {
	text := strings.TrimPrefix(err.Error(), "error converting YAML to JSON: ")
	text = strings.ReplaceAll(strings.TrimPrefix(text, "yaml: "), "unmarshal errors:\n", "")
	line := d.Line
	if found := yamlLine.FindStringSubmatch(text); found != nil {
		if at, err := strconv.Atoi(found[1]); err == nil {
			line += at - 1
		}
		text = strings.Replace(text, found[0], "", 1)
	}
	return fmt.Errorf("%s:%d: is not valid YAML: %s", d.File, line, strings.TrimSpace(text))
}

// Decode decodes the document. Unknown and duplicate fields are errors, one a line.
func (d *Document) Decode(into any) error {
	strict, err := kjson.UnmarshalStrict(d.JSON, into)
	if err != nil {
		return fmt.Errorf("%s:%d: %w", d.File, d.Line, err)
	}
	var all []error
	for _, err := range strict {
		path := ""
		if _, quoted, ok := strings.Cut(err.Error(), `"`); ok {
			path = strings.TrimSuffix(quoted, `"`)
		}
		all = append(all, d.At(path, err))
	}
	return errors.Join(all...)
}

// At returns an error about a field of the document, such as spec.actions[0].name, with the file and the line.
func (d *Document) At(path string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s:%d: %w", d.File, d.lineOf(path), err)
}

// step is a step of a path: the name of a member, or, in brackets, the index of an element, or its name.
var step = regexp.MustCompile(`\[([^\]]+)\]|[^.\[\]]+`)

// lineOf returns the line of a field, or of the innermost one around it that there is.
func (d *Document) lineOf(path string) int {
	var root yaml.Node
	if err := yaml.Unmarshal(d.text, &root); err != nil || len(root.Content) == 0 {
		return d.Line
	}
	at, line := root.Content[0], root.Content[0].Line
	for _, found := range step.FindAllStringSubmatch(path, -1) {
		key, next := member(at, found[0], found[1])
		if next == nil {
			break
		}
		at, line = next, key.Line
	}
	return d.Line + line - 1
}

// member returns the key and the value of a member of a mapping, or an element of a sequence.
func member(node *yaml.Node, name, index string) (key, value *yaml.Node) {
	switch node.Kind {
	case yaml.SequenceNode:
		for at, element := range node.Content {
			_, named := member(element, "name", "")
			if index == strconv.Itoa(at) || named != nil && named.Value == index {
				return element, element
			}
		}
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			if node.Content[i].Value == name {
				return node.Content[i], node.Content[i+1]
			}
		}
	default:
	}
	return nil, nil
}
