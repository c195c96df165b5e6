"""Numbers of parameters of StyleGAN2's published configurations."""

import re

import pytest
import torch

from gan.models.architectures import build_discriminator, build_generator
from gan.models.networks import num_parameters
from gan.models.style_discriminator import StyleBlock, StyleDiscriminator
from gan.models.style_generator import StyleGenerator
from gan.models.stylegan2 import StyleGAN2
from tests.conftest import ROOT

# What the authors' code prints of its networks (NVlabs/stylegan2-ada-pytorch, training logs in the repositories
# AYUSH-ISHAN/Style_GAN_2 for 32×32 with 8 mapping layers, and by layer in NVlabs/stylegan2-ada-pytorch issue 182
# and lucidrains/stylegan2-pytorch issues 81 and 124). arXiv:1912.04958, section 4, has those of configuration F in
# millions: 30 in G, 29 in D. `auto`, `paper256` and `cifar` are names of its options.
PUBLISHED = {
    "stylegan2, 1024": (StyleGAN2(32), StyleGAN2(32), 1024, 30_370_060, 29_012_513),
    "auto, 1024: 2 mapping layers": (StyleGAN2(32, mapping_layers=2), StyleGAN2(32), 1024, 28_794_124, 29_012_513),
    "paper256": (StyleGAN2(64), StyleGAN2(64), 256, 24_767_458, 24_001_089),
    "32, 8 mapping layers": (StyleGAN2(512), StyleGAN2(512), 32, 21_523_475, 21_507_073),
    # of which `cifar` leaves out 6 mapping layers of 512² + 512, and 3 shortcuts of 512²
    "cifar": (
        StyleGAN2(512, mapping_layers=2, mixing=0.0),
        StyleGAN2(512, residual=False, group_size=32),
        32,
        21_523_475 - 6 * 262_656,
        21_507_073 - 3 * 262_144,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers_of_parameters(name: str) -> None:
    of_generator, of_discriminator, side, in_generator, in_discriminator = PUBLISHED[name]
    with torch.device("meta"):
        g = of_generator.generator(512, (3, side, side))
        d = of_discriminator.discriminator((3, side, side))
    assert num_parameters(g) == in_generator
    assert num_parameters(d) == in_discriminator


def test_the_documented_numbers_are_these() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    section = text.split("## StyleGAN2's networks")[1].split("\n## ")[0]
    numbers = [int(number.replace(",", "")) for number in re.findall(r"\d\d,\d{3},\d{3}", section)]
    assert numbers == [number for *_, g, d in PUBLISHED.values() for number in (g, g, d, d)]


def test_published_numbers_of_parameters_by_layer() -> None:
    """Those that the authors' code prints for 1024×1024 images, from the smallest size on."""
    with torch.device("meta"):
        g = StyleGAN2(32).generator(512, (3, 1024, 1024))
        d = StyleGAN2(32).discriminator((3, 1024, 1024))
    assert isinstance(g, StyleGenerator)
    assert isinstance(d, StyleDiscriminator)
    assert [num_parameters(layer) for layer in g.mapping.layers] == [262_656] * 8
    layers = [num_parameters(layer) for layer in g.synthesis.layers]
    assert layers == [2_622_465] * 9 + [1_442_561, 721_409, 426_369, 213_249, 139_457, 69_761, 51_297, 25_665]
    to_images = [num_parameters(layer) for layer in g.synthesis.to_images]
    assert to_images == [264_195] * 5 + [132_099, 66_051, 33_027, 16_515]
    assert g.synthesis.num_styles == 18
    first = d.blocks[0]
    assert isinstance(first, StyleBlock)
    assert first.shortcut is not None
    assert [num_parameters(layer) for layer in (first.shortcut, first.first, first.second)] == [2048, 9248, 18_496]
    ends = [num_parameters(layer) for layer in (d.from_image, d.convolution, d.linear, d.output)]
    assert ends == [128, 2_364_416, 4_194_816, 513]


def test_classes_add_the_published_layers() -> None:
    """As for CIFAR-10 in arXiv:2006.06676: vectors of 512 beside latents of 512, and 8 mapping layers in D."""
    spec = StyleGAN2(512, mapping_layers=2)
    with torch.device("meta"):
        g = [num_parameters(build_generator(spec, 512, (3, 32, 32), classes)) for classes in (0, 10)]
        d = [num_parameters(build_discriminator(StyleGAN2(512), (3, 32, 32), classes)) for classes in (0, 10)]
    embedding = 10 * 512 + 512
    assert g[1] - g[0] == embedding + 512 * 512
    assert d[1] - d[0] == embedding + 8 * 262_656 + 511 * 513
