"""Losses of other projects that are timed: comparisons that build them, and the call that is theirs."""

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
        double: whether its comparison can be made in float64 alone, and its arguments are cast afterwards.
    """

    project: str
    case: str
    call: str
    total: str | int | None = None
    double: bool = False

    def totals(self, returned: Any) -> Iterator[Tensor]:
        """The scalars to differentiate; those of several terms that only their sum is made of."""
        if isinstance(returned, Mapping) and self.total is None:
            yield from returned.values()
            return
        found: Any = returned
        if self.total is not None:
            named = isinstance(self.total, str) and not isinstance(returned, Mapping)
            found = getattr(returned, str(self.total)) if named else returned[self.total]
        yield found.mean() if found.dim() else found


def _mace(case: str, name: str) -> Original:
    return Original("mace", case, f"mace.modules.loss:{name}.__call__")


def _of(project: str, call: str, *cases: str, **options: Any) -> list[Original]:
    return [Original(project, case, call, **options) for case in cases]


def _orb(case: str, module: str, name: str) -> Original:
    return Original("orb", case, f"orb_models.forcefield.{module}:{name}.loss", "loss", double=True)


ORIGINALS = (
    _mace("weighted", "WeightedEnergyForcesLoss"),
    _mace("stress", "WeightedEnergyForcesStressLoss"),
    _mace("huber", "WeightedHuberEnergyForcesStressLoss"),
    _mace("universal", "UniversalLoss"),
    *_of(
        "graph_pes", "graph_pes.training.loss:TotalLoss.__call__", "energy_forces", "huber", "stress", total=0
    ),
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
        *("omol_direct", "escaip_mptrj", "escaip_mptrj_finetune"),  # those that run in float32
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
    _orb("conservative", "conservative_regressor", "ConservativeForcefieldRegressor"),
    _orb("direct", "direct_regressor", "DirectForcefieldRegressor"),
    *_of("schnetpack", "schnetpack.task:AtomisticTask.loss_fn", "md17_recipe"),
    *_of("torchmdnet", "torchmdnet.module:LNNP.step", "mse", "huber_recipe"),
)
