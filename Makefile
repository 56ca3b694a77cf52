# Everything runs in .venv, which is made on first use.
PYTHON ?= python3
BIN := .venv/bin
# Names this machine's readings on the page of speed.
RUN ?= $(shell getconf _NPROCESSORS_ONLN)-cores
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: help quickstart test test-slow docs docs-check bench soak lint clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

.venv/base: pyproject.toml setup.py constraints.txt
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	$(PIP) -e .
	touch $@

.venv/dev: .venv/base
	$(PIP) -e ".[dev,nethack,mujoco,traffic,pettingzoo,llm,rlhf,ray]"
	$(PIP) --no-deps simglucose  # whose patients ours are compared with; it asks for a gym of 2017
	touch $@

.venv/docs: .venv/base
	$(PIP) -e ".[docs,nethack,mujoco,traffic,sb3]"
	touch $@

.venv/bench: .venv/base
	$(PIP) -e ".[bench]"
	touch $@

quickstart: .venv/base  ## install, compare four reward functions on sepsis treatment, write a report
	$(BIN)/rewardzoo run quickstart

test: .venv/dev  ## the default tests
	$(BIN)/python -m pytest -q -n 2 -m "not slow"

test-slow: .venv/dev  ## the long tests
	$(BIN)/python -m pytest -q -m slow || test $$? -eq 5  # 5: no test is slow

docs: .venv/docs  ## build the site into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

docs-check: docs  ## open every page in a headless browser (chromium)
	$(BIN)/python docs/check_site.py

bench: .venv/bench  ## speed, as ratios to peers in the same run; kept for the docs as RUN
	mkdir -p docs/benchmarks
	$(BIN)/rewardzoo bench --out docs/benchmarks/$(RUN).json

soak: .venv/base  ## half an hour of training, whose memory must not grow; kept with the speed of RUN
	mkdir -p docs/benchmarks
	$(BIN)/rewardzoo bench --only soak --out docs/benchmarks/$(RUN).json

lint: .venv/dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:  ## remove what make made
	rm -rf .venv build dist site *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
