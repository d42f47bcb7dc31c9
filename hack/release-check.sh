#!/usr/bin/env bash
# Rehearses a release of VERSION against a temporary registry on loopback: pushes image and chart with the targets of the release, pulls both,
# and verifies them. It signs nothing, because signing needs GitHub's identity, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${VERSION:=$(hack/version.sh)}"
export VERSION

work=$(mktemp -d)
registry=
trap '[ -z "$registry" ] || kill "$registry" 2>/dev/null || true; rm -rf "$work"' EXIT

die() {
  echo "release-check: $*" >&2
  exit 1
}

# expect NAME GOT WANT
expect() {
  [ "$2" = "$3" ] || die "$1: got $2, want $3"
  echo "ok: $1: $2"
}

crane=$(go tool -n -modfile=hack/image/go.mod crane)
helm=$(go tool -n -modfile=hack/tools/helm/go.mod helm)
export HELM_CACHE_HOME=$work/helm HELM_CONFIG_HOME=$work/helm HELM_DATA_HOME=$work/helm

: >"$work/registry.log"
"$crane" registry serve --address 127.0.0.1:0 2>"$work/registry.log" &
registry=$!
port=
for _ in {1..50}; do
  port=$(sed -n 's/.*serving on port \([0-9]*\).*/\1/p' "$work/registry.log")
  [ -z "$port" ] || break
  sleep 0.1
done
[ -n "$port" ] || die "the registry did not start: $(cat "$work/registry.log")"

image=127.0.0.1:$port/netbox-event-operator:$VERSION
pushed=$(make -s --no-print-directory image-push IMAGE="$image")
expect "digest of the image" "$("$crane" digest "$image")" "${pushed#*@}"
"$crane" validate --remote "$image"
for platform in linux/amd64 linux/arm64; do
  config=$("$crane" config --platform "$platform" "$image")
  for part in "\"architecture\":\"${platform#*/}\"" '"User":"65532:65532"' '"Entrypoint":["/manager"]' \
    "\"org.opencontainers.image.version\":\"$VERSION\""; do
    [[ $config == *"$part"* ]] || die "the configuration of $platform lacks $part: $config"
  done
  mkdir -p "$work/$platform"
  "$crane" export --platform "$platform" "$image" - | tar -xf - -C "$work/$platform"
  expect "files in $platform" "$(cd "$work/$platform" && find . -type f)" ./manager
  expect "architecture of $platform" "$(go version -m "$work/$platform/manager" | awk '$1 == "build" && $2 ~ /^GOARCH=/ { print $2 }')" \
    "GOARCH=${platform#*/}"
done
here=$work/$(go env GOHOSTOS)/$(go env GOHOSTARCH)/manager
if [ -x "$here" ]; then
  said=$("$here" --version)
  expect "--version" "${said%,*}" "netbox-event-operator $VERSION, commit $(git rev-parse HEAD)"
fi
grep -q '"pkg:golang/k8s.io/client-go@v' bin/image.spdx.json || die "the SBOM does not list client-go"

charts=oci://127.0.0.1:$port/charts
pushed=$(make -s --no-print-directory chart-push CHARTS="$charts" HELM_PUSH_FLAGS=--plain-http)
chart=127.0.0.1:$port/charts/netbox-event-operator:${VERSION#v}
expect "digest of the chart" "$("$crane" digest "$chart")" "${pushed#*@}"
"$helm" pull --plain-http "$charts/netbox-event-operator" --version "${VERSION#v}" --destination "$work" 2>"$work/helm.log" ||
  die "helm cannot pull the chart: $(cat "$work/helm.log")"
cmp "$work/netbox-event-operator-${VERSION#v}.tgz" "bin/netbox-event-operator-${VERSION#v}.tgz"
used=$("$helm" template release "$work/netbox-event-operator-${VERSION#v}.tgz" | awk '$1 == "image:" { print $2 }' | tr -d '"' | sort -u)
expect "image of the chart" "$used" "ghcr.io/netbox-events/netbox-event-operator:$VERSION"

changelog=$(hack/changelog.sh)
expect "head of the changelog" "${changelog%% *}" "##"
