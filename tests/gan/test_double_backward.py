"""Gradients of gradients: the numbers of PyTorch and of finite differences, by fewer operations."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils._python_dispatch import TorchDispatchMode

from gan.methods.double_backward import DoubleBackward
from gan.methods.penalties import R1
from gan.models.residual import Normalise, left_as_it_is

FORMATS = (torch.contiguous_format, torch.channels_last)
CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "plain": lambda: nn.Conv2d(4, 6, 3),
    "strided": lambda: nn.Conv2d(4, 6, (4, 3), stride=(2, 1), padding=(1, 2), bias=False),
    "grouped": lambda: nn.Conv2d(4, 6, 3, padding=1, groups=2),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4, dilation=2),
    "pointwise": lambda: nn.Conv2d(4, 6, 1),
    "named padding": lambda: nn.Conv2d(4, 6, 3, padding="same"),
    "mirrored": lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1, output_padding=1),
    "grouped transposed": lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2, bias=False),
}
RECTIFIERS: dict[str, nn.Module] = {
    "relu": nn.ReLU(),
    "leaky relu": nn.LeakyReLU(0.2),
    "leaky relu without a slope": nn.LeakyReLU(0.0),
    "with a negative slope": nn.LeakyReLU(-0.5),
    "in place": nn.LeakyReLU(0.2, inplace=True),
    "relu in place": nn.ReLU(inplace=True),
}


def _in_half_precision(x: Tensor, weight: Tensor) -> Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return functional.conv2d(x.float(), weight.float()).double()


def _own_slope(x: Tensor, weight: Tensor) -> Tensor:
    return torch.func.grad(lambda x: functional.conv2d(x, weight).relu().square().sum())(x)


def _compiled(x: Tensor, weight: Tensor) -> Tensor:
    layer = torch.compile(lambda x, w: functional.conv2d(x, w).relu(), backend="eager")
    compiled: Tensor = layer(x, weight)
    return compiled


UNUSUAL: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "images as weights": lambda x, w: functional.conv2d(functional.conv2d(x, w, padding=1), x, padding=3),
    "complex numbers": lambda x, w: functional.conv2d(x.to(torch.complex128), w.to(torch.complex128)).abs(),
    "stride of NumPy": lambda x, w: functional.conv2d(x, w, None, np.int64(2)),  # type: ignore[call-overload]
    "slope of NumPy": lambda x, w: functional.leaky_relu(functional.conv2d(x, w), np.float32(0.1)),  # type: ignore[arg-type]
    "autocast inside": _in_half_precision,
    "torch.func.vmap": lambda x, w: torch.func.vmap(lambda one: functional.conv2d(one[None], w)[0])(x),
    "torch.func.grad": _own_slope,
    "compiled in part": _compiled,
    "infinite after ReLU": lambda x, w: functional.conv2d(x, w).relu().sqrt(),
}

OVERWRITTEN = "one of the variables needed for gradient computation has been modified by an inplace operation"


def squared_gradients(network: nn.Module, images: Tensor, *, ours: bool) -> list[Tensor]:
    """What the network says, the squared norm of its gradient at the images, and that number's gradients."""
    images = images.clone(memory_format=torch.preserve_format).requires_grad_()
    if ours:
        with DoubleBackward(images) as recorded:
            out = network(images)
        gradient = recorded.gradient(out.pow(3).sum())
    else:
        out = network(images)
        (gradient,) = torch.autograd.grad(out.pow(3).sum(), images, create_graph=True)
    penalty = gradient.square().sum()
    values = [images, *network.parameters()]
    return [out, penalty, *torch.autograd.grad(penalty, values, materialize_grads=True, allow_unused=True)]


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_have_the_second_derivatives_of_pytorch(
    name: str, memory_format: torch.memory_format
) -> None:
    torch.manual_seed(0)
    network = CONVOLUTIONS[name]().double().to(memory_format=memory_format)
    images = torch.randn(3, 4, 7, 6, dtype=torch.float64).to(memory_format=memory_format)
    for ours, theirs in zip(
        *(squared_gradients(network, images, ours=ours) for ours in (True, False)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", RECTIFIERS)
@pytest.mark.parametrize("overwritten", ["nothing", "input", "output"])
def test_rectifiers_have_the_second_derivatives_of_pytorch(name: str, overwritten: str) -> None:
    """Also where a shortcut goes around them. PyTorch allows to overwrite either their input or their output."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.before, self.after = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.before(x)
            shortcut = torch.tanh(1 * x)
            h = RECTIFIERS[name](x)
            if overwritten != "nothing":
                (x if overwritten == "input" else h).mul_(2)
            return self.after(h) + shortcut

    torch.manual_seed(0)
    network = Network().double()
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    results = []
    for ours in (False, True):
        try:
            results.append(squared_gradients(network, images, ours=ours))
        except RuntimeError as error:
            results.append([str(error).split(": ")[0]])
    for theirs, mine in zip(*results, strict=True):
        if isinstance(theirs, str):
            assert mine == theirs == OVERWRITTEN
        else:
            torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_unbatched_images_are_left_to_pytorch() -> None:
    torch.manual_seed(0)
    for layer in (nn.Conv2d(4, 2, 3), nn.ConvTranspose2d(4, 2, 3)):
        images = torch.randn(4, 5, 5)
        with DoubleBackward(images):
            torch.testing.assert_close(layer(images), layer(images[None])[0])


@pytest.mark.parametrize("name", ["strided", "grouped", "transposed", "grouped transposed"])
def test_derivatives_are_those_of_finite_differences(name: str) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[name]().double()
    kind: Any = functional.conv2d if isinstance(layer, nn.Conv2d) else functional.conv_transpose2d
    names = ("stride", "padding", "dilation", "groups") + (
        () if kind is functional.conv2d else ("output_padding",)
    )
    settings = {name: getattr(layer, name) for name in names}

    def run(images: Tensor, weight: Tensor) -> Tensor:
        with DoubleBackward(images):
            return functional.leaky_relu(kind(images, weight, **settings), 0.2)

    arguments = (torch.randn(1, 4, 4, 3, dtype=torch.float64, requires_grad=True), layer.weight)
    assert gradcheck(run, arguments)
    assert gradgradcheck(run, arguments)


class OwnWeights(nn.Module):
    """A convolution whose weights, or whose bias, are made of the image, by way of a layer of both."""

    def __init__(self, of_bias: bool) -> None:
        super().__init__()
        self.of_bias = of_bias
        self.weight = nn.Parameter(torch.randn(4, 4, 3, 3))
        self.mixing = nn.Linear(4, 4)

    def forward(self, images: Tensor) -> Tensor:
        factors = torch.tanh(self.mixing(images.mean((0, 2, 3))))
        if self.of_bias:
            return functional.conv2d(images, self.weight, factors)
        return functional.conv2d(images, self.weight * factors[:, None, None, None])


@pytest.mark.parametrize("of_bias", [False, True])
def test_weights_may_depend_on_the_images(of_bias: bool) -> None:
    torch.manual_seed(0)
    network = OwnWeights(of_bias).double()
    images = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    for ours, theirs in zip(
        *(squared_gradients(network, images, ours=ours) for ours in (True, False)), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", UNUSUAL)
def test_unusual_networks_have_the_second_derivatives_of_pytorch(name: str) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(4, 4, 3, 3, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return UNUSUAL[name](x, self.weight)

    torch.manual_seed(0)
    network = Network()
    images = torch.randn(2, 4, 7, 6, dtype=torch.float64)
    for ours, theirs in zip(
        *(squared_gradients(network, images, ours=ours) for ours in (True, False)), strict=True
    ):
        assert theirs.isfinite().all()
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_dtypes_that_pytorch_refuses_are_refused() -> None:
    images, weight, bias = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3), torch.randn(1).double()
    with DoubleBackward(images.requires_grad_()), pytest.raises(RuntimeError, match="should be the same"):
        functional.conv2d(images, weight, bias)


def test_tensors_without_contents_have_gradients_of_gradients() -> None:
    network = nn.Conv2d(2, 3, 3, device="meta")
    _, _, of_images, of_weight, _ = squared_gradients(network, torch.randn(1, 2, 5, 5, device="meta"), ours=True)
    assert (of_images.shape, of_weight.shape) == ((1, 2, 5, 5), (3, 2, 3, 3))


class Counting(TorchDispatchMode):
    """Counts convolutions, and the gradients of their inputs and weights."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution.default:
            self.counts["convolutions"] += 1
        if func is torch.ops.aten.convolution_backward.default:
            for kind, is_taken in zip(("inputs", "weights"), args[-1], strict=False):
                self.counts[kind] += is_taken
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("normalise", [left_as_it_is, spectral_norm], ids=["plain", "spectral norm"])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_penalty_takes_no_more_convolutions_than_it_needs(groups: int, normalise: Normalise) -> None:
    """Of each layer a convolution, and a gradient of its input. Of that the gradients of weights and of the layer
    after it, and nothing else."""
    network = nn.Sequential(
        normalise(nn.Conv2d(3, 8, 3, padding=1)),
        nn.LeakyReLU(0.2),
        normalise(nn.Conv2d(8, 8, 3, padding=1, groups=groups)),
        nn.ReLU(),
        normalise(nn.Conv2d(8, 1, 4)),
        nn.Flatten(0),
    )
    with Counting() as counting:
        penalty = R1(1.0)(network, torch.randn(2, 3, 4, 4), torch.zeros(2, 3, 4, 4))
    assert +counting.counts == {"convolutions": 3, "inputs": 3}
    with Counting() as counting:
        penalty.sum().backward()
    assert +counting.counts == {"convolutions": 2, "weights": 3}
    biases = [layer.bias for layer in network if isinstance(layer, nn.Conv2d)]
    assert [bias.grad for bias in biases] == [None] * 3  # it does not depend on them
