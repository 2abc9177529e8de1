"""Which structures train, which validate, which test: reproducible, disjoint, complete."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

Size = float | int | None


def split(
    num: int,
    sizes: Mapping[str, Size],
    seed: int,
    *,
    groups: Sequence[Hashable] | None = None,
) -> dict[str, Int64[Tensor, "_"]]:
    """Random parts of a set that are disjoint, cover it, and depend on nothing but the arguments.

    Frames of one molecule or one trajectory resemble each other; ``groups`` keeps them in one part, so that
    the test measures what is new. Parts are then as close to the sizes as whole groups allow.

    Args:
        num: number of structures.
        sizes: part -> a fraction (``float``), a number of structures (``int``), or ``None`` for the rest
            (once). A fraction above 0 gets at least one structure. Nothing may be left over.
        seed: of the random order.
        groups: what each structure belongs with.

    Returns:
        Part -> positions in the set, ascending.

    Raises:
        ValueError: if sizes are negative, do not add up to the whole set, or leave a part empty.
    """
    counts = _counts(num, sizes)
    members = _members(range(num) if groups is None else groups, num)
    # RandomState is frozen by NumPy's promise: no upgrade moves a structure from test to train
    order = np.random.RandomState(seed).permutation(len(members))
    ends = np.cumsum([len(members[group]) for group in order])
    parts, begin, target = {}, 0, 0
    for name, count in counts.items():
        target += count
        end = _nearest(ends, target)
        chosen = [member for group in order[begin:end] for member in members[group]]
        if count and not chosen:
            raise ValueError(
                f"'{name}' gets no structure: {len(members)} groups are too few for {dict(sizes)}."
            )
        parts[name] = torch.tensor(sorted(chosen), dtype=torch.int64)
        begin = max(begin, end)
    return parts


def _counts(num: int, sizes: Mapping[str, Size]) -> dict[str, int]:
    """Number of structures of each part."""
    for name, size in sizes.items():
        if size is not None and (
            isinstance(size, bool) or not 0 <= size <= (1 if isinstance(size, float) else num)
        ):
            raise ValueError(
                f"'{name}' must be a fraction between 0.0 and 1.0, a number of structures up to {num}, "
                f"or None for the rest, got {size!r}."
            )
    counts = {name: _count(num, size) for name, size in sizes.items() if size is not None}
    rest = [name for name in sizes if name not in counts]
    if not rest and all(isinstance(size, float) for size in sizes.values()):
        _check_fractions(sizes)
        rest = [max(counts, key=counts.__getitem__)]
        del counts[rest[0]]
    left = num - sum(counts.values())
    if len(rest) > 1 or left < len(rest) or (left and not rest):
        raise ValueError(_sum_error(num, sizes, rest, left))
    counts |= dict.fromkeys(rest, left)
    return {name: counts[name] for name in sizes}


def _count(num: int, size: float | int) -> int:
    if isinstance(size, float):
        return max(1, round(size * num)) if size > 0 else 0
    return size


def _check_fractions(sizes: Mapping[str, Size]) -> None:
    total = sum(size for size in sizes.values() if size is not None)
    if abs(total - 1) > 1e-6:
        raise ValueError(f"Fractions must add up to 1, got {dict(sizes)}, which add up to {total:g}.")


def _sum_error(num: int, sizes: Mapping[str, Size], rest: Sequence[str], left: int) -> str:
    if len(rest) > 1:
        return f"Only one part can be the rest (None), got {', '.join(rest)}."
    return (
        f"{dict(sizes)} of {num} structures leave {left} for {rest[0] if rest else 'no part'}; "
        "parts must add up to the whole set, and one of them may be None for the rest."
    )


def _members(groups: Sequence[Hashable], num: int) -> list[list[int]]:
    if len(groups) != num:
        raise ValueError(f"groups must name a group for each of {num} structures, got {len(groups)}.")
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    return list(members.values())


def _nearest(ends: np.ndarray, target: int) -> int:
    """Number of groups, in order, whose structures come closest to the target."""
    return int(np.argmin(np.abs(np.concatenate([[0], ends]) - target)))
