#!/usr/bin/env bash
# Checks for known vulnerabilities that are reachable from the operator, in its dependencies and in the Go version of go.mod. The database is the
# Go team's, from its Go module, so that a module proxy is enough.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export GOTOOLCHAIN=auto # check the Go version of go.mod, not an older installed one
database=$(mktemp -d)
trap 'rm -rf "$database"' EXIT

field() { sed -nE "s/^[[:space:]]*\"$1\": \"(.*)\",?\$/\1/p"; }
module=$(cd "$database" && go mod download -json golang.org/x/vulndb@latest)
echo "vulnerabilities known to golang.org/x/vulndb $(field Version <<<"$module")"
go run "golang.org/x/vulndb/cmd/indexdb@$(field Version <<<"$module")" -vulns "$(field Dir <<<"$module")/data/osv" -out "$database/v1"
go tool -modfile=hack/tools/go.mod govulncheck -db "file://$database/v1" ./...
