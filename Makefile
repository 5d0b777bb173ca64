# Python 3.11, 3.12 or 3.13, make and pip are enough: every target sets up the environment that it needs.
# make pretrain PYTHON=python3.12 VENV=.venv312 takes another Python, in an environment beside the first.

PYTHON ?= python3
VENV ?= .venv
PEERS := .venv-parity
RUN := $(VENV)/bin/python
PYTEST := $(RUN) -m pytest -n 2 --dist loadscope --no-loadscope-reorder
REQUIREMENTS := setup.cfg pyproject.toml constraints.txt

# pip's -qq keeps its errors.
export PIP_DISABLE_PIP_VERSION_CHECK := 1
INSTALL := -m pip install -qq

.PHONY: help pretrain chatgpt test core parity docs bench results lint clean

help: ## list the targets
	@awk -F ' *## *' '/^[a-z]+:.* ## / {sub(/:.*/, "", $$1); printf "make %-9s %s\n", $$1, $$2}' Makefile

pretrain: $(VENV)/core.stamp ## train a small BERT on the embedded text: the main job, a few minutes on a CPU
	@$(RUN) run_pretrain.py configs/tiny/bert.py

chatgpt: $(VENV)/core.stamp ## the ChatGPT recipe on a made-up world: pretraining, supervised tuning, reward model, PPO
	@$(RUN) -m lmjax chatgpt

test: $(VENV)/dev.stamp ## the whole suite, but for live parity
	@$(PYTEST) -m "not parity"

core: $(VENV)/dev.stamp ## the five-minute core of the suite
	@$(PYTEST) -m core

parity: $(VENV)/dev.stamp $(PEERS)/peers.stamp ## compare live with torch and transformers
	@$(PYTEST) -m parity

docs: $(VENV)/dev.stamp ## execute the code blocks of README.md and docs/
	@$(PYTEST) tests/test_docs.py

bench: $(VENV)/dev.stamp $(PEERS)/peers.stamp ## time the train step and the input pipeline beside transformers
	@$(RUN) benchmarks/train_step.py
	@$(RUN) benchmarks/input_pipeline.py

results: $(VENV)/core.stamp ## write README's table of results anew
	@$(RUN) -c 'from lmjax.evals.results import write_readme; write_readme("README.md")'

lint: $(VENV)/dev.stamp ## ruff and basedpyright
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/basedpyright --pythonpath $(RUN)

clean: ## remove caches; environments, runs and stores stay
	@rm -rf .cache .pytest_cache .ruff_cache .hypothesis build lmjax.egg-info
	@find lmjax tests configs benchmarks -name __pycache__ -prune -exec rm -rf {} +

# A stamp is newer than what it was installed from; an environment without one is installed into as it stands.
$(VENV)/core.stamp: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "installing lmjax into $(VENV), once: about two minutes"
	@$(RUN) $(INSTALL) -c constraints.txt -e .
	@touch $@

$(VENV)/dev.stamp: $(REQUIREMENTS) | $(VENV)/bin/python
	@echo "installing lmjax and its development tools into $(VENV), once: about two minutes"
	@$(RUN) $(INSTALL) -c constraints.txt -e ".[dev]"
	@touch $(VENV)/core.stamp $@

$(PEERS)/peers.stamp: tests/peers.txt | $(PEERS)/bin/python
	@echo "installing torch and transformers into $(PEERS), once: about a minute"
	@$(PEERS)/bin/python $(INSTALL) -r tests/peers.txt
	@touch $@

$(VENV)/bin/python $(PEERS)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("lmjax needs Python 3.11 or newer, and $(PYTHON) is %s: name another, as in make PYTHON=python3.12" % sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@$(PYTHON) -m venv $(@:/bin/python=)
