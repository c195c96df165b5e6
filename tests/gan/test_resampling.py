"""A 3×3 convolution and a halving or doubling, merged into one convolution, compute what the two do."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from gan.methods.double_backward import DoubleBackward
from gan.models import resampling
from gan.models.conditional_norm import UnconditionalBatchNorm
from gan.models.cpu_layers import use_cpu_layers
from gan.models.residual import ConditionalUpBlock, DownBlock, left_as_it_is
from gan.models.sngan import SNResNet
from gan.training.execution import Execution
from tests.gan.reference import assert_close, float64_state, inputs

FORMATS = (torch.contiguous_format, torch.channels_last)
BLOCKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "first": (lambda: DownBlock(3, 4, halves=True, first=True), (3, 6, 8)),
    "halving": (lambda: DownBlock(4, 5, halves=True, hidden=6), (4, 6, 4)),
    "halving 7 to 3": (lambda: DownBlock(4, 4, halves=True), (4, 7, 5)),
    "halving, no norm": (lambda: DownBlock(4, 4, halves=True, normalise=left_as_it_is), (4, 6, 4)),
    "same size": (lambda: DownBlock(4, 4, halves=False), (4, 6, 4)),
    "doubling": (lambda: ConditionalUpBlock(4, 6, UnconditionalBatchNorm), (4, 3, 5)),
    "doubling of sngan": (lambda: SNResNet(4, 4).generator(3, (1, 8, 8))[2], (4, 4, 4)),
}


def output_of(block: nn.Module, x: Tensor) -> Tensor:
    output: Tensor = block(x, None) if isinstance(block, ConditionalUpBlock) else block(x)
    return output


def results(block: nn.Module, x: Tensor, *, ours: bool) -> list[Tensor]:
    """The output, the gradients of a penalty on its slope, and what the pass has left in the block."""
    leaf = x.clone().requires_grad_()
    if ours:
        with DoubleBackward(leaf) as recorded:
            output = output_of(block, leaf)
            slope = recorded.gradient(output.sin().sum())
    else:
        output = output_of(block, leaf)
        (slope,) = torch.autograd.grad(output.sin().sum(), leaf, create_graph=True)
    loss = slope.square().sum() + output.cos().sum()
    gradients = torch.autograd.grad(loss, [leaf, *block.parameters()])
    return [output.detach(), slope.detach(), *gradients, *block.buffers()]


def pair(kind: str, memory_format: torch.memory_format, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, Tensor]:
    """A block as on other devices, the same block as on CPUs, and what they take."""
    make, shape = BLOCKS[kind]
    torch.manual_seed(0)
    separate = make().to(dtype=dtype, memory_format=memory_format)
    merged = copy.deepcopy(separate)
    use_cpu_layers(merged)
    return separate, merged, torch.randn(5, *shape, dtype=dtype).to(memory_format=memory_format)


class Convolutions(TorchFunctionMode):
    """Collects the stride and the kernel of each convolution inside."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[tuple[object, Tensor]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (conv2d, conv_transpose2d):
            self.taken.append((func, args[1]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ours", [False, True], ids=["PyTorch's derivatives", "derivatives of ours"])
@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("kind", BLOCKS)
def test_a_block_and_its_derivatives_are_the_same_in_float64(
    kind: str, memory_format: torch.memory_format, ours: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First and second derivatives. The buffers show that spectral norm took as many iterations."""
    monkeypatch.setattr(resampling, "LEAST_PIXELS", 1)
    separate, merged, x = pair(kind, memory_format, torch.float64)
    assert list(merged.state_dict()) == list(separate.state_dict())
    for one, other in zip(results(merged, x, ours=ours), results(separate, x, ours=ours), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
@pytest.mark.parametrize("kind", ["halving", "doubling of sngan"])
def test_the_merged_kernel_is_4x4_and_lies_as_the_weights_do(
    kind: str, memory_format: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resampling, "LEAST_PIXELS", 1)
    _, merged, x = pair(kind, memory_format, torch.float32)
    with Convolutions() as convolutions:
        output = output_of(merged, x)
    function = conv2d if kind == "halving" else conv_transpose2d
    (kernel,) = (kernel for made_by, kernel in convolutions.taken if made_by is function and kernel.shape[2] == 4)
    assert kernel.is_contiguous(memory_format=memory_format)
    assert output.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("kind", ["halving", "doubling of sngan"])
def test_only_large_batches_are_merged_which_take_16_products_for_36(kind: str) -> None:
    """Of 512 pixels of the smaller images on; counted on the two convolutions and the shortcut."""
    _, block, _ = pair(kind, torch.channels_last, torch.float32)
    size = (16, 16) if kind == "halving" else (8, 8)
    counts = []
    for num_images in (7, 8):
        x = torch.randn(num_images, 4, *size)
        with FlopCounterMode(display=False) as counter:
            output_of(block, x)
        counts.append(counter.get_total_flops() / num_images / (2 * 64))
    # a pixel of the smaller images has four large ones: the other convolution, the merged one, and the shortcut
    if kind == "halving":
        assert counts == [4 * 9 * 4 * 6 + 4 * 9 * 6 * 5 + 4 * 4 * 5, 4 * 9 * 4 * 6 + 16 * 6 * 5 + 4 * 5]
    else:
        assert counts == [16 * (36 + 36 + 1), 16 * (36 + 16 + 1)]


def watched(layer: nn.Conv2d) -> nn.Conv2d:
    layer.register_forward_hook(lambda *_: None)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), id="reflecting"),
        pytest.param(lambda: nn.Conv2d(4, 4, 3, padding=2, dilation=2), id="dilated"),
        pytest.param(lambda: nn.Conv2d(4, 4, 3, padding=1, groups=2), id="in groups"),
        pytest.param(lambda: nn.Conv2d(4, 4, 5, padding=2), id="5x5"),
        pytest.param(lambda: nn.utils.spectral_norm(nn.Conv2d(4, 4, 3, padding=1)), id="spectral norm by a hook"),
        pytest.param(lambda: watched(nn.Conv2d(4, 4, 3, padding=1)), id="watched by a hook"),
        pytest.param(lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()), id="more than it"),
    ],
)
def test_other_layers_are_called_as_they_are(make: Callable[[], nn.Module]) -> None:
    """Of a merged convolution only the weight and the bias are read."""
    block = DownBlock(4, 4, halves=True, normalise=left_as_it_is).eval()
    block.convolutions[1] = make().eval()
    x = torch.randn(8, 4, 16, 16)
    expected = block(x)
    use_cpu_layers(block)
    assert block.merges
    assert torch.equal(block(x), expected)


def test_small_batches_are_the_same_bits() -> None:
    for kind in BLOCKS:
        separate, block, x = pair(kind, torch.channels_last, torch.float32)
        assert torch.equal(output_of(block, x), output_of(separate, x))


@pytest.mark.parametrize("kind", ["halving", "doubling of sngan"])
def test_autocast_sums_kernels_in_fp32(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the sums are rounded once, to bf16."""
    monkeypatch.setattr(resampling, "LEAST_PIXELS", 1)
    separate, merged, x = pair(kind, torch.channels_last, torch.float32)
    with torch.autocast("cpu", torch.bfloat16), Convolutions() as convolutions:
        output = output_of(merged, x)
    assert sorted(kernel.shape[2] for _, kernel in convolutions.taken) == [1, 3, 4]
    assert all(kernel.dtype == torch.float32 for _, kernel in convolutions.taken)
    assert output.dtype == torch.bfloat16
    exact = output_of(separate, x)
    assert (output - exact).norm() < 1e-2 * exact.norm()


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("name", ["sngan", "wgan-gp-cifar", "biggan-cifar"])
def test_steps_are_the_same_in_float64(
    name: str, recompute: bool, accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights, moments of the optimizers, running statistics and metrics after two steps.

    Adam makes updates of the rounding of gradients that are 0, as of a bias before BatchNorm.
    """
    after = []
    for least_pixels in (1, 10**9):
        monkeypatch.setattr(resampling, "LEAST_PIXELS", least_pixels)
        state = float64_state(name, accelerator, execution=Execution(recompute=recompute))
        metrics = [inputs(name, 4, step).train(state, 1 / 4) for step in range(2)]
        after.append({**state.tensors(), "metrics": torch.stack(metrics)})
    assert_close(*after, relative=1e-6)
