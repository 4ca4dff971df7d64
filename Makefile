# Everything starts here: `make help` lists what there is.
PYTHON ?= python3
export OMP_WAIT_POLICY := PASSIVE
# The environment's own tools first, whether it is active or not.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: help repro test lint
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

.venv/ready: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --no-deps -r requirements.txt
	.venv/bin/python -m pip install --no-deps --no-build-isolation -e .
# MMEngine imports yapf, which then writes a cache in place: of two first imports at once one would read half of it.
	.venv/bin/python -c "import mmengine"
	touch .venv/ready

repro: .venv/ready ## create .venv, install, and run every stage that is out of date
	dvc --wait-for-lock repro

test: .venv/ready ## create .venv, install, and run the tests
	pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

lint: .venv/ready ## check style and format
	ruff check
	ruff format --check
