#!/usr/bin/env bash
# Prints the changes since the last release as Markdown, from commit subjects: since the last tag before HEAD, or all commits if there is no
# tag.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

repository=https://github.com/netbox-events/netbox-event-operator
range=HEAD
heading="Changes"
if last=$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null); then
  range=$last..HEAD
  heading="Changes since [$last]($repository/releases/tag/$last)"
fi

printf '## %s\n\n' "$heading"
# Characters with a meaning in Markdown or HTML are escaped.
git log --no-merges --format='%H %s' "$range" | sed -E 's/[][\\`*_<>]/\\&/g' |
  awk -v repository="$repository" '{
    commit = $1
    sub(/^[^ ]* /, "")
    printf "- %s ([%s](%s/commit/%s))\n", $0, substr(commit, 1, 7), repository, commit
  }'
