"""Bundles in registries of container images (OCI), as artefacts."""
