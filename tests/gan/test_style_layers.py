"""Layers of StyleGAN2, against closed forms and plain code in float64."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

from gan.models.equalized import EqualizedConv2d, EqualizedLinear, activate
from gan.models.fir import TAPS, Blur, Downsample, Upsample
from gan.models.minibatch_deviation import EPSILON, MinibatchDeviation
from gan.models.modulation import ModulatedConv2d, modulated_convolution, norms_of
from tests.gan.rank_threads import play_ranks


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def with_zeros_between(x: Tensor) -> Tensor:
    spread = x.new_zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
    spread[:, :, ::2, ::2] = x
    return spread


def filtered(x: Tensor, *padding: int) -> Tensor:
    """The filter as one convolution of all channels, each with itself."""
    taps = torch.tensor(TAPS, dtype=x.dtype)
    kernel = torch.eye(x.shape[1], dtype=x.dtype)[:, :, None, None] * torch.outer(taps, taps) / 64
    return conv2d(pad(x, padding), kernel)


def test_resampling_equals_zeros_between_pixels_and_one_filter() -> None:
    x = drawn(2, 3, 6, 8)
    torch.testing.assert_close(Upsample().double()(x), 4 * filtered(with_zeros_between(x), 2, 1, 2, 1))
    torch.testing.assert_close(Downsample().double()(x), filtered(x, 1, 1, 1, 1)[:, :, ::2, ::2])
    torch.testing.assert_close(Blur(2, 3.0).double()(x), 3 * filtered(x, 2, 2, 2, 2))


def test_resampling_keeps_constants_inside_of_an_image() -> None:
    ones = torch.ones(1, 2, 8, 8)
    assert torch.equal(Upsample()(ones)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 14, 14))
    assert torch.equal(Downsample()(ones)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 2, 2))
    assert torch.equal(Blur(1)(ones)[:, :, 1:-1, 1:-1], torch.ones(1, 2, 5, 5))
    # the corner of a border of zeros: 3 of 4 taps, in both directions, have a pixel
    assert Upsample()(ones)[0, 0, 0, 0].item() == pytest.approx((3 / 4) ** 2)
    assert Downsample()(ones)[0, 0, 0, 0].item() == pytest.approx((7 / 8) ** 2)


def test_upsampling_is_four_times_the_transpose_of_downsampling() -> None:
    small = drawn(1, 3, 4, 5)
    large = drawn(1, 3, 8, 10, seed=1)
    up = (Upsample().double()(small) * large).sum()
    down = (small * Downsample().double()(large)).sum()
    assert up.item() == pytest.approx(4 * down.item())


def test_equalised_layers_keep_the_second_moment() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 512)
    for rate in (1.0, 0.01):
        y = EqualizedLinear(512, 512, rate=rate)(x)
        assert y.std().item() == pytest.approx(1, rel=0.03)
    images = torch.randn(8, 64, 10, 10)
    assert EqualizedConv2d(64, 64, 3)(images).std().item() == pytest.approx(1, rel=0.05)
    # E[LeakyReLU(x)²] of a standard normal x is (1 + 0.2²) / 2
    assert activate(x).square().mean().item() == pytest.approx(1.04, rel=0.03)


def test_an_equalised_layer_has_the_bias_that_it_was_given() -> None:
    for rate in (1.0, 0.01):
        layer = EqualizedLinear(3, 5, rate=rate, bias=0.7)
        torch.testing.assert_close(layer(torch.zeros(2, 3)), torch.full((2, 5), 0.7))


@pytest.mark.parametrize("rate", [1.0, 0.01])
def test_a_step_of_adam_moves_what_a_layer_uses_by_its_rate(rate: float) -> None:
    """Adam's first step moves each number by the learning rate; the layer uses it times rate / sqrt(fan in)."""
    torch.manual_seed(0)
    layer = EqualizedLinear(16, 4, rate=rate).double()
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1, betas=(0.0, 0.99), eps=0.0)
    basis = torch.cat([torch.zeros(1, 16), torch.eye(16)]).double()
    before = layer(basis).detach()
    (layer(basis) * drawn(17, 4)).sum().backward()
    optimizer.step()
    moved = (layer(basis) - before).detach()
    torch.testing.assert_close(moved[0].abs(), torch.full((4,), 0.1 * rate).double())
    torch.testing.assert_close((moved[1:] - moved[0]).abs(), torch.full((16, 4), 0.1 * rate / 4).double())


def test_activations_are_limited() -> None:
    x = torch.tensor([300.0, -2000.0, 1.0])
    torch.testing.assert_close(activate(x, clamp=256.0), torch.tensor([256.0, -256.0, math.sqrt(2)]))
    torch.testing.assert_close(activate(x, math.sqrt(0.5), 256.0)[:2], torch.tensor([181.0193, -181.0193]))
    assert activate(x)[0].item() == pytest.approx(300 * math.sqrt(2))


def one_image_at_a_time(x: Tensor, weight: Tensor, styles: Tensor, demodulate: bool, doubles: bool) -> Tensor:
    """Equations 1 and 3 of arXiv:1912.04958 as they stand."""
    outputs = []
    for image, style in zip(x, styles, strict=True):
        modulated = weight * style[None, :, None, None]
        if demodulate:
            modulated = modulated / (modulated.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        padding = weight.shape[-1] // 2
        if doubles:  # zeros between pixels, and none after the last
            image = with_zeros_between(image[None])[0, :, :-1, :-1]
            modulated = modulated.flip(2, 3)
            padding = weight.shape[-1] - 1
        outputs.append(conv2d(image[None], modulated, padding=padding))
    return torch.cat(outputs)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("demodulate", "doubles", "size"), [(True, False, 3), (True, True, 3), (False, False, 1)])
def test_modulated_convolutions_equal_one_image_at_a_time(
    demodulate: bool, doubles: bool, size: int, fused: bool
) -> None:
    """Output, gradients, and the gradient of a gradient with respect to the styles, as path lengths take it."""
    results = []
    for convolve in (
        lambda *inputs: modulated_convolution(*inputs, demodulate=demodulate, doubles=doubles, fused=fused),
        lambda *inputs: one_image_at_a_time(*inputs, demodulate, doubles),
    ):
        leaves = [drawn(3, 4, 5, 6), drawn(2, 4, size, size, seed=1), drawn(3, 4, seed=2)]
        for leaf in leaves:
            leaf.requires_grad_()
        y = convolve(*leaves)
        gradients = torch.autograd.grad((y * drawn(*y.shape, seed=3)).sum(), leaves, create_graph=True)
        second = torch.autograd.grad(gradients[2].square().sum(), leaves, allow_unused=True)
        results.append([y, *gradients, *(value for value in second if value is not None)])
    assert len(results[0]) == len(results[1])
    for ours, plain in zip(*results, strict=True):
        torch.testing.assert_close(ours, plain)


@pytest.mark.parametrize("fused", [False, True])
def test_a_modulated_convolution_of_no_images_has_none(fused: bool) -> None:
    y = modulated_convolution(torch.zeros(0, 4, 5, 5), torch.randn(2, 4, 3, 3), torch.zeros(0, 4), fused=fused)
    assert y.shape == (0, 2, 5, 5)


def test_demodulated_outputs_have_unit_variance_whatever_the_styles() -> None:
    torch.manual_seed(0)
    layer = ModulatedConv2d(64, 32, 3, 16)
    assert layer.styles(torch.zeros(1, 16)).eq(1).all()
    y = layer(torch.randn(8, 64, 16, 16), 30 * torch.randn(8, 16))
    inside = y[:, :, 1:-1, 1:-1]
    assert inside.square().mean().item() == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("fused", [False, True])
def test_norms_are_taken_in_full_precision(dtype: torch.dtype, fused: bool) -> None:
    """Squares of these styles are beyond the range of fp16, and so are outputs before they are demodulated."""
    x, weight, styles = drawn(2, 32, 6, 6).float(), drawn(4, 32, 3, 3).float(), 20_000 * drawn(2, 32).float()
    norms = norms_of(weight, styles)
    plain = one_image_at_a_time(x.double(), weight.double(), styles.double(), demodulate=True, doubles=False)
    with torch.autocast("cpu", dtype):
        assert torch.equal(norms_of(weight, styles), norms)
        y = modulated_convolution(x.to(dtype), weight, styles, fused=fused)
    assert y.dtype == dtype
    assert (y.double() - plain).norm() / plain.norm() < 0.02


def grouped(x: Tensor, size: int) -> Tensor:
    """The layer as arXiv:1710.10196 describes it, a group at a time."""
    groups = []
    for group in x.split(size):
        deviation = ((group - group.mean(0)).square().mean(0) + EPSILON).sqrt().mean()
        groups.append(torch.cat([group, deviation.expand(len(group), 1, *x.shape[2:])], 1))
    return torch.cat(groups)


def curvature(function: Callable[[Tensor], Tensor], x: Tensor, weights: Tensor) -> list[Tensor]:
    """Values, the gradient of a weighted sum, and the gradient of its squared norm, as R1 takes them."""
    x = x.clone().requires_grad_()
    y = function(x)
    (slope,) = torch.autograd.grad((y.tanh() * weights).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(slope.square().sum(), x)
    return [y.detach(), slope.detach(), second]


@pytest.mark.parametrize(("images", "size"), [(12, 4), (11, 4), (3, 4), (1, 4), (6, 1), (5, 2)])
def test_deviation_equals_that_of_a_group_at_a_time(images: int, size: int) -> None:
    x = drawn(images, 3, 2, 2)
    weights = drawn(images, 4, 2, 2, seed=1)
    ours = curvature(MinibatchDeviation(size), x, weights)
    for value, plain in zip(ours, curvature(lambda x: grouped(x, size), x, weights), strict=True):
        torch.testing.assert_close(value, plain)


def test_deviation_of_two_constant_images_is_half_of_their_distance() -> None:
    x = torch.stack([torch.full((2, 3, 3), 5.0), torch.full((2, 3, 3), 1.0)])
    channel = MinibatchDeviation(2)(x)[:, 2]
    torch.testing.assert_close(channel, torch.full((2, 3, 3), 2.0))


DIVISIONS = [(6, 6), (6, 5), (1, 0), (4, 3), (8, 4), (3, 3, 2), (2, 2, 2), (6, 2, 4), (1, 0, 7), (2, 10, 2)]
"""Images of each process. In some, processes without a part in a divided group add up with the others."""


@pytest.mark.parametrize("counts", DIVISIONS)
def test_groups_reach_over_processes(counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Values, gradients and second gradients of the parts are those of the whole batch in one process."""
    total = sum(counts)
    x = drawn(total, 3, 2, 2)
    weights = drawn(total, 4, 2, 2, seed=1)

    def act(rank: int) -> list[Tensor]:
        layer = MinibatchDeviation(4)
        layer.across_processes = True
        rows = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
        return curvature(layer, x[rows], weights[rows])

    parts = play_ranks(monkeypatch, len(counts), act)
    for whole, part in zip(curvature(MinibatchDeviation(4), x, weights), zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.cat(part), whole)


@pytest.mark.parametrize(
    ("counts", "rows"), [((8, 4, 3), 0), ((6, 6), 1), ((3, 3, 2), 2), ((6, 2, 5, 4), 2), (64 * (6,), 32)]
)
def test_only_groups_of_several_processes_are_added_up(
    counts: tuple[int, ...], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sums, of values and of their squares, with a row for each divided group; of 64 processes every other."""
    tables = []

    def note(table: Tensor, _: str) -> Tensor:
        tables.append(table.shape)
        return table

    monkeypatch.setattr("gan.models.minibatch_deviation.counts_of_processes", lambda *_: list(counts))
    monkeypatch.setattr("gan.models.minibatch_deviation.sum_over_processes", note)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 0)
    layer = MinibatchDeviation(4)
    layer.across_processes = True
    layer(drawn(counts[0], 3, 2, 2))
    assert tables == (2 * [(rows, 12)] if rows else [])


def test_a_layer_in_evaluation_waits_for_no_process() -> None:
    layer = MinibatchDeviation(4).eval()
    layer.across_processes = True
    assert layer(torch.ones(2, 1, 2, 2)).shape == (2, 2, 2, 2)


def test_layers_do_without_values_of_tensors() -> None:
    """Networks are built on the meta device, where there are none."""
    with torch.device("meta"):
        layers = nn.Sequential(EqualizedConv2d(3, 4, 1), Upsample(), Blur(2), Downsample(), MinibatchDeviation(2))
    assert layers(torch.empty(4, 3, 8, 8, device="meta")).shape == (4, 5, 8, 8)
