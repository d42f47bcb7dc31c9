#!/usr/bin/env bash
# Looks for known vulnerabilities that the operator reaches, in its dependencies and in the Go that go.mod names. The database is that of the Go
# team, from its Go module: it can be had wherever Go's modules can.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export GOTOOLCHAIN=auto # what go.mod names is looked at, not an older Go that is installed
database=$(mktemp -d)
trap 'rm -rf "$database"' EXIT

field() { sed -nE "s/^[[:space:]]*\"$1\": \"(.*)\",?\$/\1/p"; }
module=$(cd "$database" && go mod download -json golang.org/x/vulndb@latest)
echo "vulnerabilities known to golang.org/x/vulndb $(field Version <<<"$module")"
go run "golang.org/x/vulndb/cmd/indexdb@$(field Version <<<"$module")" -vulns "$(field Dir <<<"$module")/data/osv" -out "$database/v1"
go tool -modfile=hack/tools/go.mod govulncheck -db "file://$database/v1" ./...
