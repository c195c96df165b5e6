"""One of the two networks, with what trains it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gan.errors import UsageError
from gan.training.exchange import SharedGradients, average_unfrozen

T = TypeVar("T")
"""A micro-batch, whatever its type."""


@dataclass
class Player:
    """One network with what trains it. `objective` is wrapped by Accelerate, `network` is not.

    Parameters stay within plus or minus `clip`, unless it is 0. Gradients of several processes are averaged by
    `shared_gradients`, or else by DDP in the backward pass of `objective`. Parameters that are `frozen` in the
    beginning are averaged apart, if a network unfreezes them later.
    """

    network: nn.Module
    objective: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    clip: float = 0.0
    shared_gradients: SharedGradients | None = None
    frozen: Sequence[nn.Parameter] = ()

    def update(self, micro_batches: Sequence[T]) -> Iterator[T]:
        """Yield micro-batches, each of which is to be taken `backward`, and then take one optimizer step.

        Their gradients are added up. They are averaged over ranks once, with the last micro-batch.
        """
        self.optimizer.zero_grad()
        *others, last = micro_batches
        if others:
            with self.apart():
                yield from others
        yield last
        self.average_gradients()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.clip:
            with torch.no_grad():
                for parameter in self.network.parameters():
                    parameter.clamp_(-self.clip, self.clip)

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a micro-batch's loss; a disabled scaler passes everything through."""
        self.scaler.scale(loss).backward()

    def average_gradients(self) -> None:
        """Average gradients over ranks after the backward pass, as far as DDP has not done so in it.

        Raises:
            UsageError: DDP lacks a gradient.
        """
        if self.shared_gradients is not None:
            self.shared_gradients.average()
        if isinstance(self.objective, DistributedDataParallel) and not self.objective.find_unused_parameters:
            self._require_gradients()
        average_unfrozen(self.frozen)

    def _require_gradients(self) -> None:
        """Raise UsageError where DDP still waits for a gradient, which it would only say in the next step."""
        parameters = (weight for group in self.optimizer.param_groups for weight in group["params"])
        lacking = {weight for weight in parameters if weight.grad is None}.difference(self.frozen)
        for name, parameter in self.network.named_parameters() if lacking else ():
            if parameter in lacking:
                raise UsageError(
                    f"--recipe: {name} of {type(self.network).__name__} has no gradient in this step, and had one "
                    "when training began; over a network, processes need one of it in every step: add 0 times its "
                    "sum to what the network returns"
                )

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Keep gradients from being averaged over ranks."""
        shared_gradients = self.shared_gradients
        frozen = self.frozen
        objective = self.objective
        self.shared_gradients = None
        self.frozen = ()
        try:
            with objective.no_sync() if isinstance(objective, DistributedDataParallel) else nullcontext():
                yield
        finally:
            self.shared_gradients = shared_gradients
            self.frozen = frozen

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, buffers and optimizer state by name."""
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        return named

    def load(self, tensors: Mapping[str, Tensor], scaler: Mapping[str, Any]) -> None:
        """Take over what `tensors` returned; raise KeyError or RuntimeError where names or shapes differ."""
        self.network.load_state_dict(stripped(tensors, "network."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in stripped(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        parameters = list(self.network.parameters())
        for number, values in state.items():
            if any(value.ndim and value.shape != parameters[number].shape for value in values.values()):
                raise RuntimeError(f"the optimizer's state of parameter {number} has another shape")
            # a fused optimizer goes through memory, where moments have to lie as their weights do
            state[number] = {key: _laid_out(value, parameters[number]) for key, value in values.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if scaler:  # empty unless it was saved in fp16
            self.scaler.load_state_dict(dict(scaler))


def _laid_out(value: Tensor, parameter: nn.Parameter) -> Tensor:
    """Return an optimizer's value of a parameter, if it has one for each weight, in the order of the weights."""
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value).detach() if value.ndim else value


def stripped(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, by what follows it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
