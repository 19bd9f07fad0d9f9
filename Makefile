# Every command of the project. The two that a fresh clone needs: `make up` and `make test`.
PYTHON ?= python3
# With the registry's options where another build is wanted, as in TORCH="torch==2.13.0 --index-url ...".
TORCH ?= torch==2.13.0
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# A process for each core, but no more than memory is there for. In one: ARGS="-n 0".
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal

.DEFAULT_GOAL := help
.PHONY: help up test test-all check clients llama-cpp chaos bench stack-test model scorer clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

up: .venv/.dev ## install what is needed and run everything; ARGS="--port 8001" for flags
	@exec $(BIN)/baton up $(ARGS)

test: check clients ## checks and the fast tests
	$(PYTEST) -m "not slow" $(ARGS)

test-all: check clients ## checks and all tests
	$(PYTEST) $(ARGS)

check: .venv/.dev ## format, lint, types and import contracts
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/mypy && $(BIN)/lint-imports

clients: .clients/python/.made .clients/node/.made ## clients of others, which tests run; without them these are skipped

llama-cpp: .clients/llama_cpp/.made ## llama.cpp's server, which tests put behind the service; builds for minutes

chaos: .venv/.dev ## jobs under faults, compared token by token; JOBS=1000 SEED=7
	$(BIN)/python -m tests.chaos.run $(ARGS)

bench: .venv/.dev ## measure, and write bench/RESULTS.md
	$(BIN)/python -m bench.run $(ARGS)

stack-test: ## build and try the container stack; skipped where there is no container engine
	bash deploy/stack_test.sh

model: .venv/.dev ## train the bundled model again
	$(BIN)/python -m models.recipe.train $(ARGS)

scorer: .venv/.dev ## train the example scorer again; after the bundled model has changed
	@ratings=$$(mktemp) && $(BIN)/python -m models.scorer_recipe.ratings $$ratings && \
	OMP_NUM_THREADS=1 $(BIN)/baton scorer train --data $$ratings --name example --scorers-dir models/scorers; rm -f $$ratings

clean: ## remove the environment and every cache; data/ and logs/ stay
	rm -rf .venv .clients build dist *.egg-info .*_cache .hypothesis .coverage

# Stamps: an installation is made once, and again when pyproject.toml has changed.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Baton needs Python 3.11 or newer, and %s is %d.%d. Example: make up PYTHON=python3.12" % (sys.executable, *sys.version_info[:2]))'
	$(PYTHON) -m venv .venv && touch $@

.venv/.dev: .venv/.made pyproject.toml
	$(PIP) $(TORCH) && $(PIP) -e '.[dev]' && touch $@

# What these need is not what the service needs. A failure leaves no stamp, and the next run tries again.
.clients/python/.made: tests/e2e/clients/requirements.txt
	@echo "Installing the Python clients that tests run ..."
	@$(PYTHON) -m venv --clear .clients/python && \
	.clients/python/bin/python -m pip install -qq --disable-pip-version-check --retries 1 -r $< && \
	touch $@ || echo "They could not be installed: their tests are skipped." >&2

.clients/llama_cpp/.made: tests/e2e/llama_cpp/requirements.txt
	@$(PYTHON) -m venv --clear .clients/llama_cpp && \
	.clients/llama_cpp/bin/python -m pip install -q -r $< && touch $@

.clients/node/.made: tests/e2e/clients/package.json
	@echo "Installing the Node clients that tests run ..."
	@mkdir -p .clients/node && cp $< .clients/node/ && \
	npm install --prefix .clients/node --silent --no-audit --no-fund --fetch-retries 1 && \
	touch $@ || echo "They could not be installed: their tests are skipped." >&2
