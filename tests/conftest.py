"""Types and shapes are checked in every call of a test; an int is a float, as Python's typing has it."""

import os

# many small tensors: a second thread only waits
os.environ.setdefault("OMP_NUM_THREADS", "1")

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("pesloss", "tests.conftest.check")
