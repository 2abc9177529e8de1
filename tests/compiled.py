"""Every loss through ``torch.compile``, whole and with any size of batch: ``python -m tests.compiled``.

A script of its own: the type checks of the tests are nothing that a compiler could trace.
"""

from __future__ import annotations

import torch

from tests.batches import make
from tests.laws import forward, leaves
from tests.parts import LOSSES

SIZES = [(1, 3, 5, 2, 7, 1, 4, 2), (4, 2, 6, 3, 2, 5)]
# generating machine code takes long, and so does a graph of the gradients: for some of each kind
GENERATED = ("huber, per_structure", "UncertaintyLoss")
# a penalty and a reduction do not know of each other: each is traced once with the simplest other
TRACED = [
    name
    for name in LOSSES
    if name in GENERATED or not name.startswith(("huber, ", "l2_norm, ")) or name.endswith(", mean")
]
TOLERANCE = {"rtol": 1e-11, "atol": 1e-11}


def check(name: str, backend: str) -> None:
    """Values and gradients of two sizes of batch, with one compilation, against eager."""
    torch._dynamo.reset()
    eager, loss = LOSSES[name](), LOSSES[name]()
    compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=backend)
    for sizes in SIZES:
        batch = make(sizes)
        expected, found = (forward(each, leaves(batch), batch) for each in (eager, compiled))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, **TOLERANCE)


def main() -> None:
    torch.set_num_threads(1)
    for i, name in enumerate(TRACED):
        backend = "inductor" if name in GENERATED else "eager" if i % 5 else "aot_eager"
        check(name, backend)
        print(f"{backend:10} {name}", flush=True)


if __name__ == "__main__":
    main()
