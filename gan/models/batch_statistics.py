"""Statistics of the global batch, so that the algorithm is the same for any number of processes."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm

from gan.errors import UsageError
from gan.models.networks import full_precision
from gan.process.named_sums import gathered, total
from gan.process.shared_memory import ALIGNMENT_BYTES, Neighbours
from gan.process.shared_sums import SharedSums

BATCHNORM = "BatchNorm"
"""The name of what BatchNorm adds up over processes."""
MOMENTS = 3
"""Mean, variance and number of samples: the columns of a process's row."""
MOST_BYTES_OF_A_NUMBER = 8


class GlobalStatistics(nn.Module):
    """A layer, ours or a user's, that looks at a whole batch.

    Attributes:
        across_processes: Whether the batch is that of all processes, in training.
        mixes_samples: Whether a sample's output depends on the others of its batch.
        track_running_stats: Whether it has running statistics, and training changes them.
    """

    across_processes: bool = False
    mixes_samples: bool = False
    track_running_stats: bool = False


def has_batchnorm(network: nn.Module) -> bool:
    """Say whether a network has BatchNorm, which leaves no gradient that is of one image alone."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def has_batch_statistics(network: nn.Module) -> bool:
    """Say whether a sample's output in training depends on the rest of its batch."""
    return has_batchnorm(network) or any(
        isinstance(module, GlobalStatistics) and module.mixes_samples for module in network.modules()
    )


@contextmanager
def running_statistics_kept(network: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise by the batch, as in training, and leave running statistics as they are.

    Those of `InstanceNorm` are put back: it lets them follow whether it tracks them or not.
    """
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, nn.modules.batchnorm._BatchNorm | GlobalStatistics) and layer.track_running_stats
    ]
    of_images = [held for layer in network.modules() for held in running_statistics_of_images(layer)]
    before = [held.clone() for held in of_images]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        for held, kept in zip(of_images, before, strict=True):
            held.copy_(kept)


def running_statistics_of_images(layer: nn.Module) -> list[Tensor]:
    """Return the running statistics of an `InstanceNorm` that has such; nothing of other layers."""
    held = (layer.running_mean, layer.running_var) if isinstance(layer, _InstanceNorm) else ()
    return [value for value in held if value is not None]


@torch.no_grad()
def take_standing_statistics(network: nn.Module, batches: Iterable[Sequence[Tensor]]) -> None:
    """Replace the running statistics of BatchNorm by means over batches that pass through a network.

    They are then those of this very network, and of latents as they are drawn for it, not averages over the
    last steps of training (Brock et al. 2019, arXiv:1809.11096, appendix C: standing statistics). All other
    layers are as in evaluation, and the network is in evaluation mode afterwards.

    Args:
        network: A generator.
        batches: What it is called with, one after the other.
    """
    network.eval()
    layers = [layer for layer in network.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.reset_running_stats()
        layer.momentum = None  # a mean over all batches
        layer.train()
    try:
        for batch in batches:
            network(*batch)
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()


def depend_on_the_batch(*networks: nn.Module) -> list[str]:
    """Name the layers of networks that a batch in micro-batches trains otherwise than the whole, and how."""
    modules = [module for network in networks for module in network.modules()]
    layers = {
        "BatchNorm, which takes the statistics of a micro-batch": nn.modules.batchnorm._BatchNorm,
        "spectral norm, which iterates in each micro-batch": _SpectralNorm,
    }
    named = [name for name, kind in layers.items() if any(isinstance(module, kind) for module in modules)]
    if any(isinstance(module, GlobalStatistics) and module.mixes_samples for module in modules):
        named.append("the minibatch deviation, whose groups are of a micro-batch")
    return named


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batch of all processes, on any backend; `nn.SyncBatchNorm` refuses CPU tensors.

    A process may hold no samples at all.

    Attributes:
        sums: What adds up over processes; None for torch.distributed.
    """

    sums: SharedSums | None = None

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (B, C, …), in training by the moments of all processes' samples, else by the running ones."""
        if not self.training:
            return super().forward(input)
        mean, variance, count = _global_moments(input.movedim(1, -1).flatten(0, -2), self.sums)
        if self.track_running_stats:
            self._follow(mean, variance, count)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        per_channel = (-1, *[1] * (input.ndim - 2))
        centred = input - mean.view(per_channel)
        normalised: Tensor = centred * scale.view(per_channel)
        if self.bias is not None:
            normalised = normalised + self.bias.view(per_channel)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Let the running statistics follow those of a batch: mean, biased variance and number, shapes (C,)."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        unbiased = variance * (count / (count - 1).clamp(min=1))
        self.num_batches_tracked.add_(1)
        # Without a momentum, they are means over all batches so far.
        weight = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), weight)


_global_forms: dict[type[nn.Module], type[nn.Module]] = {}


def _global_form(kind: type[nn.Module]) -> type[nn.Module]:
    """Return the class of BatchNorm layers of a class, once they use the batch of all processes."""
    if kind not in _global_forms:
        _global_forms[kind] = type(f"Global{kind.__name__}", (_GlobalBatchNorm, kind), {})
    return _global_forms[kind]


class _SumOverProcesses(torch.autograd.Function):
    """A sum over processes, by torch.distributed or in shared memory; differentiable any number of times.

    Every process reads the sum, so a value's gradient is summed over processes.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, name: str, sums: SharedSums | None) -> Tensor:
        ctx.name = name
        ctx.sums = sums
        return _sum(table, name, sums)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        return _SumOverProcesses.apply(gradient, ctx.name, ctx.sums), None, None


def _sum(table: Tensor, name: str, sums: SharedSums | None) -> Tensor:
    return total(table, name) if sums is None else sums.add_up(table)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def sum_over_processes(table: Tensor, name: str) -> Tensor:
    """Return the sum of the tables of all processes, differentiable; all of them have to call this.

    Args:
        table: Any shape, the same in all processes.
        name: What is added up.
    """
    summed: Tensor = _SumOverProcesses.apply(table, name, None)
    return summed


@torch.compiler.disable  # type: ignore[untyped-decorator]
def counts_of_processes(count: int, device: torch.device, name: str) -> list[int]:
    """Return how many samples each process has, by rank; waits for the device.

    Args:
        count: Of this process.
        device: Where they are gathered.
        name: Whose samples they are.
    """
    numbers: list[int] = gathered(torch.tensor([count], device=device), name).flatten().tolist()
    return numbers


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _global_moments(rows: Tensor, sums: SharedSums | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and number (C,) of the rows (B, C) of all processes.

    Each process fills the row of its rank in a table of zeros, and one sum over processes completes the table.
    Variances are taken around local means, and corrected by how far those lie from the global one (Chan et al.
    1979). E[x²] - E[x]² would need no correction, but cancels: it loses all digits where the mean is large.
    """
    rows = full_precision(rows)
    local_count = rows.shape[0]
    local_mean = rows.sum(0) / max(local_count, 1)
    local_variance = (rows - local_mean).square().sum(0) / max(local_count, 1)
    local_moments = torch.stack([local_mean, local_variance, torch.full_like(local_mean, local_count)])
    world_size = torch.distributed.get_world_size()
    table = torch.zeros(world_size, *local_moments.shape, dtype=rows.dtype, device=rows.device)
    table[torch.distributed.get_rank()] = local_moments
    means, variances, counts = _SumOverProcesses.apply(table, BATCHNORM, sums).unbind(1)
    count = counts.sum(0)
    mean = (counts * means).sum(0) / count
    variance = (counts * (variances + (means - mean).square())).sum(0) / count
    return mean, variance, count


def synchronize_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """Return the network with every BatchNorm layer, and those of ours, using the global batch.

    On the CPU the layers are changed in place; elsewhere `nn.SyncBatchNorm` replaces those of BatchNorm.

    Raises:
        UsageError: A BatchNorm layer computes by a forward of its own.
    """
    layers: list[nn.Module] = [
        module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    for layer in layers:
        _require_forward_of_batchnorm(type(layer))
    for module in network.modules():
        if isinstance(module, GlobalStatistics):
            module.across_processes = True
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    use_local_batches(network)  # DDP refuses torch's layers on CPUs
    for layer in layers:
        layer.__class__ = _global_form(type(layer))
    return network


def _require_forward_of_batchnorm(kind: type[nn.Module]) -> None:
    """Raise UsageError for a user's class whose forward would be lost, or would see one process alone."""
    if kind.forward not in (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward):
        raise UsageError(
            f"--recipe: {kind.__name__} is a BatchNorm with a forward of its own, and several processes cannot "
            "share its statistics; let a module hold an nn.BatchNorm2d instead, or train in one process"
        )


class _LocalBatchNorm(nn.modules.batchnorm._BatchNorm):
    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002
        """Take any number of dimensions, as `nn.SyncBatchNorm` does."""


def use_local_batches(network: nn.Module) -> None:
    """Let layers of `nn.SyncBatchNorm` use the batch of this process, on any device, as in one process."""
    layers: list[nn.Module] = [module for module in network.modules() if type(module) is nn.SyncBatchNorm]
    for layer in layers:
        layer.__class__ = _LocalBatchNorm


def share_statistics(networks: Sequence[nn.Module], neighbours: Neighbours) -> bool:
    """Let synchronised layers add up in memory that the processes share; all of them have to call this.

    Returns:
        False, in all processes, if one of them lacks the memory. Then nothing has changed.
    """
    layers = [layer for network in networks for layer in network.modules() if isinstance(layer, _GlobalBatchNorm)]
    if not layers:
        return True
    world_size = neighbours.world_size
    most = world_size * MOMENTS * max(layer.num_features for layer in layers) * MOST_BYTES_OF_A_NUMBER
    memory = neighbours.share(2 * world_size * (most + -most % ALIGNMENT_BYTES))
    if memory is None:
        return False
    sums = SharedSums(neighbours, memory)
    for layer in layers:
        layer.sums = sums
    return True


def shared_sums_of(network: nn.Module) -> SharedSums | None:
    """Return what adds up the statistics of a network in shared memory, if anything does."""
    return next((layer.sums for layer in network.modules() if isinstance(layer, _GlobalBatchNorm)), None)
