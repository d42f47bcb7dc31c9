#!/usr/bin/env bash
# Prints the version of what is checked out: its tag, or else one made of the time and hash of the commit, as Go does. It depends on the
# commit alone, not on how much of the history a clone has, and it serves Go, Helm and as the tag of an image. -dirty means changes that
# are not committed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! commit=$(git rev-parse --short=12 HEAD 2>/dev/null); then
  echo v0.0.0-unknown # no clone, but what was exported from one
  exit
fi
version=$(git describe --tags --exact-match --match 'v[0-9]*' 2>/dev/null) ||
  version=v0.0.0-$(TZ=UTC git show -s --format=%cd --date=format-local:%Y%m%d%H%M%S HEAD)-$commit
[ -z "$(git status --porcelain)" ] || version=$version-dirty
echo "$version"
