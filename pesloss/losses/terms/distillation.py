"""One prediction taught by another: a cheap head by a dear one, a small model by a large one."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from pesloss.losses.batch import Batch, Predictions, num_rows, predicted
from pesloss.losses.masks import Mask
from pesloss.losses.penalties import Penalty
from pesloss.losses.properties import Property, as_property
from pesloss.losses.reductions import Reduction
from pesloss.losses.residuals import Residual
from pesloss.losses.terms.property import PropertyTerm
from pesloss.losses.terms.restated import Restated

Teacher: TypeAlias = Callable[[Batch, Collection[str]], Predictions]


class Distillation(Restated):
    r"""A prediction against what a teacher says of the same structures, labelled or not.

    .. math:: \frac1n \sum_i w_i\, \rho(\hat y_i - \operatorname{sg}(\hat t_i))

    The teacher is another prediction of the same model, which gets no gradient from here (direct forces
    learn from those that are the gradient of the energy), or a model of its own, asked in ``prepare``
    (``teacher::<property>`` in the batch, which may as well be there already).

    Args:
        property: what learns, by name, or a :class:`Property` such as ``direct_forces``.
        teacher: name of the prediction that teaches, of the same shape; or a model ``(batch, properties) ->
            predictions``, which is put into ``eval()``; by default the entry ``teacher::<property>``.
        residual: part or name.
        penalty: part or name.
        mask: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows, see :class:`PropertyTerm`.

    References:
        G. Hinton, O. Vinyals and J. Dean, arXiv:1503.02531.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        teacher: str | Teacher | None = None,
        residual: Residual | str = "difference",
        penalty: Penalty | str = "squared",
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        self.property = as_property(property)
        self.teacher = f"teacher::{self.property.name}" if not isinstance(teacher, str) else teacher
        super().__init__(
            PropertyTerm(
                self.property,
                label=f"teacher::{self.property.name}",
                residual=residual,
                penalty=penalty,
                mask=mask,
                reduction=reduction,
                weight=weight,
                weighted_by=weighted_by,
            )
        )
        self.same_model = isinstance(teacher, str)
        # in a tuple, because a teacher's parameters are neither learned nor saved here
        self._teacher = () if teacher is None or isinstance(teacher, str) else (_quiet(teacher),)

    @property
    def required(self) -> Mapping[str, Property]:
        return {**self.term.required, **self._taught()}

    @property
    def labels(self) -> Mapping[str, Property]:
        return {} if self.same_model or self._teacher else self.term.labels

    def prepare(self, batch: Batch) -> Batch:
        if not self._teacher or self.teacher in batch:
            return batch
        with torch.no_grad():
            said = self._teacher[0](batch, (self.property.name,))
        return {**batch, self.teacher: predicted(said, self.property.name).detach()}

    def prediction(self, predictions: Predictions, batch: Batch) -> Tensor:
        return predicted(predictions, self.property.name)

    def labelled(self, batch: Batch, predictions: Predictions | None = None) -> Batch:
        if not self.same_model:
            return batch
        if predictions is None:
            rows = num_rows(batch, self.property.rows)
            zeros = torch.zeros(rows, *self.property.shape, device=batch["ptr"].device)
            return {**batch, self.term.label: zeros}
        said = predicted(predictions, self.teacher).detach()
        # a prediction that is NaN is no missing label: it has to be seen in the total
        return {**batch, self.term.label: torch.where(said.isnan(), torch.inf, said)}

    def formula(self) -> str:
        return f"{self.term.formula()}; against {self.teacher}, which is held fixed"

    def _taught(self) -> Mapping[str, Property]:
        if not self.same_model:
            return {}
        prop = self.property
        return {
            self.teacher: Property(
                self.teacher, rows=prop.rows, shape=prop.shape, extensive=prop.extensive, unit=prop.unit
            )
        }


def _quiet(teacher: Teacher) -> Teacher:
    return teacher.eval() if isinstance(teacher, nn.Module) else teacher
