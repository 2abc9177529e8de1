"""Sums whose gradients are written down with them, instead of recorded operation by operation.

Small kernels cost more to launch and to record than to run. Where every term knows the derivative of its
cost, one node of the autograd graph stands for all of them.
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


def is_explicit(terms: Sequence[Term], predictions: Predictions, batch: Batch) -> bool:
    """Whether to take the short way: not where a compiler or a function transform records for itself."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return torch.is_grad_enabled() and all(term.is_explicit(predictions, batch) for term in terms)


def explicit_sums(
    terms: Sequence[Term], predictions: Predictions, batch: Batch
) -> tuple[Tensor, list[Counts]]:
    """Sums of all terms, one channel each, and their denominators."""
    counts: list[Counts] = []
    inputs = [term.explicit_input(predictions) for term in terms]
    sums: Tensor = _Sums.apply(terms, predictions, batch, counts, *inputs)  # pyright: ignore
    return sums, counts


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
