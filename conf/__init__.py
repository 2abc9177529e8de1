"""Configs of the app and its groups; this file makes the folder importable as ``pesloss.conf``."""
