#!/usr/bin/env bash
# Lints the Helm chart, runs its unit tests, and checks what Helm renders of it, and kustomize of config/default, against the schemas of
# Kubernetes and of the CRDs of others. The chart is rendered with the values of each file in its folder ci/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

chart=charts/netbox-event-operator
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Keeps Helm away from the user's plugins and repositories.
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm

tool() { go tool -modfile=hack/tools/helm/go.mod "$@"; }
helm3() { go tool -modfile=hack/tools/helm3/go.mod helm "$@"; }

assets=$(hack/control-plane.sh)

# helm-docs leaves a description empty when there is none, and when it misreads one that has " --" in it.
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
  # Helm 3 must make the same of it, but for empty lines. Without the ldflags of a release it assumes Kubernetes 1.20.
  helm3 template release "$chart" --namespace operator --values "$values" --kube-version 1.31.0 >"$work/helm3.yaml"
  diff <(grep '[^ ]' "$work/rendered/$name.yaml") <(grep '[^ ]' "$work/helm3.yaml") ||
    { echo "Helm 3 renders it differently" >&2; exit 1; }
done
"$assets/kubectl" kustomize config/default >"$work/rendered/config-default.yaml"

echo "schemas"
tool kubeconform -strict -summary -schema-location 'bin/schemas/{{.Group}}/{{.ResourceKind}}_{{.ResourceAPIVersion}}.json' "$work/rendered"
