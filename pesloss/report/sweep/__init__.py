"""The report of a sweep: settings compared over seeds, the Pareto front, what varies against errors.

Example:
    Means and spreads over seeds, as experiments tell them::

        comparison = compare(read_sweep(Path("my_sweep")))
        for setting in comparison.settings:
            print(setting.values, setting.mean("val/forces/mae_component [meV/Å]"))
"""

from pesloss.report.sweep.comparison import Comparison, compare
from pesloss.report.sweep.reading import ErrorName, Job, Sweep, read_sweep
from pesloss.report.sweep.settings import Mean, Setting, settings_of

__all__ = [
    "Comparison",
    "ErrorName",
    "Job",
    "Mean",
    "Setting",
    "Sweep",
    "compare",
    "read_sweep",
    "settings_of",
]
