"""What is new in networks of classes: closed forms, in float64."""

import copy

import pytest
import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.models.acgan import ACGAN
from gan.models.architectures import Architecture, architecture, build_discriminator, build_generator, describe
from gan.models.attention import SelfAttention
from gan.models.biggan import BigGAN
from gan.models.conditional_norm import ClassBatchNorm, ConditionalBatchNorm
from gan.models.infogan import InfoGAN
from gan.models.initialization import initialize
from gan.models.r3gan import WideR3GAN
from gan.models.sagan import SAGAN
from gan.models.sngan import WGANResNet

FEW = [SAGAN(4, 4, 1), BigGAN(4, 4, 8), ACGAN(4, 4), InfoGAN(4, 8, 4), WGANResNet(4, 4), WideR3GAN(4, 1, 16, 8)]


def normalised(x: Tensor) -> Tensor:
    mean = x.mean((0, 2, 3), keepdim=True)
    return (x - mean) / (x.var((0, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()


def test_a_class_scales_and_shifts_its_images() -> None:
    torch.manual_seed(0)
    layer = ClassBatchNorm(3, num_classes=2).double()
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64) * 3 + 1
    labels = torch.tensor([0, 1, 1, 0, 1])
    torch.testing.assert_close(layer(x, labels), normalised(x))
    with torch.no_grad():
        layer.scale.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [0.0, -1.0, 5.0]]))
        layer.shift.weight.copy_(torch.tensor([[0.0, 0.0, 7.0], [4.0, 0.0, 0.0]]))
    expected = (
        normalised(x) * layer.scale.weight[labels, :, None, None] + layer.shift.weight[labels, :, None, None]
    )
    torch.testing.assert_close(layer(x, labels), expected)


def test_a_condition_scales_around_one_and_shifts_around_zero() -> None:
    torch.manual_seed(0)
    layer = ConditionalBatchNorm(3, condition_width=4).double()
    x = torch.randn(5, 3, 4, 4, dtype=torch.float64) * 3 + 1
    torch.testing.assert_close(layer(x, torch.zeros(5, 4, dtype=torch.float64)), normalised(x))
    condition = torch.randn(5, 4, dtype=torch.float64)
    layer.eval()  # spectral norm iterates in training
    with torch.no_grad():
        layer.norm.running_mean.zero_()
        layer.norm.running_var.fill_(1.0 - 1e-5)
        scale = 1 + condition @ layer.scale.weight.T
        shift = condition @ layer.shift.weight.T
    assert torch.linalg.matrix_norm(layer.scale.weight, 2).item() == pytest.approx(1.0, abs=0.05)
    torch.testing.assert_close(layer(x, condition), x * scale[:, :, None, None] + shift[:, :, None, None])


def test_attention_is_the_papers_sum_over_pixels() -> None:
    """One pixel after the other, with loops; keys and values are largest over 2×2 pixels."""
    torch.manual_seed(0)
    layer = SelfAttention(16).double().eval()
    x = torch.randn(2, 16, 4, 6, dtype=torch.float64)
    assert torch.equal(layer(x), x)
    with torch.no_grad():
        layer.gamma.fill_(0.7)
        query, key, value, output = (
            getattr(layer, name).weight.flatten(1) for name in ("query", "key", "value", "output")
        )
        expected = x.clone()
        for image in range(2):
            keys, values = [], []
            for row in range(0, 4, 2):
                for column in range(0, 6, 2):
                    block = x[image, :, row : row + 2, column : column + 2].reshape(16, 4)
                    keys.append((key @ block).max(1).values)
                    values.append((value @ block).max(1).values)
            for row in range(4):
                for column in range(6):
                    asked = query @ x[image, :, row, column]
                    weights = torch.softmax(torch.stack([asked @ one for one in keys]), 0)
                    mixed = sum(weight * one for weight, one in zip(weights, values, strict=True))
                    expected[image, :, row, column] += 0.7 * (output @ mixed)
        torch.testing.assert_close(layer(x), expected)


def test_each_block_of_biggan_gets_its_part_of_the_latents_and_all_the_same_class() -> None:
    torch.manual_seed(0)
    network = build_generator(BigGAN(4, 4, 8), 10, (3, 32, 32), num_classes=5).eval()
    assert sum(isinstance(layer, nn.Embedding) for layer in network.modules()) == 1
    taken: list[Tensor] = []
    for block in network.blocks:
        block.register_forward_pre_hook(lambda _block, inputs: taken.append(inputs[1]))
    latents = torch.randn(2, 10)
    network(latents, torch.tensor([4, 1]))
    vectors = network.embedding.weight[[4, 1]]
    parts = [latents[:, 3:6], latents[:, 6:8], latents[:, 8:]]  # the first layer has the first three
    assert len(taken) == 3
    for condition, part in zip(taken, parts, strict=True):
        assert torch.equal(condition, torch.cat([vectors, part], 1))


def test_too_few_latents_and_too_large_images_are_refused_in_one_line() -> None:
    with pytest.raises(UsageError, match=r"latent_dim 3: biggan divides the latents into 4 parts .* at least 4"):
        BigGAN(4, 4).generator(3, (3, 32, 32))
    with pytest.raises(UsageError, match=r"--image-shape 3 512 512: biggan has networks .* at most 256"):
        BigGAN(4, 4).discriminator((3, 512, 512))
    with pytest.raises(UsageError, match=r"latent_dim 11: infogan's codes take 12; use at least 12"):
        InfoGAN(4).generator(11, (1, 28, 28))


@pytest.mark.parametrize("spec", FEW, ids=lambda spec: type(spec).__name__)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 64)])
@pytest.mark.parametrize("num_classes", [0, 3])
def test_networks_of_each_size(spec: Architecture, shape: tuple[int, int, int], num_classes: int) -> None:
    if isinstance(spec, InfoGAN) and num_classes:
        pytest.skip("InfoGAN learns its categories without classes")
    labels = [torch.tensor([0, 2])] if num_classes else []
    images = build_generator(spec, 20, shape, num_classes)(torch.randn(2, 20), *labels)
    assert images.shape == (2, *shape)
    assert build_discriminator(spec, shape, num_classes)(images, *labels).shape == (2,)


@pytest.mark.parametrize("spec", FEW, ids=lambda spec: type(spec).__name__)
def test_every_architecture_survives_its_description(spec: Architecture) -> None:
    import json

    assert architecture(json.loads(json.dumps(describe(spec)))) == spec


@pytest.mark.parametrize("spec", [SAGAN(4, 4, 1), BigGAN(4, 4, 8)], ids=lambda spec: type(spec).__name__)
def test_ds_score_is_the_head_plus_the_projection(spec: Architecture) -> None:
    torch.manual_seed(0)
    network = build_discriminator(spec, (3, 32, 32), num_classes=3).eval().double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        features = network.features(images)
        vectors = network.embedding.weight[labels]
        assert torch.linalg.matrix_norm(network.embedding.weight, 2).item() == pytest.approx(1.0, abs=0.05)
        expected = network.head(features).flatten() + (features * vectors).sum(1)
        torch.testing.assert_close(network(images, labels), expected)


def test_r3gans_score_is_the_product_with_the_class_alone() -> None:
    torch.manual_seed(0)
    network = build_discriminator(WideR3GAN(4, 1, 16, 8), (3, 32, 32), num_classes=500).double()
    images = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        features = network.features(images)
        assert features.shape == (4, 8)
        expected = torch.stack(
            [row @ network.embedding.weight[label] for row, label in zip(features, labels, strict=True)]
        )
        torch.testing.assert_close(network(images, labels), expected)
    assert network.embedding.weight.std().item() == pytest.approx(500**-0.5, rel=0.05)


def test_wide_r3gan_is_r3gan_where_no_size_is_too_wide() -> None:
    """The same layers from the same random numbers."""
    from gan.models.r3gan import R3GAN

    for build in ("generator", "discriminator"):
        states = []
        for spec in (R3GAN(4, 1), WideR3GAN(4, 1, most_channels=100)):
            torch.manual_seed(0)
            arguments = (7,) if build == "generator" else ()
            states.append(getattr(spec, build)(*arguments, (3, 32, 32)).state_dict())
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


def test_orthogonal_weights_have_orthogonal_filters() -> None:
    torch.manual_seed(0)
    network = build_generator(BigGAN(4, 4, 8), 10, (3, 32, 32), num_classes=5)
    initialize(network, "orthogonal")
    drawn = dict(network.named_parameters())
    weights = [value for name, value in drawn.items() if name.endswith(("weight.original", "embedding.weight"))]
    assert len(weights) == len([value for value in drawn.values() if value.ndim > 1])
    for weight in weights:
        matrix = weight.detach().flatten(1)
        wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
        torch.testing.assert_close(wide @ wide.T, torch.eye(len(wide)), atol=1e-5, rtol=0)
    biases = [value for name, value in drawn.items() if name.endswith("bias") and "output.0" not in name]
    assert biases
    assert all(bias.abs().max() == 0 for bias in biases)


def test_a_one_stands_in_the_place_of_the_class() -> None:
    network = build_generator(ACGAN(4, 4), 5, (3, 32, 32), num_classes=3)
    seen: list[Tensor] = []
    network.network[0].register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[0]))
    latents = torch.randn(2, 5)
    network(latents, torch.tensor([2, 0]))
    assert torch.equal(seen[0], torch.cat([latents, torch.tensor([[0.0, 0, 1], [1, 0, 0]])], 1))


def test_wgan_gps_features_are_means_over_pixels() -> None:
    torch.manual_seed(0)
    network = WGANResNet(4, 4).discriminator((3, 32, 32))
    images = torch.randn(2, 3, 32, 32)
    before = network[:5](images)
    torch.testing.assert_close(network(images), network[-2](before.mean((2, 3))).flatten())


def test_a_copy_of_a_generator_with_spectral_norm_makes_the_same_images() -> None:
    """The moving average of G is such a copy."""
    network = build_generator(SAGAN(4, 4, 1), 5, (3, 32, 32), num_classes=3).eval()
    latents, labels = torch.randn(2, 5), torch.tensor([2, 0])
    assert torch.equal(copy.deepcopy(network)(latents, labels), network(latents, labels))
