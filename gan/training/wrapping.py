"""How objectives and networks are put into Accelerate's precision, a compiler and several processes."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend, TorchDynamoPlugin
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gan.errors import UsageError
from gan.models.batch_statistics import share_statistics
from gan.process.shared_memory import neighbours
from gan.training.buckets import settle_buckets
from gan.training.exchange import SharedGradients, begin_alike, shared_gradients
from gan.training.execution import Execution

MEBIBYTE = 2**20


def share_gradients(networks: Mapping[str, nn.Module], execution: Execution) -> dict[str, SharedGradients]:
    """Return what averages each network's gradients in shared memory; nothing if DDP has to.

    Statistics of BatchNorm are then added up there, too.
    """
    here = neighbours() if execution.shared_memory else None
    if here is None:
        return {}
    begin_alike(networks)
    shared = shared_gradients(list(networks.values()), here, execution.bucket_size * MEBIBYTE)
    if not shared or not share_statistics(list(networks.values()), here):
        return {}
    return dict(zip(networks, shared, strict=True))


def wrap(
    module: nn.Module,
    accelerator: Accelerator,
    execution: Execution,
    *,
    partly_used: bool = False,
    evaluation_mode: bool = False,
) -> Callable[..., Any]:
    """Let Accelerate wrap a module for its precision and processes, its own forward compiled inside of that.

    Accelerate itself compiles what it has wrapped. In half precision that is one piece of code for all modules, so
    that a compiler takes the second module for the first one with other shapes, and soon gives up.

    Args:
        module: Its forward returns a loss, or images.
        accelerator: Of the precision, compiler and processes.
        execution: How DDP exchanges gradients.
        partly_used: Whether parameters get no gradient. DDP then looks in every step for which ones.
        evaluation_mode: Do without DDP, which exchanges gradients in backward passes. It is Accelerate's name.

    Raises:
        UsageError: There is no such compiler.
    """
    compiler = accelerator.state.dynamo_plugin
    if compiler.backend == DynamoBackend.INDUCTOR and accelerator.device.type == "cpu":
        from torch._inductor import config as inductor  # not above: importing it takes a second

        inductor.fallback_random = True  # PyTorch's random numbers, as in eager steps; its own take longer
    if compiler.backend != DynamoBackend.NO:
        try:
            arguments = {**compiler.to_kwargs(), "dynamic": False, "mode": execution.compile_mode}
            compiled = torch.compile(module.forward, **arguments)
        except RuntimeError as error:
            raise UsageError(f"--dynamo_backend {compiler.backend.value.lower()}: {error}") from error
        module.forward = compiled
    accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="no")
    accelerator.ddp_handler = replace(execution.exchange, find_unused_parameters=partly_used)
    buffers = _buffers_of(module)
    try:
        with warnings.catch_warnings():  # torch 2.15 renames an argument that Accelerate passes
            warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
            wrapped: Callable[..., Any] = accelerator.prepare_model(module, evaluation_mode=evaluation_mode)
    finally:
        accelerator.state.dynamo_plugin = compiler
    _put_back(buffers, accelerator.device)
    # powersgd counts passes. The buckets of a network that is partly used last from the beginning.
    if isinstance(wrapped, DistributedDataParallel) and execution.comm_hook != "powersgd" and not partly_used:
        settle_buckets(wrapped)
    return wrapped


def _buffers_of(module: nn.Module) -> list[tuple[nn.Module, str, torch.Tensor]]:
    """Return the buffers of a module's parts, each with its part and its name there."""
    return [
        (part, name, buffer)
        for part in module.modules()
        for name, buffer in part.named_buffers(recurse=False, remove_duplicate=False)
    ]


@torch.no_grad()
def _put_back(buffers: Sequence[tuple[nn.Module, str, torch.Tensor]], device: torch.device) -> None:
    """Give parts of a module the buffers that they had before it was wrapped, with the values that they have now.

    Accelerate's device of several processes on CPUs is cpu:0. To move a module there makes copies of its buffers,
    because theirs is cpu. What the state writes, such as the probability of augmentation, would not reach them.
    """
    for part, name, buffer in buffers:
        if device.type == buffer.device.type == "cpu":
            buffer.copy_(part.get_buffer(name))
            setattr(part, name, buffer)
