"""Sweeps that survive: jobs are found by their settings, recorded, and gone on with after a kill."""
