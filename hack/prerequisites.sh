#!/usr/bin/env bash
# Checks that the named programs are installed and that Go is new enough for go.mod, and reports each missing one.
# Usage: hack/prerequisites.sh [PROGRAM...]
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
missing=0

complain() {
  echo "$*" >&2
  missing=1
}

for program in "$@"; do
  command -v "$program" >/dev/null || complain "missing: $program is not installed (or not on PATH)"
done

wanted=$(awk '$1 == "go" { print $2 }' "$root/go.mod")
if ! command -v go >/dev/null; then
  complain "missing: Go $wanted or newer is not installed (or not on PATH), see https://go.dev/dl"
# Go itself refuses, or downloads a newer Go if GOTOOLCHAIN allows it; versions before 1.21 do neither.
elif ! found=$(cd "$root" && go env GOVERSION 2>&1) ||
  ! awk -v found="${found#go}" -v wanted="$wanted" 'BEGIN {
      if (found !~ /^[0-9]/) exit 0 # a development version
      split(found, f, "[^0-9]+"); split(wanted, w, ".")
      exit f[1] != w[1] ? f[1] < w[1] : f[2] < w[2]
    }'; then
  complain "Go is too old: this project needs Go $wanted or newer, see https://go.dev/dl (found: $found)"
fi

exit "$missing"
