// Package v1alpha1 is the API of netbox-event-operator: a NetBoxSource is a NetBox that may send webhooks, a NetBoxEvent is a webhook
// received from it, and a NetBoxEventRule selects events and defines actions on them.
//
// It imports only apimachinery, to keep the dependencies of API clients small.
//
// +kubebuilder:object:generate=true
// +kubebuilder:ac:generate=true
// +groupName=netbox-events.io
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// SchemeGroupVersion is the group and version of this API.
var SchemeGroupVersion = schema.GroupVersion{Group: "netbox-events.io", Version: "v1alpha1"}

var schemeBuilder = runtime.NewSchemeBuilder(func(scheme *runtime.Scheme) error {
	scheme.AddKnownTypes(SchemeGroupVersion, &NetBoxSource{}, &NetBoxSourceList{}, &NetBoxEvent{}, &NetBoxEventList{},
		&NetBoxEventRule{}, &NetBoxEventRuleList{})
	metav1.AddToGroupVersion(scheme, SchemeGroupVersion)
	return nil
})

// AddToScheme registers the kinds of this API.
var AddToScheme = schemeBuilder.AddToScheme
