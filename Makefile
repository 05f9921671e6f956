# Thin: each target is one doit or pytest call in an environment that makes itself.
#
#   make kernels                     compile what kernels.yaml names
#   make kernels K='prefill* page'   some of them; so also check, why and verify
#   make kernels SM90=0              generic modules in place of Hopper's; so also check, verify, list and the others
#   make kernels PYTHON=/opt/venv/bin/python   in an environment that is there already; nothing is installed

K ?=
SM90 ?= 1
VENV := .venv
ifdef PYTHON
  READY :=
else
  PYTHON := $(VENV)/bin/python
  READY := $(VENV)/.made-for
endif
# PATH as in an activated environment: FlashInfer takes ninja from it.
DOIT = $(if $(filter 0 false no off,$(SM90)),FITASKS_SM90=0) PATH="$(dir $(abspath $(PYTHON))):$$PATH" $(PYTHON) -m doit
# Word by word in quotes of ours: the shell here neither matches files with them nor runs what is in them.
NAMES = $(foreach word,$(subst ',,$(subst ",,$(K))),'$(word)')

.DEFAULT_GOAL := kernels
.PHONY: kernels check doctor env verify why list test test-image lint clean reset

# Marked with +, so that `make -jN` of any version lends its tokens; but `make -n` shall do nothing.
kernels: $(READY)
	+@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),: )$(DOIT) $(NAMES)

check doctor env verify why: $(READY)
	@$(DOIT) $@ $(NAMES)

list: $(READY)
	@$(DOIT) list --all --status

reset: $(READY)
	@$(DOIT) reset

test: $(READY)
	@PYTHON=$(PYTHON) $(PYTHON) -m pytest -n 2 --dist worksteal $(K)

# Needs root, buildah and debootstrap, and about 15 GB below /var/tmp. Not part of `make test`.
test-image: $(READY)
	@$(PYTHON) tests/image/build_images.py $(K)

lint: $(READY)
	@$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

# What fitasks itself made here; the compiled kernels stay (make reset removes those).
clean:
	rm -rf $(VENV) .fitasks .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The environment is made, or brought up to date, only when pyproject.toml's text has changed.
$(VENV)/.made-for: pyproject.toml
	@test -x $(VENV)/bin/python || python3 -m venv $(VENV)
	@cmp -s pyproject.toml $@ || $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[flashinfer,cuda13,dev]'
	@cp pyproject.toml $@
