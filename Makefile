# Every target works in an empty clone: the first one to need it makes .venv, later ones re-use it.
SHELL := /bin/bash
STAMP := .venv/.penstock-installed

.PHONY: help setup demo test slow check bench clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv with everything in it
	@echo 'setup: .venv is up to date with pyproject.toml and constraints.txt'

$(STAMP): pyproject.toml constraints.txt
	@scripts/setup

demo: $(STAMP) ## run the whole loop here (ARGS=--exit to stop at its end)
	@.venv/bin/python -m scripts.demo $(ARGS)

test: $(STAMP) ## run the tests (ARGS="-k drift" and the like go to pytest)
	@scripts/test $(ARGS)

slow: $(STAMP) ## run the tests that take more than a few seconds each
	@scripts/test -m slow $(ARGS)

check: $(STAMP) ## format, lint, types, import contracts
	@scripts/check

bench: $(STAMP) ## run a benchmark (NAME=...)
	@.venv/bin/python -m benchmarks $(NAME)

clean: ## remove .venv, caches and build output; .penstock (data) stays
	@rm -rf .venv .bench build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
