"""Our losses against the other projects' own code, on the same batches, value and gradient."""
