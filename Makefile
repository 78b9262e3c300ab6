# Everything a contributor runs. Each target sets up what it needs: a clone, Python 3.11 or newer and make are enough.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PRECIOUS: .venv/.with-%
.PHONY: help demo test test-all fuzz lint format types docs bench compat hooks clean

JOBS ?= 2
ARGS ?=
BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -q -c constraints.txt

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: .venv/.with-demo ## learn a force field from forces and run dynamics on it (ARGS=--quick for a look)
	$(BIN)/python examples/force_field.py $(ARGS)

test: .venv/.with-test,demo ## run the suite without the long sweep (ARGS= goes to pytest)
	$(BIN)/python -m pytest -n $(JOBS) -m "not long" $(ARGS)

test-all: ## run the whole suite on each of Python 3.11, 3.12 and 3.13 that is here
	JOBS=$(JOBS) tools/test_all.sh $(ARGS)

fuzz: .venv/.with-test ## compare random programs with Linen (ARGS="--seconds 600 --seed 0")
	$(BIN)/python -m tests.fuzz $(ARGS)

lint: .venv/.with-lint ## check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .

format: .venv/.with-lint ## put style and formatting right where ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: .venv/.with-types,demo ## check types with pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright

docs: .venv/.with-docs ## build the documentation, running all of its code, into docs/_build/html
	JUPYTER_PREFER_ENV_PATH=1 $(BIN)/python -m sphinx -n -W --keep-going -b html docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

bench: .venv/.with-bench ## measure liftax beside plain JAX and its peers (ARGS= goes to the benchmarks)
	$(BIN)/python -m benchmarks.run $(ARGS)

compat: .venv/.with-test ## run published packages built on Linen on Flax and on liftax, and compare (ARGS= names some)
	$(BIN)/python -m venv --clear .cache/compat
	$(BIN)/python -c "import sysconfig; print(sysconfig.get_path('purelib'))" > .cache/compat/paths
	cp .cache/compat/paths "$$(.cache/compat/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/shared.pth"
	.cache/compat/bin/python -m pip install --disable-pip-version-check -q -c constraints.txt -r tests/compat/requirements.txt
	.cache/compat/bin/python -m pip install --disable-pip-version-check -q --no-deps apax==0.14.0 jax-md==0.2.29
	PYTHONPATH=src .cache/compat/bin/python -m tests.compat $(ARGS)

hooks: .venv/.with-dev .venv/.with-lint ## check every commit before it is made
	$(BIN)/pre-commit install

clean: ## remove environments, caches and built pages
	rm -rf .venv .venvs .cache docs/_build examples/out .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# An environment with extras: `.venv/.with-test,demo` stands for `pip install -e .[test,demo]`. The stamps make a second
# run instant and are renewed when a requirement changes.
.venv/.with-%: .venv/.made pyproject.toml constraints.txt
	@echo "Installing liftax[$*] into .venv"
	@$(PIP_INSTALL) -e '.[$*]'
	@touch '$@'

.venv/.made:
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then python=$$(tools/pythons.sh --default); fi; \
	"$$python" -c 'import sys; sys.exit(f"liftax needs Python 3.11 or newer; {sys.executable} is {sys.version}" \
	  if sys.version_info < (3, 11) else 0)'; \
	echo "Making .venv with $$python"; \
	"$$python" -m venv .venv
	@touch $@
