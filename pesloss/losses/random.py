"""Random numbers as a function of what they are for: seed, step, structure, atom and component."""

from __future__ import annotations

from math import pi

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pesloss.losses.batch import Batch, group_code, structure_of_atom
from pesloss.losses.properties import Rows


class Draws(nn.Module):
    """Noise that a structure gets in a step, whichever batch and rank it is dealt to.

    Each number is a hash of the seed, the step, the structure's ``index`` in the whole set, the atom within
    it and the component. There is no generator whose state depends on who asked before: a resumed training
    draws what it would have drawn, and no host waits for a device. Only the step is state.

    Args:
        stream: what the numbers are for; other streams have other numbers.
        seed: of all of them.

    References:
        G. L. Steele Jr., D. Lea and C. H. Flood, OOPSLA 2014, doi:10.1145/2660193.2660195 (the hash);
        G. E. P. Box and M. E. Muller, Ann. Math. Stat. 29, 610 (1958) (normal numbers).
    """

    def __init__(self, stream: str, seed: int = 0) -> None:
        super().__init__()
        self.stream, self.seed = stream, seed
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._drawn = False

    def advance(self) -> None:
        """An optimizer step is over, if anything was drawn since the last was; the next one draws anew."""
        # who resumes a training says where it stands before the first step too
        if self._drawn:
            self.step += 1
        self._drawn = False

    def uniform(
        self, batch: Batch, rows: Rows, components: int, purpose: str = ""
    ) -> Float[Tensor, "rows components"]:
        """Numbers of [0, 1), in float64.

        Raises:
            KeyError: if the batch has no ``index``.
        """
        return _uniform(self._words(batch, rows, components, purpose))

    def normal(
        self, batch: Batch, rows: Rows, components: int, purpose: str = ""
    ) -> Float[Tensor, "rows components"]:
        """Numbers of mean 0 and variance 1, in float64."""
        radius, angle = _uniform(self._words(batch, rows, 2 * components, purpose)).chunk(2, dim=1)
        return (-2 * torch.log1p(-radius)).sqrt() * (2 * pi * angle).cos()

    def signs(
        self, batch: Batch, rows: Rows, components: int, purpose: str = ""
    ) -> Float[Tensor, "rows components"]:
        """Rademacher numbers, 1 or −1, in float64."""
        words = self._words(batch, rows, components, purpose)
        return torch.where(words < 0, -1.0, 1.0).double()

    def extra_repr(self) -> str:
        return f"{self.stream}, seed={self.seed}"

    def _words(
        self, batch: Batch, rows: Rows, components: int, purpose: str
    ) -> Int[Tensor, "rows components"]:
        if "index" not in batch:
            raise KeyError(
                f"Random numbers for '{self.stream}' need 'index' [structures], the place of each structure "
                f"in the whole set; found {sorted(batch)}."
            )
        self._drawn = True
        words = hashed(self.step ^ group_code(f"{self.seed}/{self.stream}/{purpose}")) ^ batch["index"]
        words = hashed(words)
        if rows == "atom":
            structure = structure_of_atom(batch, batch["positions"].shape[0])
            atoms = torch.arange(structure.shape[0], device=words.device)
            words = hashed(words[structure] ^ (atoms - batch["ptr"][structure]))
        return hashed(words[:, None] ^ torch.arange(components, device=words.device))


def hashed(words: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """The mixing function of SplitMix64: a change of any bit changes every other bit in half of the cases."""
    words = words + _GAMMA  # integers wrap around
    words = (words ^ _shifted(words, 30)) * _FIRST
    words = (words ^ _shifted(words, 27)) * _SECOND
    return words ^ _shifted(words, 31)


def _shifted(words: Tensor, bits: int) -> Tensor:
    # the right shift of signed integers keeps the sign, which is no bit like the others here
    return (words >> bits) & ((1 << (64 - bits)) - 1)


def _uniform(words: Tensor) -> Tensor:
    return _shifted(words, 11).double() * 2.0**-53


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


_GAMMA, _FIRST, _SECOND = map(_signed, (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
