"""How a step runs, and never what it computes."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from torch import nn

from gan.models.mlp import MLP
from gan.recipes import Recipe

MemoryFormat = Literal["auto", "contiguous", "channels_last"]


@dataclass(frozen=True)
class Execution:
    """How a training step runs: it changes speed, memory and rounding, and never what is computed.

    A field is an option of training, and an axis of the benchmarks, by the same name. Its default here is how
    steps ran before the field existed: runs that were begun then are resumed with it. The option's default may be
    another.

    Attributes:
        memory_format: How weights of convolutions lie in memory. "auto" becomes one of the others in `settled`.
        cuda_graph: Whether a GPU takes a whole step as one CUDA graph, launched once.
        optimizer_in_backward: Whether each parameter takes its step as soon as its gradient is there, which is
            then freed.
    """

    memory_format: MemoryFormat = "contiguous"
    cuda_graph: bool = False
    optimizer_in_backward: bool = False

    def settled(self, recipe: Recipe) -> "Execution":
        """Return the execution with a decision wherever it says "auto"."""
        if self.memory_format == "auto":
            return replace(self, memory_format=_best_memory_format(recipe))
        return self

    def changes(self) -> dict[str, Any]:
        """Return the fields that do not have their default, JSON-ready."""
        before = asdict(Execution())
        return {name: value for name, value in asdict(self).items() if value != before[name]}

    def place(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Move a network to a device, in place, with its weights in the memory format."""
        network.to(device, dtype)
        if self.memory_format == "channels_last":
            network.to(memory_format=torch.channels_last)


def _best_memory_format(recipe: Recipe) -> MemoryFormat:
    return "contiguous" if isinstance(recipe.discriminator, MLP) else "channels_last"
