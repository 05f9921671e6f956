"""kernels.yaml → Config: reading with places, validation, matrix expansion, labels."""
