"""Energies and what they lose: reference energies, outliers, and totals that are none."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TypeGuard

import numpy as np
from ase.data import chemical_symbols
from jaxtyping import Bool, Float64, Int64, UInt64

from pesloss.checks.compositions import Energies, Fit, codes, fitted, medians, robust
from pesloss.checks.distances import SHORTER_THAN_BONDS, contacts
from pesloss.checks.findings import Finding, Level, Said, Table, counted, named
from pesloss.checks.subject import Subject
from pesloss.losses.penalties import Squared
from pesloss.losses.residuals import Difference
from pesloss.losses.terms.base import Term
from pesloss.losses.terms.property import PropertyTerm

DEEPEST, HIGHEST = -15.0, 2.0
"""eV an atom, between which at least half of the structures lie once their references are right. Free atoms
bind by up to 10 eV an atom (tungsten by 9, diamond by 8), pseudopotentials without references by up to 13;
what is higher than free atoms, or than crystals of the elements by so much, nobody simulates."""
DEEPEST_ELEMENT, HIGHEST_ELEMENT = -25.0, 8.0
"""The same for the share of one element, which least squares move from element to element of a compound."""
SURE = 5.0  # standard errors that such a share has to be beyond these
WIDEST = 5.0  # eV an atom, median deviation; tungsten, the most strongly bound, has 8.9 in all
ENOUGH = 10  # structures that a spread or a share is known from
EXPLAINED = 90.0  # % of the mean square, so that composition may be said to explain it
WELL_CONDITIONED = 1e3  # condition number that costs energies of single elements three digits

ANOTHER_METHOD = 1.0
"""eV an atom between datasets of like composition and periodicity; isomers and phases differ by less."""
SPREADS = 10.0  # median absolute deviations within the datasets, which that has to exceed too
REACH = 10.0  # how many times as unusual as the mean a composition may be that a dataset speaks for
DATASETS = 20  # the largest, which are compared with each other

OUTLYING = 1.0  # eV an atom
UNEXPLAINED = 10.0  # eV an atom, where fewer than ``ENOUGH`` structures have the same elements
DEVIATIONS = 50.0  # median absolute ones, which structures that were made to be different do not reach either
LOOKED_AT = 1000  # outliers whose distances are looked at
WORST = 5  # outliers in the table

BETTER = 0.3  # of what totals leave, so that another reading explains the energies instead
SPARE = 3  # compositions more than elements, so that one reading is not better by chance
REST = 0.1  # of the energies, root mean square, which such a reading may leave
NOT_TOTALS = {
    -1: ("are energies per atom", "data.units.energy=eV/atom makes totals of them."),
    1: (
        "were multiplied by the number of atoms once too often",
        "Is data.units.energy wrong to be per atom?",
    ),
}
UNEVEN = 4.0  # ratio of sizes from which on costs differ by more than an order of magnitude

SETTLED = "data.references=isolated_atoms, or energies by element, would settle them."


def references(subject: Subject) -> Iterator[Said]:
    """Reference energies take out of energies what only counts atoms; wrong ones leave little else to see."""
    energies = Energies(subject)
    yield from _unknown_elements(energies)
    rows = energies.rows("train")
    rows = rows[np.isfinite(energies.totals[rows])]
    if len(rows):
        fit = energies.fit(rows)
        yield _table(energies, rows, fit)
        if subject.data.references.note.startswith("fit"):
            yield from _open(energies, rows, fit)
        # no references are right for energies of different methods
        different = list(_different_datasets(energies)) or list(_different_parts(energies))
        of_matter = rows[energies.of_matter[rows]]
        yield from different or list(_wrong(energies, of_matter)) or _too_wide(energies, of_matter)


def energy_outliers(subject: Subject) -> Iterator[Said]:
    """Energies far from all others of like composition are wrong labels or rule a squared loss.

    Deviations are those of energies an atom from what composition explains, in units of their median absolute
    deviation among structures of the same elements.
    """
    energies = Energies(subject)
    rows = np.flatnonzero(energies.of_matter)
    if len(rows) < ENOUGH:
        return
    deviations, spread = _deviations(energies, rows)
    where = np.abs(deviations) > np.maximum(OUTLYING, DEVIATIONS * spread)
    order = np.flatnonzero(where)[np.argsort(-np.abs(deviations[where]), kind="stable")]
    if len(order):
        yield from _outliers(energies, rows[order], deviations[order], spread[order])


def energy_per_atom(subject: Subject) -> Iterator[Finding]:
    """Total energies grow with the number of atoms; energies per atom that are read as totals do not.

    For each dataset least squares ask which of ``E_s ≈ N_s^p Σ_Z n_s(Z) e(Z)`` holds: p = 0 for totals, −1
    for energies per atom, 1 for totals that were multiplied with the number of atoms.
    """
    energies = Energies(subject)
    for name, where in subject.datasets():
        yield from _not_totals(energies, name, np.flatnonzero(where & energies.of_matter))
    yield from _uneven_totals(energies)


def _unknown_elements(energies: Energies) -> Iterator[Finding]:
    """Elements of which no training structure has an atom."""
    training = energies.counts[energies.rows("train")].any(axis=0)
    for split in ("val", "test") if training.any() else ():
        rows = energies.rows(split)
        strange = energies.counts[rows][:, ~training].any(axis=1)
        if len(found := rows[strange]):
            elements = energies.numbers[~training & energies.counts[found].any(axis=0)]
            yield Finding(
                "warning",
                "references",
                f"{len(found)} of {len(rows)} {split} structures have elements that no training "
                f"structure has ({_symbols(elements)}): what a model says of them is what it was "
                "initialised with.",
                energies.subject.names(found),
                len(found),
            )


def _table(energies: Energies, rows: Int64[np.ndarray, "rows"], fit: Fit) -> Table:
    given = energies.subject.data.references.energies.tolist()
    structures = np.count_nonzero(energies.counts[rows], axis=0).tolist()
    lines = []
    for place, number in enumerate(energies.numbers.tolist()):
        known = np.isfinite(fit.errors[place])
        share = (float(fit.energies[place]), float(fit.errors[place])) if known else (None, None)
        lines.append((chemical_symbols[number], given[number], structures[place], *share))
    distinct = len(np.unique(_compositions(energies, rows)))
    title = (
        f"Reference energies, and the share of each element in what they leave: {distinct} distinct "
        f"compositions, condition number {fit.condition:.3g}"
    )
    columns = (
        "element",
        "reference [eV]",
        "training structures",
        "share [eV/atom]",
        "standard error [eV/atom]",
    )
    return Table(title, columns, tuple(lines))


def _open(energies: Energies, rows: Int64[np.ndarray, "rows"], fit: Fit) -> Iterator[Finding]:
    """What a fit of references leaves open, or only just determines."""
    elements = int(energies.counts[rows].any(axis=0).sum())
    note = energies.subject.data.references.note
    if fit.rank < elements:
        yield Finding(
            "note",
            "references",
            f"The training compositions leave reference energies open ({note}): for other compositions they "
            f"are arbitrary. {SETTLED}",
        )
        yield from _beyond(energies, fit)
    elif fit.rank > 1 and len(np.unique(_compositions(energies, rows))) == fit.rank:
        yield Finding(
            "note",
            "references",
            f"Reference energies are fitted to as many compositions as there are elements ({elements}) and "
            f"take the mean energy of each: nothing says whether they hold for another one. {SETTLED}",
        )
    elif fit.condition > WELL_CONDITIONED:
        yield Finding(
            "note",
            "references",
            f"The training compositions hardly tell elements apart (condition number {fit.condition:.2g}), "
            f"so that fitted reference energies are off by much for other compositions. {SETTLED}",
        )


def _beyond(energies: Energies, fit: Fit) -> Iterator[Finding]:
    for split in ("val", "test"):
        rows = energies.rows(split)
        found = rows[~fit.reaches(energies.fractions[rows])]
        if len(found):
            yield Finding(
                "warning",
                "references",
                f"{len(found)} of {len(rows)} {split} structures have compositions whose reference "
                f"energy the training set leaves open: errors of their energies are arbitrary. {SETTLED}",
                energies.subject.names(found),
                len(found),
            )


def _wrong(energies: Energies, rows: Int64[np.ndarray, "rows"]) -> Iterator[Finding]:
    """References that leave energies which no matter has."""
    if not len(rows):
        return
    fit = energies.fit(rows)
    middle, strange = float(np.median(energies.per_atom[rows])), _strange(energies, rows, fit)
    if DEEPEST < middle < HIGHEST and not len(strange):
        return
    note = energies.subject.data.references.note.partition(";")[0]
    shares = [f"{chemical_symbols[energies.numbers[z]]} {fit.energies[z]:+.4g} eV" for z in strange]
    of_elements = f" (per atom {named(shares)})" if shares else ""
    yield Finding(
        "warning",
        "references",
        f"After the references ({note}) energies are {middle:.4g} eV an atom in the middle, where "
        f"{DEEPEST:g} to {HIGHEST:g} are usual{of_elements}; {_explained(energies.per_atom[rows], fit)}",
    )


def _too_wide(energies: Energies, rows: Int64[np.ndarray, "rows"]) -> Iterator[Finding]:
    """Energies that differ by more than what any matter is bound by."""
    spread = _deviation(energies.per_atom[rows]) if len(rows) >= ENOUGH else 0.0
    if spread > WIDEST:
        yield Finding(
            "warning",
            "references",
            f"After the references half of the energies lie more than {spread:.3g} eV an atom from the "
            "middle one, which is more than the bonds of any matter are worth. Is data.units.energy right?",
        )


def _explained(left: Float64[np.ndarray, "rows"], fit: Fit) -> str:
    """What composition has to do with energies that are left, in words."""
    before, after = _rms(left), _rms(fit.left)
    share = 100 * (1 - (after / before) ** 2)
    if share < EXPLAINED:
        return f"composition explains only {max(share, 0):.0f} % of that. Is data.units.energy right?"
    return (
        f"composition alone explains {share:.4g} % of that ({before:.3g} eV an atom rms → {after:.2g}). "
        "These reference energies look wrong; data.references=fit takes them from the data."
    )


def _strange(energies: Energies, rows: Int64[np.ndarray, "rows"], fit: Fit) -> Int64[np.ndarray, "elements"]:
    """Elements whose share is for certain not that of an atom in matter, the worst first."""
    enough = np.count_nonzero(energies.counts[rows], axis=0) >= ENOUGH
    margin = SURE * np.where(enough, fit.errors, np.inf)
    outside = (fit.energies + margin < DEEPEST_ELEMENT) | (fit.energies - margin > HIGHEST_ELEMENT)
    found = np.flatnonzero(outside)
    return found[np.argsort(-np.abs(fit.energies[found]), kind="stable")]


def _different_datasets(energies: Energies) -> Iterator[Finding]:
    """Training datasets whose energies lie beside those of another one."""
    training = _training(energies)
    own = [
        (name, np.intersect1d(np.flatnonzero(where), training)) for name, where in energies.subject.datasets()
    ]
    largest = sorted(own, key=lambda one: -len(one[1]))[:DATASETS]
    for (first, mine), (second, others) in combinations(largest, 2):
        yield from _different(energies, f"dataset '{first}'", mine, f"dataset '{second}'", others)


def _different_parts(energies: Energies) -> Iterator[Finding]:
    """Validation or test structures whose energies lie beside those that a model learns."""
    for split in ("val", "test"):
        rows = energies.rows(split)
        rows = rows[energies.of_matter[rows]]
        yield from _different(energies, "the train set", _training(energies), f"the {split} set", rows)


def _training(energies: Energies) -> Int64[np.ndarray, "rows"]:
    rows = energies.rows("train")
    return rows[energies.of_matter[rows]]


def _different(
    energies: Energies,
    first: str,
    mine: Int64[np.ndarray, "mine"],
    second: str,
    others: Int64[np.ndarray, "others"],
) -> Iterator[Finding]:
    """Compares molecules with molecules, and crystals with crystals."""
    for periodic in (energies.subject.periodic, ~energies.subject.periodic):
        offset, spread, rows = _offset(energies, mine[periodic[mine]], others[periodic[others]])
        if abs(offset) > max(ANOTHER_METHOD, SPREADS * spread):
            yield Finding(
                "warning",
                "references",
                f"Energies of {second} are {offset:+.3g} eV an atom from those of {first} after the "
                f"references, for like compositions ({spread:.2g} is usual within them). Another method, "
                "reference or unit? One model cannot learn both.",
                energies.subject.names(rows),
                len(rows),
            )
            return


def _offset(
    energies: Energies, mine: Int64[np.ndarray, "mine"], others: Int64[np.ndarray, "others"]
) -> tuple[float, float, Int64[np.ndarray, "rows"]]:
    """How far some energies are from what others of like composition say, the spread of both, and which."""
    if min(len(mine), len(others)) < ENOUGH:
        return 0.0, 0.0, others
    fit, own = energies.fit(mine), energies.fit(others)
    x = energies.fractions[others]
    rows = np.flatnonzero(fit.reaches(x) & (fit.unusual(x) < REACH))
    if len(rows) < ENOUGH:
        return 0.0, 0.0, others
    offset = float(np.median(energies.per_atom[others[rows]] - x[rows] @ fit.energies))
    return offset, max(_deviation(fit.left), _deviation(own.left)), others[rows]


def _deviations(
    energies: Energies, rows: Int64[np.ndarray, "rows"]
) -> tuple[Float64[np.ndarray, "rows"], Float64[np.ndarray, "rows"]]:
    """Of energies an atom from those of like structures, and their usual size, in eV."""
    left = robust(energies.fractions[rows], energies.per_atom[rows])
    family = (energies.counts[rows] > 0).astype(np.uint64) @ codes(len(energies.numbers))
    _, which, sizes = np.unique(family, return_inverse=True, return_counts=True)
    large = sizes[which] >= ENOUGH
    left = left - np.where(large, medians(left, family), 0.0)
    spread = np.full(len(rows), _deviation(left))
    own = np.where(large, medians(np.abs(left), family), UNEXPLAINED / DEVIATIONS)
    return left, np.maximum(spread, own)


def _outliers(
    energies: Energies,
    rows: Int64[np.ndarray, "rows"],
    deviations: Float64[np.ndarray, "rows"],
    spread: Float64[np.ndarray, "rows"],
) -> Iterator[Said]:
    """What there is to say of outliers, the worst first."""
    subject = energies.subject
    close = [contacts(subject, row, row + 1).ratios[0] for row in rows[:LOOKED_AT].tolist()]
    strained = np.zeros(len(rows), bool)
    strained[: len(close)] = np.array(close) < SHORTER_THAN_BONDS
    strained &= deviations > 0
    yield from _outlying(subject, rows, deviations, ~strained, "warning")
    yield from _outlying(subject, rows, deviations, strained, "note")
    columns = ("structure", "energy [eV]", "deviation [eV/atom]", "usual deviation [eV/atom]")
    worst = zip(rows[:WORST].tolist(), deviations.tolist(), spread.tolist(), strict=False)
    lines = tuple((subject.name(row), float(energies.totals[row]), far, usual) for row, far, usual in worst)
    yield Table("Energies farthest from those of like structures", columns, lines)


def _outlying(
    subject: Subject,
    rows: Int64[np.ndarray, "rows"],
    deviations: Float64[np.ndarray, "rows"],
    where: Bool[np.ndarray, "rows"],
    level: Level,
) -> Iterator[Finding]:
    reasons = {
        "warning": "These labels are wrong (not converged, another unit or method), or rule a squared loss.",
        "note": "Atoms that are closer than in any bond explain it, but they rule a squared loss.",
    }
    if where.any():
        yield Finding(
            level,
            "energy_outliers",
            f"Energies of {counted(int(where.sum()), 'structure')} are far from those of like structures, at "
            f"worst by {deviations[where][0]:+.3g} eV an atom. {reasons[level]}",
            subject.names(rows[where]),
            int(where.sum()),
        )


def _not_totals(energies: Energies, name: str, rows: Int64[np.ndarray, "rows"]) -> Iterator[Finding]:
    _, first, which, sizes = np.unique(
        _compositions(energies, rows), return_index=True, return_inverse=True, return_counts=True
    )
    # what energies of one composition differ by says nothing of this
    means = np.bincount(which, energies.totals[rows]) / sizes
    if len(means) < energies.counts[rows].any(axis=0).sum() + SPARE:
        return
    left = {power: _left(energies, rows[first], means, power) for power in (0, *NOT_TOTALS)}
    power = min(left, key=lambda one: left[one])
    if left[power] < min(BETTER * left[0], REST):
        what, mend = NOT_TOTALS[power]
        yield Finding(
            "warning",
            "energy_per_atom",
            f"Energies of dataset '{name}' look as if they {what}: read so, composition leaves "
            f"{100 * left[power]:.2g} % of them open, read as totals {100 * left[0]:.2g} %. {mend}",
            energies.subject.names(rows),
            len(rows),
        )


def _left(
    energies: Energies, rows: Int64[np.ndarray, "rows"], totals: Float64[np.ndarray, "rows"], power: int
) -> float:
    """Share of energies that composition does not explain, if they grow as ``N^(1 + power)``."""
    scaled = totals / energies.sizes[rows].astype(float) ** (1 + power)
    size = _rms(scaled)
    return _rms(fitted(energies.fractions[rows], scaled).left) / size if size else 0.0


def _uneven_totals(energies: Energies) -> Iterator[Finding]:
    """Terms that compare totals of small and large structures without a weight that makes up for it."""
    rows = energies.rows("train")
    sizes = energies.sizes[rows[np.isfinite(energies.totals[rows])]]
    if not len(sizes) or {"weight", "energy_weight"} & set(energies.subject.store.structures):
        return
    small, middle, large = np.quantile(sizes, (0.05, 0.5, 0.95))
    for name, term in energies.subject.loss.by_name.items():
        if large >= UNEVEN * small and _compares_totals(term):
            power = 2 if isinstance(term.penalty, Squared) else 1
            yield Finding(
                "note",
                "energy_per_atom",
                f"Term '{name}' compares total energies of {small:g} to {large:g} atoms: the same error an "
                f"atom costs {(large / small) ** power:.3g} times as much in the large structures. With "
                f"residual per_atom all count alike; a weight of 1 on totals of {middle:g} atoms is one of "
                f"{middle**power:.3g} on energies per atom.",
            )


def _compares_totals(term: Term) -> TypeGuard[PropertyTerm]:
    return (
        isinstance(term, PropertyTerm)
        and term.property.name == "energy"
        and type(term.residual) is Difference
    )


def _compositions(energies: Energies, rows: Int64[np.ndarray, "rows"]) -> UInt64[np.ndarray, "rows"]:
    """A number for each composition."""
    return energies.counts[rows].astype(np.uint64) @ codes(len(energies.numbers))


def _deviation(values: Float64[np.ndarray, "rows"]) -> float:
    """Median absolute deviation."""
    return float(np.median(np.abs(values - np.median(values))))


def _rms(values: Float64[np.ndarray, "rows"]) -> float:
    return float(np.sqrt(np.mean(values**2)))


def _symbols(numbers: Int64[np.ndarray, "elements"]) -> str:
    return named([chemical_symbols[number] for number in numbers], most=10)
