# One word each. `make` alone lists them.

PYTHON ?= python3
PORT ?= 8000
VENV := .venv
RUN := $(VENV)/bin
STAMP := $(VENV)/.requirements
# At a terminal, Ctrl-C is for the server alone: job control gives it the terminal, and make goes on to exit with 0.
# (A Celery worker that ends well by Ctrl-C still exits with 1: its target looks for the signal itself.)
FOREGROUND := read -r _ _ _ _ group _ _ terminal _ 2>/dev/null </proc/$$$$/stat && [ "$$group" = "$$terminal" ] && set -m;

.PHONY: help demo test chaos mutants lint client wheel scenarios worker beat bench clean
.DEFAULT_GOAL := help
SHELL := /bin/bash

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /  make \1 \t/p' $(MAKEFILE_LIST) | expand -t 20

demo: $(STAMP) ## set up and serve the example on 127.0.0.1 (PORT=8000); Ctrl-C stops it
	@$(RUN)/python manage.py migrate --verbosity 0 --skip-checks
	@$(RUN)/python manage.py netra_queue --skip-checks schedule >/dev/null
	@$(RUN)/python manage.py demo_user
	@echo "Page:  http://127.0.0.1:$(PORT)/   (Ctrl-C stops the server)"
	@$(FOREGROUND) $(RUN)/daphne --verbosity 0 --bind 127.0.0.1 --port $(PORT) project.asgi:application; exit $$?

test: $(STAMP) ## the tests: on SQLite, and on whatever servers can be reached
	@$(RUN)/python -m pytest

chaos: $(STAMP) ## half an hour: ten minutes of soak, ten of faults at random on PostgreSQL, six on MariaDB (NETRA_CHAOS_SECONDS, _SEED)
	@NETRA_CHAOS_SECONDS=$${NETRA_CHAOS_SECONDS:-600} $(RUN)/python -m pytest tests/chaos

mutants: $(STAMP) ## take each promise's mechanism out, and see its tests fail
	@$(RUN)/python -m tests.mutants.run

lint: $(STAMP) ## ruff and mypy
	@$(RUN)/ruff check .
	@$(RUN)/ruff format --check .
	@$(RUN)/mypy

client: ## join the browser client's parts into one file, client.js
	@$(PYTHON) .ci/join_client.py

wheel: $(STAMP) ## build the package into dist/
	@rm -rf build dist
	@$(RUN)/python -m build --quiet --wheel

scenarios: $(STAMP) ## play the nine scenarios against a real server
	@$(RUN)/python manage.py migrate --verbosity 0 --skip-checks
	@$(RUN)/python manage.py netra_queue scenarios

worker: $(STAMP) ## a Celery worker for the example (CELERY_BROKER_URL); Ctrl-C stops it
	@$(FOREGROUND) (trap stopped=0 INT; $(RUN)/celery --app project worker --loglevel INFO; exit $${stopped:-$$?}); exit $$?

beat: $(STAMP) ## Celery Beat with the schedule of the database
	@$(FOREGROUND) $(RUN)/celery --app project beat --loglevel INFO; exit $$?

bench: $(STAMP) ## half an hour: beside plain Channels, raw SQL, Mosquitto and Socket.IO (PostgreSQL, Redis)
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -r benchmarks/requirements.txt
	@$(RUN)/python -m benchmarks
	@$(RUN)/python benchmarks/group_send.py
	@$(RUN)/python benchmarks/admin_lists.py

clean: ## remove what the other targets made, the virtual environment and the example's database included
	@rm -rf $(VENV) build dist *.egg-info db.sqlite3* test.sqlite3* .pytest_cache .mypy_cache .ruff_cache .hypothesis

# The second start is quick: pip runs only when requirements.txt has changed. Debian's python3 makes no virtual
# environment without the package python3-venv, and an attempt that failed or was broken off leaves one without pip.
$(STAMP): requirements.txt
	@if ! $(RUN)/python -m pip --version >/dev/null 2>&1; then \
	  rm -rf $(VENV); \
	  if ! $(PYTHON) -c "import ensurepip" 2>/dev/null && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing python3-venv"; \
	    { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends python3-venv; } \
	      >/dev/null; \
	  fi; \
	  { $(PYTHON) -c "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && \
	    $(PYTHON) -m venv $(VENV); } || { rm -rf $(VENV); \
	    echo "Install Python 3.11 or later with venv (Debian: apt-get install python3-venv), or name one: PYTHON=…" >&2; \
	    exit 1; }; \
	fi
	@$(RUN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@
