# Twinstar's commands. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules
# ONNX Runtime reports its use to its maker unless told not to.
export ORT_DISABLE_TELEMETRY := 1

VENV ?= .venv
PYTHON ?=
# Further options of pip for torch alone, such as an index or a folder that has a CPU build.
TORCH_OPTIONS ?=

py := $(VENV)/bin/python
stamp := $(VENV)/.installed
project := --editable ".[train,study,dev]"
torch := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)

.PHONY: help demo serve test check format bench profile study

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(stamp) ## raw purchase logs to scored requests, on a few hundred households
	@$(py) -m training demo

serve: $(stamp) ## the service, with what `make demo` published, until Ctrl-C
	@$(py) -m service

test: $(stamp) ## the tests
	@$(py) -m pytest

check: $(stamp) ## format, lint, types and import direction
	@$(py) -m ruff format --check .
	@$(py) -m ruff check .
	@$(py) -m mypy
	@$(VENV)/bin/lint-imports

format: $(stamp) ## format the code, and mend what the linter can
	@$(py) -m ruff format .
	@$(py) -m ruff check --fix .

bench: $(stamp) ## the cost of /score, beside plain FastAPI and public model servers (a quarter of an hour)
	@$(py) -m benchmarks.bench
	@$(py) -m benchmarks.report

profile: $(stamp) ## where the processor time of a request goes (PROFILE="--candidates 500 --clusters 1000", say)
	@$(py) -m benchmarks.request_profile $(PROFILE)

study: $(stamp) ## every method on all of the data, beside the rivals (hours; it resumes)
	@for stage in prepare embed cluster; do $(py) -m training $$stage configs/study_pipeline.yaml; done
	@$(py) -m benchmarks.study_rivals configs/study.yaml
	@$(py) -m training study configs/study.yaml

# The first Python among these that the project runs on; PYTHON=... names another.
find_python = for candidate in $(or $(PYTHON),python3.11 python3.12 python3); do \
	"$$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null \
		&& python=$$candidate && break; done; \
	[ -n "$${python:-}" ] || { echo "Twinstar runs on Python 3.11 or 3.12, and neither is here." \
		"Install one, or name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }

# Debian and Ubuntu leave ensurepip out of python3; the system's pip then fills the environment.
make_venv = if "$$python" -c 'import ensurepip' 2>/dev/null; then "$$python" -m venv $(VENV); \
	elif "$$python" -m pip --version >/dev/null 2>&1; then \
		"$$python" -m venv --without-pip $(VENV) && "$$python" -m pip --python $(py) install --quiet pip; \
	else echo "$$python has no pip and no ensurepip. Install one: sudo apt-get install python3-venv" >&2; exit 1; fi

# pip shown as one line that changes, or on no terminal as every 25th; all of it goes to the log.
# Warnings are off for setuptools' remark on folders named like packages, which is how this project is laid out.
pip_install = PYTHONWARNINGS=ignore $(py) -m pip --disable-pip-version-check --no-input install $(1) \
	| tee -a $(VENV)/install.log | { count=0; while read -r line; do \
		case "$$line" in Collecting*|Downloading*|Building*|Installing*) ;; *) continue ;; esac; \
		count=$$((count + 1)); \
		if [ -t 1 ]; then printf '\r\033[K      %.72s' "$$line"; \
		elif ((count % 25 == 0)); then printf '      %.72s\n' "$$line"; fi; \
	done; if [ -t 1 ]; then printf '\r\033[K'; fi; }

$(stamp): pyproject.toml
	@echo "[1/3] environment in $(VENV)"
	@$(py) -m pip --version >/dev/null 2>&1 || { $(find_python); $(make_venv); }
	@echo "[2/3] $(torch)"
	@$(call pip_install,$(TORCH_OPTIONS) "$(torch)")
	@echo "[3/3] the other packages (details in $(VENV)/install.log)"
	@$(call pip_install,$(project))
	@touch $@
