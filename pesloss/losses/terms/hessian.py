"""Second derivatives along random directions, where the whole Hessian is too much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor

from pesloss.losses.batch import Batch, Predictions, predicted
from pesloss.losses.pairs import product_of_blocks
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.random import Draws
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated


class HessianProductTerm(Restated):
    r"""The Hessian times a random direction, predicted against labelled: one derivative of the forces.

    .. math:: \frac{1}{3N} \left\| (\hat H - H)\, v \right\|^2, \qquad v_k = \pm 1

    Its mean over v is :math:`\|\hat H - H\|_F^2 / 3N`, which is 3N times the mean over the entries of the
    Hessian. ``prepare`` draws ``hessian_direction [N, 3]`` (``[N, 3, directions]`` for more than one), which
    the model reads, and makes the label ``hessian_product`` of the label ``hessian``; a batch that holds a
    direction already keeps it. What is missing of the Hessian is missing in the rows it enters.

    Args:
        directions: how many of them in a step.
        penalty: part or name, of the components.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the atoms, see :class:`PropertyTerm`.
        seed: of the directions.

    Raises:
        ValueError: if there is no direction.

    References:
        I. Amin, S. Raja and A. S. Krishnapriyan, Hessian distillation, arXiv:2501.09009;
        M. F. Hutchinson, Commun. Stat. Simul. Comput. 18, 1059 (1989) (the estimator).
    """

    def __init__(
        self,
        directions: int = 1,
        *,
        penalty: Penalty | str = "squared",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
        seed: int = 0,
    ) -> None:
        if directions < 1:
            raise ValueError(f"A product needs at least one direction, got {directions}.")
        product = as_property("hessian_product")
        shape = (3,) if directions == 1 else (3, directions)
        super().__init__(
            PropertyTerm(
                replace(product, shape=shape),
                penalty=penalty,
                reduction=reduction,
                weight=weight,
                weighted_by=weighted_by,
            )
        )
        self.directions = directions
        self.draws = Draws("hessian", seed)

    @property
    def required(self) -> Mapping[str, Property]:
        return self.term.required

    @property
    def labels(self) -> Mapping[str, Property]:
        return {"hessian": as_property("hessian")}

    def prepare(self, batch: Batch) -> Batch:
        if "hessian_direction" not in batch:
            signs = self.draws.signs(batch, "atom", 3 * self.directions).to(batch["positions"].dtype)
            batch = {**batch, "hessian_direction": signs.reshape(-1, *self.term.property.shape)}
        if "hessian" not in batch or "hessian_product" in batch:
            return batch
        return {
            **batch,
            "hessian_product": product_of_blocks(batch["hessian"], batch["hessian_direction"], batch),
        }

    def advance(self, pool: Callable[[Tensor], Tensor]) -> None:
        super().advance(pool)
        self.draws.advance()

    def prediction(self, predictions: Predictions, batch: Batch) -> Float[Tensor, "atoms *entry"]:
        return predicted(predictions, "hessian_product")

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        return batch

    def formula(self) -> str:
        return f"{self.term.formula()}; hessian_product = Hv, v: {self.directions} of random signs"
