#!/usr/bin/env bash
# Rehearses a release of VERSION: pushes image and chart to a temporary registry on loopback with the targets of the release, pulls both, and
# verifies them; builds the plugin, and installs it with krew; and looks for the release notes. It signs nothing, because signing needs GitHub's
# identity, and leaves nothing behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${VERSION:=$(hack/version.sh)}"
export VERSION LC_ALL=C # the order of files

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

# What needs no build is first. The chart names the version that the pages install (see TestVersion in docs), except between releases.
make -s --no-print-directory release-notes VERSION="$VERSION" >"$work/notes.md"
echo "ok: release notes: $(wc -l <"$work/notes.md") lines"
if [[ $VERSION != v0.0.0-* ]]; then
  expect "version of the chart" "$(awk '/^version:/ { print $2 }' charts/netbox-event-operator/Chart.yaml)" "${VERSION#v}"
  expect "appVersion of the chart" "$(awk '/^appVersion:/ { print $2 }' charts/netbox-event-operator/Chart.yaml)" "$VERSION"
fi

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

make -s --no-print-directory plugin
cp bin/plugin/checksums.txt "$work/checksums.txt"
make -s --no-print-directory plugin
cmp "$work/checksums.txt" bin/plugin/checksums.txt || die "a second build of the plugin differs"
(cd bin/plugin && sha256sum --quiet --check checksums.txt) || die "the checksums of the plugin do not agree"
expect "files with a checksum" "$(sort <(awk '{ print $2 }' bin/plugin/checksums.txt) <(echo checksums.txt))" "$(cd bin/plugin && find . -type f | sed 's|^\./||' | sort)"
for platform in linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64; do
  archive=bin/plugin/kubectl-netbox_${VERSION}_${platform/\//_}
  unpacked=$work/plugin/$platform
  mkdir -p "$unpacked"
  case $platform in
  windows/*)
    program=kubectl-netbox.exe
    (cd "$unpacked" && unzip -q "$OLDPWD/$archive.zip")
    expect "files in $platform" "$(cd "$unpacked" && echo *)" "LICENSE $program"
    ;;
  *)
    program=kubectl-netbox
    tar -xzf "$archive.tar.gz" -C "$unpacked"
    expect "files in $platform" "$(cd "$unpacked" && echo *)" "LICENSE $program kubectl_complete-netbox"
    ;;
  esac
  expect "build of $platform" "$(go version -m "$unpacked/$program" | awk '$1 == "build" && $2 ~ /^GO(OS|ARCH)=/ { print $2 }' | sort | xargs)" \
    "GOARCH=${platform#*/} GOOS=${platform%/*}"
done
grep -q '"pkg:golang/k8s.io/cli-runtime@v' "bin/plugin/kubectl-netbox_$VERSION.spdx.json" || die "the SBOM of the plugin does not list cli-runtime"

# krew validates the manifest, and installs the plugin of this machine from the archive that it names, without the network.
go tool -modfile=hack/tools/krew/go.mod validate-krew-manifest -manifest bin/plugin/netbox.yaml -skip-install 2>"$work/krew.log" ||
  die "krew does not accept the manifest: $(cat "$work/krew.log")"
expect "URLs in the manifest" "$(grep -c "uri: https://github.com/netbox-events/netbox-event-operator/releases/download/$VERSION/kubectl-netbox_" bin/plugin/netbox.yaml)" 6
here=$(go env GOHOSTOS)_$(go env GOHOSTARCH)
assets=$(hack/control-plane.sh)
export KREW_NO_UPGRADE_CHECK=1 KREW_ROOT=$work/krew PATH=$work/krew/bin:$assets:$PATH
go tool -modfile=hack/tools/krew/go.mod krew install --manifest bin/plugin/netbox.yaml --archive "bin/plugin/kubectl-netbox_${VERSION}_$here.tar.gz" \
  2>"$work/krew.log" || die "krew does not install the plugin: $(cat "$work/krew.log")"
said=$(kubectl netbox version --client)
expect "kubectl netbox version" "${said%,*}" "kubectl-netbox $VERSION, commit $(git rev-parse HEAD)"
