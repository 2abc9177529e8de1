"""Which term, and which structures, a training follows."""

from pesloss.checks.balance.measuring import balance
from pesloss.checks.balance.result import Balance, GroupBalance, TermBalance

__all__ = ["Balance", "GroupBalance", "TermBalance", "balance"]
