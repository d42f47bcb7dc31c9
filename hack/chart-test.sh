#!/usr/bin/env bash
# Lints the Helm chart, runs its unit tests, and validates the rendered chart and config/default against the schemas of Kubernetes and of
# third-party CRDs. The chart is rendered with each values file in its directory ci/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

chart=charts/netbox-event-operator
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Isolates Helm from the user's plugins and repositories.
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm

tool() { go tool -modfile=hack/tools/helm/go.mod "$@"; }
helm3() { go tool -modfile=hack/tools/helm3/go.mod helm "$@"; }

assets=$(hack/control-plane.sh)

# helm-docs writes an empty description if there is none, or if it contains " --".
! grep '|  |$' "$chart/README.md" || { echo "values without a description, see above" >&2; exit 1; }

echo "unit tests"
tool helm-unittest --strict "$chart"

go run ./hack/schemas manifests bin/schemas
mkdir "$work/rendered"
for values in "$chart"/values.yaml "$chart"/ci/*-values.yaml; do
  name=$(basename "$values" .yaml)
  echo "values: $values"
  tool helm lint --strict --quiet "$chart" --values "$values"
  tool helm template release "$chart" --namespace operator --values "$values" >"$work/rendered/$name.yaml"
  # Helm 3 must render the same, except for empty lines. Without the ldflags of a release it assumes Kubernetes 1.20.
  helm3 template release "$chart" --namespace operator --values "$values" --kube-version 1.31.0 >"$work/helm3.yaml"
  diff <(grep '[^ ]' "$work/rendered/$name.yaml") <(grep '[^ ]' "$work/helm3.yaml") ||
    { echo "the output of Helm 3 differs, see above" >&2; exit 1; }
done
"$assets/kubectl" kustomize config/default >"$work/rendered/config-default.yaml"

echo "schemas"
tool kubeconform -strict -summary -schema-location 'bin/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json' "$work/rendered"
