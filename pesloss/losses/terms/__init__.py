"""Terms: what a loss is a sum of. One file for each that is more than a property against its label."""
