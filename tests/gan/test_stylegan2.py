"""StyleGAN2's networks: layers, styles, classes, and what training and evaluation do with them."""

import json
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from gan.models.architectures import architecture, build_discriminator, build_generator, describe
from gan.models.batch_statistics import (
    depend_on_the_batch,
    has_batch_statistics,
    has_batchnorm,
    running_statistics_kept,
    synchronize_batchnorm,
)
from gan.models.style_discriminator import StyleBlock, StyleDiscriminator
from gan.models.style_generator import AVERAGE_DECAY, NoiseInput, StyledLayer, StyleGenerator, ToImage
from gan.models.stylegan2 import StyleGAN2
from tests.gan.rank_threads import play_ranks

SMALL = StyleGAN2(4, 8, style_width=16, mapping_layers=2)
SHAPE = (1, 28, 28)
NUM_CLASSES = 3
LATENT_DIM = 5


def generator(num_classes: int = 0, spec: StyleGAN2 = SMALL) -> StyleGenerator:
    torch.manual_seed(0)
    network = build_generator(spec, LATENT_DIM, SHAPE, num_classes)
    assert isinstance(network, StyleGenerator)
    return network


def discriminator(num_classes: int = 0, spec: StyleGAN2 = SMALL) -> StyleDiscriminator:
    torch.manual_seed(0)
    network = build_discriminator(spec, SHAPE, num_classes)
    assert isinstance(network, StyleDiscriminator)
    return network


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("shape", "num_styles"), [((1, 28, 28), 6), ((3, 32, 32), 8), ((3, 64, 48), 8), ((2, 8, 8), 4)]
)
def test_networks_for_any_shape_of_image(shape: tuple[int, int, int], num_styles: int) -> None:
    g = build_generator(SMALL, LATENT_DIM, shape)
    styles = g.styles(drawn(3, LATENT_DIM))
    assert styles.shape == (3, num_styles, 16)
    images = g.synthesis(styles)
    assert images.shape == (3, *shape)
    assert build_discriminator(SMALL, shape)(images).shape == (3,)


def test_channels_double_up_to_the_most() -> None:
    g = generator()
    widths = [layer.convolution.weight.shape[0] for layer in g.synthesis.layers if isinstance(layer, StyledLayer)]
    assert widths == [8, 8, 8, 4, 4]  # 16 at the smallest size would be the next


def test_evaluation_draws_nothing() -> None:
    g = generator().eval()
    for layer in g.modules():
        if isinstance(layer, NoiseInput):
            nn.init.ones_(layer.strength)
    latents = drawn(4, LATENT_DIM)
    state = torch.random.get_rng_state()
    images = g(latents)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(g(latents), images)
    assert torch.equal(g.synthesis(g.styles(latents)), images)
    assert not torch.equal(g.train()(latents), g(latents))


def test_noise_is_one_for_all_channels_and_scaled_by_its_strength() -> None:
    torch.manual_seed(0)
    layer = NoiseInput((20, 20))
    x = drawn(8, 3, 20, 20)
    assert torch.equal(layer(x), x)
    nn.init.constant_(layer.strength, 0.5)
    noise = layer(x) - x
    torch.testing.assert_close(noise, noise[:, :1].expand_as(noise))
    assert noise[:, 0].std().item() == pytest.approx(0.5, rel=0.1)
    assert not torch.allclose(noise[0], noise[1])
    constant = layer.eval()(x) - x
    torch.testing.assert_close(constant, (0.5 * layer.constant).expand_as(x))


def test_nine_images_in_ten_are_made_of_two_latents() -> None:
    """The second one begins at any layer from the second on, and the first latents' style stands before it."""
    g = generator()
    num_images = 4000
    styles = g.styles(drawn(num_images, LATENT_DIM))
    own = g.mapping(drawn(num_images, LATENT_DIM), None)
    is_own = torch.isclose(styles, own[:, None], atol=1e-4).all(2)
    assert is_own[:, 0].all()
    num_own = is_own.sum(1)
    num_styles = styles.shape[1]
    first_layers = torch.arange(num_styles)[None] < num_own[:, None]
    assert torch.equal(is_own, first_layers), "first the one, then the other"
    share = (num_own < num_styles).float().mean().item()
    assert share == pytest.approx(0.9, abs=0.02)
    by_layer = torch.bincount(num_own, minlength=num_styles + 1)[1:num_styles] / num_images
    torch.testing.assert_close(by_layer, torch.full((num_styles - 1,), 0.9 / (num_styles - 1)), atol=0.025, rtol=0)
    others = styles[:, -1][num_own < num_styles]
    assert (others[1:] - others[:-1]).abs().amax(1).min() > 0, "each has its own second latents"


def test_both_latents_of_an_image_have_its_class() -> None:
    g = generator(NUM_CLASSES, StyleGAN2(4, 8, style_width=16, mapping_layers=2, mixing=1.0))
    g.draw = lambda latents: (latents.flip(0), torch.full((len(latents),), 2))
    latents = drawn(2, LATENT_DIM)
    labels = torch.tensor([2, 0])
    styles = g.styles(latents, labels)
    torch.testing.assert_close(styles[:, 1], g.mapping(latents, labels))
    torch.testing.assert_close(styles[:, 2], g.mapping(latents.flip(0), labels))


def test_without_mixing_all_layers_have_one_style() -> None:
    g = generator(spec=StyleGAN2(4, 8, style_width=16, mapping_layers=2, mixing=0.0))
    styles = g.styles(drawn(6, LATENT_DIM))
    assert torch.equal(styles, styles[:, :1].expand_as(styles))


def test_the_average_style_follows_training_and_truncates_samples() -> None:
    g = generator()
    latents = drawn(6, LATENT_DIM)
    own = g.mapping(latents, None).detach()
    assert not g.average.any()
    with running_statistics_kept(g):
        g.styles(latents)
    assert not g.average.any()
    g.styles(latents)
    torch.testing.assert_close(g.average, (1 - AVERAGE_DECAY) * own.mean(0))
    g.styles(latents)
    torch.testing.assert_close(g.average, (1 - AVERAGE_DECAY**2) * own.mean(0))

    g.eval()
    before = g.average.clone()
    for part, expected in ((1.0, own), (0.0, before.expand_as(own)), (0.25, before + (own - before) / 4)):
        g.truncation = part
        styles = g.styles(latents)
        torch.testing.assert_close(styles, expected[:, None].expand_as(styles))
    assert torch.equal(g.average, before)


@pytest.mark.parametrize("counts", [(4, 4), (3, 2), (1, 0)])
def test_the_average_style_is_that_of_all_processes(
    counts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    latents = drawn(sum(counts), LATENT_DIM)
    alone = generator()
    alone.styles(latents)
    networks = [generator() for _ in counts]

    def act(rank: int) -> Tensor:
        network = synchronize_batchnorm(networks[rank], torch.device("cpu"))
        assert isinstance(network, StyleGenerator)
        network.styles(latents[sum(counts[:rank]) : sum(counts[: rank + 1])])
        return network.average

    for average in play_ranks(monkeypatch, len(counts), act):
        torch.testing.assert_close(average, alone.average)


def test_layers_begin_with_the_second_moment_of_their_input() -> None:
    """But for the zeros around small images, and for what the filter takes of noise after a doubling."""
    torch.manual_seed(0)
    g = StyleGAN2(32, 64, style_width=64).generator(64, (3, 32, 32))
    assert isinstance(g, StyleGenerator)
    ratios = []

    def note(_layer: nn.Module, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ratios.append((output.square().mean() / inputs[0].square().mean()).item())

    for layer in g.synthesis.layers:
        layer.register_forward_hook(note)
    styles = g.styles(drawn(32, 64))
    assert styles.square().mean().item() == pytest.approx(1.04**8, rel=0.3)  # E[LeakyReLU²] of normal variables
    g.synthesis(styles)
    assert len(ratios) == 7
    assert all(0.6 < ratio < 1.2 for ratio in ratios[::2]), ratios
    assert all(0.2 < ratio < 1.2 for ratio in ratios[1::2]), ratios


def test_images_of_all_sizes_are_added_up() -> None:
    """With one size's image alone, the image is that one, upsampled."""
    g = generator().eval()
    styles = g.styles(drawn(2, LATENT_DIM))
    whole = g.synthesis(styles)
    parts = torch.zeros_like(whole)
    layers = [layer for layer in g.synthesis.to_images if isinstance(layer, ToImage)]
    weights = [layer.convolution.weight.clone() for layer in layers]
    with torch.no_grad():
        for kept in range(len(layers)):
            for index, (layer, weight) in enumerate(zip(layers, weights, strict=True)):
                layer.convolution.weight.copy_(weight * (index == kept))
            parts += g.synthesis(styles)
    torch.testing.assert_close(parts, whole)


def test_the_weights_of_an_image_are_divided_by_the_root_of_their_number() -> None:
    torch.manual_seed(0)
    layer = ToImage(6, 2, 4, fused=False, clamp=256.0)
    nn.init.constant_(layer.bias, 0.5)
    x = drawn(3, 6, 5, 5)
    weight = layer.convolution.weight / math.sqrt(6)
    ones = torch.zeros(3, 4)  # styles of 1, the initial bias
    torch.testing.assert_close(layer(x, ones), conv2d(x, weight) + 0.5)
    torch.testing.assert_close(layer(1e6 * x, ones).abs(), torch.full((3, 2, 5, 5), 256.0))


@pytest.mark.parametrize("residual", [True, False])
def test_a_block_of_d_is_the_root_mean_square_of_its_two_ways(residual: bool) -> None:
    """Against figure 7 of arXiv:1912.04958 in plain code: the filter before each convolution with stride 2."""
    torch.manual_seed(0)
    block = StyleBlock(3, 5, residual=residual, clamp=256.0).double()
    for layer in (block.first, block.second):
        nn.init.normal_(layer.bias)
    x = drawn(2, 3, 8, 8).double()
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=x.dtype) / 8
    kernel = torch.outer(taps, taps).expand(3, 1, 4, 4)
    y = conv2d(x, block.first.weight / math.sqrt(27), block.first.bias, padding=1)
    y = conv2d(leaky_relu(y, 0.2) * math.sqrt(2), kernel, padding=2, groups=3)
    y = conv2d(y, block.second.weight / math.sqrt(27), block.second.bias, stride=2)
    y = leaky_relu(y, 0.2) * math.sqrt(2)
    if block.shortcut is not None:
        short = conv2d(x, kernel, padding=1, groups=3)[:, :, ::2, ::2]
        y = (y + conv2d(short, block.shortcut.weight / math.sqrt(3))) / math.sqrt(2)
    torch.testing.assert_close(block(x), y)


def test_a_doubling_layer_keeps_the_size_of_smooth_images() -> None:
    """Of a constant image, each pixel inside is the sum of the weights over the norm, whether doubled or not."""
    torch.manual_seed(0)
    plain = StyledLayer(4, 2, (8, 8), 3, doubles=False, fused=False, clamp=0.0)
    doubling = StyledLayer(4, 2, (16, 16), 3, doubles=True, fused=False, clamp=0.0)
    doubling.convolution.load_state_dict(plain.convolution.state_dict())
    x = torch.ones(1, 4, 8, 8)
    style = drawn(1, 3)
    inside = doubling(x, style)[:, :, 4:-4, 4:-4]
    torch.testing.assert_close(inside, plain(x, style)[:, :, 4:5, 4:5].expand_as(inside))


def test_a_class_changes_images_and_logits() -> None:
    g, d = generator(NUM_CLASSES).eval(), discriminator(NUM_CLASSES)
    latents, images = drawn(1, LATENT_DIM).expand(2, -1), drawn(1, *SHAPE).expand(2, -1, -1, -1)
    labels = torch.tensor([0, 2])
    assert not torch.allclose(*g(latents, labels))
    logits = d(images, labels)
    assert not torch.allclose(*logits)
    seen: list[Tensor] = []
    d.output.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    again = d(images, labels)
    vectors = d.mapping(None, labels)
    torch.testing.assert_close(again, (seen[0] * vectors).sum(1) / math.sqrt(8))
    logits.sum().backward()
    for label, has_gradient in ((0, True), (1, False), (2, True)):
        column = d.mapping.embedding.weight.grad[:, label]
        assert column.any().item() is has_gradient


def test_d_looks_at_groups_and_has_no_batchnorm() -> None:
    d = discriminator()
    assert has_batch_statistics(d)
    assert not has_batchnorm(d)
    assert not has_batch_statistics(generator())
    assert depend_on_the_batch(generator(), d) == ["the minibatch deviation, whose groups are of a micro-batch"]
    images = drawn(8, *SHAPE)
    logits = d(images)
    changed = torch.cat([images[:7], images[7:] + 1])
    assert torch.equal(d(changed)[:4], logits[:4]), "another group"
    assert not torch.equal(d(changed)[4:7], logits[4:7])


@pytest.mark.parametrize("num_classes", [0, NUM_CLASSES])
def test_a_saved_generator_is_rebuilt_from_its_description(num_classes: int) -> None:
    """On the meta device first, as when it is loaded: no tensor is left without contents."""
    g = generator(num_classes)
    labels = (torch.tensor([0, 1, 2]),) if num_classes else ()
    g(drawn(3, LATENT_DIM), *labels)
    spec = architecture(json.loads(json.dumps(describe(SMALL))))
    assert spec == SMALL
    with torch.device("meta"):
        again = build_generator(spec, LATENT_DIM, SHAPE, num_classes)
    again.eval().to_empty(device="cpu").load_state_dict(g.state_dict())
    assert torch.equal(again(drawn(3, LATENT_DIM), *labels), g.eval()(drawn(3, LATENT_DIM), *labels))
    assert spec.min_generator_tensors <= len(g.state_dict())


@pytest.mark.parametrize("fused", [False, True])
def test_half_precision_is_close_to_full(fused: bool) -> None:
    spec = StyleGAN2(4, 8, style_width=16, mapping_layers=2, fused=fused)
    g, d = generator(spec=spec).eval(), discriminator(spec=spec)
    latents = drawn(4, LATENT_DIM)
    images = g(latents)
    logits = d(images)
    with torch.autocast("cpu", torch.bfloat16):
        half = g(latents)
        half_logits = d(images)
        assert torch.equal(g.styles(latents), g.styles(latents.float()))
    assert half.dtype == torch.float32
    assert (half - images).norm() / images.norm() < 0.03
    torch.testing.assert_close(half_logits.float(), logits, atol=0.05, rtol=0.05)


def test_fused_and_other_networks_are_one() -> None:
    g = generator().double()
    fused = generator(spec=StyleGAN2(4, 8, style_width=16, mapping_layers=2, fused=True)).double()
    latents = drawn(3, LATENT_DIM).double()
    torch.testing.assert_close(fused.eval()(latents), g.eval()(latents))
