"""Our recipes for the same comparisons: ``python -m benchmarks.loss_cost.ours mace --cases weighted``."""

from __future__ import annotations

from benchmarks.loss_cost.clock import main
from benchmarks.loss_cost.minima import Run, gradient
from tests.parity.cases import Case
from tests.parity.compare import loss_of
from tests.parity.drawing import Drawn


def make(case: Case, drawn: Drawn) -> tuple[float, Run]:
    loss = loss_of(case)
    loss.place()
    batch = loss.prepare(drawn.batch)
    named = {case.rename.get(name, name): p for name, p in drawn.predictions.items()}
    run = gradient(lambda: loss(named, batch), drawn.predictions)
    return float(loss(named, batch).detach()), run


if __name__ == "__main__":
    main(make)
