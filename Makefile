# `make demo` runs the product on loopback, `make test` runs every check. Both set up what they need.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
.DEFAULT_GOAL := help
# The tests start hundreds of Python processes. Each would compile every module again.
unexport PYTHONDONTWRITEBYTECODE

help: ## list the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Console Gateway needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock pyproject.toml $(VENV)/.runtime | page
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

PAGE := gateway/edge/consoles/page

page: $(PAGE)/dist/index.html ## build the page of live consoles

$(PAGE)/dist/index.html: $(wildcard $(PAGE)/*.js* $(PAGE)/*.sh $(PAGE)/*.lock $(PAGE)/src/* $(PAGE)/src/player/* $(PAGE)/src/people/*) | $(BIN)/python
	sh $(PAGE)/build.sh $(abspath $(BIN)/python)

demo: $(VENV)/.runtime page ## run the whole product on loopback until Ctrl-C
	@$(BIN)/python -m gateway demo

SECRETS := deploy/compose/secrets
CLOUD_PASSWORD ?= correct horse battery staple

compose-secrets: $(addprefix $(SECRETS)/,seal-key audit-signing-key redis-password redis-operator-password valkey-users iam-password grafana-admin-password) ## the secrets that docker-compose.yml mounts; existing ones stay
	@chmod 644 $^

# Only the owner can enter the directory. A container reads the one file that is mounted into it.
$(SECRETS):
	@mkdir -p -m 700 $@

$(SECRETS)/seal-key: | $(SECRETS)
	openssl rand -base64 32 > $@

$(SECRETS)/audit-signing-key: | $(SECRETS)
	openssl genpkey -algorithm ed25519 > $@

$(addprefix $(SECRETS)/,redis-password redis-operator-password grafana-admin-password): | $(SECRETS)
	openssl rand -hex 24 > $@

SHA256 = $$(tr -d '\n' < $(1) | openssl dgst -sha256 -r | cut -c -64)

# The operator account inspects the server but reads no key. It may delete the one key that the runbook names.
$(SECRETS)/valkey-users: $(SECRETS)/redis-password $(SECRETS)/redis-operator-password
	@rm -f $@  # a new file: running containers keep the old one
	printf 'user %s\n' 'default off' \
	  "gateway on #$(call SHA256,$(SECRETS)/redis-password) ~gateway:* &gateway:* +@all -@admin -@dangerous +info" \
	  "operator on #$(call SHA256,$(SECRETS)/redis-operator-password) +ping +info +config|get +client|list +slowlog|get \
+latency|doctor +latency|latest +latency|history (~gateway:{overrides}:overrides +del)" > $@

$(SECRETS)/iam-password: | $(SECRETS)
	@echo 'the password of the cloud > $@'; echo '$(CLOUD_PASSWORD)' > $@

.DELETE_ON_ERROR:
.PHONY: compose-secrets

format: $(VENV)/.dev ## format and fix with ruff
	$(BIN)/ruff check --quiet --fix gateway tests deploy
	$(BIN)/ruff format gateway tests deploy

lint: $(VENV)/.dev ## format, lint, types, import contracts
	$(BIN)/ruff format --check gateway tests deploy
	$(BIN)/ruff check gateway tests deploy
	$(BIN)/mypy
	$(BIN)/lint-imports

# The end-to-end tests mostly wait: four of them share two cores well.
WORKERS ?= 4
# tests/conftest.py orders the files: the slowest start first.
PYTEST := $(BIN)/python -m pytest --dist loadfile --no-loadscope-reorder

unit: $(VENV)/.dev ## lint, unit and tidy tests: the fast loop
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint fast-tests

fast-tests: $(VENV)/.dev
	$(PYTEST) -n 2 tests/unit tests/tidy

e2e: $(VENV)/.dev ## the tests with real processes
	@.ci/system-packages
	$(PYTEST) -n $(WORKERS) tests/e2e

# The tests wait now and then: lint works beside them.
test: $(VENV)/.dev ## every check
	@$(MAKE) --no-print-directory --jobs=2 all-tests lint

all-tests: $(VENV)/.dev
	@.ci/system-packages
	$(PYTEST) -n $(WORKERS) tests || { [ $$? = 1 ] && $(BIN)/python -m tests.again; }

bench: $(VENV)/.dev ## side-by-side measurements, printed, never asserted
	@-$(ENVOY)
	$(BIN)/python -m tests.benchmarks

bench-hits: $(VENV)/.dev ## the cache-hit path beside Envoy, HAProxy and aiohttp, 4 minutes
	@-$(ENVOY)
	$(BIN)/python -m tests.benchmarks.side_by_side hits

bench-misses: $(VENV)/.dev ## the forward path beside the same, 3 minutes
	@-$(ENVOY)
	$(BIN)/python -m tests.benchmarks.side_by_side misses

# Without it, the benchmarks name what they do not measure.
ENVOY := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --editable ".[bench]"

pictures: $(VENV)/.dev page ## take the pictures of the tutorial from a demo, in Chromium
	$(BIN)/python -m tests.support.tutorial_pictures

soak: $(VENV)/.dev ## 20 minutes of mixed load with faults, and a report of what grew
	$(BIN)/python -m tests.soak

docs: $(VENV)/.dev ## write the generated documents
	$(BIN)/python -m tests.tidy.pages
	$(BIN)/python deploy/grafana/dashboards.py
	$(BIN)/python deploy/kubernetes/prometheusrule.py > deploy/kubernetes/monitoring/prometheusrule.yaml

release: $(VENV)/.dev ## wheel, SBOM, kustomize bundle and checksums in dist/; publishes nothing
	$(BIN)/python deploy/release.py dist

COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate

lock: $(VENV)/.dev ## update the lock files from pyproject.toml
	$(BIN)/python -m pip install --quiet uv
	$(COMPILE) pyproject.toml -o requirements.lock
	$(COMPILE) --extra dev -c requirements.lock pyproject.toml -o requirements-dev.lock
	$(COMPILE) --extra keyring -c requirements-dev.lock pyproject.toml -o requirements-keyring.lock
	$(COMPILE) --extra otel -c requirements-dev.lock pyproject.toml -o deploy/requirements.lock

.PHONY: help page demo format lint unit fast-tests e2e test all-tests bench bench-hits bench-misses pictures soak docs release lock
