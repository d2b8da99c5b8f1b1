# Everything that a person or a machine runs here. `make help` lists it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
ONLY ?=
ARGS ?=
JOBS ?= 3

unexport PYTHONDONTWRITEBYTECODE # some machines set it; every process of the tests would compile all its modules anew

.DEFAULT_GOAL := help
.PHONY: help venv demo up test test-all check lint format types layers openapi openapi-check client client-check docs docs-check dashboards site faults fuzz bench e2e pythons lock licences sbom audit clean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(STAMP) ## make the environment in .venv (again only when the dependencies change)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Undersong needs Python 3.11 or newer: make PYTHON=python3.11 venv")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@find shared -name "*.nb[ic]" -delete # kernels that were compiled under another name
	$(BIN)/python -m undersong.shared.kernels
	@touch $@

demo: venv ## the whole platform on this machine: four hospitals train together (ARGS=--stay keeps it open)
	$(BIN)/undersong demo $(ARGS)

up: venv ## the platform on this machine, until Ctrl-C
	$(BIN)/undersong up $(ARGS)

# More workers than the two processors of a small machine: many tests wait for processes.
PYTEST := $(BIN)/pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test: venv ## the tests that need no container engine, with a part of the examples (ARGS=... for pytest)
	$(PYTEST) -m 'not docker and not exhaustive' $(ARGS)

test-all: test ## make test, then what it leaves out: every example of each property, and whole tables of cases
	UNDERSONG_TEST_ALL=1 $(PYTEST) -m 'not docker and (exhaustive or hypothesis)' $(ARGS)

check: venv lint types layers openapi-check client-check docs-check ## style, types, layers, and generated files without drift

lint: venv ## ruff, both as linter and as formatter; no engine named outside its folder, no listed phrase
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python deploy/wording.py

format: venv ## format the code and apply ruff's safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: venv ## mypy, strict
	$(BIN)/mypy

layers: venv ## import contracts: services stand apart, pure parts stay pure
	$(BIN)/lint-imports

openapi: venv ## write docs/openapi/<service>.json
	$(BIN)/python -m undersong.openapi docs/openapi

openapi-check: venv ## fail when docs/openapi differs from what the services offer
	$(BIN)/python -m undersong.openapi docs/openapi --check

client: venv ## write the sync client from the async one
	$(BIN)/python -m undersong.unasync

client-check: venv ## fail when the sync client is not what follows from the async one
	$(BIN)/python -m undersong.unasync --check

docs: venv ## write docs/reference/<page>.md from models, settings, parsers and metrics
	$(BIN)/python -m undersong.reference docs/reference

dashboards: venv ## write deploy/grafana/undersong.json from deploy/dashboards.py
	$(BIN)/python deploy/dashboards.py

docs-check: venv ## fail when docs/reference differs from the code
	$(BIN)/python -m undersong.reference docs/reference --check

fuzz: venv ## hostile input at length: some 30,000 requests to all services together (ARGS=... for pytest)
	UNDERSONG_FUZZ_EXAMPLES=60 UNDERSONG_FUZZ_SHARE=1 $(BIN)/pytest -s tests/hostile/test_openapi_fuzz.py tests/hostile/test_parsers.py --timeout 3600 $(ARGS)

faults: venv ## every fault at every step, for real (two hours; ARGS="--minutes 20" adds to earlier runs); writes docs/operations/fault-matrix.md
	UNDERSONG_CONTROLS=1 $(BIN)/pytest tests/simulation/test_fault_matrix.py -k planted
	$(BIN)/python -m tests.simulation.matrix $(ARGS)

bench: venv ## measure (ONLY=<group> for one group); writes build/bench/<group>.json
	$(BIN)/python -m tests.benchmarks $(ONLY)

e2e: venv ## the containers: docker compose up, and a job through the edge (needs Docker)
	$(BIN)/pytest -m docker tests/e2e tests/services/agent $(ARGS)

pythons: venv ## tests under every supported Python that is installed here (ARGS=... for pytest, ARGS=tests/packaging for short)
	$(BIN)/python deploy/pythons.py $(ARGS)

TOOLS := build/tools
LOCKED := coordinator aggregator keys registry agent torch-cuda torch-cpu build

$(TOOLS)/.installed: deploy/tools.txt
	test -x $(TOOLS)/bin/python || $(PYTHON) -m venv $(TOOLS)
	$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check -r deploy/tools.txt
	@touch $@

lock: venv $(TOOLS)/.installed ## write deploy/locks from pyproject.toml and constraints.txt (ARGS=<PyTorch's CPU wheel>)
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(BIN)/python deploy/lock.py $(ARGS)

site: $(TOOLS)/.installed ## the documentation as a website in build/site/html; fails on a link that leads nowhere
	@rm -rf build/site && mkdir -p build/site/source
	@for each in README.md CONTRIBUTING.md CHANGELOG.md LICENSE docs examples; do ln -s "$(CURDIR)/$$each" build/site/source/; done
	NO_MKDOCS_2_WARNING=1 $(TOOLS)/bin/mkdocs build --strict

licences: venv ## write docs/licences.md; fails on a licence that is not allowed
	$(BIN)/python deploy/licences.py

sbom: $(TOOLS)/.installed ## a bill of materials (CycloneDX) for each image, in build/sbom
	@mkdir -p build/sbom
	for name in $(LOCKED); do $(TOOLS)/bin/cyclonedx-py requirements deploy/locks/$$name.txt --pyproject pyproject.toml \
	  --output-reproducible --output-file build/sbom/$$name.cdx.json || exit 1; done

audit: $(TOOLS)/.installed ## look the locked packages up among known vulnerabilities
	PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH" $(PYTHON) deploy/audit.py

clean: ## remove the environment and everything built
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .schemathesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
