package manifest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
	sigsyaml "sigs.k8s.io/yaml"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
	"github.com/netbox-events/netbox-event-operator/config/crd"
)

// Schema is what the API server knows about a kind of the operator.
type Schema struct {
	structural  *structuralschema.Structural
	validator   validation.SchemaValidator
	expressions func() *cel.Validator // compiles them once
}

// Schemas of the operator's kinds, which are loaded once.
var (
	Rules   = sync.OnceValue(func() *Schema { return mustLoad("netboxeventrules") })
	Sources = sync.OnceValue(func() *Schema { return mustLoad("netboxsources") })
)

// mustLoad reads an embedded definition, which the tests of this package cover.
func mustLoad(resource string) *Schema {
	loaded, err := load(resource)
	if err != nil {
		panic(err)
	}
	return loaded
}

func load(resource string) (*Schema, error) {
	content, err := crd.Bases.ReadFile("bases/" + v1alpha1.SchemeGroupVersion.Group + "_" + resource + ".yaml")
	if err != nil {
		return nil, err
	}
	var external apiextensionsv1.CustomResourceDefinition
	if err := sigsyaml.Unmarshal(content, &external); err != nil {
		return nil, err
	}
	var props apiextensions.JSONSchemaProps
	schema := external.Spec.Versions[0].Schema.OpenAPIV3Schema
	if err := apiextensionsv1.Convert_v1_JSONSchemaProps_To_apiextensions_JSONSchemaProps(schema, &props, nil); err != nil {
		return nil, err
	}
	structural, err := structuralschema.NewStructural(&props)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(&props)
	if err != nil {
		return nil, err
	}
	expressions := sync.OnceValue(func() *cel.Validator { return cel.NewValidator(structural, true, celconfig.PerCallLimit) })
	return &Schema{structural, validator, expressions}, nil
}

// Decode decodes an object with the defaults that the API server would set. Its errors, one a line, are about what the API server would
// refuse.
func (s *Schema) Decode(ctx context.Context, document *Document, into any) error {
	if err := document.Decode(into); err != nil {
		return err
	}
	var object map[string]any
	if err := json.Unmarshal(document.JSON, &object); err != nil {
		return document.At("", err)
	}
	defaulting.Default(object, s.structural)
	if err := document.join(s.validate(ctx, object)); err != nil {
		return err
	}
	return document.At("", convert(object, into))
}

// Default sets the defaults of an object of the kind.
func (s *Schema) Default(object any) error {
	var fields map[string]any
	if err := convert(object, &fields); err != nil {
		return err
	}
	if fields["spec"] == nil {
		fields["spec"] = map[string]any{} // only fields of what is there have defaults
	}
	defaulting.Default(fields, s.structural)
	return convert(fields, object)
}

// convert converts between types with the same JSON.
func convert(from, to any) error {
	encoded, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(encoded, to)
}

func (s *Schema) validate(ctx context.Context, object map[string]any) field.ErrorList {
	if found := validation.ValidateCustomResource(nil, object, s.validator); len(found) > 0 {
		return found // expressions would fail on what has another type
	}
	found := listtype.ValidateListSetsAndMaps(nil, s.structural, object)
	more, _ := s.expressions().Validate(ctx, nil, s.structural, object, nil, celconfig.RuntimeCELCostBudget)
	return append(found, more...)
}

// join returns the errors with their lines.
func (d *Document) join(list field.ErrorList) error {
	var all []error
	for _, found := range list {
		path := strings.TrimPrefix(found.Field, "<nil>.")
		all = append(all, d.At(path, fmt.Errorf("%s: %s", path, found.ErrorBody())))
	}
	return errors.Join(all...)
}
