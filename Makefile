# Thin: each target is one doit or pytest call in an environment that makes itself.
#
#   make kernels                     compile what kernels.yaml names
#   make kernels K='prefill* page'   some of them; so also check, why and verify
#   make kernels SM90=0              generic modules in place of Hopper's; so also check, verify, list and the others
#   make test PYTHON3=python3.13 VENV=.venv-3.13        in another environment, made with that Python
#   make kernels PYTHON=/opt/venv/bin/python   in an environment that is there already; nothing is installed

K ?=
SM90 ?= 1
PYTHON3 := python3
PYTHONS := /usr/bin/python3
EXTRAS := flashinfer,cuda13,store
VENV := .venv
ifdef PYTHON
  READY :=
  READY_DEV :=
else
  PYTHON := $(VENV)/bin/python
  READY := $(VENV)/.made-for
  READY_DEV := $(VENV)/.made-for-dev
  # The environment is ours, and pip leaves its byte code to the first import (below). Without any, each of the many
  # processes would compile torch and FlashInfer anew: 18 s in place of 6 (images of Python often set this).
  unexport PYTHONDONTWRITEBYTECODE
endif
# PATH as in an activated environment: FlashInfer takes ninja from it.
DOIT = $(if $(filter 0 false no off,$(SM90)),FITASKS_SM90=0) PATH="$(dir $(abspath $(PYTHON))):$$PATH" $(PYTHON) -m doit
# Word by word in quotes of ours: the shell here neither matches files with them nor runs what is in them.
NAMES = $(foreach word,$(subst ',,$(subst ",,$(K))),'$(word)')

.DEFAULT_GOAL := kernels
.PHONY: kernels check doctor env verify why list test test-bare test-readme test-image test-newest test-pythons lint docs clean reset

# Marked with +, so that `make -jN` of any version lends its tokens; but `make -n` shall do nothing.
kernels: $(READY)
	+@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),: )$(DOIT) $(NAMES)

check doctor env verify why: $(READY)
	@$(DOIT) $@ $(NAMES)

list: $(READY)
	@$(DOIT) list

reset: $(READY)
	@$(DOIT) reset

test: $(READY_DEV)
	@PYTHON=$(PYTHON) $(PYTHON) -m pytest -n 3 --dist worksteal $(K)

# Needs root, buildah and debootstrap, and about 25 GB below /var/tmp. Not part of `make test`.
test-image: $(READY_DEV)
	@$(PYTHON) -m tests.image.build_images $(K) && $(PYTHON) -m tests.image.engine_images $(K)

# Needs root and debootstrap, and about 12 GB below /var/tmp. Not part of `make test`.
test-bare: $(READY_DEV)
	@$(PYTHON) -m tests.bare.bare_debian $(K)

# README's commands to the letter, and those of docs/ that are marked. Needs what test-bare needs; K='README.md' for some.
test-readme: $(READY_DEV)
	@$(PYTHON) -m tests.bare.stranger $(K)

# What depends on Python itself, without torch and FlashInfer: make test-pythons PYTHONS='python3.12 python3.13'
test-pythons:
	@set -e; for python in $(PYTHONS); do $(MAKE) --no-print-directory test PYTHON3=$$python EXTRAS= \
	  VENV=.venv-$$($$python -c 'import platform; print(platform.python_version())') \
	  K="$(or $(K),tests/delivery tests/compile tests/store tests/config tests/processes)"; done

# PyPI's newest FlashInfer, where that is newer than the pinned one; V=0.7.2.post1 tries that one. Some minutes.
test-newest: $(READY_DEV)
	@$(PYTHON) bench/newest.py $(if $(V),--version $(V))

# Serving scripts by themselves: they run in somebody else's Python, and FlashInfer needs 3.10.
lint: $(READY_DEV)
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy
	@$(PYTHON) -m mypy --python-version 3.10 $(shell find fitasks/serving -name '*.py')
	@$(PYTHON) -m bandit --quiet --configfile pyproject.toml --recursive fitasks bench dodo.py

# The pages of docs/, README first, as a site in .site/; in an environment of its own, which has no torch.
docs:
	@$(if $(READY),$(MAKE) --no-print-directory .venv-docs/.made-for EXTRAS=docs VENV=.venv-docs)
	@$(if $(READY),.venv-docs/bin/python,$(PYTHON)) -m mkdocs build

# What fitasks itself made here; the compiled kernels stay (make reset removes those).
clean:
	rm -rf .venv .venv-* .site .fitasks .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment is made, or brought up to date, only when pyproject.toml's text has changed. pip's own progress is for
# a terminal; elsewhere a line every 30 s tells that something happens. Byte code is left to the first import: pip makes
# it for every module of torch and its like, on one core, for more than a minute. What only tests and checks need, `make test`
# and its like add: with the rest, where there is no environment yet.
INSTALL = $(VENV)/bin/python -m pip install --disable-pip-version-check --no-compile -e '.[$(WANTED)]'
comma := ,
$(VENV)/.made-for: WANTED = $(EXTRAS)
$(VENV)/.made-for-dev: WANTED = $(if $(EXTRAS),$(EXTRAS)$(comma))dev
$(VENV)/.made-for $(VENV)/.made-for-dev: pyproject.toml
	@test -x $(VENV)/bin/python || $(PYTHON3) -m venv $(VENV)
	@cmp -s pyproject.toml $@ || if [ -t 1 ]; then $(INSTALL); else \
	  echo "$(VENV): pip installs $(WANTED)"; \
	  (s=0; while sleep 30 >&- && kill -0 $$$$; do s=$$((s+30)); echo "$(VENV): pip is installing, $$s s"; done) 2>&- & \
	  trap "kill $$!" EXIT; $(INSTALL) --quiet; fi
	@cp pyproject.toml $@ && cp pyproject.toml $(VENV)/.made-for
