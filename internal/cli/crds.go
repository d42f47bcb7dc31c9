package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/netbox-events/netbox-event-operator/api/v1alpha1"
)

// fit says how the operator's CRDs in a cluster differ from the types of this plugin.
type fit struct {
	// Version is the version of the API.
	Version string `json:"version"`
	// Missing are fields that the plugin knows and the CRDs do not: these are older. Unknown are those that the plugin does not know.
	Missing []string `json:"missing,omitempty"`
	Unknown []string `json:"unknown,omitempty"`
}

// isGood reports whether there is no difference.
func (f *fit) isGood() bool { return len(f.Missing) == 0 && len(f.Unknown) == 0 }

// String describes the fit, and says what to do where there is none.
func (f *fit) String() string {
	switch {
	case len(f.Missing) > 0:
		return fmt.Sprintf("the CRDs (%s) are older than this plugin, and lack %s: upgrade the operator, or use the plugin of its version",
			f.Version, list(f.Missing))
	case len(f.Unknown) > 0:
		return fmt.Sprintf("the CRDs (%s) are newer than this plugin, which does not know %s: upgrade the plugin", f.Version, list(f.Unknown))
	default:
		return fmt.Sprintf("the CRDs (%s) fit this plugin", f.Version)
	}
}

// maxListed bounds the number of names in a text.
const maxListed = 3

// list joins the first of some names.
func list(names []string) string {
	if more := len(names) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// apiSchema is the part of a schema in OpenAPI that is compared.
type apiSchema struct {
	Properties map[string]*apiSchema `json:"properties"`
	Items      *apiSchema            `json:"items"`
	Kinds      []struct {
		Kind string `json:"kind"`
	} `json:"x-kubernetes-group-version-kind"`
}

// apiVersion is the version of the operator's API that the plugin uses.
var apiVersion = v1alpha1.SchemeGroupVersion.Version

// fitOf compares the CRDs with the plugin's types. It reads the API's description, which all users may, unlike the CRDs.
func fitOf(ctx context.Context, config *rest.Config) (*fit, error) {
	api, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return nil, err
	}
	text, err := api.RESTClient().Get().AbsPath("/openapi/v3/apis", v1alpha1.SchemeGroupVersion.String()).Do(ctx).Raw()
	if err != nil {
		return nil, err
	}
	var described struct {
		Components struct {
			Schemas map[string]*apiSchema `json:"schemas"`
		} `json:"components"`
	}
	if err := json.Unmarshal(text, &described); err != nil {
		return nil, err
	}
	found := &fit{Version: apiVersion}
	for _, stored := range described.Components.Schemas {
		for _, kind := range stored.Kinds {
			if known, ok := kinds[kind.Kind]; ok {
				found.compare(kind.Kind, known, stored)
			}
		}
	}
	slices.Sort(found.Missing)
	slices.Sort(found.Unknown)
	return found, nil
}

var kinds = map[string]reflect.Type{
	"NetBoxSource":    reflect.TypeFor[v1alpha1.NetBoxSource](),
	"NetBoxEvent":     reflect.TypeFor[v1alpha1.NetBoxEvent](),
	"NetBoxEventRule": reflect.TypeFor[v1alpha1.NetBoxEventRule](),
}

// compare compares a type with its schema, as far as the type is of the operator's API.
func (f *fit) compare(path string, known reflect.Type, stored *apiSchema) {
	for known.Kind() == reflect.Pointer || known.Kind() == reflect.Slice {
		if known.Kind() == reflect.Slice {
			if stored = stored.Items; stored == nil {
				return
			}
		}
		known = known.Elem()
	}
	if known.Kind() != reflect.Struct || known.PkgPath() != kinds["NetBoxEvent"].PkgPath() || len(stored.Properties) == 0 {
		return
	}
	fields := map[string]bool{"apiVersion": true, "kind": true, "metadata": true}
	f.compareFields(path, known, stored, fields)
	for name := range stored.Properties {
		if !fields[name] {
			f.Unknown = append(f.Unknown, path+"."+name)
		}
	}
}

func (f *fit) compareFields(path string, known reflect.Type, stored *apiSchema, fields map[string]bool) {
	for i := range known.NumField() {
		field := known.Field(i)
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		switch {
		case strings.Contains(options, "inline") && field.Type.PkgPath() == known.PkgPath():
			f.compareFields(path, field.Type, stored, fields)
		case name == "" || name == "metadata":
		case stored.Properties[name] == nil:
			f.Missing = append(f.Missing, path+"."+name)
		default:
			fields[name] = true
			f.compare(path+"."+name, field.Type, stored.Properties[name])
		}
	}
}
