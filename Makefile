# Every command works from a fresh clone: it first makes the environment, if that is missing or older than the lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run lab test attack check-all bench outputs lock clean
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# The reader's settings for Python and bash must change nothing here.
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONDONTWRITEBYTECODE BASH_ENV ENV
PYTHON_IN_VENV := .venv/bin/python
LOCK = $(PYTHON_IN_VENV) -m uv pip compile --quiet --universal --upgrade --generate-hashes --no-header --no-emit-index-url

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

run: .venv/.ready  ## run every lesson from top to bottom, on the sandbox unless WORKSHOP_TARGET says otherwise
	@$(PYTHON_IN_VENV) -m workshop run

lab: .venv/.ready  ## open the lessons in JupyterLab
	@$(PYTHON_IN_VENV) -m workshop lab

test: .venv/.ready  ## run the tests, in about 3 minutes; more with ARGS='--tier gate'
	@$(PYTHON_IN_VENV) -m pytest $(ARGS)

attack: .venv/.ready  ## repeat the attacks of docs/attacks.md on sandboxes of the tests, in less than 10 minutes
	@$(PYTHON_IN_VENV) -m pytest --tier gate -m attack

check-all: .venv/.ready  ## run every test, without a limit of time, and write the figures to docs/checked.md
	@$(PYTHON_IN_VENV) -m tests.support.check_all

bench: .venv/.ready  ## measure the sandbox and the components, and write the figures to benchmarks/results/
	@$(PYTHON_IN_VENV) -m benchmarks.pipelines_api
	@$(PYTHON_IN_VENV) -m benchmarks.data_path

outputs: .venv/.ready  ## run every lesson on a fresh sandbox and store its outputs in notebooks/
	@$(PYTHON_IN_VENV) -m workshop outputs

lock: .venv/.ready  ## write all files of locked requirements from pyproject.toml
	@$(LOCK) pyproject.toml --output-file requirements.txt
# Held to the versions of the first one. uv reads no requires-python for a group, so the oldest Python is named here.
	@$(LOCK) --group component --constraint requirements.txt --python-version 3.11 \
		--output-file docker/component/requirements.txt
	@$(LOCK) --group build --output-file docker/build-requirements.txt
	@$(LOCK) --group bench --output-file benchmarks/requirements.txt
	@$(LOCK) --group manifests --output-file tests/deploy/requirements.txt

clean:  ## stop the sandbox; delete it, its data, the build folder and the environments
	@if [ -x $(PYTHON_IN_VENV) ]; then env -u WORKSHOP_SANDBOX_DIR $(PYTHON_IN_VENV) -m workshop sandbox down || true; fi
	rm -rf .sandbox .sandbox.lock build data .component .venv

# make sees how old .venv/.ready is. The script also sees that the folder was moved or copied, or that its Python is gone.
ifeq ($(filter help clean,$(or $(MAKECMDGOALS),help)),)
ifneq ($(shell scripts/make_environment.sh --check >/dev/null 2>&1 || echo wrong),)
.PHONY: environment-is-wrong
.venv/.ready: environment-is-wrong
endif
endif

.venv/.ready: requirements.txt docker/component/requirements.txt pyproject.toml scripts/make_environment.sh
	@scripts/make_environment.sh
