"""What a checkpoint says of itself, as tables for people and as data for programs."""

from pesloss.description.checkpoints import as_json, command, describe, differences, flat, plain

__all__ = ["as_json", "command", "describe", "differences", "flat", "plain"]
