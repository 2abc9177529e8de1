"""DeePMD-kit's losses: ``deepmd.pt.loss``. Its batches are frames padded to one length, ours are not."""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tests.parity.cases import case
from tests.parity.drawing import Drawn

REQUIREMENTS = ["deepmd-kit==3.2.0"]

START = 1e-3
"""Learning rate at the start, and ..."""
NOW = 2e-4
"""... where the losses are compared, so that every prefactor is on its way."""
LEARNING_RATES = {"learning_rate": NOW / START}

GRID = 7


def _prefactors_of(**weights: float | tuple[float, float]) -> dict[str, float]:
    """``start_pref_x`` and ``limit_pref_x``, the same if there is but one number."""
    pairs = {key: w if isinstance(w, tuple) else (w, w) for key, w in weights.items()}
    starts = {f"start_pref_{key}": start for key, (start, _) in pairs.items()}
    return {**starts, **{f"limit_pref_{key}": limit for key, (_, limit) in pairs.items()}}


ENERGY_FORCES = _prefactors_of(e=(0.02, 1), f=(1000, 1))
ENERGY = _prefactors_of(e=(2, 1), f=0)
THREE = {"type": "ener", **ENERGY_FORCES, **_prefactors_of(v=(0.2, 1))}


def _modules() -> Any:
    """The package without its compiled operators, which want the very torch they were built with."""
    operators = types.ModuleType("deepmd.pt.cxx_op")
    operators.ENABLE_CUSTOMIZED_OP = False  # pyright: ignore[reportAttributeAccessIssue]
    sys.modules.setdefault("deepmd.pt.cxx_op", operators)
    import deepmd.pt.loss

    return deepmd.pt.loss


def _frames(drawn: Drawn, values: Tensor) -> Tensor:
    """Rows of atoms as padded frames."""
    batch, counts = drawn.batch["batch"], drawn.num_atoms
    slot = torch.arange(len(batch)) - drawn.batch["ptr"][batch]
    padded = values.new_zeros(len(counts), int(counts.max()), *values.shape[1:])
    return padded.index_put((batch, slot), values)


def _types(drawn: Drawn) -> Tensor:
    """Types of atoms, -1 for padding."""
    return _frames(drawn, torch.ones_like(drawn.batch["numbers"])) - 1


def _hessians(drawn: Drawn, pairs: Tensor) -> Tensor:
    """Blocks of ordered pairs of atoms as padded matrices of 3N × 3N."""
    widest = int(drawn.num_atoms.max())
    matrices = []
    for blocks in pairs.split(drawn.num_atoms.square().tolist()):
        n = round(len(blocks) ** 0.5)
        matrix = blocks.reshape(n, n, 3, 3).transpose(1, 2).reshape(3 * n, 3 * n)
        matrices.append(torch.nn.functional.pad(matrix, (0, 3 * (widest - n)) * 2))
    return torch.stack(matrices)


def _found(labels: Mapping[str, Tensor]) -> dict[str, Any]:
    return {**labels, **{f"find_{name}": 1.0 for name in labels}}


def _total(
    kind: str,
    config: Mapping[str, Any],
    drawn: Drawn,
    predictions: Mapping[str, Tensor],
    labels: Mapping[str, Tensor],
    **options: Any,
) -> Tensor:
    """Total of a loss at its present learning rate."""
    arguments = {key: value for key, value in config.items() if key != "type"}
    loss = getattr(_modules(), kind)(starter_learning_rate=START, **arguments, **options)
    model = lambda **inputs: dict(predictions)  # noqa: E731
    natoms = int(drawn.num_atoms.max())
    return loss({"atype": _types(drawn)}, model, _found(labels), natoms, NOW)[1]


SHAPES = {"energy": (-1, 1), "virial": (-1, 9)}
NAMES = {"forces": "force"}


def _energy(config: Mapping[str, Any], drawn: Drawn, *names: str, **labels: Tensor) -> Tensor:
    """The loss of energies with the named properties and further labels."""
    predicted, labelled = {}, {}
    for name in names:
        for made, values in ((predicted, drawn.predictions[name]), (labelled, drawn.batch[name])):
            framed = _frames(drawn, values) if name == "forces" else values.reshape(SHAPES[name])
            made[NAMES.get(name, name)] = framed
    if "atomic_energies" in drawn.predictions:
        predicted["atom_energy"] = _frames(drawn, drawn.predictions["atomic_energies"])[..., None]
    if "hessian" in drawn.predictions:
        predicted["hessian"] = _hessians(drawn, drawn.predictions["hessian"])
        labelled["hessian"] = _hessians(drawn, drawn.batch["hessian"])
    if "atomic_energies" in drawn.batch:
        labelled["atom_ener"] = _frames(drawn, drawn.batch["atomic_energies"])
    return _total("EnergyStdLoss", config, drawn, predicted, {**labelled, **labels})


def _ener(config: Mapping[str, Any], **options: Any) -> Any:
    """A case of energy, forces and virial."""
    return case(
        config=("deepmd", config),
        options=LEARNING_RATES,
        **{"labels": ("energy", "forces", "virial"), **options},
    )


@_ener(THREE)
def ener(drawn: Drawn) -> Tensor:
    return _energy(THREE, drawn, "energy", "forces", "virial")


@_ener(INTENSIVE := {**THREE, "intensive_ener_virial": True})
def ener_intensive(drawn: Drawn) -> Tensor:
    return _energy(INTENSIVE, drawn, "energy", "forces", "virial")


@_ener(MAE := {**THREE, "loss_func": "mae"})
def ener_mae(drawn: Drawn) -> Tensor:
    return _energy(MAE, drawn, "energy", "forces", "virial")


@_ener(NORM := {**THREE, "loss_func": "mae", "f_use_norm": True})
def ener_mae_norm(drawn: Drawn) -> Tensor:
    return _energy(NORM, drawn, "energy", "forces", "virial")


@_ener(HUBER := {**THREE, "use_huber": True, "huber_delta": 0.4})
def ener_huber(drawn: Drawn) -> Tensor:
    return _energy(HUBER, drawn, "energy", "forces", "virial")


@_ener(HUBER_NORM := {**THREE, "use_huber": True, "huber_delta": [0.1, 0.8, 0.2], "f_use_norm": True})
def ener_huber_norm(drawn: Drawn) -> Tensor:
    return _energy(HUBER_NORM, drawn, "energy", "forces", "virial")


@_ener(RELATIVE := {**THREE, "relative_f": 0.5})
def ener_relative(drawn: Drawn) -> Tensor:
    return _energy(RELATIVE, drawn, "energy", "forces", "virial")


@_ener(RELATIVE_MAE := {**THREE, "relative_f": 0.5, "loss_func": "mae"})
def ener_relative_mae(drawn: Drawn) -> Tensor:
    return _energy(RELATIVE_MAE, drawn, "energy", "forces", "virial")


def _no_virial(drawn: Drawn) -> dict[str, Any]:
    return {"virial": torch.full_like(drawn.batch["virial"], torch.nan)}


@_ener(THREE, setup=_no_virial)
def ener_without_virial_labels(drawn: Drawn) -> Tensor:
    return _energy(THREE, drawn, "energy", "forces")


# prefactors that stay at their start, where our recipes stand at the first learning rate
STARTING = _prefactors_of(e=0.02, f=1000, v=0.2)
WITH_VIRIAL = {"overrides": {"weights.virial": 0.2}, "labels": ("energy", "forces", "virial")}


@case(loss="deepmd_ener", **WITH_VIRIAL)
def recipe_ener(drawn: Drawn) -> Tensor:
    return _energy(STARTING, drawn, "energy", "forces", "virial")


@case(loss="deepmd_ener_huber", **WITH_VIRIAL)
def recipe_ener_huber(drawn: Drawn) -> Tensor:
    return _energy({**STARTING, "use_huber": True}, drawn, "energy", "forces", "virial")


@case(loss="deepmd_mae", labels=("energy", "forces", "virial"))
def recipe_mae(drawn: Drawn) -> Tensor:
    config = {**_prefactors_of(e=20, f=20, v=5), "loss_func": "mae", "f_use_norm": True}
    return _energy(config, drawn, "energy", "forces", "virial")


@_ener(BOTH := {**THREE, "use_huber": True, "loss_func": "mae"}, faithful=True)
def ener_mae_ignores_huber(drawn: Drawn) -> Tensor:
    return _energy(BOTH, drawn, "energy", "forces", "virial")


@_ener(HALF := {**THREE, **_prefactors_of(v=(0, 3))}, faithful=True)
def ener_virial_starts_at_zero(drawn: Drawn) -> Tensor:
    return _energy(HALF, drawn, "energy", "forces", "virial")


ATOMS = {**ENERGY, **_prefactors_of(ae=(3, 1))}
ATOMIC = ("energy", "atomic_energies")
ATOMIC_SHAPES = {"atomic_energies": ("atom", ())}


@_ener(ATOMS, labels=ATOMIC, shapes=ATOMIC_SHAPES)
def ener_atomic(drawn: Drawn) -> Tensor:
    return _energy(ATOMS, drawn, "energy")


@_ener(ATOMS_MAE := {**ATOMS, "loss_func": "mae"}, labels=ATOMIC, shapes=ATOMIC_SHAPES)
def ener_atomic_mae(drawn: Drawn) -> Tensor:
    return _energy(ATOMS_MAE, drawn, "energy")


@_ener(ATOMS_HUBER := {**ATOMS, "use_huber": True, "huber_delta": 0.3}, labels=ATOMIC, shapes=ATOMIC_SHAPES)
def ener_atomic_huber(drawn: Drawn) -> Tensor:
    return _energy(ATOMS_HUBER, drawn, "energy")


REACTION = {**ENERGY, "enable_atom_ener_coeff": True}


def _coefficients(drawn: Drawn) -> dict[str, Any]:
    signs = torch.where(drawn.batch["numbers"] > 6, 1.0, -1.0).double()
    return {"atomic_energy_coefficients": signs}


@_ener(
    REACTION,
    labels=("energy",),
    extra={"atomic_energies": ("atom", ())},
    setup=_coefficients,
)
def ener_reaction(drawn: Drawn) -> Tensor:
    coefficients = _frames(drawn, drawn.batch["atomic_energy_coefficients"])
    return _energy(REACTION, drawn, "energy", atom_ener_coeff=coefficients)


@case(loss="deepmd_reaction", extra={"atomic_energies": ("atom", ())}, setup=_coefficients)
def recipe_reaction(drawn: Drawn) -> Tensor:
    coefficients = _frames(drawn, drawn.batch["atomic_energy_coefficients"])
    config = {**_prefactors_of(e=0.02, f=1000), "enable_atom_ener_coeff": True}
    return _energy(config, drawn, "energy", "forces", atom_ener_coeff=coefficients)


PREFACTOR = {**ENERGY_FORCES, **_prefactors_of(pf=(5, 1))}


def _prefactors(drawn: Drawn) -> dict[str, Any]:
    return {"atom_weight": (drawn.batch["positions"][:, 0] - 1).clamp(min=0)}


def _prefactor(config: Mapping[str, Any], drawn: Drawn) -> Tensor:
    prefactors = _frames(drawn, drawn.batch["atom_weight"])[..., None].expand(-1, -1, 3)
    return _energy(config, drawn, "energy", "forces", atom_pref=prefactors)


@_ener(PREFACTOR, labels=("energy", "forces"), setup=_prefactors)
def ener_prefactor(drawn: Drawn) -> Tensor:
    return _prefactor(PREFACTOR, drawn)


@_ener(
    PREFACTOR_MAE := {**PREFACTOR, "loss_func": "mae", "relative_f": 1.0},
    labels=("energy", "forces"),
    setup=_prefactors,
)
def ener_prefactor_mae(drawn: Drawn) -> Tensor:
    return _prefactor(PREFACTOR_MAE, drawn)


@case(loss="deepmd_prefactor", setup=_prefactors)
def recipe_prefactor(drawn: Drawn) -> Tensor:
    return _prefactor(_prefactors_of(e=0.02, f=1000, pf=1), drawn)


HESSIAN = {**ENERGY_FORCES, **_prefactors_of(h=(10, 1))}


def _blocks(drawn: Drawn) -> dict[str, Any]:
    """Blocks for every ordered pair of atoms, which nothing draws at random: some of positions will do."""
    pairs = [
        (r[:, None, :, None] + 2 * r[None, :, None, :]).reshape(-1, 3, 3)
        for r in drawn.batch["positions"].split(drawn.num_atoms.tolist())
    ]
    drawn.predictions["hessian"] = torch.cat(pairs).sin().requires_grad_()
    return {"hessian": torch.cat(pairs).cos()}


@_ener(HESSIAN, labels=("energy", "forces"), setup=_blocks)
def ener_hessian(drawn: Drawn) -> Tensor:
    return _energy(HESSIAN, drawn, "energy", "forces")


@_ener(HESSIAN_MAE := {**HESSIAN, "loss_func": "mae"}, labels=("energy", "forces"), setup=_blocks)
def ener_hessian_mae(drawn: Drawn) -> Tensor:
    return _energy(HESSIAN_MAE, drawn, "energy", "forces")


@case(loss="deepmd_hessian", labels=("energy", "forces"), setup=_blocks)
def recipe_hessian(drawn: Drawn) -> Tensor:
    return _energy(_prefactors_of(e=0.02, f=1000, h=10), drawn, "energy", "forces")


GENERALIZED = {**ENERGY_FORCES, **_prefactors_of(gf=(10, 100)), "numb_generalized_coord": 2}


def _drdq(drawn: Drawn) -> dict[str, Any]:
    positions = drawn.batch["positions"]
    return {"drdq": torch.stack([positions.sin(), positions.cos()], dim=-1)}


@_ener(GENERALIZED, labels=("energy", "forces"), setup=_drdq)
def ener_generalized(drawn: Drawn) -> Tensor:
    drdq = _frames(drawn, drawn.batch["drdq"]).flatten(1)
    return _energy(GENERALIZED, drawn, "energy", "forces", drdq=drdq)


@case(loss="deepmd_generalized", overrides={"terms.generalized_forces.coordinates": 2}, setup=_drdq)
def recipe_generalized(drawn: Drawn) -> Tensor:
    drdq = _frames(drawn, drawn.batch["drdq"]).flatten(1)
    config = {**_prefactors_of(e=0.02, f=1000, gf=10), "numb_generalized_coord": 2}
    return _energy(config, drawn, "energy", "forces", drdq=drdq)


SPIN = {
    "type": "ener_spin",
    **_prefactors_of(e=(0.02, 1), fr=(1000, 1), fm=(10000, 10), v=(0.2, 1), ae=(2, 1)),
}
MAGNETIC = "noncollinear_magnetic_forces"


def _magnetic(drawn: Drawn) -> dict[str, Any]:
    return {"magnetic": drawn.batch["numbers"] != 1}


def _spin(config: Mapping[str, Any], **options: Any) -> Any:
    return case(
        config=("deepmd", config),
        options=LEARNING_RATES,
        labels=("energy", "forces", "virial", "atomic_energies", MAGNETIC),
        shapes={MAGNETIC: ("atom", (3,)), **ATOMIC_SHAPES},
        **{"setup": _magnetic, **options},
    )


def _spin_total(config: Mapping[str, Any], drawn: Drawn) -> Tensor:
    made = []
    for values, atomic in ((drawn.predictions, "atom_energy"), (drawn.batch, "atom_ener")):
        made.append(
            {
                "energy": values["energy"].reshape(-1, 1),
                "force": _frames(drawn, values["forces"]),
                "force_mag": _frames(drawn, values[MAGNETIC]),
                "virial": values["virial"].reshape(-1, 9),
                atomic: _frames(drawn, values["atomic_energies"])[..., None],
            }
        )
    predicted, labelled = made
    predicted["mask_mag"] = _frames(drawn, drawn.batch["magnetic"])[..., None]
    return _total("EnergySpinLoss", config, drawn, predicted, labelled)


@_spin(SPIN)
def spin(drawn: Drawn) -> Tensor:
    return _spin_total(SPIN, drawn)


@_spin(SPIN_INTENSIVE := {**SPIN, "intensive_ener_virial": True})
def spin_intensive(drawn: Drawn) -> Tensor:
    return _spin_total(SPIN_INTENSIVE, drawn)


@_spin(SPIN_MAE := {**SPIN, "loss_func": "mae"})
def spin_mae(drawn: Drawn) -> Tensor:
    return _spin_total(SPIN_MAE, drawn)


@_spin(SPIN, setup=lambda drawn: {"magnetic": torch.zeros_like(drawn.batch["numbers"], dtype=torch.bool)})
def spin_without_magnetic_atoms(drawn: Drawn) -> Tensor:
    return _spin_total(SPIN, drawn)


@case(
    loss="deepmd_spin",
    overrides={"weights.virial": 2.0, "weights.atomic_energies": 3.0},
    labels=("energy", "forces", "virial", "atomic_energies", MAGNETIC),
    shapes={MAGNETIC: ("atom", (3,)), **ATOMIC_SHAPES},
    setup=_magnetic,
)
def recipe_spin(drawn: Drawn) -> Tensor:
    return _spin_total(_prefactors_of(e=0.02, fr=1000, fm=10000, v=2, ae=3), drawn)


DOS = {"type": "dos", **_prefactors_of(dos=(2, 1), cdf=(1, 0.3), ados=(5, 1), acdf=(0.5, 0.1))}
SPECTRA = {
    "labels": ("dos", "atomic_dos"),
    "shapes": {"dos": ("structure", (GRID,)), "atomic_dos": ("atom", (GRID,))},
}


def _dos_total(config: Mapping[str, Any], drawn: Drawn) -> Tensor:
    predicted, labelled = (
        {"dos": values["dos"], "atom_dos": _frames(drawn, values["atomic_dos"])}
        for values in (drawn.predictions, drawn.batch)
    )
    return _total("DOSLoss", config, drawn, predicted, labelled, numb_dos=GRID)


@case(config=("deepmd", DOS), options={**LEARNING_RATES, "numb_dos": GRID}, **SPECTRA)
def dos(drawn: Drawn) -> Tensor:
    return _dos_total(DOS, drawn)


WEIGHTS = {"dos": 0.5, "cumulative_dos": 0.2, "atomic_dos": 1.0, "cumulative_atomic_dos": 0.1}


@case(
    loss="deepmd_dos",
    overrides={
        **{f"terms.{name}.property.shape": [GRID] for name in WEIGHTS},
        **{f"weights.{name}": weight for name, weight in WEIGHTS.items()},
    },
    **SPECTRA,
)
def recipe_dos(drawn: Drawn) -> Tensor:
    return _dos_total(_prefactors_of(dos=0.5, cdf=0.2, ados=1, acdf=0.1), drawn)


TENSOR = {"type": "tensor", "pref": 0.7, "pref_atomic": 2.0}
WEIGHTED = {**TENSOR, "enable_atomic_weight": True}


def _tensor(config: Mapping[str, Any], name: str, label: str, atomic: str, size: int, drawn: Drawn) -> Tensor:
    predicted = {
        name: _frames(drawn, drawn.predictions[atomic]),
        f"global_{name}": drawn.predictions[label].flatten(1),
    }
    labelled = {f"atom_{label}": _frames(drawn, drawn.batch[atomic]), label: drawn.batch[label].flatten(1)}
    if config.get("enable_atomic_weight"):
        labelled["atom_weight"] = _frames(drawn, drawn.batch["atom_weight"])
    options = {"tensor_name": name, "tensor_size": size, "label_name": label}
    return _total("TensorLoss", config, drawn, predicted, labelled, **options)


@case(
    config=("deepmd", TENSOR),
    options={"tensor": "dipole"},
    labels=("dipole", "atomic_dipole"),
    shapes={"atomic_dipole": ("atom", (3,))},
)
def tensor_dipole(drawn: Drawn) -> Tensor:
    return _tensor(TENSOR, "dipole", "dipole", "atomic_dipole", 3, drawn)


@case(loss="deepmd_dipole", labels=("dipole", "atomic_dipole"), shapes={"atomic_dipole": ("atom", (3,))})
def recipe_dipole(drawn: Drawn) -> Tensor:
    return _tensor({"pref": 1.0, "pref_atomic": 1.0}, "dipole", "dipole", "atomic_dipole", 3, drawn)


POLARIZABILITIES = {
    "labels": ("polarizability", "atomic_polarizability"),
    "shapes": {"atomic_polarizability": ("atom", (3, 3))},
}


@case(loss="deepmd_polar", **POLARIZABILITIES)
def recipe_polar(drawn: Drawn) -> Tensor:
    config = {"pref": 1.0, "pref_atomic": 1.0}
    return _tensor(config, "polar", "polarizability", "atomic_polarizability", 9, drawn)


@case(
    config=("deepmd", WEIGHTED),
    options={"tensor": "polar"},
    **POLARIZABILITIES,
    setup=lambda drawn: {"atom_weight": drawn.batch["positions"][:, 0]},
)
def tensor_polar_with_weights(drawn: Drawn) -> Tensor:
    return _tensor(WEIGHTED, "polar", "polarizability", "atomic_polarizability", 9, drawn)


TASKS = {"band_prop": ("structure", (3,))}
STATISTICS = {"out_bias": [0.1, -0.2, 0.3], "out_std": [0.5, 1.0, 2.0]}


def _property(config: Mapping[str, Any], intensive: bool = True, **options: Any) -> Any:
    return case(
        config=("deepmd", config),
        options={"property_name": "band_prop", "task_dim": 3, "intensive": intensive, **STATISTICS},
        labels=("band_prop",),
        shapes=TASKS,
        **options,
    )


def _property_total(config: Mapping[str, Any], drawn: Drawn, intensive: bool = True) -> Tensor:
    options = {"task_dim": 3, "var_name": "band_prop", "intensive": intensive, **STATISTICS}
    name = {"band_prop": drawn.predictions["band_prop"]}
    return _total("PropertyLoss", config, drawn, name, {"band_prop": drawn.batch["band_prop"]}, **options)


@_property(SMOOTH := {"type": "property", "loss_func": "smooth_mae", "beta": 0.7})
def property_smooth_mae(drawn: Drawn) -> Tensor:
    return _property_total(SMOOTH, drawn)


@_property({**SMOOTH, "loss_func": "mae"}, intensive=False)
def property_mae_extensive(drawn: Drawn) -> Tensor:
    return _property_total({**SMOOTH, "loss_func": "mae"}, drawn, intensive=False)


@_property({"type": "property", "loss_func": "mse"})
def property_mse(drawn: Drawn) -> Tensor:
    return _property_total({"type": "property", "loss_func": "mse"}, drawn)


@_property({"type": "property", "loss_func": "rmse"}, intensive=False)
def property_rmse_extensive(drawn: Drawn) -> Tensor:
    return _property_total({"type": "property", "loss_func": "rmse"}, drawn, intensive=False)


@case(
    loss="deepmd_property",
    overrides={
        "terms.property.property.shape": [3],
        "terms.property.residual.deviation": STATISTICS["out_std"],
    },
    labels=("property",),
    shapes={"property": ("structure", (3,))},
)
def recipe_property(drawn: Drawn) -> Tensor:
    named = Drawn(
        {**drawn.batch, "band_prop": drawn.batch["property"]}, {"band_prop": drawn.predictions["property"]}
    )
    return _property_total({"type": "property"}, named)


def _signed(drawn: Drawn) -> dict[str, Any]:
    return {"band_prop": drawn.batch["band_prop"] + 0.5}


@_property({"type": "property", "loss_func": "mape"}, setup=_signed, faithful=True)
def property_mape_of_signed_labels(drawn: Drawn) -> Tensor:
    return _property_total({"type": "property", "loss_func": "mape"}, drawn)


def _positive(drawn: Drawn) -> dict[str, Any]:
    return {"band_prop": drawn.batch["band_prop"].abs()}


@_property({"type": "property", "loss_func": "mape"}, setup=_positive)
def property_mape_of_positive_labels(drawn: Drawn) -> Tensor:
    return _property_total({"type": "property", "loss_func": "mape"}, drawn)


POPULATION = {
    "type": "population",
    **_prefactors_of(spin=(1, 3), spin_total=(2, 1), pop=(1000, 1), pop_alpha_total=(0.5, 1)),
    **_prefactors_of(pop_beta_total=(0.2, 1)),
}
POPULATIONS = {
    "labels": ("populations",),
    "shapes": {"populations": ("atom", (2,))},
    "sizes": (3, 3, 3, 3),  # it divides by the number of atoms of an average frame
}


def _population(config: Mapping[str, Any], **options: Any) -> Any:
    return case(config=("deepmd", config), options=LEARNING_RATES, **POPULATIONS, **options)


def _population_total(config: Mapping[str, Any], drawn: Drawn) -> Tensor:
    predicted = {"population": _frames(drawn, drawn.predictions["populations"])}
    labelled = {"atom_population": _frames(drawn, drawn.batch["populations"])}
    return _total("PopulationLoss", config, drawn, predicted, labelled)


@_population({**POPULATION, "loss_func": "mae"})
def population_mae(drawn: Drawn) -> Tensor:
    return _population_total({**POPULATION, "loss_func": "mae"}, drawn)


@_population({**POPULATION, "loss_func": "smooth_mae", "beta": 0.5})
def population_smooth_mae(drawn: Drawn) -> Tensor:
    return _population_total({**POPULATION, "loss_func": "smooth_mae", "beta": 0.5}, drawn)


@case(loss="deepmd_population", **POPULATIONS)
def recipe_population(drawn: Drawn) -> Tensor:
    ones = _prefactors_of(spin=1, spin_total=1, pop=1, pop_alpha_total=1, pop_beta_total=1)
    return _population_total(ones, drawn)


DENS = {
    "type": "dens",
    **_prefactors_of(e=(30, 10), f=20),
    "dens_std": 0.05,
    "dens_denoising_pos_coefficient": 5.0,
}


class _Norms:
    """What DeePMD-kit asks its model for: energies and forces, here as they are."""

    @staticmethod
    def norm_dens_energy(energy: Tensor, types: Tensor) -> Tensor:
        return energy

    denorm_dens_energy = norm_dens_energy

    @staticmethod
    def norm_dens_force(force: Tensor) -> Tensor:
        return force

    denorm_dens_force = norm_dens_force


def _noise(drawn: Drawn) -> dict[str, Any]:
    moved = drawn.batch["positions"][:, 0] > 2.5
    noise = 0.05 * drawn.batch["positions"].sin()
    return {"noise": torch.where(moved[:, None], noise, 0), "noise_mask": moved}


def _dens(config: Mapping[str, Any]) -> Any:
    return case(
        config=("deepmd", config),
        options=LEARNING_RATES,
        extra={"denoising": ("atom", (3,))},
        setup=_noise,
    )


def _dens_total(config: Mapping[str, Any], drawn: Drawn) -> Tensor:
    """With the noise that was drawn, in place of its own."""
    given = {key: value for key, value in config.items() if key != "type"}
    loss = _modules().DeNSLoss(starter_learning_rate=START, **given)
    forces, noise = (_frames(drawn, drawn.batch[name]) for name in ("forces", "noise"))
    moved, types = _frames(drawn, drawn.batch["noise_mask"]), _types(drawn)
    clean = (types >= 0) & ~moved
    loss._prepare_dens_inputs = lambda *_, **__: (
        {},
        forces,
        noise / config.get("dens_std", 0.025),
        moved,
        clean,
        True,
    )
    made = {
        "energy": drawn.predictions["energy"].reshape(-1, 1),
        "force": _frames(drawn, drawn.predictions["forces"]),
        "clean_force_norm": _frames(drawn, drawn.predictions["forces"]),
        "denoising_force_norm": _frames(drawn, drawn.predictions["denoising"]),
    }

    class Model:
        training, atomic_model = True, _Norms()

        def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
            return made

    labels = _found({"energy": drawn.batch["energy"].reshape(-1, 1), "force": forces})
    return loss({"atype": types}, Model(), labels, forces.shape[1], NOW)[1]


@_dens(DENS)
def dens_mae(drawn: Drawn) -> Tensor:
    return _dens_total({"loss_func": "mae", **DENS}, drawn)


@_dens(DENS_MSE := {**DENS, "loss_func": "mse"})
def dens_mse(drawn: Drawn) -> Tensor:
    return _dens_total(DENS_MSE, drawn)


@case(loss="deepmd_dens", extra={"denoising": ("atom", (3,))}, setup=_noise)
def recipe_dens(drawn: Drawn) -> Tensor:
    return _dens_total(_prefactors_of(e=20, f=20), drawn)


def _masked(drawn: Drawn) -> dict[str, Any]:
    positions, numbers = drawn.batch["positions"], drawn.batch["numbers"]
    labels = {"clean_coord": positions, "clean_type": (numbers % 4).double()}
    return {**labels, "coord_mask": positions[:, 0] > 2, "type_mask": positions[:, 1] > 3}


@case(
    loss="deepmd_denoise",
    overrides={"terms.types.classes": 4, "weights.types": 0.5, "huber_delta": 0.8},
    labels=(),
    extra={"updated_coord": ("atom", (3,)), "logits": ("atom", (4,))},
    setup=_masked,
)
def recipe_denoise(drawn: Drawn) -> Tensor:
    """Without the norms of its network's features, which are no property of structures."""
    # in this release the class lacks a method and no config names it
    whole = type("Denoise", (_modules().DenoiseLoss,), {"label_requirement": ()})
    loss = whole(ntypes=5, masked_token_loss=0.5, norm_loss=0.0, beta=0.8)
    predicted = {name: _frames(drawn, drawn.predictions[name]) for name in ("updated_coord", "logits")}
    names = ("clean_coord", "clean_type", "coord_mask", "type_mask")
    labels = {name: _frames(drawn, drawn.batch[name]) for name in names}
    labels["clean_type"] = labels["clean_type"].long()
    return loss(predicted, labels, predicted["logits"].shape[1], NOW)[0]
