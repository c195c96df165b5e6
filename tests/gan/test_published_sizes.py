"""Networks have the numbers of parameters that their papers or their authors' code state; nothing takes memory."""

import itertools

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import _SpectralNorm

from gan.models.acgan import ACGAN
from gan.models.architectures import Architecture, build_discriminator, build_generator
from gan.models.biggan import BigGAN
from gan.models.infogan import InfoGAN
from gan.models.networks import num_parameters
from gan.models.r3gan import WideR3GAN
from gan.models.sagan import SAGAN
from gan.models.sngan import SNResNet, WGANResNet


@pytest.fixture(autouse=True)
def _no_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the iterations of spectral norm, which take seconds on the meta device and change no shape."""
    monkeypatch.setattr(_SpectralNorm, "_power_method", lambda *_: None)


def convolution(before: int, after: int, side: int) -> int:
    return before * after * side * side + after


def up_block(channels: int) -> int:
    """Two 3×3 convolutions, the 1×1 of the shortcut, two BatchNorms."""
    return 2 * convolution(channels, channels, 3) + convolution(channels, channels, 1) + 4 * channels


def resnet_generator(channels: int) -> int:
    """Table 4 of arXiv:1802.05957; appendix F of arXiv:1704.00028: latents of 128, three blocks."""
    first = 128 * 16 * channels + 16 * channels
    return first + 3 * up_block(channels) + 2 * channels + convolution(channels, 3, 3)


def resnet_discriminator(channels: int) -> int:
    """Table 4 of arXiv:1802.05957: two blocks with a shortcut of 1×1, two without, and the linear layer."""
    wide = convolution(channels, channels, 3)
    image = convolution(3, channels, 3) + wide + convolution(3, channels, 1)
    return image + 2 * wide + convolution(channels, channels, 1) + 4 * wide + channels + 1


def attention(channels: int) -> int:
    """Queries and keys of an eighth of the channels, values of a half, the way back, and γ."""
    return 2 * channels * (channels // 8) + 2 * channels * (channels // 2) + 1


def residual(before: int, after: int) -> int:
    return convolution(before, after, 3) + convolution(after, after, 3) + convolution(before, after, 1)


def sagan() -> tuple[int, int]:
    """The authors' code, brain-research/self-attention-gan, and the paper's attention at 32×32."""
    widths = (1024, 1024, 512, 256, 128, 64)
    generator = 128 * 16 * 1024 + 16 * 1024 + attention(256) + 2 * 64 + convolution(64, 3, 3)
    generator += sum(residual(a, b) + 2 * 1000 * (a + b) for a, b in itertools.pairwise(widths))
    widths_of_d = (3, 64, 128, 256, 512, 1024)
    discriminator = sum(residual(a, b) for a, b in itertools.pairwise(widths_of_d)) + 2 * convolution(
        1024, 1024, 3
    )
    return generator, discriminator + attention(128) + 1024 + 1 + 1000 * 1024


PUBLISHED = {
    # google/compare_gan, resnet_biggan_test.py: testNumberOfParameters
    "biggan 128": (BigGAN(), 120, (3, 128, 128), 1000, (70_433_988, 87_982_370)),
    # ajbrock/BigGAN-PyTorch, "ch 64, all tricks": 31,850,628 and 39,448,258 without the 128,000 of shared classes
    "biggan 128, 64 channels": (BigGAN(64, 64), 120, (3, 128, 128), 1000, (31_978_628, 39_448_258)),
    # arXiv:2501.05441, table 2, the last row of configuration E: 23.058M and 23.010M, of 256×256 images
    "r3gan 256": (WideR3GAN(96), 64, (3, 256, 256), 0, (23_057_952, 23_009_568)),
    # no number is published for the others: counted layer by layer from their papers' tables or code
    "sagan 128": (SAGAN(), 128, (3, 128, 128), 1000, sagan()),
    "sngan 32": (SNResNet(256, 128), 128, (3, 32, 32), 0, (resnet_generator(256), resnet_discriminator(128))),
    "wgan-gp 32": (WGANResNet(), 128, (3, 32, 32), 0, (resnet_generator(128), resnet_discriminator(128))),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_numbers_of_parameters_are_the_published_ones(name: str) -> None:
    spec, latent_dim, image_shape, num_classes, expected = PUBLISHED[name]
    with torch.device("meta"):
        generator = build_generator(spec, latent_dim, image_shape, num_classes)
        discriminator = build_discriminator(spec, image_shape, num_classes)
    assert (num_parameters(generator), num_parameters(discriminator)) == expected


def r3gan_block(width: int, group_width: int = 16) -> int:
    hidden = 2 * width
    return 2 * width * hidden + hidden * group_width * 9 + 2 * hidden


@pytest.mark.parametrize(
    ("spec", "side", "widths", "num_classes"),
    [(WideR3GAN(768), 32, [768] * 4, 10), (WideR3GAN(384), 64, [768] * 4 + [384], 0)],
    ids=["CIFAR-10", "FFHQ-64"],
)
def test_r3gan_has_its_authors_layers(spec: WideR3GAN, side: int, widths: list[int], num_classes: int) -> None:
    """The presets of the authors' code: two blocks at each size, groups of 16 channels, 64 latents."""
    blocks = 2 * sum(map(r3gan_block, widths))
    transitions = sum(a * b for a, b in itertools.pairwise(widths) if a != b)
    classes = num_classes > 0
    generator = 768 * 16 + 64 * (1 + classes) * 768 + blocks + transitions + widths[-1] * 3 + num_classes * 64
    discriminator = 3 * widths[-1] + blocks + transitions + 768 * 16
    discriminator += (768 * 768 + num_classes * 768) if classes else 768
    with torch.device("meta"):
        assert num_parameters(build_generator(spec, 64, (3, side, side), num_classes)) == generator
        assert num_parameters(build_discriminator(spec, (3, side, side), num_classes)) == discriminator


@pytest.mark.parametrize(
    ("spec", "latent_dim", "side", "num_classes"),
    [
        (BigGAN(64, 64, attention_level=None), 128, 32, 10),
        (BigGAN(), 140, 256, 10),
        (SAGAN(), 128, 128, 1000),
        (SAGAN(), 128, 64, 0),
        (WGANResNet(), 128, 32, 10),
        (WideR3GAN(768), 64, 32, 10),
        (ACGAN(), 100, 32, 10),
        (ACGAN(), 100, 64, 0),
        (InfoGAN(), 74, 28, 0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_networks_of_the_published_size_have_the_shapes_of_their_images(
    spec: Architecture, latent_dim: int, side: int, num_classes: int
) -> None:
    with torch.device("meta"):
        generator = build_generator(spec, latent_dim, (3, side, side), num_classes)
        discriminator = build_discriminator(spec, (3, side, side), num_classes)
        labels = [torch.zeros(2, dtype=torch.int64)] if num_classes else []
        images = generator(torch.randn(2, latent_dim), *labels)
        assert images.shape == (2, 3, side, side)
        assert discriminator(images, *labels).shape == (2,)


def test_attention_is_where_the_papers_have_it() -> None:
    """SAGAN at 32×32 and BigGAN at 64×64 of 128×128 images, once in each network; none in BigGAN of 32×32."""
    from gan.models.attention import SelfAttention

    seen: list[int] = []
    for spec, shape in ((SAGAN(), (3, 128, 128)), (BigGAN(), (3, 128, 128))):
        with torch.device("meta"):
            networks: list[nn.Module] = [spec.generator(120, shape), spec.discriminator(shape)]
            for network, inputs in zip(networks, (torch.randn(2, 120), torch.randn(2, *shape)), strict=True):
                for layer in network.modules():
                    if isinstance(layer, SelfAttention):
                        layer.register_forward_hook(lambda _layer, taken, _output: seen.append(taken[0].shape[2]))
                network(inputs)
    assert seen == [32, 32, 64, 64]


def test_spectral_norm_is_in_every_layer_of_both_networks_but_not_in_wgan_gps() -> None:
    from torch.nn.utils.parametrize import is_parametrized

    with torch.device("meta"):
        for spec in (SAGAN(4, 4), BigGAN(4, 4, 8)):
            for network in (build_generator(spec, 20, (3, 32, 32), 3), build_discriminator(spec, (3, 32, 32), 3)):
                layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
                assert len(layers) > 8
                assert all(is_parametrized(layer, "weight") for layer in layers)
        plain = WGANResNet(4, 4).discriminator((3, 32, 32))
    assert not any(is_parametrized(layer, "weight") for layer in plain.modules())
