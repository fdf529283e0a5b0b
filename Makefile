# The local stack (`make up`) and what a contributor runs. Needs Linux on x86-64 and Python 3.11 or newer; the rest is installed.

PYTHON ?= python3
VENV := .venv
LOCAL := $(VENV)/bin/python -m local

.DEFAULT_GOAL := help
.PHONY: help up down preview status logs test check lock

help: ## Show this.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 12

up: $(VENV)/.complete ## Run the whole deployment on this machine: engine, database, ingress, MLflow, AWS API.
	@$(LOCAL) up

down: $(VENV)/.complete ## Destroy what `make up` made (FORCE=1: also when pulumi cannot).
	@$(LOCAL) down $(if $(FORCE),--force)

preview: $(VENV)/.complete ## Show what `make up` would change.
	@$(LOCAL) preview

status: $(VENV)/.complete ## Show what runs.
	@$(LOCAL) status

logs: $(VENV)/.complete ## Follow the logs (NAME=mlflow: only those that begin so).
	@$(LOCAL) logs $(NAME)

test: $(VENV)/.complete ## Run the tests that need seconds (TESTS="-m local": those on the real engine).
	@$(VENV)/bin/python -m pytest $(or $(TESTS),-m "not local and not browser")

check: $(VENV)/.complete ## Lint, formatting and types.
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/pyright

lock: $(VENV)/.complete ## Pin the newest packages that the requirements allow, with their hashes.
	@uv=$$($(PYTHON) -m local.tools uv) && \
	"$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade requirements.in -o requirements.txt && \
	"$$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --upgrade -c requirements.txt requirements-dev.in -o requirements-dev.txt

# The file is written last, so an installation that was interrupted is completed.
$(VENV)/.complete: requirements-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "error: $(PYTHON) is older than 3.11: set PYTHON to a newer one, for example make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@uv=$$($(PYTHON) -m local.tools uv) && \
	echo "Installing the Python packages into $(VENV)" && \
	"$$uv" venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	"$$uv" pip sync --quiet --python $(VENV)/bin/python --require-hashes $< && \
	touch $@
