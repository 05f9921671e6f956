# Targets for a Makefile of one's own:
#
#   include $(shell python -m fitasks makefile)
#
#   make kernels                     compile what kernels.yaml names
#   make kernels-check K='prefill*'  what a server will do with some; also -doctor, -env, -list, -verify, -why

FITASKS ?= python -m fitasks
K ?=
# Word by word in quotes of ours: the shell here neither matches files with them nor runs what is in them.
FITASKS_NAMES = $(foreach word,$(subst ',,$(subst ",,$(K))),'$(word)')
FITASKS_ASK = kernels-check kernels-doctor kernels-env kernels-list kernels-verify kernels-why

.PHONY: kernels $(FITASKS_ASK)

# Marked with +, so that `make -jN` of any version lends its tokens; but `make -n` shall do nothing.
kernels:
	+@$(if $(findstring n,$(firstword -$(MAKEFLAGS))),: )$(FITASKS) $(FITASKS_NAMES)

$(FITASKS_ASK):
	@$(FITASKS) $(@:kernels-%=%) $(FITASKS_NAMES)
