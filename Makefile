# Works with GNU make 3.81 (macOS) and later. Tools are pinned in modules of their own under hack/ and run with `go tool`, which builds
# each once and keeps it in Go's cache.
SHELL = bash

CONTROLLER_GEN = go tool -modfile=hack/tools/go.mod controller-gen
GOLANGCI_LINT = go tool -modfile=hack/tools/golangci-lint/go.mod golangci-lint

MODULES = . hack/tools hack/tools/golangci-lint hack/kubernetes
GENERATED = api/v1alpha1/zz_generated.deepcopy.go api/v1alpha1/applyconfiguration config/crd/bases config/rbac/role.yaml

# Starts a recipe that needs kube-apiserver, etcd and kubectl.
WITH_CONTROL_PLANE = assets=$$(hack/control-plane.sh) && export KUBEBUILDER_ASSETS="$$assets" &&

# The API server drops null from a map whose values are not nullable, and no marker of controller-gen says so of a map's values.
ALLOW_NULL_JSON = awk '{ print } sub(/description: JSON is any JSON value.*/, "nullable: true")' $(1) >$(1).new && mv $(1).new $(1)

FUZZTIME ?= 20s

.PHONY: help
help: ## Show this help.
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

.PHONY: build
build: ## Build bin/manager.
	CGO_ENABLED=0 go build -trimpath -o bin/manager ./cmd/manager

.PHONY: generate
generate: ## Regenerate the deep copies, apply configurations, CRDs and the RBAC role.
	rm -rf api/v1alpha1/applyconfiguration config/crd/bases # so that nothing stays of a kind that is gone
	$(CONTROLLER_GEN) object:headerFile=hack/boilerplate.go.txt applyconfiguration:headerFile=hack/boilerplate.go.txt \
		crd paths="./api/..." output:crd:artifacts:config=config/crd/bases
	$(call ALLOW_NULL_JSON,config/crd/bases/netbox-events.io_netboxevents.yaml)
	$(call ALLOW_NULL_JSON,config/crd/bases/netbox-events.io_netboxeventrules.yaml)
	$(CONTROLLER_GEN) rbac:roleName=manager-role paths="./internal/..." output:rbac:artifacts:config=config/rbac

.PHONY: verify
verify: generate ## Fail if generated files or go.mod files are not what is committed.
	@for module in $(MODULES); do \
		(cd $$module && go mod tidy -diff) || { echo "go.mod in $$module is not tidy: run go mod tidy there" >&2; exit 1; }; \
	done
	@changed=$$(git status --porcelain -- $(GENERATED)); if [ -n "$$changed" ]; then \
		git --no-pager diff HEAD -- $(GENERATED); echo "$$changed"; \
		echo "generated files differ from what is committed: run make generate and commit" >&2; exit 1; \
	fi

.PHONY: lint
lint: ## Run golangci-lint, and shellcheck where it is installed.
	$(GOLANGCI_LINT) run
	@if command -v shellcheck >/dev/null; then shellcheck hack/*.sh .ci/run; fi

.PHONY: fmt
fmt: ## Format the Go code.
	$(GOLANGCI_LINT) fmt

# The race detector needs a C compiler, without which Go turns cgo off.
.PHONY: test
test: ## Run all tests against a real API server.
	@$(WITH_CONTROL_PLANE) \
	if [ "$$(go env CGO_ENABLED)" = 1 ]; then race=-race; else echo "no C compiler: testing without the race detector"; fi; \
	set -x; go test $$race -timeout 20m ./...

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (20s).
	@targets=$$(grep -rE '^func Fuzz[A-Za-z0-9_]*\(' --include='*_test.go' . | sed -E 's|/[^/]*:func (Fuzz[A-Za-z0-9_]*).*|:\1|'); \
	[ -n "$$targets" ] || { echo "no fuzz target found" >&2; exit 1; }; \
	failed=; for target in $$targets; do \
		echo "fuzzing $$target for $(FUZZTIME)"; \
		go test -run='^$$' -fuzz="^$${target#*:}$$" -fuzztime=$(FUZZTIME) -fuzzminimizetime=1s "$${target%:*}" || failed="$$failed $$target"; \
	done; \
	[ -z "$$failed" ] || { echo "findings in:$$failed" >&2; exit 1; }

.PHONY: bench
bench: build ## Compare the receiver with bare API clients on a real API server.
	@$(WITH_CONTROL_PLANE) exec go run ./test/bench

.PHONY: demo
demo: prerequisites build ## Try it on this machine: API server, manager, deliveries. DEMO_ONCE=1 ends by itself.
	@$(WITH_CONTROL_PLANE) DEMO_ONCE="$(DEMO_ONCE)" exec go run ./test/demo

.PHONY: prerequisites
prerequisites:
	@hack/prerequisites.sh git

.PHONY: clean
clean: ## Remove what was built here. The control plane's programs stay in the user's cache.
	rm -rf bin
