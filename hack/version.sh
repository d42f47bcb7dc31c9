#!/usr/bin/env bash
# Prints the version of HEAD: its tag, or a pseudo-version from the time and hash of the commit, as Go's. It depends on the commit alone, not on
# the depth of the clone, and is valid for Go, Helm and image tags. -dirty means uncommitted changes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! commit=$(git rev-parse --short=12 HEAD 2>/dev/null); then
  echo v0.0.0-unknown # an export without .git
  exit
fi
version=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null) ||
  version=v0.0.0-$(TZ=UTC git show -s --format=%cd --date=format-local:%Y%m%d%H%M%S HEAD)-$commit
[ -z "$(git status --porcelain)" ] || version=$version-dirty
echo "$version"
