"""Labels that are classes rather than quantities: a phase, a bonded pair, converged or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pesloss.losses.batch import Batch
from pesloss.losses.masks import Mask
from pesloss.losses.properties import Property
from pesloss.losses.reductions import Reduction
from pesloss.losses.terms.scored import ScoredTerm
from pesloss.names import unknown

KINDS = ("softmax", "sigmoid")


class ClassTerm(ScoredTerm):
    r"""Cross-entropy of predicted classes: the surprise of the model at the label.

    ``softmax``: one of C classes is true, with logits x of each. The label is the number y of the class, or
    the probability t of each class.

    .. math:: -w_y \ln p_y \quad\text{or}\quad -\sum_c w_c\, t_c \ln p_c, \qquad
              p_c = e^{x_c} \Big/ \sum_k e^{x_k}

    ``sigmoid``: every class is true or not, for itself; the label is 1 or 0, or a probability.

    .. math:: -w_c\,\big[t_c \ln p_c + (1 - t_c) \ln(1 - p_c)\big], \qquad p_c = 1 / (1 + e^{-x_c})

    Args:
        property: the label, a :class:`Property` of your own or its arguments: of shape ``()`` for the number
            of a class, counted from 0, or for yes and no; of shape ``(C,)`` for a number of each class.
        kind: ``softmax`` or ``sigmoid``.
        classes: C, for a label that is the number of a class.
        class_weights: w of each class, 1 by default. They do not change by how many labels is divided, except
            that a class of weight 0 does not count.
        logits: key of the predicted logits, [rows, C]; ``<property>_logits`` by default.
        label: key of the label in the batch, if it is not the property's name.
        mask: part or name.
        reduction: part or name.
        weight: prior weight in the total.
        weighted_by: entries of the batch that weight the rows.

    Raises:
        ValueError: for an unknown kind, and numbers of classes or of weights that do not fit the property.
    """

    def __init__(
        self,
        property: str | Property | Mapping[str, Any],
        *,
        kind: str = "softmax",
        classes: int | None = None,
        class_weights: Sequence[float] | None = None,
        logits: str | None = None,
        label: str | None = None,
        mask: Mask | str = "labelled",
        reduction: Reduction | str = "mean",
        weight: float = 1.0,
        weighted_by: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            property, label=label, mask=mask, reduction=reduction, weight=weight, weighted_by=weighted_by
        )
        if kind not in KINDS:
            raise ValueError(unknown("kind of classes", kind, KINDS))
        self.kind = kind
        self.per_row = kind == "softmax"
        self.by_number = self.per_row and not self.property.shape
        self.classes = self._number(classes)
        name = f"{self.property.name}_logits" if logits is None else logits
        shape = (self.classes,) if self.per_row else self.property.shape
        self.outputs = (Property(name, self.property.rows, shape),)
        self.class_weights: Tensor | None
        self.register_buffer("class_weights", self._table(class_weights), persistent=False)

    @property
    def entry(self) -> tuple[int, ...]:
        return () if self.per_row else tuple(self.property.shape)

    def shape_of_label(self, prediction: Tensor) -> tuple[int, ...]:
        return tuple(prediction.shape[:1]) if self.by_number else tuple(prediction.shape)

    def score(self, predicted: Sequence[Tensor], label: Tensor, batch: Batch) -> Tensor:
        (logits,) = predicted
        if not self.per_row:
            return binary_cross_entropy_with_logits(logits, label, reduction="none")
        surprise = -logits.log_softmax(-1)
        if self.by_number:
            true = self._true(label)
            # a number that is no class is no missing label
            return torch.where(true.any(-1), torch.where(true, surprise, 0).sum(-1), torch.nan)
        if self.class_weights is not None:
            surprise = surprise * self.class_weights.to(surprise.dtype)
        return (label * surprise).sum(-1)

    def formula(self) -> str:
        name = self.property.name
        weight = "" if self.class_weights is None else "w_c·"
        said = {
            "softmax": f"−{weight}ln p_c, c = {name}" if self.by_number else f"−Σ_c {weight}{name}_c ln p_c",
            "sigmoid": f"−{weight}[{name} ln p + (1 − {name}) ln(1 − p)]",
        }[self.kind]
        table = "" if self.class_weights is None else f", w_c = {self.class_weights.tolist()}"
        parts = [
            f"{self.weight_symbol()}({said}), p = {self.kind}({self.outputs[0].name}){table}",
            self.mask.formula(),
        ]
        return self.reduction.formula(" ".join(filter(None, parts)))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kind={self.kind}"

    def _true(self, label: Float[Tensor, "rows"]) -> Bool[Tensor, "rows classes"]:
        return label[:, None] == torch.arange(self.classes, device=label.device)

    def _factors(self, batch: Batch, rows: int) -> Iterator[Tensor]:
        yield from super()._factors(batch, rows)
        if self.class_weights is None:
            return
        if not self.per_row:
            yield self.class_weights[None]
        elif self.by_number and self.label in batch:
            true = self._true(batch[self.label])
            yield torch.where(true.any(-1), torch.where(true, self.class_weights, 0).sum(-1), 1)

    def _number(self, classes: int | None) -> int:
        name, shape = self.property.name, tuple(self.property.shape)
        if not self.by_number:
            if classes is not None:
                raise ValueError(
                    f"'{name}' has shape {shape}, which says how many classes there are; leave it out."
                )
            if self.per_row and (len(shape) != 1 or shape[0] < 2):
                raise ValueError(
                    f"Probabilities of classes have shape (C,) with C > 1, but '{name}' has {shape}."
                )
            return shape[-1] if shape else 1
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise ValueError(
                f"'{name}' is the number of a class; say of how many, classes=2 or more, got {classes!r}."
            )
        return classes

    def _table(self, weights: Sequence[float] | None) -> Tensor | None:
        if weights is None:
            return None
        table = torch.tensor(weights, dtype=torch.float64)
        if (
            tuple(table.shape) != ((self.classes,) if self.per_row else self.property.shape)
            or not table.dim()
        ):
            raise ValueError(
                f"'{self.property.name}' has {self.classes} classes, but class_weights {list(weights)}; "
                "a single yes or no has none."
            )
        if not bool((table.isfinite() & (table >= 0)).all()):
            raise ValueError(f"class_weights must be finite and not negative, got {list(weights)}.")
        return table
