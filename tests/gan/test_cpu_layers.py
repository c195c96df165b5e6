"""Layers and optimizers that take less time on CPUs compute what PyTorch's own compute."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from gan.methods.optimizers import Adam, RMSprop
from gan.models.covering import CoveringConv2d, CoveringConvTranspose2d, use_covering
from gan.models.cpu_layers import use_cpu_layers
from gan.models.dcgan import DCGAN
from gan.training.optimizers import build_optimizer

ADAM = Adam(learning_rate=1e-2, betas=(0.5, 0.9))
RMSPROP = RMSprop(learning_rate=1e-2, alpha=0.9)
FORMATS = (torch.contiguous_format, torch.channels_last)
COVERING: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Conv2d(6, 5, (4, 3)), (7, 6, 4, 3)),
    (lambda: nn.Conv2d(6, 1, 4, bias=False), (7, 6, 4, 4)),
    (lambda: nn.Conv2d(6, 5, 4, stride=2), (1, 6, 4, 4)),
    (lambda: nn.ConvTranspose2d(6, 5, (4, 3)), (7, 6, 1, 1)),
    (lambda: nn.ConvTranspose2d(6, 1, 4, stride=2, bias=False), (1, 6, 1, 1)),
]
OTHERS: list[tuple[Callable[[], nn.Module], tuple[int, ...]]] = [
    (lambda: nn.Conv2d(6, 4, 4), (2, 6, 5, 4)),
    (lambda: nn.Conv2d(6, 4, 4, padding=1), (2, 6, 4, 4)),
    (lambda: nn.Conv2d(6, 4, 4, groups=2), (2, 6, 4, 4)),
    (lambda: nn.Conv2d(6, 4, 3, dilation=2), (2, 6, 5, 5)),
    (lambda: nn.ConvTranspose2d(6, 4, 4), (2, 6, 2, 1)),
    (lambda: nn.ConvTranspose2d(6, 4, 4, padding=1), (2, 6, 1, 1)),
    (lambda: nn.ConvTranspose2d(6, 4, 4, groups=2), (2, 6, 1, 1)),
    (lambda: nn.ConvTranspose2d(6, 4, 2, stride=2, output_padding=1), (2, 6, 1, 1)),
]


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return ((ours.double() - exact).norm() / exact.norm()).item()


def results(layer: nn.Module, inputs: torch.Tensor) -> list[torch.Tensor]:
    """The output and all gradients of a loss."""
    leaf = inputs.to(next(layer.parameters()).dtype, copy=True).requires_grad_()
    output = layer(leaf)
    return [output.detach(), *torch.autograd.grad(output.sin().sum(), [leaf, *layer.parameters()])]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("make", "shape"), COVERING)
def test_covering_convolutions_are_as_exact_as_pytorchs(
    make: Callable[[], nn.Module], shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    plain = make().to(memory_format=memory_format)
    fast, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    use_cpu_layers(fast)
    assert type(fast) in (CoveringConv2d, CoveringConvTranspose2d)
    x = torch.randn(shape).to(memory_format=memory_format)
    with torch.profiler.profile() as profile:
        ours = results(fast, x)
    assert not any("convolution" in event.key for event in profile.key_averages())
    for by_pytorch, by_us, by_float64 in zip(results(plain, x), ours, results(exact, x), strict=True):
        assert by_us.shape == by_pytorch.shape
        rounding = torch.finfo(torch.float32).eps
        assert error(by_us, by_float64) <= 3 * error(by_pytorch, by_float64) + 2 * rounding
    weight = next(fast.parameters())
    fast(x).sum().backward()
    assert weight.grad is not None
    assert weight.grad.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize(("make", "shape"), OTHERS)
def test_other_convolutions_are_left_to_pytorch(
    make: Callable[[], nn.Module], shape: tuple[int, ...], memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    plain = make().to(memory_format=memory_format)
    fast = copy.deepcopy(plain)
    use_covering(fast, by_onednn=True)
    x = torch.randn(shape)
    assert all(torch.equal(a, b) for a, b in zip(results(plain, x), results(fast, x), strict=True))


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("compiled", [False, True])
def test_covering_convolutions_can_be_differentiated_twice(
    memory_format: torch.memory_format, *, compiled: bool
) -> None:
    """A gradient penalty of a D that ends in one, against float64; also of a compiled D's parts."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 4, 2, 1), nn.Tanh(), nn.Conv2d(3, 1, 4), nn.Flatten(0))
    network.to(memory_format=memory_format)
    exact = copy.deepcopy(network).double()
    use_cpu_layers(network)
    x = torch.randn(5, 2, 8, 8)

    def penalty(layers: nn.Module, leaf: torch.Tensor) -> torch.Tensor:
        (slope,) = torch.autograd.grad(layers(leaf).sum(), leaf, create_graph=True)
        return slope.square().sum()

    for layers in (network, exact):
        leaf = x.to(layers[0].weight.dtype, copy=True).requires_grad_()
        run = torch.compile(layers, backend="eager", fullgraph=True) if compiled and layers is network else layers
        penalty(run, leaf).backward()
    for name in ("0.weight", "2.weight"):
        assert error(network.get_parameter(name).grad, exact.get_parameter(name).grad) < 1e-5


def test_a_covering_convolution_takes_part_in_autocast() -> None:
    network = nn.Sequential(nn.ConvTranspose2d(3, 5, 4), nn.Conv2d(5, 2, 4))
    use_cpu_layers(network)
    with torch.autocast("cpu", torch.bfloat16):
        images = network[0](torch.randn(2, 3, 1, 1))
        assert images.dtype == network[1](images).dtype == torch.bfloat16


def test_dcgan_begins_and_ends_with_covering_convolutions() -> None:
    architecture = DCGAN(channels=4)
    for network in (architecture.generator(8, (1, 28, 28)), architecture.discriminator((1, 28, 28))):
        names = list(network.state_dict())
        use_cpu_layers(network)
        assert list(network.state_dict()) == names
        assert sum(type(layer).__name__.startswith("Covering") for layer in network.modules()) == 1


def steps(
    settings: Adam | RMSprop, weights: torch.Tensor, gradients: list[torch.Tensor]
) -> tuple[torch.Tensor, set[str]]:
    """The weights after steps of our optimizer, and the operators of the last step."""
    layer = nn.Conv2d(1, 1, 1, bias=False)
    layer.weight = nn.Parameter(weights.clone(memory_format=torch.preserve_format))
    optimizer = build_optimizer(settings, layer, torch.device("cpu"))
    for gradient in gradients:
        layer.weight.grad = gradient
        with torch.profiler.profile() as profile:
            optimizer.step()
        assert torch.equal(layer.weight.grad, gradient)
    assert layer.weight.stride() == weights.stride()
    assert optimizer.state[layer.weight]["step"] == len(gradients)
    return layer.weight.detach(), {event.key for event in profile.key_averages()}


def steps_of_pytorch(
    settings: Adam | RMSprop, weights: torch.Tensor, gradients: list[torch.Tensor]
) -> torch.Tensor:
    """The weights after steps of PyTorch's optimizer, in float64, without a fused step."""
    exact = nn.Parameter(weights.double())
    kind = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.RMSprop
    optimizer = kind([exact], **settings.after(0))
    for gradient in gradients:
        exact.grad = gradient.double()
        optimizer.step()
    return exact.detach()


@pytest.mark.parametrize("settings", [ADAM, RMSPROP], ids=["adam", "rmsprop"])
@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (1, 5, 4, 4), (6, 1, 4, 4), (6, 5, 1, 1)])
def test_weights_are_updated_in_one_pass_as_they_lie(shape: tuple[int, ...], settings: Adam | RMSprop) -> None:
    torch.manual_seed(0)
    weights = torch.randn(shape)
    gradients = [torch.randn(shape) for _ in range(3)]
    exact = steps_of_pytorch(settings, weights, gradients)
    for memory_format in FORMATS:
        ours, operators = steps(
            settings,
            weights.to(memory_format=memory_format),
            [gradient.to(memory_format=memory_format) for gradient in gradients],
        )
        assert error(ours, exact) < 1e-7
        assert "aten::_fused_adam_" in operators
        assert "aten::clone" not in operators


ORDERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "contiguous": torch.Tensor.contiguous,
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "transposed": lambda images: images.mT.contiguous().mT,
    "with gaps": lambda images: images.repeat_interleave(2, dim=0)[::2],
    "expanded": lambda images: images[:1].expand_as(images),
}


@pytest.mark.parametrize("settings", [ADAM, RMSPROP], ids=["adam", "rmsprop"])
@pytest.mark.parametrize(
    ("of_weights", "of_gradients"),
    [(weights, gradients) for weights in ("contiguous", "channels last", "transposed") for gradients in ORDERS],
)
def test_gradients_may_lie_in_another_order_than_weights(
    of_weights: str, of_gradients: str, settings: Adam | RMSprop
) -> None:
    torch.manual_seed(0)
    weights = ORDERS[of_weights](torch.randn(6, 5, 4, 3))
    gradients = [ORDERS[of_gradients](torch.randn(6, 5, 4, 3)) for _ in range(2)]
    ours, _ = steps(settings, weights, gradients)
    assert error(ours, steps_of_pytorch(settings, weights, gradients)) < 1e-7


@pytest.mark.parametrize("settings", [ADAM, RMSPROP], ids=["adam", "rmsprop"])
def test_what_lies_between_the_rows_of_a_weight_stays(settings: Adam | RMSprop) -> None:
    torch.manual_seed(0)
    memory = torch.randn(6, 5)
    before = memory.clone()
    layer = nn.Linear(5, 3, bias=False)
    layer.weight = nn.Parameter(memory[::2])
    optimizer = build_optimizer(settings, layer, torch.device("cpu"))
    gradients = [torch.randn(3, 5) for _ in range(2)]
    for gradient in gradients:
        layer.weight.grad = gradient
        optimizer.step()
    assert error(layer.weight.detach(), steps_of_pytorch(settings, before[::2], gradients)) < 1e-7
    assert torch.equal(memory[1::2], before[1::2])
