# Everything from a fresh checkout: needs git, make, python3 >= 3.11 and the package registries.
#
#   make train                                    the demonstration run
#   make train ARGS="--method byol --mix unmix"   another one
#
# PYTHON=python3.12 names the interpreter the environment is made from.

VENV := .venv
PY := $(VENV)/bin/python
ARGS :=

.DEFAULT_GOAL := help
.PHONY: help install ffcv train results test faults docs lint lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

install:  ## create .venv and install what is missing (seconds when nothing is)
	@PYTHON='$(PYTHON)' sh tools/install.sh

ffcv:  ## try again to install FFCV, after a failure
	@rm -f .venv/.unmix/ffcv .venv/.unmix/ffcv-failed
	@PYTHON='$(PYTHON)' sh tools/install.sh

train: install  ## learn from the embedded photographs and score the result; ARGS go to train.py
	@$(PY) tools/demo.py $(ARGS)

results: install  ## does a mixture help? one seed of SimCLR with and without Un-Mix; DATA=FOLDER of CIFAR-10
	PYTHON=$(PY) EPOCHS=30 SEEDS=0 STAGES=pair OUTPUT=runs/cifar10-10k-short tools/results_host.sh

# Examples are not looked for in fault tests, which are programs, nor where Triton must be installed.
test: install  ## run the test suite and the docstrings' examples; ARGS go to pytest
	@for word in $(ARGS); do \
		case $$word in -*) continue ;; *.py|*.py::*|tests/*) ;; *) continue ;; esac; \
		[ -e "$${word%%::*}" ] || { echo "make test: there is no $${word%%::*}; the tests are in" tests/*/ >&2; exit 2; }; \
	done
	$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --doctest-modules --ignore=tests/faults \
		--ignore=tests/support --ignore=pipelines/augment/triton_kernels.py $(ARGS)

faults: install  ## kill, starve, damage and hang runs (minutes); ARGS go to pytest
	$(PY) -m pytest -o "pythonpath=tests/support tests/faults" tests/faults/*.py $(ARGS)

docs: install  ## build the pages of docs/ into site/, to be opened from disk: site/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

lint: install  ## check formatting, rules, imports between rooms, types and the Dockerfile
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(VENV)/bin/lint-imports --no-logo --no-cache
	$(PY) -m mypy
	$(VENV)/bin/hadolint Dockerfile

# The opponents of the loader benchmark run with the torch of .venv.
lock: install  ## pin requirements.txt and requirements-bench.txt anew from pyproject.toml
	$(PY) -m uv pip compile pyproject.toml --universal --python-version 3.11 --all-extras \
		--generate-hashes --no-header --no-annotate --no-emit-package ffcv -o requirements.txt
	printf 'torch\ntorchvision\n' | $(PY) -m uv pip compile --group bench --universal --python-version 3.11 \
		--generate-hashes --no-header --no-annotate --excludes /dev/stdin -o requirements-bench.txt

clean:  ## remove .venv, site/ and tool caches; runs/, data and caches elsewhere stay
	rm -rf .venv .coverage site .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
	find pipelines models tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
