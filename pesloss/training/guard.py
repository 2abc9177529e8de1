"""What becomes of a step whose loss or gradient is not finite, or whose gradient is far too long."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from enum import IntEnum
from math import isfinite
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from ase.symbols import Symbols
from lightning_fabric import Fabric
from torch import Tensor, nn

from pesloss import checkpoint
from pesloss.checkpoint import LAST, CheckpointError
from pesloss.checks.postmortem import (
    Case,
    Diagnosis,
    diagnose,
    on_host,
    random_state,
    set_random,
    written,
)
from pesloss.losses import Batch
from pesloss.losses.batch import group_code
from pesloss.losses.nonfinite import first
from pesloss.training.resume import return_to

if TYPE_CHECKING:
    from pesloss.training.fit import Fit

WINDOW, LEAST = 200, 50
"""Gradients whose median is usual, and how many have to be known before one is unusual."""

MOST_WRITTEN = 3
"""Bad steps of a run that are looked into and written down; each file holds the weights."""

FOLDER = "postmortem"
FROM_THE_MACHINE = "Done again, everything is finite: it came from the machine, or from several processes."


class NonFiniteError(ValueError):
    """A loss, a gradient or a state is NaN or infinite; the message says whose."""


class SpikeError(ValueError):
    """A gradient is far longer than those before it; the message says whose."""


class Verdict(IntEnum):
    """What a step is; of several processes the worst decides."""

    GOOD = 0
    SPIKE = 1
    BAD = 2


class Moment:
    """What a forward pass may change: buffers (statistics, learned scales) and random numbers.

    Args:
        buffers: whose they are, and their names, as :func:`places` gives them.
        device: of the random numbers besides the host's.
    """

    def __init__(self, buffers: Iterable[tuple[nn.Module, str]], device: torch.device) -> None:
        self._device, self.random = device, random_state(device)
        self.buffers = [(owner, name, getattr(owner, name).clone()) for owner, name in buffers]

    @torch.no_grad()
    def restore(self) -> None:
        """Make everything as it was."""
        for owner, name, value in self.buffers:
            getattr(owner, name).copy_(value)
        set_random(self.random, self._device)


def places(*modules: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the buffers of modules are."""
    owners = [owner for module in modules for owner in module.modules()]
    return [(owner, name) for owner in owners for name, _ in owner.named_buffers(recurse=False)]


class _Look(NamedTuple):
    """What this process has found out about a step."""

    case: Case
    diagnosis: Diagnosis
    names: dict[int, str]
    failed: str = ""

    def told(self) -> str:
        """The same in words, structures by their names."""
        said = self.diagnosis.sentence(self.names.__getitem__) or self.failed
        return f"{said[:1].upper()}{said[1:]}." if said else ""


class _Finding(NamedTuple):
    """What a process has to say to all the others.

    Args:
        rank: which process it is.
        what: what is wrong; nothing if another process is to blame.
        looked: whether it has looked for who is to blame.
        told: who is.
        length: of the gradient of a spike; of several processes the one with the longest is to blame.
    """

    rank: int
    what: str
    looked: bool = False
    told: str = ""
    length: float = 0.0


class Guard:
    """Decides, in all processes alike, whether an optimizer step is taken.

    Args:
        fit: the training.
    """

    def __init__(self, fit: Fit) -> None:
        self.fit, self.trainer = fit, fit.trainer
        self._norms: deque[float] = deque(maxlen=WINDOW)
        self._places = places(fit.potential, fit.loss)  # to look for them takes longer than to copy them
        self._before: Moment
        # some models hold infinities on purpose, such as masks of attention
        self._meant = set(_not_finite(_buffers(fit)))

    def state(self) -> dict[str, Any]:
        """What later decisions depend on."""
        return {"norms": torch.tensor(list(self._norms), dtype=torch.float64)}

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._norms.extend(state["norms"].tolist())

    def begin(self) -> None:
        """A step begins: what it changes before it is decided on can be undone."""
        self._before = self._moment()

    def undo(self) -> None:
        """Make everything as it was when the step began."""
        self._before.restore()

    def admits(self, parts: Sequence[Batch], loss: float, norm: float) -> bool:
        """Whether the step is taken; if not, everything is as if it had not begun, or had not for longer.

        Args:
            parts: its batches.
            loss: its value.
            norm: length of its gradient.

        Raises:
            NonFiniteError: if loss or gradient is not finite and the policy is to stop, or too many steps in
                a row were not good.
            SpikeError: the same for a gradient that is too long.
        """
        verdict = self._verdict(loss, norm)
        if verdict is Verdict.GOOD:
            return self._admitted(norm)
        policy = self.trainer.on_nonfinite if verdict is Verdict.BAD else self.trainer.on_spike
        if policy in ("stop", "warn"):
            told = self._told(verdict, self._what(loss, norm), parts, always=policy == "stop")
            if policy == "stop":
                raise _error(verdict, told)
            self.fit.say(f"{told} The step is taken.")
            return self._admitted(norm)
        told = self._told(verdict, self._what(loss, norm), parts)
        self._leave_out(policy, verdict, told)
        return False

    def check_state(self, what: str) -> None:
        """Neither weights nor anything else that is saved are NaN or infinite; if so, it may be undone.

        Args:
            what: would be done with them, in words.

        Raises:
            NonFiniteError: naming what is not finite, unless the policy is to go back to the last checkpoint.
        """
        bad, path = _not_finite(_state(self.fit), self._meant), self.fit.folder / LAST
        if not _worst(self.fit.fabric, bool(bad)):
            return
        kept = f"the checkpoint before it, {path}, is intact" if path.exists() else "there is no other"
        shown = first(bad) or "a tensor of another process"
        step = self.fit.progress.step
        told = f"The state after step {step} is not {what}, because {shown} is not finite; {kept}."
        if self.trainer.on_nonfinite != "roll_back" or not path.exists():
            raise NonFiniteError(told)
        self._leave_out("roll_back", Verdict.BAD, told)

    def refuse_validation(self, score: float) -> None:
        """The score of the validation structures is not finite.

        Raises:
            NonFiniteError: naming the structures.
        """
        fit = self.fit
        assert fit.data.val is not None
        of_what = f"{fit.score} of the validation structures"
        what = f"Epoch {fit.progress.epochs + 1}: {of_what} is {score}, so that a prediction is not finite."
        cases = (self._case([batch], training=False) for batch, _ in fit.predict(fit.data.val))
        looks = (self._look(case, Verdict.BAD) for case in cases)
        raise NonFiniteError(self._conclude(what, next((look for look in looks if look.told()), None)))

    def check_epoch(self) -> None:
        """An epoch in which nothing was learned is no good one, whatever its policy.

        Raises:
            NonFiniteError: if every step of it was left out.
        """
        if not self.fit.progress.taken:
            raise NonFiniteError(f"Every step of epoch {self.fit.progress.epochs + 1} was left out.")

    def _verdict(self, loss: float, norm: float) -> Verdict:
        """What all processes agree on."""
        limit = self._limit()
        spikes = limit is not None and norm > limit
        own = Verdict.GOOD if isfinite(loss) and isfinite(norm) else Verdict.BAD
        return Verdict(_worst(self.fit.fabric, max(own, Verdict.SPIKE if spikes else Verdict.GOOD)))

    def _limit(self) -> float | None:
        """Length of a gradient beyond which it is a spike."""
        factor = self.trainer.spike_factor
        if factor is None or len(self._norms) < LEAST:
            return None
        return factor * median(self._norms)

    def _admitted(self, norm: float) -> bool:
        self.fit.progress.bad = 0
        if self.trainer.spike_factor is not None:
            self._norms.append(norm)
        return True

    def _leave_out(self, policy: str, verdict: Verdict, told: str) -> None:
        """The step is not taken."""
        progress = self.fit.progress
        progress.skipped, progress.bad = progress.skipped + 1, progress.bad + 1
        if progress.bad > self.trainer.max_bad_steps:
            limit = f"max_bad_steps={self.trainer.max_bad_steps}"
            raise _error(verdict, f"{told} It is bad step {progress.bad} in a row, more than {limit}.")
        self.fit.say(f"{told} {self._return() if policy == 'roll_back' else 'The step is skipped.'}")

    def _return(self) -> str:
        """Go back to the last checkpoint, and on with the next batch; what was done, in words."""
        state = checkpoint.read(self.fit.folder / LAST)
        return_to(self.fit, state)
        self.fit.loss.place(**self.fit.place())
        return f"Weights, optimizer and loss are again those after step {state['progress']['step']}."

    def _what(self, loss: float, norm: float) -> str:
        """What is wrong with the step, as this process sees it; nothing if another is to blame."""
        step = f"Step {self.fit.progress.step + 1}"
        if not isfinite(loss):
            return f"{step}: the loss is {loss}."
        if not isfinite(norm):
            named = [*self.fit.potential.named_parameters(), *self.fit.loss.named_parameters()]
            bad = [name for name, p in named if p.grad is not None and not bool(p.grad.isfinite().all())]
            return f"{step}: gradients are not finite, of {first(bad)}."
        limit = self._limit()
        if limit is None or norm <= limit:
            return ""
        usual = median(self._norms)
        return f"{step}: the gradient's length is {norm:.3g}, {norm / usual:.3g} times the usual {usual:.3g}."

    def _told(self, verdict: Verdict, what: str, parts: Sequence[Batch], *, always: bool = False) -> str:
        """The whole sentence about a step, which is looked into and written down unless many others were.

        Afterwards everything is as before the step, unless it may still be taken: then it is as now.
        """
        now, look = self._moment(), None
        if always or self.fit.progress.written < MOST_WRITTEN:
            look = self._look(self._case(parts, training=True), verdict)
        told = self._conclude(what, look)
        (now if verdict is Verdict.SPIKE and self.trainer.on_spike == "warn" else self._before).restore()
        return told

    def _conclude(self, what: str, look: _Look | None) -> str:
        """What all processes have found, written down by those that have found it."""
        fabric = self.fit.fabric
        own = _Finding(fabric.global_rank, what)
        if look is not None:
            length = sum(norm for _, norm in look.diagnosis.norms)
            own = own._replace(looked=True, told=look.told(), length=length)
        every: list[_Finding] = _gathered(fabric, own)
        guilty = _guilty(every)
        what = next(finding.what for finding in [*guilty, *every] if finding.what)
        if not any(finding.looked for finding in every):
            return what
        told = f"{what} {' '.join(finding.told for finding in guilty) or FROM_THE_MACHINE}"
        writes = own.rank in [finding.rank for finding in guilty or every]
        mine = self._write(look, told) if look is not None and writes else None
        where = next((path for path in _gathered(fabric, mine) if path is not None), "")
        self.fit.progress.written += 1
        return f"{told} {where}".rstrip()

    def _write(self, look: _Look, sentence: str) -> str:
        """Put the case into a file; what became of it, in words."""
        progress, fabric, case = self.fit.progress, self.fit.fabric, look.case
        again = f"_{progress.bad + 1}" if progress.bad else ""
        name = f"step_{progress.step + 1:06d}{again}" if case.training else f"epoch_{progress.epochs + 1:06d}"
        folder = self.fit.folder / FOLDER / name
        case.rewind()
        content = written(
            case,
            look.names,
            **self.fit.about,
            groups=[*self.fit.data.datasets, *self.fit.data.config_types],
            place=self.fit.place(),
            progress=asdict(progress),
            random=on_host(self._before.random if case.training else random_state(fabric.device)),
            sentence=sentence,
            spike=bool(look.diagnosis.norms),
            norms=dict(look.diagnosis.norms),
            rank=fabric.global_rank,
            world_size=fabric.world_size,
        )
        try:
            folder.mkdir(parents=True, exist_ok=True)
            checkpoint.save(folder / f"rank_{fabric.global_rank}.ckpt", content)
        except (OSError, CheckpointError) as error:
            return f"It could not be written down ({error})."
        return f"Do it again with: python -m pesloss.replay {folder}"

    def _case(self, parts: Sequence[Batch], *, training: bool) -> Case:
        fit = self.fit
        rewind = self._before.restore if training else lambda: None
        potential = fit.potential if training else fit.evaluated
        return Case(potential, fit.loss, parts, rewind, training, fit.trainer.precision == "bfloat16")

    def _look(self, case: Case, verdict: Verdict) -> _Look:
        """Who is to blame, as far as this process can tell."""
        names = {index: name for part in case.parts for index, name in self._names(part)}
        try:
            return _Look(case, diagnose(case, spike=verdict is Verdict.SPIKE), names)
        except Exception as error:  # who looks must neither hide what was found nor leave others waiting
            return _Look(case, Diagnosis(), names, f"why could not be found out ({error})")

    def _names(self, part: Batch) -> Iterable[tuple[int, str]]:
        """What to call each structure of a batch: its file and place there, formula and dataset."""
        datasets = {group_code(name): name for name in self.fit.data.datasets}
        numbers = part["numbers"].cpu().split(part["ptr"].diff().tolist())
        for index, own, code in zip(part["index"].tolist(), numbers, part["dataset"].tolist(), strict=True):
            formula = Symbols(own.numpy()).get_chemical_formula()
            yield index, f"{self.fit.data.source(index)} ({formula}, dataset '{datasets.get(code, '')}')"

    def _moment(self) -> Moment:
        return Moment(self._places, self.fit.fabric.device)


def _error(verdict: Verdict, told: str) -> ValueError:
    return NonFiniteError(told) if verdict is Verdict.BAD else SpikeError(told)


def _guilty(every: Sequence[_Finding]) -> list[_Finding]:
    """Of all processes those that have found something, each thing once; of a spike the longest gradient."""
    found = {finding.told: finding for finding in every if finding.told}
    longest = max((finding.length for finding in every), default=0.0)
    return [finding for finding in found.values() if finding.length == longest]


def _worst(fabric: Fabric, own: int) -> int:
    """The largest number of any process."""
    if fabric.world_size == 1:
        return own
    found = torch.tensor(int(own), device=fabric.device)
    dist.all_reduce(found, dist.ReduceOp.MAX)
    return int(found)


def _gathered(fabric: Fabric, own: Any) -> list[Any]:
    """What every process has, in their order."""
    if fabric.world_size == 1:
        return [own]
    found: list[Any] = [None] * fabric.world_size
    dist.all_gather_object(found, own)
    return found


def _buffers(fit: Fit) -> dict[str, Tensor]:
    """Buffers of the model that are saved with its weights."""
    parameters = dict(fit.potential.named_parameters())
    return {n: tensor for n, tensor in fit.potential.state_dict().items() if n not in parameters}


def _state(fit: Fit) -> dict[str, Tensor]:
    """All tensors of a checkpoint that a later step depends on, by a name to be told."""
    moments = fit.optimizer.state_dict()["state"]
    average = {} if fit.average is None else fit.evaluated.state_dict()
    return {
        **fit.potential.state_dict(),
        **{f"average of {name}": tensor for name, tensor in average.items()},
        **{f"loss: {name}": tensor for name, tensor in fit.loss.state_dict().items()},
        **{
            f"optimizer: {name} of parameter {number}": value
            for number, own in moments.items()
            for name, value in own.items()
            if isinstance(value, Tensor)
        },
    }


def _not_finite(tensors: Mapping[str, Tensor], meant: Collection[str] = ()) -> list[str]:
    """Names of those that are NaN or infinite somewhere; the host waits for the device once."""
    names = [name for name in tensors if name.removeprefix("average of ") not in meant]
    if not names:
        return []
    flags = torch.stack([tensors[name].isfinite().all().cpu() for name in names])
    return [name for name, finite in zip(names, flags.tolist(), strict=True) if not finite]
