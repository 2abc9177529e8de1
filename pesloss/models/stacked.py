"""Several copies of one potential, computed together: weights are stacked, structures are shared."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from pesloss.losses.batch import Batch, Predictions
from pesloss.models.potential import (
    DERIVATIVES,
    SECOND,
    Potential,
    Variables,
    derivatives_of,
    moved,
    variables_of,
)

Stacked = dict[str, Tensor]


class StackedPotential:
    """K copies of one potential are one function of K sets of weights.

    The energies of all copies come from one ``vmap`` of the network over the stacked weights, their forces
    and stress from one call of autograd: each copy has positions (and a strain) of its own to be
    differentiated by. On a CPU and eager this is faster than ``vmap`` of the whole, forces included.

    Parameters and buffers of the copies become views of the stacks, so that an optimizer's step, an average
    or a checkpoint that is loaded into a copy is one of the stack too. After the gradients of a loss of the
    predictions, :meth:`hand_out` gives every copy its own.

    Args:
        copies: potentials of one structure; they may differ in the values of parameters and buffers only.

    Raises:
        ValueError: if they differ in more.

    References:
        Model ensembling with ``torch.func.stack_module_state``, as in the documentation of torch.
    """

    def __init__(self, copies: Sequence[Potential]) -> None:
        check_alike(copies)
        self.copies = list(copies)
        parameters, buffers = stack_module_state(list(copies))  # pyright: ignore[reportArgumentType]
        self.parameters = {
            name: stack.detach().requires_grad_(stack.requires_grad) for name, stack in parameters.items()
        }
        self.buffers = {name: stack.detach() for name, stack in buffers.items()}
        for k, copy in enumerate(self.copies):
            _view(copy, {name: stack.detach()[k] for name, stack in self.parameters.items()}, self.buffers, k)
        self._first = self.copies[0]

    def __call__(self, batch: Batch, properties: Collection[str], *, training: bool) -> list[Predictions]:
        """What each copy says of the same structures.

        Args:
            batch: structures, in the dtype of the network.
            properties: names of what to predict; no second derivatives.
            training: whether losses of the predictions can be differentiated.

        Raises:
            ValueError: if a second derivative is asked for.
        """
        if second := [name for name in SECOND if name in properties]:
            raise ValueError(f"Stacked potentials have no second derivatives, asked for {second}.")
        self._first.train(training)
        needed = self._first.needed(properties)
        derivatives = [name for name in DERIVATIVES if name in needed]
        with torch.set_grad_enabled(training or bool(derivatives)):
            found = self._derived(batch, self._predicted(batch, needed, derivatives, training), properties)
        if not training:
            found = {name: value.detach() for name, value in found.items()}
        return [{name: found[name][k] for name in properties} for k in range(len(self.copies))]

    def clear(self) -> None:
        """Forget the gradients of all copies."""
        for stack in self.parameters.values():
            stack.grad = None

    def hand_out(self) -> None:
        """Give the parameters of every copy their gradients."""
        named = [dict(copy.named_parameters()) for copy in self.copies]
        for name, stack in self.parameters.items():
            for k, parameters in enumerate(named):
                parameters[name].grad = None if stack.grad is None else stack.grad[k]

    def _predicted(
        self, batch: Batch, needed: Collection[str], derivatives: Collection[str], training: bool
    ) -> Stacked:
        """Properties of the network and derivatives of its energy, for all copies."""
        network = self._first.network_properties
        wanted = [name for name in network if name in needed or (derivatives and name == "energy")]
        variables = self._variables(batch, derivatives)
        outputs = torch.vmap(partial(self._network, batch, wanted))(self._state("network."), variables)
        if not derivatives:
            return outputs
        gradients = torch.autograd.grad(
            outputs["energy"].sum(), list(variables.values()), create_graph=training, materialize_grads=True
        )
        by_name = dict(zip(variables, gradients, strict=True))
        return {**outputs, **torch.vmap(derivatives_of, (0, None))(by_name, batch["cell"])}

    def _network(
        self, batch: Batch, wanted: Collection[str], state: tuple[Stacked, Stacked], variables: Variables
    ) -> Stacked:
        """What one copy of the network says."""
        return functional_call(self._first.network, state, (moved(batch, variables), wanted))

    def _variables(self, batch: Batch, derivatives: Collection[str]) -> Variables:
        """What the energies are differentiated by, of each copy its own."""
        num = len(self.copies)
        return {
            name: value.detach().expand(num, *value.shape).clone().requires_grad_()
            for name, value in variables_of(batch, derivatives).items()
        }

    def _derived(self, batch: Batch, found: Stacked, properties: Collection[str]) -> Stacked:
        """The same with what follows from them."""
        for name in properties:
            if name in self._first.derived:
                part: nn.Module = self._first.derived[name]
                call = partial(_call, part, batch)
                found = {**found, name: torch.vmap(call)(self._state(f"derived.{name}."), found)}
        return found

    def _state(self, prefix: str) -> tuple[Stacked, Stacked]:
        """Stacked parameters and buffers of a part."""
        return _below(prefix, self.parameters), _below(prefix, self.buffers)


def check_alike(copies: Sequence[Potential]) -> None:
    """Potentials differ in the values of their parameters and buffers only.

    Raises:
        ValueError: naming what else they differ in.
    """
    first, *others = copies
    for other in others:
        if (one := _structure(first)) != (another := _structure(other)):
            raise ValueError(f"Potentials that are stacked have one structure, found {one} and {another}.")


def _structure(potential: Potential) -> tuple[str, dict[str, tuple[torch.Size, torch.dtype]]]:
    state = [*potential.named_parameters(), *potential.named_buffers()]
    return repr(potential), {name: (tensor.shape, tensor.dtype) for name, tensor in state}


def _view(copy: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], k: int) -> None:
    """Let a copy's parameters and buffers be views."""
    for name, parameter in copy.named_parameters():
        parameter.data = parameters[name]
    for name, _ in list(copy.named_buffers()):
        path, _, last = name.rpartition(".")
        setattr(copy.get_submodule(path), last, buffers[name][k])


def _call(part: nn.Module, batch: Batch, state: tuple[Stacked, Stacked], found: Stacked) -> Tensor:
    return functional_call(part, state, (found, batch))


def _below(prefix: str, state: Stacked) -> Stacked:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
