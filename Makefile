# Every command works from a fresh clone: the environment is made first where it is missing or older than the lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run lab test outputs lock clean
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME
PYTHON_IN_VENV := .venv/bin/python

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

run: .venv/.ready  ## run every lesson from top to bottom, on the sandbox unless WORKSHOP_TARGET says otherwise
	@$(PYTHON_IN_VENV) -m workshop run

lab: .venv/.ready  ## open the lessons in JupyterLab
	@$(PYTHON_IN_VENV) -m jupyterlab notebooks --KernelManager.transport=ipc

test: .venv/.ready  ## run the tests
	@$(PYTHON_IN_VENV) -m pytest

outputs: .venv/.ready  ## run every lesson on a fresh sandbox and store its outputs in notebooks/
	@$(PYTHON_IN_VENV) -m workshop outputs

lock: .venv/.ready  ## write requirements.txt anew from pyproject.toml
	@$(PYTHON_IN_VENV) -m uv pip compile --quiet --universal --upgrade --generate-hashes --no-header --no-emit-index-url \
		pyproject.toml --output-file requirements.txt

clean:  ## stop the sandbox; delete it, its data, the build folder and the environment
	@if [ -x .venv/bin/workshop ]; then env -u WORKSHOP_SANDBOX_DIR $(PYTHON_IN_VENV) -m workshop sandbox down; fi
	rm -rf .sandbox .sandbox.lock build data .venv

.venv/.ready: requirements.txt pyproject.toml scripts/make_environment.sh
	@scripts/make_environment.sh
