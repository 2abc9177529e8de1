"""Sums whose gradients are written down with them, instead of recorded operation by operation.

Small kernels cost more to launch and to record than to run. Where terms know the derivative of their cost,
one node of the autograd graph stands for all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import mul
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions

if TYPE_CHECKING:
    from pesloss.losses.terms.base import Counts, Term


def measured(terms: Sequence[Term], predictions: Predictions, batch: Batch) -> tuple[Tensor, list[Counts]]:
    """Sums of all channels of all terms, and the denominators of each term."""
    short = explicit_terms(terms, predictions, batch)
    if not short:
        parts = [term.measure(predictions, batch) for term in terms]
        return torch.cat([sums for sums, _ in parts]), [counts for _, counts in parts]
    found: list[Counts] = []
    inputs = [term.explicit_input(predictions) for term in short]
    sums: Tensor = _Sums.apply(short, predictions, batch, found, *inputs)  # pyright: ignore
    if len(short) == len(terms):
        return sums, found
    shares = dict(zip(short, zip(sums.split(1), found, strict=True), strict=True))
    parts = [shares[term] if term in shares else term.measure(predictions, batch) for term in terms]
    return torch.cat([share for share, _ in parts]), [counts for _, counts in parts]


def explicit_terms(terms: Sequence[Term], predictions: Predictions, batch: Batch) -> list[Term]:
    """Terms that take the short way; none where a compiler or a function transform records for itself."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return []
    if not torch.is_grad_enabled():
        return []
    return [term for term in terms if term.is_explicit(predictions, batch)]


class _Sums(torch.autograd.Function):
    """Sums of the terms' costs, one after another; the slopes are kept for the gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        terms: Sequence[Term],
        predictions: Predictions,
        batch: Batch,
        counts: list[Counts],
        *inputs: Tensor,
    ) -> Tensor:
        sums, slopes = [], []
        for term in terms:
            term_sum, term_counts, slope = term.measure_with_slope(predictions, batch)
            sums.append(term_sum)
            counts.append(term_counts)
            slopes.append(slope)
        ctx.save_for_backward(*slopes, *inputs)
        ctx.terms, ctx.predictions, ctx.batch = terms, predictions, batch
        return torch.stack(sums)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grad_outputs
        num = len(ctx.terms)
        if torch.is_grad_enabled():  # a gradient that is to be differentiated again is recorded after all
            found = _recorded(ctx, grad, ctx.saved_tensors[num:])
        else:
            factors = [term.slope_factor for term in ctx.terms]
            shares = (factors[0] * grad).unbind() if len(set(factors)) == 1 else map(mul, factors, grad)
            found = [s * g.to(s.dtype) for s, g in zip(ctx.saved_tensors[:num], shares, strict=True)]
        return (None, None, None, None, *found)


def _recorded(ctx: Any, grad: Tensor, inputs: Sequence[Tensor]) -> list[Tensor | None]:
    sums = torch.cat([term(ctx.predictions, ctx.batch) for term in ctx.terms])
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    found = iter(torch.autograd.grad(sums, wanted, grad, create_graph=True, allow_unused=True))
    return [next(found) if tensor.requires_grad else None for tensor in inputs]
