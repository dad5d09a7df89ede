# Every target makes what it needs (a virtual environment with the tested versions) and is quick the second time.
.DEFAULT_GOAL := help
PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Every run starts a dozen Python processes; without compiled files each would spend seconds compiling its imports.
unexport PYTHONDONTWRITEBYTECODE

.NOTPARALLEL:
.PHONY: help demo test test-together test-alone test-huggingface quick fuzz check bench promises ui format lock clean

help: ## show this
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(READY) ## from a web site to an evaluated model, about three minutes
	$(BIN)/clipline run quickstart

test: test-together test-alone test-huggingface ## run the tests: what it can in WORKERS (2) processes, the rest in one

# What takes both cores (Ray), waits for deadlines or measures seconds: beside other tests it may fail.
ALONE := ray or alone

# Files go out in their own order: by default those of few tests, which take minutes, would come last, one process alone.
# If a process falls, that ends the run: xdist hands its files on only in part, and would wait for the rest for ever.
test-together: $(READY)
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart 0 -m "not ($(ALONE)) and not gpu and not slow"

# A process of xdist's may fall with Ray; another goes on, in the same order, and tries again what fell if it may.
test-alone: $(READY)
	$(BIN)/pytest -n 1 --dist load -m "($(ALONE)) and not gpu and not slow"

test-huggingface: $(READY)
	PYTHONPATH=$(CURDIR)/$(VENV)/huggingface HF_HUB_OFFLINE=1 $(BIN)/pytest -m huggingface tests/infra tests/training/model

quick: $(READY) ## run the tests that take no Ray, no bucket and no seconds
	RAY_ADDRESS=127.0.0.1:1 CLIPLINE_EXAMPLES=few \
		$(BIN)/pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0 -m "not ray and not s3 and not long and not gpu and not slow"

fuzz: $(READY) ## run the property tests with random examples, and CLIPLINE_FUZZ (15) times as many for the parsers
	CLIPLINE_EXAMPLES=random CLIPLINE_FUZZ=$${CLIPLINE_FUZZ:-15} $(BIN)/pytest -m "hypothesis and not gpu and not slow" $(TESTS)

check: $(READY) ## lint, types, layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY) ## downloads against img2dataset, on the same work; needs nginx, takes about ten minutes
	$(BIN)/python -m tests.benchmarks.download

promises: $(READY) ## measure every figure that README and docs promise; ARGS=NAME measures some
	$(BIN)/python -m tests.benchmarks.promises $(ARGS)

ui: $(READY) ## open MLflow on the runs made here
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --backend-store-uri sqlite:///$(CURDIR)/.clipline/mlflow.db --workers 1 --port 5000

format: $(READY) ## format the code
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

lock: $(READY) ## write constraints.txt anew from pyproject.toml, keeping what is pinned there
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --all-extras --no-annotate --no-header \
		--constraint constraints.txt --no-emit-index-url pyproject.toml --output-file $(VENV)/constraints.txt
	(echo "# The versions clipline is tested with. Made by: make lock"; cat $(VENV)/constraints.txt) > constraints.txt

sbom: $(READY) ## write sbom.json, constraints.txt as CycloneDX
	$(BIN)/uv tool run --from cyclonedx-bom==7.5.0 cyclonedx-py requirements --output-reproducible constraints.txt -o sbom.json

audit: $(READY) ## ask OSV for known vulnerabilities of what constraints.txt pins; needs the internet
	$(BIN)/uv tool run --from pip-audit==2.10.1 pip-audit -r constraints.txt --no-deps --disable-pip -s osv

clean: ## remove the environment (results stay)
	rm -rf $(VENV)

# uv installs the 7 GB of wheels in well under a minute where pip takes several. The stamp is written last, so an
# interrupted installation is repeated.
$(READY): pyproject.toml constraints.txt tests/huggingface.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv>=0.6'
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --group dev --editable '.[all]'
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --target $(VENV)/huggingface --no-deps -r tests/huggingface.txt
	touch $@
