"""How objectives and networks are put into Accelerate's precision, a compiler and several processes."""

import warnings
from collections.abc import Callable, Mapping
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
        module: Its forward returns a loss, or images. Its parameters and buffers are on the device already.
        accelerator: Of the precision, compiler and processes.
        execution: How DDP exchanges gradients.
        partly_used: Whether parameters get no gradient. DDP then looks in every step for which ones.
        evaluation_mode: Do without DDP, which exchanges gradients in backward passes. It is Accelerate's name.

    Raises:
        UsageError: There is no such compiler.
    """
    compiler = accelerator.state.dynamo_plugin
    if compiler.backend == DynamoBackend.INDUCTOR:
        _configure_inductor(accelerator.device)
    if compiler.backend != DynamoBackend.NO:
        try:
            arguments = {**compiler.to_kwargs(), "dynamic": False, "mode": execution.compile_mode}
            compiled = torch.compile(module.forward, **arguments)
        except RuntimeError as error:
            raise UsageError(f"--dynamo_backend {compiler.backend.value.lower()}: {error}") from error
        module.forward = compiled
    accelerator.state.dynamo_plugin = TorchDynamoPlugin(backend="no")
    accelerator.ddp_handler = replace(execution.exchange, find_unused_parameters=partly_used)
    try:
        with warnings.catch_warnings():  # torch 2.15 renames an argument that Accelerate passes
            warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
            # All of it is where it belongs. Moving it from cpu to cpu:0, which Accelerate's device is in several
            # processes, would copy buffers, and these would not see what the state writes.
            wrapped: Callable[..., Any] = accelerator.prepare_model(
                module, device_placement=False, evaluation_mode=evaluation_mode
            )
    finally:
        accelerator.state.dynamo_plugin = compiler
    # powersgd counts passes. The buckets of a network that is partly used last from the beginning.
    if isinstance(wrapped, DistributedDataParallel) and execution.comm_hook != "powersgd" and not partly_used:
        settle_buckets(wrapped)
    return wrapped


def _configure_inductor(device: torch.device) -> None:
    from torch._inductor import config  # not above: importing it takes a second

    from gan.training.overwritten import KeepOverwritten

    config.joint_custom_post_pass = KeepOverwritten()
    if device.type == "cpu":
        config.fallback_random = True  # PyTorch's random numbers, as in eager steps; its own take longer
