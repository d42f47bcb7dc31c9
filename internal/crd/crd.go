// Package crd puts the operator's CustomResourceDefinitions into a cluster, and takes them out: the chart's hooks run it, because Helm
// installs CRDs once and never upgrades or deletes them.
package crd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// Run applies the CRDs in dir, or deletes them, and tells out of each what it did. The verb is apply or delete.
func Run(ctx context.Context, config *rest.Config, verb string, dir fs.FS, out io.Writer) error {
	do, ok := map[string]func(context.Context, client.Client, *unstructured.Unstructured) (string, error){
		"apply":  apply,
		"delete": remove,
	}[verb]
	if !ok {
		return fmt.Errorf("%q is neither apply nor delete", verb)
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

// read reads all CRDs before anything is done with one of them.
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
			return nil, fmt.Errorf("%s: kind %q is no CustomResourceDefinition", file, kind)
		}
		definitions = append(definitions, definition)
	}
	return definitions, nil
}

// apply replaces the whole spec: what a version of the chart has taken out must go. Labels and annotations of others stay.
func apply(ctx context.Context, api client.Client, definition *unstructured.Unstructured) (done string, err error) {
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		current := empty(definition)
		switch err := api.Get(ctx, client.ObjectKeyFromObject(definition), current); {
		case apierrors.IsNotFound(err):
			done = "created"
			return api.Create(ctx, definition.DeepCopy())
		case err != nil:
			return err
		}
		wanted := current.DeepCopy()
		wanted.Object["spec"] = definition.DeepCopy().Object["spec"]
		wanted.SetLabels(merged(current.GetLabels(), definition.GetLabels()))
		wanted.SetAnnotations(merged(current.GetAnnotations(), definition.GetAnnotations()))
		if err := api.Update(ctx, wanted); err != nil {
			return err
		}
		done = "configured"
		if equality.Semantic.DeepEqual(current.Object["spec"], wanted.Object["spec"]) {
			done = "unchanged"
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return done, wait.PollUntilContextTimeout(ctx, 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		current := empty(definition)
		if err := api.Get(ctx, client.ObjectKeyFromObject(definition), current); err != nil {
			return false, err
		}
		return established(current), nil
	})
}

func remove(ctx context.Context, api client.Client, definition *unstructured.Unstructured) (string, error) {
	if err := api.Delete(ctx, empty(definition)); apierrors.IsNotFound(err) {
		return "is not there", nil
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

func merged(all ...map[string]string) map[string]string {
	into := map[string]string{}
	for _, one := range all {
		maps.Copy(into, one)
	}
	return into
}

// established tells whether the API server serves what a CRD defines.
func established(definition *unstructured.Unstructured) bool {
	conditions, _, _ := unstructured.NestedSlice(definition.Object, "status", "conditions")
	for _, condition := range conditions {
		if fields, ok := condition.(map[string]any); ok && fields["type"] == "Established" {
			return fields["status"] == string(metav1.ConditionTrue)
		}
	}
	return false
}
