# Everything runs in .venv, made by `python3 -m venv` from a hash-pinned list and the package index this machine is set to.
#   make demo   the graphs on cascades, compared with always-small and always-large (GRAPH=support, plan_execute, code_repair or extraction for one of them)
#   make test   the tests              make lint   formatter, linter, type checkers
PYTHON ?= python3
VENV ?= .venv
LOCK ?= requirements-dev.txt
SELECT ?= not slow
JOBS ?= 2
ARGS ?=
GRAPH ?=
DATA ?=
PICTURE ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
READY := $(VENV)/.ready
RECORDED = benchmarks/replay_steps.py benchmarks/judge.py benchmarks/recorded.py
LONG = benchmarks/agents.py benchmarks/crash.py
SCRIPTS = $(filter-out $(RECORDED) $(LONG),$(wildcard benchmarks/[a-z]*.py))

.PHONY: help setup demo test lint format docs bench agents test-lowest phoenix phoenix-test mlflow-test build lock clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,3s/^# *//p' Makefile

setup: $(READY)

$(VENV)/.locked: $(LOCK)
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-deps --require-hashes -r $(LOCK)
	touch $@

$(READY): $(VENV)/.locked pyproject.toml
	$(PIP) install -q --no-deps --no-build-isolation -e .
	$(PIP) check
	touch $@

demo: $(READY)
	$(BIN)/cascade-agent demo $(if $(GRAPH),--graph $(GRAPH)) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist loadgroup -m "$(SELECT)" $(ARGS)

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

# The site of the documentation in build/site, links checked; its code blocks run in the tests.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q -d build/site

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The short scripts in benchmarks/; those that need recorded data run with `make bench DATA=path`.
bench: $(READY)
	@set -e; for script in $(SCRIPTS); do echo "== $$script"; $(BIN)/python $$script; done
	@if [ -n "$(DATA)" ]; then \
	    $(BIN)/python benchmarks/replay_steps.py --data $(DATA) $(ARGS); \
	    $(BIN)/python benchmarks/judge.py --train $(DATA) --test $(DATA); fi

# Does a cascade pay with your models? `make agents ARGS="--small M --large M"`; without models a simulation. The package
# of the tasks pins half of what an agent could use, so it stands apart and comes without its dependencies.
agents: $(READY) .venv-bench/.ready
	PYTHONPATH=.venv-bench $(BIN)/python benchmarks/agents.py $(ARGS)

.venv-bench/.ready: $(READY)
	rm -rf $(@D)
	$(PIP) install -q --no-deps --target $(@D) bfcl-eval==2026.3.23 mpmath==1.4.1
	touch $@

# The same tests on the lowest versions that pyproject.toml allows.
test-lowest:
	$(MAKE) test VENV=.venv-lowest LOCK=requirements-lowest.txt

# Backends of traces, each from an environment of its own: tools beside us, about 850 MB each, never dependencies.
BACKENDS := phoenix mlflow
.venv-phoenix/.ready: TOOL = arize-phoenix==20.26.1
.venv-mlflow/.ready: TOOL = mlflow==3.17.0
$(BACKENDS:%=.venv-%/.ready):
	rm -rf $(@D)
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -m pip --disable-pip-version-check --no-input install -q "$(TOOL)" "httpx<1"
	touch $@

# Phoenix on 127.0.0.1:6006; then `.venv/bin/python examples/observability/send_demo.py` in another terminal.
phoenix: .venv-phoenix/.ready
	.venv-phoenix/bin/python examples/observability/phoenix_server.py $(ARGS)

# The demo sent to the real thing and read back over its API; PICTURE=docs/phoenix.png makes that picture anew.
phoenix-test: $(READY) .venv-phoenix/.ready
	PHOENIX_PICTURE=$(PICTURE) $(BIN)/python -m pytest -m phoenix $(ARGS)

mlflow-test: $(READY) .venv-mlflow/.ready
	$(BIN)/python -m pytest -m mlflow $(ARGS)

build: $(READY)
	$(BIN)/python -m build --no-isolation

# Renew both lists from pyproject.toml. They hold every platform's hashes and name no host.
LOCKER := .venv-lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --upgrade \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" --extra dev
lock: .venv-lock/bin/uv
	$(LOCKER) --extra interop --output-file requirements-dev.txt pyproject.toml
	$(LOCKER) --resolution lowest-direct --output-file requirements-lowest.txt pyproject.toml

.venv-lock/bin/uv:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install -q uv

clean:
	rm -rf .venv .venv-lowest .venv-lock .venv-phoenix .venv-mlflow .venv-bench build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .cascade
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
