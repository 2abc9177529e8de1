"""What a balance says: numbers by term and by group, tables, and sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import isnan

from pesloss.checks.findings import Finding, Report, Table

DOMINANT = 0.9
"""Share of the gradient from which one term leaves the others little to say."""
CONFLICT = -0.3
"""Cosine below which two gradients pull against each other; small batches scatter around zero."""
LINEAR = 0.8
"""Share of residuals beyond delta from which Huber's penalty is an absolute error."""
QUADRATIC = 0.01
"""And below which it is a squared one: a delta of outliers leaves a few percent beyond it."""
MOST_GROUPS = 12


@dataclass(frozen=True)
class TermBalance:
    """One term of a loss on some structures.

    Args:
        name: of the term.
        value: without its weight.
        unit: of the value.
        configured: weight as the config has it.
        weight: times that of the whole loss, as learned or scheduled now.
        row_weight: mean weight of the components that count: of structures, groups, atoms, components.
        labels: number of these components.
        share: of the loss.
        gradient_norm: norm of the gradient of the weighted term by the parameters of the model.
        gradient_share: of the sum of these norms.
        projection: share of the gradient of the loss that comes from the term, ``g_t · g / g · g``.
        linear: share of residuals in the linear zone of a Huber penalty; ``None`` without such a zone.
        delta: where that zone begins; ``None`` if there is not one number.
    """

    name: str
    value: float
    unit: str
    configured: float
    weight: float
    row_weight: float
    labels: int
    share: float
    gradient_norm: float
    gradient_share: float
    projection: float
    linear: float | None = None
    delta: float | None = None

    @property
    def effective_weight(self) -> float:
        """After every level of the algebra."""
        return self.weight * self.row_weight


@dataclass(frozen=True)
class GroupBalance:
    """Structures, or atoms of an element, that belong together.

    Args:
        kind: ``dataset``, ``config_type`` or ``element``.
        name: of the group.
        number: of structures; of atoms of an element.
        share: of the loss; of an element, of those terms that have a row for each atom.
        projection: share of the gradient, ``g_group · g / g · g``; ``None`` where it cannot be computed.
    """

    kind: str
    name: str
    number: int
    share: float
    projection: float | None


@dataclass(frozen=True)
class Balance:
    """Who drives a training: shares of the loss and of its gradient on some structures.

    Args:
        structures: how many there were, on all ranks.
        terms: in the order of the loss.
        cosines: between the gradients of every two terms; NaN where one is zero.
        groups: by dataset, config type and element.
        regulariser: what the weighting adds to the loss; it has no gradient by the model.
        decided_by: whether ``weights``, ``targets`` or the ``weighting`` itself decides the weights.
    """

    structures: int
    terms: tuple[TermBalance, ...]
    cosines: tuple[tuple[float, ...], ...]
    groups: tuple[GroupBalance, ...] = ()
    regulariser: float = 0.0
    decided_by: str = "weights"

    def numbers(self) -> dict[str, float]:
        """The same by name, to be logged."""
        found: dict[str, float] = {}
        for term in self.terms:
            found[f"loss_share/{term.name}"] = term.share
            found[f"gradient_share/{term.name}"] = term.gradient_share
            found[f"projection/{term.name}"] = term.projection
            found[f"gradient_norm/{term.name}"] = term.gradient_norm
            if term.linear is not None:
                found[f"linear_share/{term.name}"] = term.linear
        found |= {f"cosine/{a}/{b}": cosine for a, b, cosine in self.pairs()}
        for group in self.groups:
            found[f"loss_share/{group.kind}={group.name}"] = group.share
            if group.projection is not None:
                found[f"projection/{group.kind}={group.name}"] = group.projection
        return found

    def report(self) -> Report:
        """Tables and findings."""
        return Report.of([*self.tables(), *self.findings()], {"structures": str(self.structures)})

    def tables(self) -> Iterator[Table]:
        """By term, by pair of terms, and by group."""
        yield self.of_terms()
        if len(self.terms) > 1:
            yield self.of_cosines()
        yield from self._of_groups()

    def of_cosines(self) -> Table:
        """The table of the angles between the gradients of the terms."""
        columns = ("", *(term.name for term in self.terms))
        rows = zip(self.terms, self.cosines, strict=True)
        values = tuple((term.name, *(round(cosine, 3) for cosine in row)) for term, row in rows)
        return Table("Cosines between gradients", columns, values)

    def of_terms(self) -> Table:
        """The table of the terms."""
        return Table(
            f"Balance of the loss on {self.structures} structures",
            (
                "term",
                "labels",
                "value",
                "unit",
                "weight",
                "effective",
                "loss [%]",
                "gradient [%]",
                "projection [%]",
                "norm",
                "linear [%]",
            ),
            tuple(
                (
                    term.name,
                    term.labels,
                    term.value,
                    term.unit,
                    term.configured,
                    term.effective_weight,
                    _percent(term.share),
                    _percent(term.gradient_share),
                    _percent(term.projection),
                    term.gradient_norm,
                    _percent(term.linear),
                )
                for term in self.terms
            ),
        )

    def findings(self) -> Iterator[Finding]:
        """What is worth knowing, in sentences."""
        for sentence in (*self._silent(), *self._dominant(), *self._conflicts(), *self._zones()):
            yield Finding("note", "balance", sentence)

    def pairs(self) -> Iterator[tuple[str, str, float]]:
        """Every two terms, and the cosine between their gradients."""
        for i, j in combinations(range(len(self.terms)), 2):
            yield self.terms[i].name, self.terms[j].name, self.cosines[i][j]

    def equal_shares(self) -> dict[str, float]:
        """Factors of the weights at which the gradients of all terms that have one were of one length.

        The term with the largest share keeps its weight.
        """
        norms = {term.name: term.gradient_norm for term in self.terms if term.gradient_norm > 0}
        return {name: max(norms.values()) / norm for name, norm in norms.items()}

    def _silent(self) -> Iterator[str]:
        for term in self.terms:
            if not term.labels:
                yield f"{term.name} has no label in these structures: nothing is said of it."
            elif term.gradient_norm == 0 and len(self.terms) > 1:
                yield f"{term.name} has no gradient by the parameters of the model: it does not act."

    def _dominant(self) -> Iterator[str]:
        moving = [term for term in self.terms if term.gradient_norm > 0]
        moving.sort(key=lambda term: -term.gradient_share)
        if len(moving) < 2 or not moving[0].gradient_share >= DOMINANT:
            return
        first, *rest = moving
        others = " and ".join(f"{term.name} {_in_words(term.gradient_share)}" for term in rest)
        share = _in_words(first.gradient_share)
        yield f"{first.name} supplies {share} of the gradient, {others}{self._advice()}."

    def _advice(self) -> str:
        factors = self.equal_shares()
        if self.decided_by == "weighting":
            return ""
        if self.decided_by == "targets":
            listed = ", ".join(f"{name} {_short(f)}" for name, f in factors.items() if f > 1)
            return f"; shares would be equal with weights larger by factors of: {listed}"
        configured = {term.name: term.configured for term in self.terms}
        listed = " ".join(
            f"loss.weights.{name}={_short(f * configured[name])}" for name, f in factors.items()
        )
        return f"; shares would be equal at {listed}"

    def _conflicts(self) -> Iterator[str]:
        for a, b, cosine in self.pairs():
            if cosine < CONFLICT:
                yield f"{a} and {b} pull against each other: the cosine of their gradients is {cosine:.2f}."

    def _zones(self) -> Iterator[str]:
        for term in self.terms:
            if term.linear is None or not term.labels:
                continue
            delta = "delta" if term.delta is None else f"delta {term.delta:g}"
            if term.linear >= LINEAR:
                share = _in_words(term.linear)
                yield f"{share} of the residuals of {term.name} lie in the linear zone: {delta} acts as MAE."
            elif term.linear <= QUADRATIC:
                share = _in_words(term.linear)
                yield f"{share} of the residuals of {term.name} lie beyond {delta}: it acts as half the MSE."

    def _of_groups(self) -> Iterator[Table]:
        for kind in dict.fromkeys(group.kind for group in self.groups):
            chosen = [group for group in self.groups if group.kind == kind]
            what = "atoms" if kind == "element" else "structures"
            rows = ((g.name, g.number, _percent(g.share), _percent(g.projection)) for g in chosen)
            yield Table(
                f"By {kind.replace('_', ' ')}", (kind, what, "loss [%]", "projection [%]"), tuple(rows)
            )


def largest(groups: Sequence[GroupBalance], most: int = MOST_GROUPS) -> tuple[GroupBalance, ...]:
    """The groups with the largest share of the loss, and what is left as one more."""
    ordered = sorted(groups, key=lambda group: -group.share)
    kept, rest = ordered[:most], ordered[most:]
    if not rest:
        return tuple(kept)
    known = [group.projection for group in rest if group.projection is not None]
    projection = sum(known) if len(known) == len(rest) else None
    number, share = sum(group.number for group in rest), sum(group.share for group in rest)
    name = f"{len(rest)} others"
    return (*kept, GroupBalance(rest[0].kind, name, number, share, projection))


def _percent(share: float | None) -> float | None:
    return None if share is None or isnan(share) else round(100 * share, 2) + 0.0  # no −0


def _in_words(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if 1 <= percent <= 99 or percent in (0, 100) else f"{percent:.2g} %"


def _short(number: float) -> str:
    """Two digits are enough for a weight."""
    return f"{float(f'{number:.2g}'):g}"
