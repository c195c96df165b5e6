import copy

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
from torch.nn.utils.parametrize import is_parametrized

from gan.models import onednn
from gan.models.architectures import Architecture, architecture, describe
from gan.models.cpu_layers import CPUDropout, use_cpu_layers
from gan.models.dcgan import DCGAN
from gan.models.initialization import Initialization, initialize
from gan.models.mlp import MLP
from gan.models.onednn import OneDNNLinear, use_onednn
from gan.models.r3gan import R3GAN
from gan.models.sngan import SNResNet
from gan.models.stylegan2 import StyleGAN2

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN")


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return ((ours.double() - exact).norm() / exact.norm()).item()


@needs_onednn
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(64, 784, 1024), (5, 100, 256), (1, 3, 1), (0, 7, 5)])
def test_onednn_layers_are_as_exact_as_pytorchs(rows: int, inputs: int, outputs: int) -> None:
    """Output and all three gradients, against float64: at most three times the error of PyTorch's own."""
    torch.manual_seed(0)
    plain = nn.Linear(inputs, outputs)
    fast = copy.deepcopy(plain)
    use_onednn(nn.Sequential(fast))
    assert type(fast) is OneDNNLinear
    exact = copy.deepcopy(plain).double()
    x = torch.randn(rows, inputs)
    gradient = torch.randn(rows, outputs)
    results = []
    for layer in (plain, fast, exact):
        leaf = x.to(layer.weight.dtype, copy=True).requires_grad_()
        output = layer(leaf)
        output.backward(gradient.to(output.dtype))
        results.append([output.detach(), leaf.grad, layer.weight.grad, layer.bias.grad])
    for by_pytorch, by_onednn, by_float64 in zip(*results, strict=True):
        assert by_onednn.dtype == torch.float32
        if rows:
            rounding = torch.finfo(torch.float32).eps  # which way a lone value is rounded is chance
            assert error(by_onednn, by_float64) <= 3 * error(by_pytorch, by_float64) + 2 * rounding


@needs_onednn
@pytest.mark.parametrize("shape", [(2, 3, 5), (5,)])
def test_inputs_of_other_dimensions_are_left_to_pytorch(shape: tuple[int, ...]) -> None:
    """As those of a transformer's layers, with a dimension for its tokens."""
    torch.manual_seed(0)
    plain = nn.Linear(5, 4)
    fast = copy.deepcopy(plain)
    use_onednn(nn.Sequential(fast))
    results = []
    for layer in (plain, fast):
        leaf = torch.linspace(-1, 1, 5).expand(shape).clone().requires_grad_()
        output = layer(leaf)
        output.square().sum().backward()
        results.append([output.detach(), leaf.grad, layer.weight.grad, layer.bias.grad])
    assert all(torch.equal(by_pytorch, ours) for by_pytorch, ours in zip(*results, strict=True))


@needs_onednn
def test_onednn_layers_can_be_differentiated_twice() -> None:
    """A gradient penalty: d/dw |d(w2 tanh(w1 x))/dx|², against float64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1))
    exact = copy.deepcopy(network).double()
    use_onednn(network)
    x = torch.randn(4, 6)
    for layers in (network, exact):
        leaf = x.to(layers[0].weight.dtype, copy=True).requires_grad_()
        (slope,) = torch.autograd.grad(layers(leaf).sum(), leaf, create_graph=True)
        slope.square().sum().backward()
    slope_depends_on = ("0.weight", "0.bias", "2.weight")
    for name in slope_depends_on:
        assert error(network.get_parameter(name).grad, exact.get_parameter(name).grad) < 1e-5


@needs_onednn
def test_compiled_graphs_call_onednn_too() -> None:
    """The output and the gradients of two layers are those of the eager layers, bit by bit."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
    use_onednn(network)
    x = torch.randn(4, 6)
    results = []
    for run in (network, torch.compile(network, backend="aot_eager", fullgraph=True)):
        leaf = x.clone().requires_grad_()
        with torch.profiler.profile() as profile:
            output = run(leaf)
            gradients = torch.autograd.grad(output.square().sum(), [leaf, *network.parameters()])
        products = sum(event.count for event in profile.key_averages() if "linear_pointwise" in event.key)
        assert products == 6
        results.append([output, *gradients])
    assert all(torch.equal(eager, compiled) for eager, compiled in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("vendor", "mkl", "expected"),
    [
        ("GenuineIntel", True, nn.Linear),
        ("GenuineIntel", False, OneDNNLinear),
        ("AuthenticAMD", True, OneDNNLinear),
    ],
)
@needs_onednn
def test_intels_cpus_take_mkl(monkeypatch: pytest.MonkeyPatch, vendor: str, mkl: bool, expected: type) -> None:
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: mkl)
    monkeypatch.setattr(onednn, "cpu_vendor", lambda: vendor)
    onednn.onednn_is_faster.cache_clear()
    network = nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5))
    use_cpu_layers(network)
    onednn.onednn_is_faster.cache_clear()
    assert [type(layer) for layer in network] == [expected, CPUDropout]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ("shape", "p"), [((128, 512), 0.3), ((5, 7), 0.1), ((3,), 0.5), ((4, 4), 0.0), ((4, 4), 1.0)]
)
def test_dropout_is_pytorchs_bit_by_bit(shape: tuple[int, ...], p: float, dtype: torch.dtype) -> None:
    """Output and gradient, and the random numbers that are drawn afterwards."""
    results = []
    for layer in (nn.Dropout(p), CPUDropout(p)):
        torch.manual_seed(0)
        x = torch.ones(shape, dtype=dtype).requires_grad_()
        output = layer(x * 3)
        output.sum().backward()
        results.append((output, x.grad, torch.rand(3), layer.eval()(x)))
    assert all(torch.equal(pytorchs, ours) for pytorchs, ours in zip(*results, strict=True))


@needs_onednn
def test_other_precisions_are_left_to_pytorch() -> None:
    layer = nn.Linear(8, 4)
    use_onednn(nn.Sequential(layer))
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    plain = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert torch.equal(layer.double()(x.double()), plain)


def test_a_description_of_an_unknown_kind_is_refused() -> None:
    with pytest.raises(KeyError):
        architecture({"kind": "CNN"})


def test_normalised_layers_begin_with_a_largest_singular_value_of_one() -> None:
    """The initial weights are drawn after the layers were normalised, which must find their singular vectors."""
    torch.manual_seed(0)
    network = SNResNet(8, 8).discriminator((1, 28, 28))
    initialize(network, "glorot-uniform")
    layers = [layer for layer in network.modules() if is_parametrized(layer, "weight")]
    assert len(layers) == 11
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize(
    ("name", "deviation"),
    [
        ("kaiming-normal", (2 / 300) ** 0.5),
        ("xavier-normal-positive-bias", (2 / 500) ** 0.5),
        ("glorot-uniform-small-first", 0.02),
    ],
)
def test_linear_layers_without_a_bias_or_under_spectral_norm_are_drawn_too(
    name: Initialization, deviation: float
) -> None:
    """Of a normalised layer that is the parameter behind its weight."""
    torch.manual_seed(0)
    layer = spectral_norm(nn.Linear(300, 200, bias=False))
    initialize(nn.Sequential(layer), name)
    (weight,) = layer.parameters()
    assert weight.std().item() == pytest.approx(deviation, rel=0.02)


def test_layers_under_weight_norm_are_drawn_too() -> None:
    """A weight of theirs is made of two parameters."""
    torch.manual_seed(0)
    layer = weight_norm(nn.Linear(300, 200))
    initialize(nn.Sequential(layer), "kaiming-normal")
    assert layer.weight.std().item() == pytest.approx((2 / 300) ** 0.5, rel=0.02)
    assert not layer.bias.any()


@pytest.mark.parametrize(
    "spec",
    [
        MLP((3, 4), negative_slope=0.2, dropout=0.1, batchnorm=True),
        DCGAN(5, batchnorm=False),
        SNResNet(3, 4),
        R3GAN(8),
        StyleGAN2(4, mixing=0.5, residual=False),
    ],
    ids=lambda spec: type(spec).__name__,
)
def test_every_architecture_survives_its_description(spec: Architecture) -> None:
    assert architecture(describe(spec)) == spec


def test_r3gan_begins_as_its_transitions_alone() -> None:
    """Fixup: a new residual block adds nothing, and sizes hold on the way to the last layer."""
    torch.manual_seed(0)
    spec = R3GAN(32, 2)
    network = spec.discriminator((1, 28, 28))
    images = torch.randn(16, 1, 28, 28)
    x = images
    for layer in network:
        y = layer(x)
        if type(layer).__name__ == "_ResidualBlock":
            assert torch.equal(y, x)
            hidden = layer.layers[:3](torch.randn(16, *x.shape[1:]))
            # He's gain, made smaller by the number of blocks, 6, to the power of -1/4 in each of two layers
            assert hidden.std().item() == pytest.approx((2 / 1.04) ** 0.5 * 6**-0.5, rel=0.15)
        x = y


def test_r3gan_resamples_bilinearly() -> None:
    """A ramp stays a ramp on the way up, but for its ends; on the way down each pixel is a mean of four."""
    up, down = (
        next(layer for layer in network if isinstance(layer, kind))
        for network, kind in (
            (R3GAN(4, 1).generator(3, (1, 28, 28)), nn.Upsample),
            (R3GAN(4, 1).discriminator((1, 28, 28)), nn.AvgPool2d),
        )
    )
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    torch.testing.assert_close(up(ramp)[0, 0, 3, 1:-1], torch.arange(14) / 2 + 0.25)
    torch.testing.assert_close(down(ramp)[0, 0, 0], torch.tensor([0.5, 2.5, 4.5, 6.5]))
