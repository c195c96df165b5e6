"""Optimizers of the recipes' settings, also such as a CUDA graph can hold."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from gan.methods.optimizers import Adam, RMSprop

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
"""Devices for which PyTorch has a fused Adam."""


def _groups_of(
    optimizer: torch.optim.Adam | torch.optim.RMSprop,
) -> Iterator[tuple[dict[str, Any], list[list[Tensor]]]]:
    """Yield each group of parameters, and the six lists that its optimizer gathers of those with a gradient."""
    for group in optimizer.param_groups:
        gathered: list[list[Tensor]] = [[] for _ in range(6)]
        optimizer._init_group(group, *gathered)  # type: ignore[no-untyped-call]
        if gathered[0]:
            yield group, gathered


class TensorAdam(torch.optim.Adam):
    """Adam whose learning rate and β₂ are tensors on the device of the parameters.

    A CUDA graph repeats the numbers that it was captured with, and reads tensors anew. PyTorch's own Adam, fused
    or not, makes a number of such a β₂.

    All parameters of a group must have taken part in equally many steps. It cannot skip a step for a loss scaler.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step (Kingma and Ba 2015, arXiv:1412.6980, algorithm 1)."""
        assert closure is None
        for group, (parameters, gradients, means, squares, _, steps) in _groups_of(self):
            beta1, beta2 = group["betas"]
            dtype = parameters[0].dtype

            torch._foreach_add_(steps, 1)
            torch._foreach_lerp_(means, gradients, 1 - beta1)
            torch._foreach_mul_(squares, beta2.to(dtype))
            products = torch._foreach_mul(gradients, gradients)
            torch._foreach_mul_(products, (1 - beta2).to(dtype))
            torch._foreach_add_(squares, products)

            taken = steps[0].double()
            step_size = group["lr"] / (1 - beta1**taken)
            denominators = torch._foreach_sqrt(squares)
            torch._foreach_div_(denominators, (1 - beta2**taken).sqrt().to(dtype))
            torch._foreach_add_(denominators, group["eps"])
            torch._foreach_div_(denominators, step_size.to(dtype))
            torch._foreach_addcdiv_(parameters, means, denominators, value=-1)


class ChannelsLastAdam(torch.optim.Adam):
    """Adam whose fused step takes weights in the channels-last format as they lie.

    PyTorch's own copies their gradients into another order first, which takes about as long as the step itself.
    """

    def _init_group(self, group: dict[str, Any], *tensors: list[Any]) -> bool:
        has_complex: bool = super()._init_group(group, *tensors)  # type: ignore[no-untyped-call]
        _take_as_they_lie(*tensors[:4])
        return has_complex


class FusedRMSprop(torch.optim.RMSprop):
    """RMSprop on CPUs in one pass over each weight: PyTorch has a fused Adam, and no fused RMSprop.

    RMSprop is Adam with β₁ = 0, β₂ = α and no correction of a bias, which is 1 after infinitely many steps.
    """

    _AFTER_INFINITELY_MANY = torch.tensor(math.inf)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Take one step (Tieleman and Hinton 2012, lecture 6.5)."""
        assert closure is None
        for group, (parameters, gradients, squares, _, _, steps) in _groups_of(self):
            torch._foreach_add_(steps, 1)
            _take_as_they_lie(parameters, gradients, squares)
            torch._fused_adam_(
                parameters,
                gradients,
                gradients,  # the mean of gradients, if none before counts
                squares,
                [],
                [self._AFTER_INFINITELY_MANY] * len(parameters),
                lr=group["lr"],
                beta1=0.0,
                beta2=group["alpha"],
                weight_decay=0.0,
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


def _take_as_they_lie(weights: list[Tensor], gradients: list[Tensor], *moments: list[Tensor]) -> None:
    """Make tensors fit for a fused step, which goes through the memory of all of them in one order.

    A gradient that lies in another order than its weight is copied. Weights in the channels-last format, and what
    belongs to them, are replaced by views in the order of memory. Weights have to fill their memory.
    """
    for i, weight in enumerate(weights):
        if weight.is_contiguous():
            gradients[i] = gradients[i].contiguous()
        elif weight.is_contiguous(memory_format=torch.channels_last):
            gradients[i] = gradients[i].contiguous(memory_format=torch.channels_last)
            for kind in (weights, gradients, *moments):
                kind[i] = kind[i].detach().permute(0, 2, 3, 1)
        elif gradients[i].stride() != weight.stride():
            gradients[i] = torch.empty_like(weight).copy_(gradients[i])


def _fills_its_memory(weight: Tensor) -> bool:
    """Say whether a weight has each number once and no gaps, in any order of dimensions, as a fused step needs it.

    A fused step of every second row would write over the rows between.
    """
    return torch.empty_like(weight, device="meta").stride() == weight.stride()


def build_optimizer(
    settings: Adam | RMSprop,
    network: nn.Module,
    device: torch.device,
    numbers: Mapping[str, Any] | None = None,
    *,
    capturable: bool = False,
) -> torch.optim.Optimizer:
    """Build the optimizer of one network, at the numbers that hold before the first image.

    Args:
        settings: What the recipe says.
        network: On its device.
        device: Of the network.
        numbers: Its arguments, if they are not those of the settings alone.
        capturable: Whether a CUDA graph can hold its steps.
    """
    parameters = list(network.parameters())
    arguments: dict[str, Any] = {**(settings.after(0) if numbers is None else numbers)}
    fused = device.type in FUSED_DEVICES and all(map(_fills_its_memory, parameters))
    fused_on_cpu = fused and device.type == "cpu"
    if isinstance(settings, RMSprop):
        rmsprop = FusedRMSprop if fused_on_cpu and not capturable else torch.optim.RMSprop
        # a loop over parameters, instead of PyTorch's lists, would read a learning rate on the host
        lists = True if capturable else None
        optimizer: torch.optim.Optimizer = rmsprop(parameters, **arguments, capturable=capturable, foreach=lists)
    elif capturable and settings.scheduled:
        optimizer = TensorAdam(parameters, **arguments, capturable=True)
    else:
        kind = ChannelsLastAdam if fused_on_cpu else torch.optim.Adam
        optimizer = kind(parameters, **arguments, fused=fused, capturable=capturable)
    if capturable and settings.scheduled:
        _hold_numbers_on(device, optimizer)
    return optimizer


def _hold_numbers_on(device: torch.device, optimizer: torch.optim.Optimizer) -> None:
    """Replace the numbers that schedules change by tensors on the device."""
    for group in optimizer.param_groups:
        # RMSprop divides by it in the parameters' own dtype
        dtype = torch.float64 if isinstance(optimizer, TensorAdam) else group["params"][0].dtype
        group["lr"] = torch.tensor(group["lr"], dtype=dtype, device=device)
        if "betas" in group:
            beta1, beta2 = group["betas"]
            group["betas"] = (beta1, torch.tensor(beta2, dtype=dtype, device=device))


def set_numbers(optimizer: torch.optim.Optimizer, numbers: Mapping[str, Any]) -> None:
    """Set an optimizer's numbers; those that are tensors stay where they are."""
    for group in optimizer.param_groups:
        for name, value in numbers.items():
            held = group[name] if isinstance(group[name], tuple) else (group[name],)
            values = value if isinstance(value, tuple) else (value,)
            if any(isinstance(one, Tensor) for one in held):
                for one, new in zip(held, values, strict=True):
                    if isinstance(one, Tensor):
                        one.fill_(new)
            else:
                group[name] = value
