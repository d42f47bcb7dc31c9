// Package crd holds the operator's CustomResourceDefinitions, for programs that check manifests without an API server.
package crd

import "embed"

// Bases has the definitions, as bases/<group>_<resource>.yaml.
//
//go:embed bases/*.yaml
var Bases embed.FS
