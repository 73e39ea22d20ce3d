# Every target works in .venv, made on first use and renewed when pyproject.toml or constraints.txt changes.

PYTHON ?= python3
TRIALS ?= 1
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help reproduce results notebooks docs pretrain bench test test-browser test-faults style lint format clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

reproduce: $(INSTALLED) ## Run the whole notebook series: every figure and table
	$(BIN)/adavipro reproduce

results: $(INSTALLED) ## Make data/results and the docs' tables and figures anew: hours; goes on where it was stopped
	$(BIN)/python tools/make_results.py tune --method vp --out data/results/search_vp.csv
	$(BIN)/python tools/make_results.py tune --method adavipro --out data/results/search_adavipro.csv
	$(BIN)/python tools/make_results.py widths --out data/results/search_vp_widths.csv
	$(BIN)/python tools/make_results.py studies --out data/results/embedded.csv
	$(BIN)/python tools/make_results.py epochs --out data/results/epochs.csv
	$(BIN)/python tools/make_results.py controls --out data/results/controls.csv
	$(BIN)/python tools/make_results.py baselines --out data/results/baselines.csv
	$(BIN)/python tools/make_results.py tune --world photographs --method vp --out data/results/search_photographs_vp.csv
	$(BIN)/python tools/make_results.py tune --world photographs --method adavipro --out data/results/search_photographs_adavipro.csv
	$(BIN)/python tools/make_results.py photographs --out data/results/photographs.csv
	$(BIN)/python docs/fill.py

notebooks: $(INSTALLED) ## Execute the notebooks as they stand and take over their outputs
	$(BIN)/python docs/publish.py stamp
	$(BIN)/adavipro reproduce --root build/runs
	$(BIN)/python docs/publish.py collect build/runs

docs: $(INSTALLED) ## Build the site from README, docs and the notebooks' committed outputs: build/site/index.html
	$(BIN)/python -m sphinx -q -W --keep-going -c docs -d build/site.trees . build/site

pretrain: $(INSTALLED) ## Train the small CLIP, data/small_clip, anew: an hour
	$(BIN)/python tools/pretrain.py

bench: $(INSTALLED) ## Measure the speed of a step beside the floor, and write benchmarks/: nothing else should run
	$(BIN)/python benchmarks/speed.py

test: style ## Check style, then run all tests; types are one of them
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test-browser: $(INSTALLED) ## Try the explorers in a real JupyterLab; needs Chromium or Chrome
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/browser

test-faults: $(INSTALLED) ## Try every fault many times and write docs/faults.md: 15 to 25 minutes; TRIALS=0.1 for a tenth of it
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults tests --trials $(TRIALS) -n 2 --dist worksteal

style: $(INSTALLED) ## Check style
	$(BIN)/ruff check
	$(BIN)/ruff format --check

lint: style ## Check style and types
	$(BIN)/mypy

format: $(INSTALLED) ## Lay the code out and mend what can be mended by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## Remove the environment and caches; runs/ stays
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache
	find . -type d -name __pycache__ -prune -exec rm -rf {} +

$(INSTALLED): pyproject.toml constraints.txt
	@found=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2]); sys.exit(sys.version_info < (3, 11))' \
	    2>/dev/null) || { echo "adavipro needs Python 3.11 or newer, but $(PYTHON) is $${found:-not there}:" \
	    "name another one, as in 'make $(or $(MAKECMDGOALS),test) PYTHON=python3.12'." >&2; exit 1; }
	@echo "Installing into .venv: some minutes, about 6 GB on Linux."
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --no-compile --disable-pip-version-check -c constraints.txt -e '.[notebooks,sweeps,photographs,docs,dev]'
	@$(BIN)/python -m compileall -q -j 0 .venv/lib >/dev/null || true # on all cores; pip does it on one
	@touch $@
