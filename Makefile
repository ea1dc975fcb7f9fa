# Every command works from a fresh clone: the environment is made first where it is missing or older than the lock.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help run lab test check-all bench outputs lock clean
export PATH := $(CURDIR)/.venv/bin:$(PATH)
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME
PYTHON_IN_VENV := .venv/bin/python
LOCK = $(PYTHON_IN_VENV) -m uv pip compile --quiet --universal --upgrade --generate-hashes --no-header --no-emit-index-url

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' Makefile

run: .venv/.ready  ## run every lesson from top to bottom, on the sandbox unless WORKSHOP_TARGET says otherwise
	@$(PYTHON_IN_VENV) -m workshop run

lab: .venv/.ready  ## open the lessons in JupyterLab
	@$(PYTHON_IN_VENV) -m jupyterlab notebooks --KernelManager.transport=ipc

test: .venv/.ready  ## run the tests, in about 3 minutes; more with ARGS='--tier gate'
	@$(PYTHON_IN_VENV) -m pytest $(ARGS)

check-all: .venv/.ready  ## run every test, without a limit of time, and write the figures to docs/checked.md
	@$(PYTHON_IN_VENV) -m tests.support.check_all

bench: .venv/.ready  ## measure the sandbox and the components, and write what was measured to benchmarks/results/
	@$(PYTHON_IN_VENV) -m benchmarks.pipelines_api
	@$(PYTHON_IN_VENV) -m benchmarks.data_path

outputs: .venv/.ready  ## run every lesson on a fresh sandbox and store its outputs in notebooks/
	@$(PYTHON_IN_VENV) -m workshop outputs

lock: .venv/.ready  ## write every file of locked requirements anew from pyproject.toml
	@$(LOCK) pyproject.toml --output-file requirements.txt
# Held to the versions of the first one. uv reads no requires-python for a group, so the oldest Python is named here.
	@$(LOCK) --group component --constraint requirements.txt --python-version 3.11 \
		--output-file docker/component/requirements.txt
	@$(LOCK) --group build --output-file docker/build-requirements.txt
	@$(LOCK) --group bench --output-file benchmarks/requirements.txt
	@$(LOCK) --group manifests --output-file tests/deploy/requirements.txt

clean:  ## stop the sandbox; delete it, its data, the build folder and the environments
	@if [ -x .venv/bin/workshop ]; then env -u WORKSHOP_SANDBOX_DIR $(PYTHON_IN_VENV) -m workshop sandbox down; fi
	rm -rf .sandbox .sandbox.lock build data .component .venv

.venv/.ready: requirements.txt docker/component/requirements.txt pyproject.toml scripts/make_environment.sh
	@scripts/make_environment.sh
