"""Types and shapes are checked in every call of a test; an int is a float, as Python's typing has it."""

import atexit
import os
import shutil
import tempfile

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

# many small tensors: a second thread only waits
os.environ.setdefault("OMP_NUM_THREADS", "1")

# what tests pack is not for the user's own cache
os.environ["PESLOSS_CACHE"] = tempfile.mkdtemp(prefix="pesloss-tests-")
atexit.register(shutil.rmtree, os.environ["PESLOSS_CACHE"], ignore_errors=True)

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("pesloss", "tests.conftest.check")
