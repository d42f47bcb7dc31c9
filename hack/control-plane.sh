#!/usr/bin/env bash
# Prints the directory of kube-apiserver, etcd and kubectl, after installing missing ones. Standard output has only this line, so that
# KUBEBUILDER_ASSETS=$(hack/control-plane.sh) works.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=(kube-apiserver etcd kubectl)

say() { echo "control plane: $*" >&2; }

die() {
  say "$*"
  exit 1
}

# complete DIRECTORY: tests whether the directory has all programs.
complete() {
  local program
  for program in "${programs[@]}"; do
    [ -x "$1/$program" ] || return 1
  done
}

# bounded SECONDS COMMAND...: runs the command with a timeout (macOS has no timeout command).
bounded() {
  local deadline=$((SECONDS + $1)) pid
  shift
  "$@" &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    [ "$SECONDS" -lt "$deadline" ] || kill "$pid" 2>/dev/null || true
    sleep 0.1
  done
  wait "$pid"
}

# link_released_binaries: links the test binaries released by the Kubernetes project, if their index is reachable.
link_released_binaries() {
  local tool directory program
  tool=$(cd "$root/hack/tools" && go tool -n setup-envtest) || die "cannot build setup-envtest, see above"
  bounded 10 "$tool" list "$minor.x" >/dev/null 2>&1 || return 1
  say "downloading Kubernetes $minor"
  directory=$(bounded 600 "$tool" use "$minor.x" --print path) && complete "$directory" || return 1
  for program in "${programs[@]}"; do
    ln -sf "$directory/$program" "$cache/$program"
  done
}

# progress TOTAL LOG: shows the progress of go from its output, and writes the output to LOG.
progress() {
  awk -v total="$1" -v log_file="$2" -v terminal="$([ -t 2 ] && echo 1 || echo 0)" '
    { print >log_file; fflush(log_file) }
    /^go: downloading / { show("downloaded " ++modules " modules", modules % 50); next }
    /^[^ :#]+$/         { show("compiled " ++packages " of " total " packages", packages % 200) }
    END                 { if (terminal && shown) printf "\n" >"/dev/stderr" }
    function show(text, quiet) {
      shown = 1
      if (terminal) printf "\rcontrol plane: %s\033[K", text >"/dev/stderr"
      else if (!quiet) print "control plane: " text >"/dev/stderr"
      fflush("/dev/stderr")
    }'
}

# build_binaries: builds the programs from the modules of hack/kubernetes. It builds in a temporary directory, so that neither an interrupted
# nor a concurrent build leaves an incomplete program.
build_binaries() {
  local version_package=k8s.io/component-base/version program
  local flags=(-trimpath -buildvcs=false -ldflags "-s -w -X $version_package.gitVersion=$version
    -X $version_package.gitMajor=${minor%.*} -X $version_package.gitMinor=${minor#*.}")

  work=$(mktemp -d "$cache/.build.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  cd "$root/hack/kubernetes"
  export CGO_ENABLED=0 GOOS="$os" GOARCH="$arch"

  say "building kube-apiserver, etcd and kubectl $version from source, once: about 8 minutes on 2 cores"
  go list -deps -f '{{if .Stale}}{{.ImportPath}}{{end}}' "${flags[@]}" tool 2>&1 >"$work/stale" | progress 0 "$work/log" ||
    die "cannot download the modules of hack/kubernetes: $(tail -n 20 "$work/log")"
  go build -v -o "$work/" "${flags[@]}" tool 2>&1 | progress "$(wc -l <"$work/stale" | tr -d ' ')" "$work/log" ||
    die "the build failed: $(grep -v '^[^ :#]*$' "$work/log" | tail -n 20)"

  mv "$work/server" "$work/etcd" # go build names it after its package
  for program in "${programs[@]}"; do
    mv -f "$work/$program" "$cache/$program"
  done
}

if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
  if complete "$KUBEBUILDER_ASSETS"; then
    echo "$KUBEBUILDER_ASSETS"
    exit
  fi
  say "KUBEBUILDER_ASSETS ($KUBEBUILDER_ASSETS) lacks one of: ${programs[*]}; ignoring it"
fi

"$root/hack/prerequisites.sh"
version=$(awk '$1 == "k8s.io/kubernetes" { print $2 }' "$root/hack/kubernetes/go.mod")
minor=${version#v}
minor=${minor%.*}
os=$(go env GOHOSTOS)
arch=$(go env GOHOSTARCH)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/netbox-event-operator/kubernetes-$version-$os-$arch

if ! complete "$cache"; then
  mkdir -p "$cache"
  link_released_binaries || build_binaries
fi
echo "$cache"
