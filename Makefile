# Each target makes the virtual environment that it needs; a second call finds it made.
# PIP_ARGS are passed to pip, say the index of your CUDA build:  make demo PIP_ARGS="--extra-index-url …"

PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
ARGS ?=

bin := $(VENV)/bin
pip := $(bin)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt $(PIP_ARGS)

.DEFAULT_GOAL := help
.PHONY: help demo test check docs bench soak clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

demo: $(VENV)/runtime ## draw 16 scenes from long captions and write a report (options: ARGS="--seed 1")
	$(bin)/longalign demo $(ARGS)

test: $(VENV)/dev ## run the tests (options: ARGS="-k segments")
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n 2 --dist worksteal $(ARGS)

check: $(VENV)/dev ## lint, formatting, types, who may import whom, and the docs site with strict links
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy
	$(bin)/lint-imports --no-logo
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict --quiet

docs: $(VENV)/docs ## build the docs site into build/site, with strict links (options: ARGS="--quiet")
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(bin)/python -m mkdocs build --strict $(ARGS)

bench: $(VENV)/dev ## run every benchmark
	@for script in $(shell grep -l __main__ benchmarks/*.py); do \
		echo "$$script"; $(bin)/python $$script $(ARGS) || exit 1; \
	done

soak: $(VENV)/runtime ## kill a training run 20 times, resume it, compare the weights (options: ARGS="--kills 3")
	$(bin)/python tools/soak.py $(ARGS)

clean: ## remove the environment and the caches; runs/ stays
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: touched last, so that a broken installation is taken up again.
# Compiling all of torch and transformers takes half a minute, most of it for modules that the demo never loads:
# Python compiles what it imports.
$(VENV)/runtime: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "Installing longalign into $(VENV): a minute or two, once."
	@$(pip) --no-compile --editable .
	@touch $@

# open-clip-torch and torch-fidelity ask for torchvision, which is not needed for what the tests use of them.
$(VENV)/dev: $(VENV)/runtime
	@echo "Installing what tests and benchmarks need."
	@$(pip) --editable '.[dev]'
	@$(pip) --no-deps open-clip-torch torchmetrics lightning-utilities torch-fidelity
	@$(bin)/python -c "import longalign.cli.main, longalign.generation, gradio"  # compiled once, before many processes do it
	@touch $@

$(VENV)/docs: $(VENV)/runtime
	@$(pip) --editable '.[docs]'
	@touch $@
