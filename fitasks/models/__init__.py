"""Which kernels a model needs on an engine: facts from its config.json, rules from the engines' own sources."""
