import copy

import pytest
import torch
from torch import nn

from gan.networks import MLP, OneDNNLinear, describe, network_spec, use_onednn

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
    x, gradient = torch.randn(rows, inputs), torch.randn(rows, outputs)
    results = []
    for layer in (plain, fast, exact):
        own = x.to(layer.weight.dtype, copy=True).requires_grad_()
        output = layer(own)
        output.backward(gradient.to(output.dtype))
        results.append([output.detach(), own.grad, layer.weight.grad, layer.bias.grad])
    for by_pytorch, by_onednn, by_float64 in zip(*results, strict=True):
        assert by_onednn.dtype == torch.float32
        if rows:
            assert error(by_onednn, by_float64) <= 3 * error(by_pytorch, by_float64) + 1e-7


@needs_onednn
def test_onednn_layers_can_be_differentiated_twice() -> None:
    """A gradient penalty: d/dw |d(w2 tanh(w1 x))/dx|², against float64."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 1))
    exact = copy.deepcopy(network).double()
    use_onednn(network)
    x = torch.randn(4, 6)
    for layers in (network, exact):
        own = x.to(layers[0].weight.dtype, copy=True).requires_grad_()
        (slope,) = torch.autograd.grad(layers(own).sum(), own, create_graph=True)
        slope.square().sum().backward()
    for name, parameter in network.named_parameters():
        expected = dict(exact.named_parameters())[name].grad
        if expected is None or not expected.any():
            continue
        assert error(parameter.grad, expected) < 1e-5


@needs_onednn
def test_other_precisions_are_left_to_pytorch() -> None:
    layer = nn.Linear(8, 4)
    use_onednn(nn.Sequential(layer))
    x = torch.randn(3, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    plain = nn.functional.linear(x.double(), layer.weight.double(), layer.bias.double())
    assert torch.equal(layer.double()(x.double()), plain)


def test_a_specification_survives_its_description() -> None:
    spec = MLP((3, 4), negative_slope=0.2, dropout=0.1, batchnorm=True)
    assert network_spec(describe(spec)) == spec
    with pytest.raises(KeyError):
        network_spec({"kind": "CNN"})
