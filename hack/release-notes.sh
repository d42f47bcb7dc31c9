#!/usr/bin/env bash
# Prints the section of VERSION in CHANGELOG.md, without its heading. A version that is no release (v0.0.0-…, see version.sh) has the first
# section: that of the next release.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${VERSION:=$(hack/version.sh)}"

wanted=${VERSION#v}
[[ $VERSION != v0.0.0-* ]] || wanted=
notes=$(awk -v wanted="$wanted" '
  /^## / {
    if (inside) exit
    inside = wanted == "" || $2 == wanted
    next
  }
  inside' CHANGELOG.md)
if [ -z "${notes//[[:space:]]/}" ]; then
  echo "release-notes: CHANGELOG.md has no section \"## ${wanted:-VERSION}\"; write what is new for users" >&2
  exit 1
fi
echo "$notes"
