"""How a distance becomes features."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn


class RadialBasis(nn.Module):
    """Distances are described by standing waves that fade to nothing at the cutoff.

    ``[sin(n π r / r_c) / r  for n = 1 ... radial;  1] · f_c(r)``, with ``f_c(r) = ½ (1 + cos(π r / r_c))``.
    A linear map of these ``radial + 1`` features is the paper's filter ``(W · rbf + b) · f_c``.

    Args:
        cutoff: r_c in Å, beyond which an edge contributes nothing.
        radial: number of waves.

    Raises:
        ValueError: if the cutoff is not positive or there is no wave.

    References:
        Schütt, Unke, Gastegger, ICML 2021, arXiv:2102.03218; waves: Gasteiger et al., arXiv:2003.03123.
    """

    frequencies: Tensor

    def __init__(self, cutoff: float, radial: int) -> None:
        super().__init__()
        if not cutoff > 0 or radial < 1:
            raise ValueError(
                f"RadialBasis needs cutoff > 0 Å and radial >= 1, got cutoff={cutoff}, radial={radial}."
            )
        self.cutoff = cutoff
        self.register_buffer("frequencies", math.pi * torch.arange(1.0, radial + 1), persistent=False)

    @property
    def size(self) -> int:
        """Number of features of one distance."""
        return self.frequencies.shape[0] + 1

    def forward(self, distance: Float[Tensor, "edges"]) -> Float[Tensor, "edges features"]:
        x = (distance / self.cutoff).clamp(max=1.0).unsqueeze(1)
        fade = 0.5 * (torch.cos(math.pi * x) + 1.0)
        waves = torch.sin(x * self.frequencies) * (fade / distance.unsqueeze(1))
        return torch.cat([waves, fade], dim=1)
