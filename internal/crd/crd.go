// Package crd applies and deletes the operator's CustomResourceDefinitions. The chart's hooks run it, because Helm never upgrades or
// deletes CRDs.
package crd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// Run applies or deletes the CRDs in dir, and writes the result of each to out. The verb is apply or delete.
func Run(ctx context.Context, config *rest.Config, verb string, dir fs.FS, out io.Writer) error {
	do, ok := map[string]func(context.Context, client.Client, *unstructured.Unstructured) (string, error){
		"apply":  apply,
		"delete": remove,
	}[verb]
	if !ok {
		return fmt.Errorf("unknown verb %q: use apply or delete", verb)
	}
	definitions, err := read(dir)
	if err != nil {
		return err
	}
	api, err := client.New(config, client.Options{})
	if err != nil {
		return err
	}
	for _, definition := range definitions {
		done, err := do(ctx, api, definition)
		if err != nil {
			return fmt.Errorf("%s: %w", definition.GetName(), err)
		}
		if _, err := fmt.Fprintf(out, "%s %s\n", definition.GetName(), done); err != nil {
			return err
		}
	}
	return nil
}

// read reads all CRDs in a directory. It fails before any is applied or deleted.
func read(dir fs.FS) ([]*unstructured.Unstructured, error) {
	files, err := fs.Glob(dir, "*.yaml")
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, errors.New("no *.yaml file in the directory")
	}
	definitions := make([]*unstructured.Unstructured, 0, len(files))
	for _, file := range files {
		text, err := fs.ReadFile(dir, file)
		if err != nil {
			return nil, err
		}
		definition := new(unstructured.Unstructured)
		if err := yaml.Unmarshal(text, &definition.Object); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		if kind := definition.GetKind(); kind != "CustomResourceDefinition" {
			return nil, fmt.Errorf("%s: kind is %q, want CustomResourceDefinition", file, kind)
		}
		definitions = append(definitions, definition)
	}
	return definitions, nil
}

// fieldOwner is Helm's: Helm 4 applies a chart's CRDs when it installs a release, and would fail on fields of another owner.
const fieldOwner = "helm"

// apply applies a CRD, and waits until it is established. The versions of a CRD are one atomic list, so fields that the chart no longer has
// are removed; labels and annotations of other owners stay.
func apply(ctx context.Context, api client.Client, definition *unstructured.Unstructured) (string, error) {
	before := empty(definition)
	if err := api.Get(ctx, client.ObjectKeyFromObject(definition), before); client.IgnoreNotFound(err) != nil {
		return "", err
	}
	if err := api.Apply(ctx, client.ApplyConfigurationFromUnstructured(definition.DeepCopy()), client.FieldOwner(fieldOwner),
		client.ForceOwnership); err != nil {
		return "", err
	}
	after := empty(definition)
	err := wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		err := api.Get(ctx, client.ObjectKeyFromObject(definition), after)
		return isEstablished(after), err
	})
	switch {
	case before.GetUID() == "":
		return "created", err
	case before.GetGeneration() != after.GetGeneration():
		return "configured", err
	default:
		return "unchanged", err
	}
}

func remove(ctx context.Context, api client.Client, definition *unstructured.Unstructured) (string, error) {
	if err := api.Delete(ctx, empty(definition)); apierrors.IsNotFound(err) {
		return "not found", nil
	} else if err != nil {
		return "", err
	}
	return "deleted", nil
}

func empty(definition *unstructured.Unstructured) *unstructured.Unstructured {
	object := new(unstructured.Unstructured)
	object.SetGroupVersionKind(definition.GroupVersionKind())
	object.SetName(definition.GetName())
	return object
}

// isEstablished reports whether the API server serves the resource of a CRD.
func isEstablished(definition *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
	for _, condition := range conditions {
		if fields, ok := condition.(map[string]any); ok && fields["type"] == "Established" {
			return fields["status"] == string(metav1.ConditionTrue)
		}
	}
	return false
}
