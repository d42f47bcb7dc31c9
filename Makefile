# Requires GNU make 3.81 (macOS) or later. Tools are pinned in separate modules under hack/ and run with `go tool`, which builds each once
# and caches it.
SHELL = bash

CONTROLLER_GEN = go tool -modfile=hack/tools/go.mod controller-gen
GOLANGCI_LINT = go tool -modfile=hack/tools/golangci-lint/go.mod golangci-lint
ACTIONLINT = go tool -modfile=hack/tools/go.mod actionlint
HUGO = go tool -modfile=hack/tools/hugo/go.mod hugo
HELM = go tool -modfile=hack/tools/helm/go.mod helm
HELM_DOCS = go tool -modfile=hack/tools/helm/go.mod helm-docs
VALUES_SCHEMA = go tool -modfile=hack/tools/helm/go.mod helm-values-schema-json

CHART = charts/netbox-event-operator

MODULES = . hack/image hack/tools hack/tools/golangci-lint hack/tools/helm hack/tools/helm3 hack/tools/hugo hack/tools/krew hack/kubernetes \
	test/monitoring test/report
GENERATED = api/v1alpha1/zz_generated.deepcopy.go api/v1alpha1/applyconfiguration config/crd/bases config/rbac/role.yaml \
	$(CHART)/crds $(CHART)/files/*role.yaml $(CHART)/files/admission $(CHART)/values.schema.json $(CHART)/README.md docs/reference

# Prefix of recipes that need kube-apiserver, etcd and kubectl.
WITH_CONTROL_PLANE = assets=$$(hack/control-plane.sh) && export KUBEBUILDER_ASSETS="$$assets" &&

FUZZTIME ?= 20s

# Durations of make soak and make chaos. SOAK=60s and CHAOS=60s are for a quick run.
SOAK ?= 10m
CHAOS ?= 10m
# Flags of make netbox-test; see -help of the program. For webhooks that are 5 minutes late, and changes missed during an outage:
# NETBOX_TEST='-late 5m -rest 30m -missed 10000'
NETBOX_TEST ?=
# Flags of make backlog and make bench; see -help of the programs. For a quick run of make backlog:
# BACKLOG='-events 2000 -more 500 -throttled-events 100 -throttled-rate 10 -down-events 600 -down 1m'
BACKLOG ?=
BENCH ?=

# Artifacts of a build and a release. Builds of one VERSION and commit with one version of Go are reproducible.
VERSION ?= $(shell hack/version.sh)
COMMIT = $(shell git rev-parse HEAD 2>/dev/null)
PLATFORMS ?= linux/amd64 linux/arm64
PLUGIN_PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
IMAGE ?= ghcr.io/netbox-events/netbox-event-operator:$(VERSION)
DEV_IMAGE ?= localhost/netbox-event-operator:dev
CHARTS ?= oci://ghcr.io/netbox-events/charts

VERSION_PACKAGE = github.com/netbox-events/netbox-event-operator/internal/version
STAMP = -X $(VERSION_PACKAGE).version=$(VERSION) -X $(VERSION_PACKAGE).commit=$(COMMIT)

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## Build bin/manager.
	CGO_ENABLED=0 go build -trimpath -ldflags "$(STAMP)" -o bin/manager ./cmd/manager

# Where make install-plugin puts kubectl-netbox: a directory in PATH.
PREFIX ?= $(shell go env GOPATH)/bin

.PHONY: install-plugin
install-plugin: ## Build kubectl netbox, and install it with its completion into PREFIX (GOPATH/bin).
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $(STAMP)" -o "$(PREFIX)/kubectl-netbox" ./cmd/kubectl-netbox
	@"$(PREFIX)/kubectl-netbox" completion >"$(PREFIX)/kubectl_complete-netbox" && chmod +x "$(PREFIX)/kubectl_complete-netbox"
	@"$(PREFIX)/kubectl-netbox" version --client

.PHONY: generate
generate: ## Regenerate the deep copies, apply configurations, CRDs, RBAC role, their copies in the Helm chart, and the reference.
	rm -rf api/v1alpha1/applyconfiguration config/crd/bases # removes the files of deleted kinds
	$(CONTROLLER_GEN) object:headerFile=hack/boilerplate.go.txt applyconfiguration:headerFile=hack/boilerplate.go.txt \
		crd paths="./api/..." output:crd:artifacts:config=config/crd/bases
	$(CONTROLLER_GEN) rbac:roleName=manager-role paths="./internal/..." output:rbac:artifacts:config=config/rbac
	cp config/rbac/role.yaml config/rbac/viewer_role.yaml config/rbac/editor_role.yaml $(CHART)/files/
	rm -f $(CHART)/files/admission/* && cp config/admission/*_*.yaml $(CHART)/files/admission/
	rm -f $(CHART)/crds/* && cp config/crd/bases/*.yaml $(CHART)/crds/
	go run ./hack/schemas values bin/schemas # values.yaml references them
	$(VALUES_SCHEMA) --values $(CHART)/values.yaml --output $(CHART)/values.schema.json --use-helm-docs --no-additional-properties \
		--bundle --bundle-without-id --draft 7 --indent 2
	$(HELM_DOCS) --chart-search-root $(CHART) --sort-values-order file --log-level warning
	go run ./hack/reference docs/reference

.PHONY: verify
verify: generate ## Fail if generated files or go.mod files differ from the commit.
	@for module in $(MODULES); do \
		(cd $$module && go mod tidy -diff) || { echo "go.mod in $$module is not tidy: run go mod tidy there" >&2; exit 1; }; \
	done
	@changed=$$(git status --porcelain -- $(GENERATED)); if [ -n "$$changed" ]; then \
		git --no-pager diff HEAD -- $(GENERATED); echo "$$changed"; \
		echo "generated files differ from the commit: run make generate and commit" >&2; exit 1; \
	fi

.PHONY: lint
lint: ## Run golangci-lint and actionlint, and shellcheck if it is installed.
	$(GOLANGCI_LINT) run
	cd hack/image && go tool -modfile=../tools/golangci-lint/go.mod golangci-lint run
	cd test/monitoring && go tool -modfile=../../hack/tools/golangci-lint/go.mod golangci-lint run
	cd test/report && go tool -modfile=../../hack/tools/golangci-lint/go.mod golangci-lint run
	$(ACTIONLINT)
	@if command -v shellcheck >/dev/null; then shellcheck hack/*.sh .ci/run; fi

.PHONY: fmt
fmt: ## Format the Go code.
	$(GOLANGCI_LINT) fmt

# The race detector needs cgo, which Go disables without a C compiler.
.PHONY: test
test: ## Run all tests against a real API server.
	@$(WITH_CONTROL_PLANE) \
	if [ "$$(go env CGO_ENABLED)" = 1 ]; then race=-race; else echo "no C compiler: testing without the race detector"; fi; \
	set -x; go test -C test/monitoring -count 1 ./... && go test $$race -timeout 20m ./...

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (20s).
	@targets=$$(grep -rE '^func Fuzz[A-Za-z0-9_]*\(' --include='*_test.go' . | sed -E 's|/[^/]*:func (Fuzz[A-Za-z0-9_]*).*|:\1|'); \
	[ -n "$$targets" ] || { echo "no fuzz target found" >&2; exit 1; }; \
	failed=; for target in $$targets; do \
		echo "fuzzing $$target for $(FUZZTIME)"; \
		go test -run='^$$' -fuzz="^$${target#*:}$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1s "$${target%:*}" || failed="$$failed $$target"; \
	done; \
	[ -z "$$failed" ] || { echo "findings in:$$failed" >&2; exit 1; }

.PHONY: vuln
vuln: ## Check for known vulnerabilities reachable from the operator, in its dependencies and in Go.
	@hack/vuln.sh

.PHONY: bench
bench: build ## Compare the operator with bare API clients on a real API server, and measure the cost of events; about 45 minutes. Needs Linux.
	@$(WITH_CONTROL_PLANE) exec go run ./test/bench $(BENCH)

.PHONY: backlog
backlog: build ## Deliver a backlog to sinks that hang, throttle or are down, with flags BACKLOG; about 40 minutes. Needs Linux.
	@$(WITH_CONTROL_PLANE) exec go run ./test/backlog $(BACKLOG)

.PHONY: soak
soak: build ## Send a steady stream for SOAK (10m); fails if memory grows, or an event is lost or duplicated. Needs Linux.
	@$(WITH_CONTROL_PLANE) exec go run ./test/chaos -calm -duration $(SOAK)

.PHONY: chaos
chaos: build ## Kill or stop replicas, API server, etcd and sink for CHAOS (10m); fails if an event is lost, duplicated, out of order or unfinished. Needs Linux.
	@$(WITH_CONTROL_PLANE) exec go run ./test/chaos -duration $(CHAOS)

# Needs Linux, and PostgreSQL, Redis and a Python for NetBox, which hack/netbox.sh installs on Debian.
.PHONY: netbox-test
netbox-test: build ## Test with a real NetBox, with flags NETBOX_TEST; fails unless events and its change log agree. Needs Linux; about 6 minutes.
	@$(WITH_CONTROL_PLANE) exec go run ./test/netboxlive $(NETBOX_TEST)

.PHONY: report
report: ## Write docs/endurance.md and its plots from the results of make bench, backlog, soak, chaos and netbox-test.
	@go run -C test/report . -from "$(CURDIR)/bin/report" -to "$(CURDIR)/docs"

# The site's files that its pages link to are those of COMMIT. Go downloads the theme, as any module.
SITE = HUGO_MODULE_PROXY="$$(go env GOPROXY)" HUGO_PARAMS_COMMIT="$(or $(COMMIT),main)" $(HUGO)
SITE_URL ?= https://netbox-events.github.io/netbox-event-operator/

.PHONY: docs
docs: ## Build the documentation site from README.md and docs/ as bin/site, for SITE_URL, and check its links.
	@$(SITE) --source hack/site --noBuildLock --destination "$(CURDIR)/bin/site" --cleanDestinationDir --baseURL "$(SITE_URL)" --logLevel error >/dev/null
	@SITE="$(CURDIR)/bin/site" SITE_URL="$(SITE_URL)" go test -count 1 ./test/site

.PHONY: docs-serve
docs-serve: ## Show the documentation site on loopback, and rebuild it when a page changes.
	@$(SITE) server --source hack/site --noBuildLock --renderToMemory

.PHONY: demo
demo: prerequisites build ## Run a demo on this machine: API server, manager, deliveries. DEMO_ONCE=1 exits by itself.
	@$(WITH_CONTROL_PLANE) DEMO_ONCE="$(DEMO_ONCE)" exec go run ./test/demo

.PHONY: demo-netbox
demo-netbox: prerequisites build ## Run a demo with a real NetBox, to log in to and change. Needs Linux. DEMO_ONCE=1 exits by itself.
	@$(WITH_CONTROL_PLANE) DEMO_ONCE="$(DEMO_ONCE)" exec go run ./test/demo -netbox

# E2E_URL and E2E_INGRESS_CLASS are the URL and class of the Ingress controller, E2E_GATEWAY_CLASS the class of a Gateway whose listener on
# E2E_GATEWAY_PORT (80) is reachable at the same URL. The image must be in the cluster.
.PHONY: e2e
e2e: export E2E_IMAGE ?= $(DEV_IMAGE)
e2e: ## Install the chart into the cluster of KUBECONFIG, and test it end to end. See make kind.
	@HELM=$$($(subst go tool,go tool -n,$(HELM))) && export HELM && set -x && go test -tags e2e -count 1 -timeout 20m -v ./test/e2e

# Builds stripped binaries of command $(2) for platforms $(1), as bin/<platform>/$(2). All settings of the machine that affect them are set here.
BINARIES = for platform in $(1); do \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform\#*/} GOAMD64=v1 GOARM64=v8.0 GOFLAGS=-trimpath \
		go build -buildvcs=false -ldflags "-s -w $(STAMP)" -o bin/$$platform/$(2) ./cmd/$(2) || exit 1; \
	done
RELEASED = -binaries "$(CURDIR)/bin" -version "$(VERSION)" -time "$$(git show -s --format=%ct HEAD)"
PACK = go run -C hack/image . $(RELEASED) -revision "$(COMMIT)"

.PHONY: image
image: ## Build the image for all PLATFORMS: bin/image (an OCI layout), bin/image.spdx.json (its SBOM). Prints the digest.
	@$(call BINARIES,$(PLATFORMS),manager)
	@$(PACK) -platforms "$(PLATFORMS)" -layout "$(CURDIR)/bin/image" -sbom "$(CURDIR)/bin/image.spdx.json"

.PHONY: image-tar
image-tar: PLATFORMS = linux/$(shell go env GOARCH)
image-tar: ## Build the image for this machine's architecture as bin/image.tar, named DEV_IMAGE, for docker load and kind.
	@$(call BINARIES,$(PLATFORMS),manager)
	@$(PACK) -platforms "$(PLATFORMS)" -tar "$(CURDIR)/bin/image.tar" -tag "$(DEV_IMAGE)"

.PHONY: image-push
image-push: ## Push the image for all PLATFORMS to a registry as IMAGE, and write its SBOM. Prints the name with the digest.
	@$(call BINARIES,$(PLATFORMS),manager)
	@$(PACK) -platforms "$(PLATFORMS)" -sbom "$(CURDIR)/bin/image.spdx.json" -push "$(IMAGE)"

.PHONY: chart-test
chart-test: ## Lint the Helm chart, run its unit tests, and validate it and config/ against the schemas of Kubernetes.
	@hack/chart-test.sh

.PHONY: chart-package
chart-package: ## Package the Helm chart with VERSION, as bin/netbox-event-operator-<version>.tgz.
	@$(HELM) package $(CHART) --version "$(VERSION:v%=%)" --app-version "$(VERSION)" --destination bin >&2

.PHONY: chart-push
chart-push: chart-package ## Push the Helm chart to CHARTS, an OCI registry. Prints the name with the digest.
	@log=$$($(HELM) push $(HELM_PUSH_FLAGS) "bin/netbox-event-operator-$(VERSION:v%=%).tgz" "$(CHARTS)" 2>&1) || { echo "$$log" >&2; exit 1; }; \
	echo "$(CHARTS:oci://%=%)/netbox-event-operator@$$(awk '$$1 == "Digest:" { print $$2 }' <<<"$$log")"

.PHONY: plugin
plugin: ## Build kubectl netbox for PLUGIN_PLATFORMS as bin/plugin: archives, their checksums and SBOM, and a manifest for krew.
	@$(call BINARIES,$(PLUGIN_PLATFORMS),kubectl-netbox)
	@go run -C hack/image ./plugin $(RELEASED) -platforms "$(PLUGIN_PLATFORMS)" -license "$(CURDIR)/LICENSE" \
		-completion "$(CURDIR)/internal/cli/kubectl_complete-netbox" -out "$(CURDIR)/bin/plugin"

.PHONY: release-notes
release-notes: ## Print the section of VERSION in CHANGELOG.md; for a version that is no release, the first section.
	@VERSION="$(VERSION)" hack/release-notes.sh

.PHONY: release-check
release-check: ## Rehearse a release against a temporary registry, and verify the pulled artifacts.
	@VERSION="$(VERSION)" hack/release-check.sh

.PHONY: kind
kind: image-tar ## Create a kind cluster with an ingress controller, the Gateway API and the image. Prints the environment of make e2e.
	@hack/kind.sh "$(CURDIR)/bin/image.tar"

.PHONY: prerequisites
prerequisites:
	@hack/prerequisites.sh git

.PHONY: clean
clean: ## Remove build outputs. The programs of the control plane stay in the user's cache.
	rm -rf bin
