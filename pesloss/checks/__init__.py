"""Checks: what a loss and its data would do to a training, said before, while and after it happens."""

from pesloss.checks.findings import Finding, Report, Table
from pesloss.checks.run import CHECKS, cheap, check
from pesloss.checks.subject import Subject

__all__ = ["CHECKS", "Finding", "Report", "Subject", "Table", "cheap", "check"]
