"""What networks need beyond their layers: initial weights, oneDNN, the statistics of a global batch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

ImageShape = tuple[int, int, int]
"""Channels, height, width."""


def _linear_layers(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


def _weights(network: nn.Module) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield weight and bias of each convolution and linear layer; of a normalised weight what it is made of."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
            named = dict(module.named_parameters())
            yield named.get("parametrizations.weight.original", module.weight), module.bias


def _keep_built_in(network: nn.Module) -> None:
    """What the architecture has drawn as it was built."""


def _keep_default(network: nn.Module) -> None:
    """Weights and biases uniform(±1/sqrt(fan_in)), as PyTorch's `nn.Linear` draws them."""


def _xavier_normal_positive_bias(network: nn.Module) -> None:
    """Weights Xavier normal (Glorot and Bengio 2010, equation 16), biases uniform(0.1, 0.2)."""
    for layer in _linear_layers(network):
        nn.init.xavier_normal_(layer.weight)
        nn.init.uniform_(layer.bias, 0.1, 0.2)


def _glorot_uniform_small_first(network: nn.Module) -> None:
    """First layer normal(0, 0.02), the rest Glorot uniform, biases 0: Keras's defaults but for the first."""
    for index, layer in enumerate(_linear_layers(network)):
        if index == 0:
            nn.init.normal_(layer.weight, 0.0, 0.02)
        else:
            nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


def _kaiming_normal(network: nn.Module) -> None:
    """Weights Kaiming normal with ReLU's gain (He et al. 2015, arXiv:1502.01852, equation 10), biases 0."""
    for layer in _linear_layers(network):
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)


def _dcgan(network: nn.Module) -> None:
    """Weights normal(0, 0.02), those of BatchNorm normal(1, 0.02), biases 0 (Radford et al. 2015, section 4)."""
    for weight, bias in _weights(network):
        nn.init.normal_(weight, 0.0, 0.02)
        if bias is not None:
            nn.init.zeros_(bias)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)


def _glorot_uniform(network: nn.Module) -> None:
    """Weights Glorot uniform (Glorot and Bengio 2010, equation 16), biases 0."""
    for weight, bias in _weights(network):
        nn.init.xavier_uniform_(weight)
        if bias is not None:
            nn.init.zeros_(bias)


Initialization = Literal[
    "built-in",
    "pytorch",
    "xavier-normal-positive-bias",
    "glorot-uniform-small-first",
    "kaiming-normal",
    "dcgan",
    "glorot-uniform",
]

INITIALIZERS: dict[Initialization, Callable[[nn.Module], None]] = {
    "built-in": _keep_built_in,
    "pytorch": _keep_default,
    "xavier-normal-positive-bias": _xavier_normal_positive_bias,
    "glorot-uniform-small-first": _glorot_uniform_small_first,
    "kaiming-normal": _kaiming_normal,
    "dcgan": _dcgan,
    "glorot-uniform": _glorot_uniform,
}

POWER_ITERATIONS = 15


@torch.no_grad()
def initialize(network: nn.Module, initialization: Initialization) -> None:
    """Draw initial weights, and let spectral norms find the singular vectors of what was drawn."""
    INITIALIZERS[initialization](network)
    for module in network.modules():
        if is_parametrized(module, "weight"):
            for _ in range(POWER_ITERATIONS):
                _ = module.weight  # each access in training is an iteration


def full_precision(values: Tensor) -> Tensor:
    """Return half-precision values as fp32, others as they are: losses and moments are never in half precision."""
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def has_batch_statistics(network: nn.Module) -> bool:
    """Say whether a sample's output in training depends on the rest of its batch."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


class _Product(torch.autograd.Function):
    """a (M, K) times the transpose of b (N, K), plus bias (N,), by oneDNN; differentiable any number of times."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        needs_a, needs_b, needs_bias = ctx.needs_input_grad
        return (
            _Product.apply(gradient, b.t(), None) if needs_a else None,
            _Product.apply(gradient.t(), a.t(), None) if needs_b else None,
            gradient.sum(0) if needs_bias else None,
        )


class OneDNNLinear(nn.Linear):
    """`nn.Linear` for fp32 on CPUs by oneDNN, where PyTorch takes MKL, which leaves AMD's AVX-512 unused.

    Other precisions, compiled graphs and empty batches go where they always go.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map (B, in_features) to (B, out_features)."""
        elsewhere = (
            input.dtype != torch.float32 or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
        )
        if elsewhere or not len(input):
            return super().forward(input)
        output: Tensor = _Product.apply(input, self.weight, self.bias)
        return output


def use_onednn(network: nn.Module) -> None:
    """Turn the linear layers of a network on the CPU into `OneDNNLinear`, where PyTorch was built with oneDNN."""
    if torch.backends.mkldnn.is_available():
        for layer in _linear_layers(network):
            if type(layer) is nn.Linear:
                layer.__class__ = OneDNNLinear


class _GlobalBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm over the batch of all processes, on any backend; `nn.SyncBatchNorm` refuses CPU tensors.

    Each process puts its count, mean and variance into its own row of a table, one differentiable all-reduce
    completes the table, and the moments are merged as in Chan et al. 1979. A process may hold no rows at all.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Normalise (B, C, …) by the statistics of all processes in training, as stored otherwise."""
        if not self.training:
            return super().forward(input)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean, variance, count = _global_moments(input.movedim(1, -1).flatten(0, -2))
        with torch.no_grad():
            unbiased = variance * (count / (count - 1).clamp(min=1))
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
            self.num_batches_tracked.add_(1)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        per_channel = (-1, *[1] * (input.ndim - 2))
        mean, scale, bias = (values.view(per_channel) for values in (mean, scale, self.bias))
        normalised: Tensor = (input - mean) * scale + bias
        return normalised.to(input.dtype)


class GlobalBatchNorm1d(_GlobalBatchNorm, nn.BatchNorm1d):
    """`_GlobalBatchNorm` for (B, C)."""


class GlobalBatchNorm2d(_GlobalBatchNorm, nn.BatchNorm2d):
    """`_GlobalBatchNorm` for (B, C, H, W)."""


GLOBAL_BATCHNORM: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: GlobalBatchNorm1d,
    nn.BatchNorm2d: GlobalBatchNorm2d,
}


class _SumOverProcesses(torch.autograd.Function):
    """All-reduce whose gradient is the sum of all processes' gradients, on any backend."""

    @staticmethod
    def forward(ctx: Any, table: Tensor) -> Tensor:  # noqa: ARG004
        total = table.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        total = gradient.clone(memory_format=torch.contiguous_format)
        torch.distributed.all_reduce(total)
        return total


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _global_moments(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return mean (C,), biased variance (C,) and the count of all processes' rows (B, C)."""
    rows = full_precision(rows)
    world_size, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    local_count = rows.shape[0]
    local_mean = rows.sum(0) / max(local_count, 1)
    local_variance = (rows - local_mean).square().sum(0) / max(local_count, 1)
    own_row = torch.stack([local_mean, local_variance, torch.full_like(local_mean, local_count)])
    table = torch.zeros(world_size, *own_row.shape, dtype=rows.dtype, device=rows.device)
    table[rank] = own_row
    means, variances, counts = _SumOverProcesses.apply(table).unbind(1)
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (counts * (variances + (means - mean).square())).sum(0) / total
    return mean, variance, total


def synchronize_batchnorm(network: nn.Module, device: torch.device) -> nn.Module:
    """Make every BatchNorm layer use the statistics of the global batch, in place where it can be.

    Raises:
        NotImplementedError: A BatchNorm layer of another kind on a device without `nn.SyncBatchNorm`.
    """
    if device.type != "cpu":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return converted
    for module in network.modules():
        if type(module) in GLOBAL_BATCHNORM:
            module.__class__ = GLOBAL_BATCHNORM[type(module)]
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            raise NotImplementedError(f"{type(module).__name__} has no synchronised form on {device.type}")
    return network


def num_parameters(network: nn.Module) -> int:
    """Return how many numbers the optimizer trains."""
    return sum(parameter.numel() for parameter in network.parameters())


def apply(network: Callable[..., Tensor], inputs: Tensor, labels: Tensor | None) -> Tensor:
    """Call a network, with the classes where it is conditional."""
    return network(inputs) if labels is None else network(inputs, labels)


@contextmanager
def evaluating(*networks: nn.Module) -> Iterator[None]:
    """Put networks into evaluation mode, and each back as it was."""
    before = [network.training for network in networks]
    for network in networks:
        network.eval()
    try:
        yield
    finally:
        for network, training in zip(networks, before, strict=True):
            network.train(training)
