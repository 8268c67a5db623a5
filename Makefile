# Two commands for a new user: `make demo` and `make test`. Both set themselves up, and are quick the second time.
PYTHON ?= python3
VENV   ?= .venv
BIN     = $(VENV)/bin
OUT    ?= runs/demo
SEEDS  ?= 2

# uv installs where there is one, pip where there is not; both take the versions of constraints.txt.
UV := $(shell command -v uv 2>/dev/null)
ifeq ($(UV),)
HOW     = pip, since there is no uv
NEWVENV = $(PYTHON) -m venv $(VENV) && $(BIN)/pip install --quiet --upgrade --constraint constraints.txt pip setuptools wheel
INSTALL = $(BIN)/pip install --quiet --constraint constraints.txt
else
HOW     = $(UV)
NEWVENV = uv venv --quiet --seed --python $(PYTHON) $(VENV) && $(INSTALL) --upgrade pip setuptools wheel
INSTALL = uv pip install --quiet --python $(BIN)/python --constraint constraints.txt
endif

# What is installed is decided by these files; when they change, it is installed again.
FILES = settings.ini setup.py pyproject.toml constraints.txt

.PHONY: demo test setup sync check notebooks pytest docs samples clean help

help:            ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:.*## /	/'

demo: $(VENV)/.package   ## make .venv, install, run the demo, print where the report is
	$(BIN)/vidlankd demo --out $(OUT) --seeds $(SEEDS)

test: setup check notebooks pytest   ## everything that must hold

setup: $(VENV)/.dev      ## .venv with the package and the dev extra, by uv where there is one

$(VENV)/.venv:
	$(PYTHON) -c 'import sys; sys.exit("Python 3.10 or newer is needed; this is " + sys.version.split()[0]) if sys.version_info < (3, 10) else None'
	@echo "installing with $(HOW)"
	$(NEWVENV)
	touch $@

# torch first, by its pinned version: a range would take a build with several gigabytes of GPU libraries on a machine without one.
# `UV_TORCH_BACKEND=cpu make setup` has uv look among PyTorch's own builds for processors.
$(VENV)/.package: $(VENV)/.venv $(FILES)
	$(INSTALL) "$$(grep -E '^torch==' constraints.txt | cut -d' ' -f1)"
	$(INSTALL) --editable .
	touch $@

$(VENV)/.dev: $(VENV)/.package
	$(INSTALL) --editable '.[dev]'
	touch $@

sync: setup              ## notebooks -> package and README
	$(BIN)/nbdev-export
	$(BIN)/python scripts/pages.py
	$(BIN)/python scripts/pictures.py
	$(BIN)/nbdev-clean
	$(BIN)/python scripts/readme.py
	$(BIN)/python scripts/house.py
	$(BIN)/python scripts/architecture.py

check: setup             ## are notebooks, package and README in step? do lint and types hold?
	$(BIN)/python scripts/in_step.py
	$(BIN)/python scripts/lines.py
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/pyright

notebooks: setup         ## run every notebook, and list the ten that took longest
	OMP_NUM_THREADS=1 $(BIN)/python scripts/notebooks.py

# The order is that of tests/conftest.py.
pytest: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 10 tests

docs: setup              ## the course and the API as a site, _site/html/index.html, every link followed
	OMP_NUM_THREADS=1 $(BIN)/sphinx-build -W --keep-going -q -c docs -d _site/doctrees nbs _site/html

samples: setup           ## make data_samples/ again
	$(BIN)/python scripts/samples.py

clean:
	rm -rf build dist *.egg-info runs nbs/api _site
