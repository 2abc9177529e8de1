"""Laws that are tried on drawn configs, batches and files; ``tests/test_drawn.py`` runs them.

As many examples as a test can wait for, the same in every run. ``PESLOSS_DRAWN=10000`` draws so many others,
at random.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

WISHED = int(os.environ.get("PESLOSS_DRAWN", "0"))

settings.register_profile(
    "pesloss",
    max_examples=WISHED or 60,
    derandomize=not WISHED,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large],
)
settings.load_profile("pesloss")
