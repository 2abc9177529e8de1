"""Configs of the app and its groups; this file makes the folder importable as ``pesloss.conf``."""

from pesloss.sweeps.names import register

register()  # the names of folders in train.yaml, for whichever app composes it
