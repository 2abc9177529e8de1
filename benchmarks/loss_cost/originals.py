"""The losses of other projects that are timed: the comparisons that build them, and the call that is theirs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import Tensor


class Original(NamedTuple):
    """One loss.

    Args:
        project: whose it is.
        case: comparison in ``tests.parity.peers``.
        call: module and path of what is called.
        total: key, attribute or position of the total in what it returns, if that is more than the total.
    """

    project: str
    case: str
    call: str
    total: str | int | None = None

    def totals(self, returned: Any) -> Iterator[Tensor]:
        """The scalars to differentiate; those of several terms that only their sum is made of."""
        if isinstance(returned, Mapping):
            yield from [returned[self.total]] if self.total is not None else returned.values()
        elif isinstance(self.total, str):
            yield getattr(returned, self.total)
        else:
            yield returned if self.total is None else returned[self.total]


def _mace(case: str, name: str) -> Original:
    return Original("mace", case, f"mace.modules.loss:{name}.__call__")


def _of(project: str, call: str, *cases: str, total: str | int | None = None) -> list[Original]:
    return [Original(project, case, call, total) for case in cases]


ORIGINALS = (
    _mace("weighted", "WeightedEnergyForcesLoss"),
    _mace("stress", "WeightedEnergyForcesStressLoss"),
    _mace("huber", "WeightedHuberEnergyForcesStressLoss"),
    _mace("universal", "UniversalLoss"),
    *_of("graph_pes", "graph_pes.training.loss:TotalLoss.__call__", "energy_forces", "huber", "stress", total=0),
    *_of("tace", "tace.utils.loss:NormalLoss.__call__", "normal", "huber", "l2mae", "conditional_huber"),
    *_of("tace", "tace.utils.loss:UncertaintyLoss.__call__", "uncertainty"),
    *_of(
        *("nequip", "nequip.train:MetricsManager.__call__"),
        *("energy_force_stress", "per_type", "stratified_huber_recipe", "ignore_nan"),
        total="weighted_sum",
    ),
    *_of("sevennet", "sevenn.train.loss:LossDefinition.get_loss", "mse", "ignore_unlabeled", "huber"),
    *_of(
        *("fairchem", "fairchem.core.units.mlip_unit.mlip_unit:compute_loss"),
        *("uma_finetune", "omol", "omol_direct"),
    ),
    *_of("metatrain", "metatrain.utils.loss:LossAggregator.__call__", "mse", "mae", "huber", "mixed"),
    *_of(
        *("deepmd", "deepmd.pt.loss:EnergyStdLoss.__call__"),
        *("recipe_ener", "recipe_ener_huber", "recipe_mae"),
        total=1,
    ),
    *_of(
        *("matgl", "matgl.utils.training:PotentialLightningModule.loss_fn"),
        *("potential", "trainer"),
        total="Total_Loss",
    ),
    *_of(
        *("modelforge", "modelforge.train.losses:Loss.__call__"),
        *("energy_force", "per_atom_energy_force"),
        total="total_loss",
    ),
    *_of(
        *("nvalchemi", "nvalchemi.training.losses:ComposedLossFunction.__call__"),
        *("mse", "huber", "mae"),
        total="total_loss",
    ),
    *_of(
        *("orb", "orb_models.forcefield.conservative_regressor:ConservativeForcefieldRegressor.loss"),
        "conservative",
        total="loss",
    ),
    *_of(
        *("orb", "orb_models.forcefield.direct_regressor:DirectForcefieldRegressor.loss"),
        "direct",
        total="loss",
    ),
    *_of("schnetpack", "schnetpack.task:AtomisticTask.loss_fn", "md17_recipe"),
    *_of("torchmdnet", "torchmdnet.module:LNNP.step", "mse", "huber_recipe"),
)
