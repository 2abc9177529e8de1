"""What happened in a step that went wrong: who made it so, written such that one command repeats it."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pesloss import checkpoint
from pesloss.building import build
from pesloss.checkpoint import CheckpointError
from pesloss.losses import Batch, Predictions, Step, TotalLoss
from pesloss.losses.batch import num_structures, single_structures
from pesloss.losses.nonfinite import Culprit, find_nonfinite, first
from pesloss.models import Potential
from pesloss.models.derived import derived_by
from pesloss.models.trained import loss_of

LARGEST = 256
"""Structures of a batch beyond which they are not differentiated one by one."""

NEEDED = (
    *(
        "config",
        "heads",
        "properties",
        "references",
        "weights",
        "loss",
        "place",
        "parts",
        "training",
        "random",
    ),
    *("names", "groups", "sentence", "spike", "norms", "rank", "world_size"),
)
"""What the file of a post-mortem holds."""


@dataclass(frozen=True)
class Case:
    """What one process did in a step, ready to be done again.

    Args:
        potential: with the weights it had.
        loss: in the state it was in.
        parts: its batches, several in an accumulated step, as the model saw them.
        rewind: puts random numbers, and what else a forward pass changes, back to before the step.
        training: whether it learned from them, or validated.
        bfloat16: whether products of matrices were of this type.
    """

    potential: Potential
    loss: TotalLoss
    parts: Sequence[Batch]
    rewind: Callable[[], None]
    training: bool = True
    bfloat16: bool = False

    def predictions(self) -> Iterator[tuple[Batch, Predictions]]:
        """Each batch with what the model says of it, once more."""
        self.rewind()
        for part in self.parts:
            yield part, self.predict(part)

    def predict(self, part: Batch) -> Predictions:
        """What the model says of a batch."""
        with torch.autocast(part["ptr"].device.type, torch.bfloat16, enabled=self.bfloat16):
            return self.potential(part, list(self.loss.required), training=self.training)

    def step(self) -> Step:
        """Denominators of this process's batches together."""
        predicted = None if self.loss.linear else (found for _, found in self.predictions())
        return self.loss.step(self.parts, predicted)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """What the model learns."""
        return {name: p for name, p in self.potential.named_parameters() if p.requires_grad}


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a step.

    Args:
        culprits: what is NaN or infinite; empty if everything is finite.
        norms: length of the gradient of each term with its weight, where it was looked for.
        heaviest: ``index`` of the structures with the longest gradients, and their lengths.
    """

    culprits: tuple[Culprit, ...] = ()
    norms: tuple[tuple[str, float], ...] = ()
    heaviest: tuple[tuple[int, float], ...] = ()

    def sentence(self, name_of: Callable[[int], str]) -> str:
        """The same in words, structures by their names."""
        explained = {culprit.term for culprit in self.culprits if culprit.kind != "value"}
        told = [one for one in self.culprits if one.kind != "value" or one.term not in explained]
        parts = [culprit.sentence(name_of) for culprit in told]
        if self.norms:
            norms = [f"term '{term}' has {norm:.3g}" for term, norm in sorted(self.norms, key=_size)]
            parts.append(f"of the gradient's length {first(norms)}")
        if self.heaviest:
            longest = [f"{name_of(index)}: {norm:.3g}" for index, norm in self.heaviest]
            parts.append(f"the longest gradients are those of {first(longest)}")
        return "; ".join(parts)


def diagnose(case: Case, *, spike: bool = False) -> Diagnosis:
    """Who made a step NaN or infinite, or, of a ``spike``, whose gradients are longest; in this process.

    Looks at parameters first, then at labels, weights, predictions and values, then at the gradient of each
    term by itself, and, if that is not finite, of each structure. What it costs is a few steps.
    """
    named = [*case.potential.named_parameters(), *case.loss.named_parameters()]
    if bad := tuple(name for name, parameter in named if not bool(parameter.isfinite().all())):
        return Diagnosis((Culprit("parameter", bad),))
    with _alone(case):
        found = [find_nonfinite(case.loss, said, part) for part, said in case.predictions()]
        if any(found) or not case.training:
            return Diagnosis(tuple(culprit for own in found for culprit in own))
        return _by_gradients(case, spike)


def _by_gradients(case: Case, spike: bool) -> Diagnosis:
    """What the gradients of the terms say, if all values are finite."""
    gradients, weights = _term_gradients(case)
    bad = {term: _not_finite(case, gradient) for term, gradient in gradients.items()}
    bad = {term: names for term, names in bad.items() if names}
    if bad:
        where = _bad_structures(case, [*bad])
        return Diagnosis(tuple(Culprit("gradient", bad[term], term, where[term]) for term in bad))
    if not spike:
        return Diagnosis()
    norms = [(term, abs(weights[term]) * _length(gradient)) for term, gradient in gradients.items()]
    return Diagnosis((), tuple(norms), _heaviest(case, weights))


def _term_gradients(case: Case) -> tuple[dict[str, list[Tensor]], dict[str, float]]:
    """Gradient of each term by every parameter, over all batches, and the effective weight of each."""
    parameters, step = [*case.parameters.values()], case.step()
    gradients: dict[str, list[Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for part, said in case.predictions():
        for term, value in _by_term(case, part, said, step).items():
            own = _gradient(value, parameters)
            before = gradients.get(term, [0] * len(own))
            gradients[term] = [a + b for a, b in zip(own, before, strict=True)]
        weights = case.loss.evaluate(said, part, step).weights
    return gradients, {term: float(weight) for term, weight in weights.items()}


def _by_term(case: Case, part: Batch, said: Predictions, step: Step | None = None) -> dict[str, Tensor]:
    return dict(zip(case.loss.terms, case.loss.values(said, part, step).unbind(), strict=True))


def _gradient(value: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Gradient by each parameter, zeros where there is none."""
    if not value.requires_grad:
        return [torch.zeros_like(parameter) for parameter in parameters]
    found = torch.autograd.grad(
        value, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return list(found)


def _bad_structures(case: Case, terms: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Structures that make the gradient of a term not finite each by itself."""
    parameters = [*case.parameters.values()]
    found: dict[str, list[int]] = {term: [] for term in terms}
    for index, single in _singles(case):
        values = _by_term(case, single, case.predict(single))
        for term in terms:
            if _not_finite(case, _gradient(values[term], parameters)):
                found[term].append(index)
    return {term: tuple(rows) for term, rows in found.items()}


def _heaviest(case: Case, weights: Mapping[str, float]) -> tuple[tuple[int, float], ...]:
    """The structures with the longest gradients of the total."""
    parameters, step, found = [*case.parameters.values()], case.step(), []
    for index, single in _singles(case):
        values = case.loss.values(case.predict(single), single, step)
        total = torch.dot(values, values.new_tensor([weights[term] for term in case.loss.terms]))
        found.append((index, _length(_gradient(total, parameters))))
    return tuple(sorted(found, key=_size)[:3])


def _singles(case: Case) -> Iterator[tuple[int, Batch]]:
    """Each structure as a batch of its own, with its ``index``; none if they are very many."""
    case.rewind()
    if sum(map(num_structures, case.parts)) <= LARGEST:
        for part in case.parts:
            yield from zip(part["index"].tolist(), single_structures(part, part), strict=True)


def _not_finite(case: Case, gradients: Sequence[Tensor]) -> tuple[str, ...]:
    """Parameters whose gradient is not."""
    flags = torch.stack([gradient.isfinite().all() for gradient in gradients]).tolist()
    return tuple(name for name, finite in zip(case.parameters, flags, strict=True) if not finite)


def _length(gradients: Sequence[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(gradients))


def _size(item: tuple[Any, float]) -> float:
    """To sort by, the largest first."""
    return -item[1]


@contextmanager
def _alone(case: Case) -> Iterator[None]:
    """Values of this process alone, and graphs that can be differentiated again and again."""
    # only where something is compiled: asking for it loads the compiler
    compiled = getattr(case.potential, "_compiled_call_impl", None) is not None
    training = case.loss.training
    case.loss.eval()
    try:
        with torch.compiler.set_stance("force_eager") if compiled else nullcontext():
            yield
    finally:
        case.loss.train(training)


def first_nan(case: Case) -> str:
    """Which operation of a backward pass is the first to give NaN, and what line called it; or nothing.

    Forces are derivatives too: it may be found while they are predicted.
    """
    with _alone(case), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")  # what autograd says of an operation, it says as a warning
        try:
            with torch.autograd.detect_anomaly():
                for part, said in case.predictions():
                    total = case.loss(said, part)
                    if total.requires_grad:
                        torch.autograd.grad(total, [*case.parameters.values()], allow_unused=True)
        except RuntimeError as error:
            if found := re.search(r"Function '(\w+)' returned nan", str(error)):
                return f"The first NaN of a derivative is that of {found[1]}{_line(caught)}"
            raise
    return ""


def _line(caught: Sequence[warnings.WarningMessage]) -> str:
    """The line of a program that autograd blames."""
    blamed = next((str(w.message) for w in caught if str(w.message).startswith("Error detected")), "")
    frames = re.findall(r'File "(.+)", line (\d+), in (\S+)\n\s+(.+)', blamed)
    return "".join(
        f", in {name} ({file}, line {line}): {code.strip()}" for file, line, name, code in frames[-1:]
    )


def written(case: Case, names: Mapping[int, str], **about: Any) -> dict[str, Any]:
    """A case as tensors and plain data, on the host.

    Args:
        case: as it stands.
        names: of its structures, by ``index``.
        about: what else to keep: config, heads, references, place, random numbers.
    """
    return {
        **about,
        "weights": on_host(case.potential.state_dict()),
        "loss": on_host(case.loss.state_dict()),
        "parts": [on_host(part) for part in case.parts],
        "training": case.training,
        "names": dict(names),
    }


def on_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies that nothing changes any more."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}


def read(path: Path) -> dict[str, Any]:
    """The content of a post-mortem's file.

    Raises:
        FileNotFoundError: if there is none.
        CheckpointError: if the file is another one.
    """
    content = checkpoint.read(path)
    if missing := [name for name in NEEDED if name not in content]:
        raise CheckpointError(f"{path} is not the post-mortem of a step: it lacks {', '.join(missing)}.")
    return content


def rebuilt(content: Mapping[str, Any], device: torch.device | str = "cpu") -> Case:
    """The case of a file, with model and loss from its config; :func:`pesloss.build` decides what is made.

    Its ``rewind`` sets the random numbers that the step began with.

    Raises:
        BuildError: if the config describes no model or loss.
        RuntimeError: if its state does not fit them.
    """
    config = content["config"]
    loss = loss_of(config)
    network = build(config["model"], heads=content["heads"])
    potential = Potential(network, derived_by(loss, network))
    dtype = next(tensor.dtype for tensor in content["weights"].values() if tensor.is_floating_point())
    potential.to(dtype).load_state_dict(content["weights"])
    loss.attach(potential.to(device).train(content["training"]))
    loss.load_state_dict(content["loss"])
    loss.to(device).train(content["training"]).place(**content["place"])
    moved = [{name: tensor.to(device) for name, tensor in part.items()} for part in content["parts"]]
    # what was drawn is in the batches; what is to be differentiated is prepared anew
    parts = [loss.prepare(part) for part in moved] if content["training"] else moved
    bfloat16 = config.get("trainer", {}).get("precision") == "bfloat16"
    rewind = partial(set_random, content["random"], torch.device(device))
    return Case(potential, loss, parts, rewind, content["training"], bfloat16)


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Random numbers to come, of the host and a device."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Go on with random numbers from where they were."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)
