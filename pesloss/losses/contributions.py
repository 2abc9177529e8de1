"""Which structures, and which rows, a loss is made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from pesloss.losses.step import Step
from pesloss.losses.terms.base import RowSums, Term


class Contributions(NamedTuple):
    """What each structure adds to a total: ``total = Σ terms + rest``.

    Args:
        terms: weighted contribution of every structure to each term, by name.
        rest: what is of no structure: regulariser, and terms that look at the model alone.
    """

    terms: Mapping[str, Float[Tensor, "structures"]]
    rest: Float[Tensor, ""]

    def of_structures(self) -> Float[Tensor, "structures"]:
        """Of all terms together."""
        return torch.stack([*self.terms.values()]).sum(0)


class Rows(NamedTuple):
    """What each row adds to a total.

    Args:
        values: weighted contribution of every row, connected to the predictions.
        structure: which structure each row belongs to.
    """

    values: Float[Tensor, "rows"]
    structure: Int[Tensor, "rows"]

    def by_structure(self, num: int) -> Float[Tensor, "structures"]:
        """Sums over so many structures, detached."""
        return self.values.new_zeros(num).index_add(0, self.structure, self.values).detach()


def shared(
    terms: Mapping[str, Term],
    parts: Sequence[RowSums],
    weights: Float[Tensor, "terms"],
    step: Step,
    batches: int,
) -> tuple[dict[str, Rows], Float[Tensor, ""]]:
    """What each row of each term adds to a total, and what is of no row.

    Args:
        terms: by name.
        parts: sums of each by row.
        weights: effective weight of each.
        step: sums and denominators of the optimizer step.
        batches: how many there are in the step, on all ranks.
    """
    assert step.sums is not None
    channels, rows, rest = [term.channels for term in terms.values()], {}, weights.new_zeros(())
    numbers = (step.sums.split(channels), step.counts.to(step.sums.dtype).split(channels))
    for (name, term), part, weight, whole, counts in zip(
        terms.items(), parts, weights, *numbers, strict=True
    ):
        values, left = share_of_rows(term, part, whole, counts, batches)
        rest = rest + weight * left
        if term.of_structures:
            rows[name] = Rows(weight * values, part.structure)
    return rows, rest


def share_of_rows(
    term: Term,
    part: RowSums,
    whole: Float[Tensor, "channels"],
    counts: Num[Tensor, "channels"],
    batches: int = 1,
) -> tuple[Float[Tensor, "rows"], Float[Tensor, ""]]:
    r"""What each row adds to the value of a term, and what is left of it.

    Rows share the value V in proportion to what they add to it to first order,

    .. math:: V\, \frac{r_i}{\sum_j r_j}, \qquad r_i = \sum_c \frac{\partial V}{\partial S_c}\, s_{ic}

    with s what the row adds to the sums S: a value that is linear in its sums is :math:`\sum_i r_i`, and a
    root of a mean is shared as the mean is. The gradient is that of :math:`r_i`, so that gradients of
    rows add up to that of the value. What is left is what looks at the model alone, and a value that does not
    depend on its sums at all.

    Args:
        term: whose value it is.
        part: sums by row.
        whole: sums of the optimizer step.
        counts: its denominators.
        batches: how many there are in the step, on all ranks.
    """
    whole = whole.detach()
    slope = term.slope(whole, counts).detach()
    rises = part.rows.to(slope.dtype) @ slope
    if not term.of_structures:
        return rises, torch.dot(part.sums.detach().to(slope.dtype), slope)
    if term.linear:
        return rises, slope.new_zeros(())
    value, sum_of_rises = term.value(whole, counts), torch.dot(whole, slope)
    depends = sum_of_rises != 0
    factor = torch.where(depends, value / torch.where(depends, sum_of_rises, 1), 0)
    return rises + ((factor - 1) * rises).detach(), torch.where(depends, 0, value) / batches


@contextmanager
def unobserved(*modules: nn.Module) -> Iterator[None]:
    """Within it, modules do not count what they see as training."""
    training = [module for parent in modules for module in parent.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True
