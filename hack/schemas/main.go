// Command schemas writes JSON schemas into a directory:
//
//	go run ./hack/schemas manifests DIRECTORY  # of all kinds in the chart and config/, for kubeconform
//	go run ./hack/schemas values DIRECTORY     # of the items of the chart's values sources and rules, for values.schema.json
//
// The schemas are strict: they reject unknown fields.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"
)

// foreignCRDs are the third-party CRDs of the chart's kinds, by module. Go verifies each with its checksum database. Gateway API 1.7
// requires Go 1.27.
var foreignCRDs = map[string][]string{
	"sigs.k8s.io/gateway-api@v1.6.3": {
		"config/crd/standard/gateway.networking.k8s.io_backendtlspolicies.yaml",
		"config/crd/standard/gateway.networking.k8s.io_httproutes.yaml",
	},
	"github.com/prometheus-operator/prometheus-operator@v0.85.0": {
		"example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
		"example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml",
	},
	"github.com/cert-manager/cert-manager@v1.21.2": {
		"deploy/crds/cert-manager.io_certificates.yaml",
	},
}

const (
	ownCRDs    = "config/crd/bases/*.yaml"
	sourceCRD  = "config/crd/bases/netbox-events.io_netboxsources.yaml"
	ruleCRD    = "config/crd/bases/netbox-events.io_netboxeventrules.yaml"
	objectMeta = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
)

// object is a JSON object, usually a schema.
type object = map[string]any

func main() {
	log.SetFlags(0)
	if len(os.Args) != 3 {
		log.Fatal("usage: schemas manifests DIRECTORY | schemas values DIRECTORY")
	}
	var err error
	switch os.Args[1] {
	case "manifests":
		err = writeManifests(os.Args[2])
	case "values":
		err = writeValues(os.Args[2])
	default:
		err = fmt.Errorf("unknown command %q", os.Args[1])
	}
	if err != nil {
		log.Fatal("schemas: ", err)
	}
}

// writeManifests writes DIRECTORY/<group>/<kind>_<version>.json, the paths of kubeconform's template.
func writeManifests(directory string) error {
	definitions, err := kubernetesDefinitions()
	if err != nil {
		return err
	}
	for name, definition := range definitions {
		kinds, _ := definition.(object)["x-kubernetes-group-version-kind"].([]any)
		for _, kind := range kinds {
			k := kind.(object)
			if err := writeKind(directory, k["group"], k["version"], k["kind"], reference(name), definitions); err != nil {
				return err
			}
		}
	}

	files, err := filepath.Glob(ownCRDs)
	if err != nil {
		return err
	}
	for module, paths := range foreignCRDs {
		root, err := moduleDirectory(".", module)
		if err != nil {
			return err
		}
		for _, path := range paths {
			files = append(files, filepath.Join(root, path))
		}
	}
	for _, file := range files {
		crd, err := readCRD(file)
		if err != nil {
			return err
		}
		for _, version := range crd.Spec.Versions {
			schema := version.Schema.OpenAPIV3Schema
			schema["properties"].(object)["metadata"] = reference(objectMeta) // CRDs define it as a plain object
			restrict(schema)
			if err := writeKind(directory, crd.Spec.Group, version.Name, crd.Spec.Names.Kind, schema, definitions); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeValues writes the schemas of the values that become objects of the operator: source.json and rule.json.
func writeValues(directory string) error {
	// The chart sets what a source requires when it creates the Secret.
	source, err := valueSchema(sourceCRD, object{"generateSecret": object{"type": "boolean"}})
	if err != nil {
		return err
	}
	delete(source, "x-kubernetes-validations")
	source["required"] = []string{"name"}
	if err := writeJSON(filepath.Join(directory, "source.json"), source); err != nil {
		return err
	}
	rule, err := valueSchema(ruleCRD, nil)
	if err != nil {
		return err
	}
	required, _ := rule["required"].([]any)
	rule["required"] = append(required, "name")
	return writeJSON(filepath.Join(directory, "rule.json"), rule)
}

// valueSchema returns the schema of a kind's spec with a name, a namespace and the chart's additional fields.
func valueSchema(file string, additional object) (object, error) {
	crd, err := readCRD(file)
	if err != nil {
		return nil, err
	}
	spec := crd.Spec.Versions[0].Schema.OpenAPIV3Schema["properties"].(object)["spec"].(object)
	restrict(spec)
	properties := spec["properties"].(object)
	properties["name"] = object{"type": "string", "minLength": 1}
	properties["namespace"] = object{"type": "string"}
	maps.Copy(properties, additional)
	return spec, nil
}

// kubernetesDefinitions returns the OpenAPI definitions in the module of the tests' API server.
func kubernetesDefinitions() (object, error) {
	root, err := moduleDirectory("hack/kubernetes", "k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(filepath.Join(root, "api/openapi-spec/swagger.json")) //nolint:gosec // in the module cache
	if err != nil {
		return nil, err
	}
	var document struct {
		Definitions object `json:"definitions"`
	}
	if err := json.Unmarshal(data, &document); err != nil {
		return nil, err
	}
	for name, definition := range document.Definitions {
		schema := definition.(object)
		if strings.HasSuffix(name, ".resource.Quantity") {
			schema["type"] = []any{"string", "number"}
		}
		restrict(schema)
	}
	return document.Definitions, nil
}

// crd is the part of a CustomResourceDefinition that schemas need.
type crd struct {
	Spec struct {
		Group string
		Names struct{ Kind string }

		Versions []struct {
			Name   string
			Schema struct{ OpenAPIV3Schema object }
		}
	}
}

func readCRD(file string) (*crd, error) {
	data, err := os.ReadFile(file) //nolint:gosec // in the module cache or this repository
	if err != nil {
		return nil, err
	}
	var c crd
	if err := yaml.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return &c, nil
}

// moduleDirectory returns the directory of a module in the module cache, after a download if needed.
func moduleDirectory(directory, module string) (string, error) {
	//nolint:gosec // the modules are constants above
	command := exec.CommandContext(context.Background(), "go", "mod", "download", "-json", module)
	command.Dir = directory
	command.Stderr = os.Stderr
	output, err := command.Output()
	var answer struct{ Dir, Error string }
	if decoded := json.Unmarshal(output, &answer); err == nil {
		err = decoded
	}
	if err != nil {
		return "", fmt.Errorf("go mod download %s: %w: %s", module, err, answer.Error)
	}
	return answer.Dir, nil
}

// restrict converts an OpenAPI schema to a JSON schema that rejects unknown fields, and allows null for optional fields, as the API server
// does.
func restrict(schema object) {
	if schema["format"] == "int-or-string" || schema["x-kubernetes-int-or-string"] == true {
		delete(schema, "format")
		delete(schema, "anyOf") // redundant
		schema["type"] = []any{"integer", "string"}
	}
	if schema["x-kubernetes-preserve-unknown-fields"] == true {
		schema["additionalProperties"] = true // rather than unsaid, which tools take for false
	}
	properties, hasProperties := schema["properties"].(object)
	if _, open := schema["additionalProperties"]; hasProperties && !open {
		schema["additionalProperties"] = false
	}
	required, _ := schema["required"].([]any)
	for name, property := range properties {
		restrict(property.(object))
		if !slices.Contains(required, any(name)) {
			properties[name] = orNull(property.(object))
		}
	}
	// Subschemas in allOf, anyOf, oneOf and not constrain some fields, and do not list all.
	for _, key := range []string{"items", "additionalProperties"} {
		if inner, ok := schema[key].(object); ok {
			restrict(inner)
		}
	}
}

func orNull(schema object) object {
	switch t := schema["type"].(type) {
	case string:
		schema["type"] = []any{t, "null"}
	case []any:
		schema["type"] = append(t, "null")
	default:
		if _, ok := schema["$ref"]; ok {
			return object{"anyOf": []any{schema, object{"type": "null"}}}
		}
	}
	return schema
}

func reference(definition string) object {
	return object{"$ref": "#/definitions/" + definition}
}

// writeKind writes the schema of a kind, with all definitions that it references.
func writeKind(directory string, group, version, kind any, schema, definitions object) error {
	needed := object{}
	collect(schema, definitions, needed)
	folder := group
	if group == "" {
		folder = version // kubeconform's name of the core group
	}
	file := fmt.Sprintf("%s/%s_%s.json", folder, strings.ToLower(kind.(string)), version)
	return writeJSON(filepath.Join(directory, file), object{"allOf": []any{schema}, "definitions": needed})
}

// collect adds all definitions that a value references.
func collect(value any, definitions, found object) {
	switch v := value.(type) {
	case object:
		if ref, ok := v["$ref"].(string); ok {
			name := strings.TrimPrefix(ref, "#/definitions/")
			if _, done := found[name]; !done {
				found[name] = definitions[name]
				collect(definitions[name], definitions, found)
			}
		}
		for _, inner := range v {
			collect(inner, definitions, found)
		}
	case []any:
		for _, inner := range v {
			collect(inner, definitions, found)
		}
	}
}

func writeJSON(file string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o750); err != nil { //nolint:gosec // the path is an argument of the user
		return err
	}
	return os.WriteFile(file, data, 0o600) //nolint:gosec // as above
}
