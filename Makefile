# Two commands to begin with: `make demo` (see it work) and `make test`. Each builds .venv first.
PYTHON ?= python3
# Tests at once. More than a small machine has processors: many tests wait for a socket or a program.
PROCESSES ?= 3
PIP = .venv/bin/pip --disable-pip-version-check --quiet install --constraint constraints.txt
# The files with tests that run alone, and those with examples: nothing else is imported for them.
ALONE = $(shell grep -rl --include='*.py' 'pytest.mark.alone' tests)
EXAMPLES = $(shell grep -rl --include='*.py' '>>> ' dicomnode trainer)
CODE = dicomnode trainer tests docs $(wildcard bench migrations)
# The tests start hundreds of processes of ours. Without stored byte code each would compile the whole package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo serve test test-faults soak check bench format wheel clean
demo: .venv/.node  ## two thick series in over DICOM, two thin ones out to a small PACS, in this terminal
	.venv/bin/dicomnode demo

serve: .venv/.node  ## the node and its page with the embedded defaults: this machine only, data in ./dicomnode-data
	.venv/bin/dicomnode serve --web

test: .venv/.developer  ## every test, then the examples in the docstrings; reasons for skips are printed
	.venv/bin/pytest -q -rs -m "not alone" -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
	.venv/bin/pytest -q -rs -m alone $(ALONE)
	.venv/bin/pytest -q --doctest-modules $(EXAMPLES)

test-faults: .venv/.developer  ## every fault of docs/protocol.md, fuzz and histories at length, and ten planted bugs
	.venv/bin/pytest -q -rs -m faults --thorough
	.venv/bin/python tests/faults/plant.py

soak: .venv/.developer  ## fifty thousand instances through one service: does its memory grow?
	.venv/bin/python bench/soak.py

check: .venv/.developer  ## format, lint, types, architecture, tidiness
	.venv/bin/ruff format --check $(CODE)
	.venv/bin/ruff check $(CODE)
	.venv/bin/mypy $(CODE)
	.venv/bin/lint-imports
	.venv/bin/pytest -q tests/test_tidy.py

bench: .venv/.developer  ## every published number, measured again
	set -e; for script in bench/*.py; do echo "== $$script"; .venv/bin/python "$$script"; done

format: .venv/.developer
	.venv/bin/ruff format $(CODE)
	.venv/bin/ruff check --fix $(CODE)

wheel: .venv/.developer
	.venv/bin/python -m build --wheel

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# torch first and by its exact version: it is by far the largest part, and must not be resolved twice.
.venv/.torch: constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	touch $@

.venv/.node: .venv/.torch pyproject.toml
	$(PIP) --editable .
	touch $@

.venv/.developer: .venv/.node
	$(PIP) --editable '.[train,test,check,cluster]'
	touch $@
