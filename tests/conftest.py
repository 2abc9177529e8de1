"""Types and shapes are checked in every call of a test; an int is a float, as Python's typing has it."""

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("pesloss", "tests.conftest.check")
