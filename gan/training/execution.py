"""How a step runs, and not what it computes."""

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import DDPCommunicationHookType, DistributedDataParallelKwargs, DynamoBackend
from torch import nn

from gan.models.mlp import MLP
from gan.process.shared_memory import neighbours
from gan.recipes import Recipe

MemoryFormat = Literal["auto", "contiguous", "channels_last"]
CommHook = Literal["no", "bf16", "fp16", "powersgd"]

COMPILE_MODES = ("default", "reduce-overhead", "max-autotune")
HOOKS = {
    "no": DDPCommunicationHookType.NO,
    "bf16": DDPCommunicationHookType.BF16,
    "fp16": DDPCommunicationHookType.FP16,
    "powersgd": DDPCommunicationHookType.POWER_SGD,
}
POWER_SGD = {"matrix_approximation_rank": 4, "start_powerSGD_iter": 2}
"""The rank of the approximation, and the updates before it: in the first of them, DDP sorts its buckets anew."""


@dataclass(frozen=True)
class Execution:
    """How a training step runs. All but powersgd change only speed, memory and rounding.

    A field is an option of training, and an axis of the benchmarks, by the same name. Its default here is how
    steps ran before the field existed: runs that were begun then are resumed with it. The option's default may be
    another.

    Attributes:
        memory_format: How weights of convolutions lie in memory. "auto" becomes one of the others in `settled`.
        cuda_graph: Whether a GPU takes a whole step as one CUDA graph, launched once.
        compile_mode: Of inductor; None for that of the launcher, and after `settled` for the default.
        comm_hook: In which form processes exchange gradients. "powersgd" also changes what is computed: it sends
            an approximation of low rank, and adds what that lacks to the next gradients (Vogels et al. 2019,
            arXiv:1905.13727, algorithm 2).
        bucket_size: Most MiB of gradients that are exchanged at once. DDP computes others meanwhile.
        shared_memory: Whether processes exchange gradients in memory which they share, where they can: on CPUs, on
            one host, without a hook. Otherwise DDP sends them. Three processes or more add up in another order.
        recompute: Whether activations are computed again in backward passes, and few are kept for them.
    """

    memory_format: MemoryFormat = "contiguous"
    compile_mode: str | None = None
    comm_hook: CommHook = "no"
    bucket_size: int = 25
    cuda_graph: bool = False
    shared_memory: bool = False
    recompute: bool = False

    def settled(self, recipe: Recipe, accelerator: Accelerator) -> "Execution":
        """Return the execution with a decision wherever it leaves one open."""
        memory_format = self.memory_format
        if isinstance(recipe.discriminator, MLP) and isinstance(recipe.generator, MLP):
            memory_format = "contiguous"
        elif memory_format == "auto":
            memory_format = best_memory_format(recipe, accelerator.device.type)
        compiler = accelerator.state.dynamo_plugin
        compiles = compiler.backend != DynamoBackend.NO
        asked = None if self.compile_mode == "default" else self.compile_mode
        compile_mode = (asked or compiler.mode) if compiles else None
        return replace(
            self,
            memory_format=memory_format,
            compile_mode=None if compile_mode == "default" else compile_mode,
            shared_memory=self.shared_memory and self._can_share(accelerator),
        )

    def _can_share(self, accelerator: Accelerator) -> bool:
        """Say whether all processes can share memory. All of them have to ask it the first time."""
        on_cpus = accelerator.device.type == "cpu" and accelerator.num_processes > 1
        return on_cpus and self.comm_hook == "no" and neighbours() is not None

    def changes(self) -> dict[str, Any]:
        """Return the fields that do not have their default, JSON-ready."""
        before = asdict(Execution())
        return {name: value for name, value in asdict(self).items() if value != before[name]}

    def place(self, network: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        """Move a network to a device, in place, with its weights in the memory format."""
        network.to(device, dtype)
        if self.memory_format == "channels_last":
            for held in (*network.parameters(), *network.buffers()):
                if held.ndim == 4:  # PyTorch's own way fails for weights of other convolutions, with five
                    held.data = held.data.to(memory_format=torch.channels_last)

    @property
    def exchange(self) -> DistributedDataParallelKwargs:
        """How DDP exchanges gradients, as Accelerate takes it."""
        return DistributedDataParallelKwargs(
            broadcast_buffers=False,
            gradient_as_bucket_view=True,
            bucket_cap_mb=self.bucket_size,
            comm_hook=HOOKS[self.comm_hook],
            comm_state_option=POWER_SGD if self.comm_hook == "powersgd" else {},
        )


def best_memory_format(recipe: Recipe, device: str) -> MemoryFormat:
    """Return what "auto" is for a recipe: what was faster when both were measured, which docs/log.md has.

    Args:
        recipe: The recipe.
        device: "cpu" or "cuda".
    """
    return "channels_last" if device == "cpu" and not isinstance(recipe.discriminator, MLP) else "contiguous"
