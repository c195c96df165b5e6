"""Classes reach the networks with the images they belong to; pictures by class; what has no classes is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

import gan.loop
from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.images import ImageShape
from gan.models.acgan import ACGAN
from gan.models.architectures import Architecture, build_discriminator, build_generator
from gan.models.biggan import BigGAN
from gan.models.dcgan import DCGAN
from gan.models.mlp import MLP
from gan.models.r3gan import R3GAN
from gan.models.sagan import SAGAN
from gan.models.sngan import SNResNet
from gan.models.style_discriminator import StyleDiscriminator
from gan.models.style_generator import StyleGenerator
from gan.options import TrainOptions
from gan.recipes import RECIPES
from gan.run_options import SampleOptions
from gan.sample import sample
from gan.training.checkpoints import load_generator
from tests.conftest import quick_or_slow
from tests.gan.reference import inputs, small_state
from tests.gan.stored_images import CLASSES, stylegan_labels, write_pictures, write_zip

CONDITIONAL = [name for name, recipe in RECIPES.items() if recipe.conditional]
LISTENING = [name for name in CONDITIONAL if not isinstance(RECIPES[name].generator, ACGAN | SAGAN | BigGAN)]
"""Rows whose networks both have a vector for each class. `test_conditional_networks` has the others."""
DATA = Path(__file__).parent.parent.parent / "data"


@pytest.mark.parametrize("name", quick_or_slow(CONDITIONAL, quick=("cgan", "biggan-cifar"), slow=()))
@pytest.mark.parametrize("dataset", ["digits", "folder"])
def test_every_image_arrives_with_its_class(
    name: str, dataset: str, run_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The images of class k have the grey value 20 k."""
    labels = torch.arange(500) % 10
    images = (20 * labels).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 28, 28).contiguous()
    monkeypatch.setitem(DATASETS, "digits", lambda _: InMemoryImages(images, images, labels, labels))
    for index in range(500 if dataset == "folder" else 0):
        path = tmp_path / "pictures" / str(index % 10) / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), 20 * (index % 10)).save(path)
    step = gan.loop.run_step
    seen = []

    def checking_step(state, taken):
        seen.append(torch.equal(((taken.real[:, 0, 0, 0] + 1) * 127.5 / 20).round().long(), taken.labels))
        return step(state, taken)

    monkeypatch.setattr(gan.loop, "run_step", checking_step)
    settings = {"dataset": dataset, "data_root": tmp_path / "pictures", "num_workers": 0}
    if dataset == "folder":
        settings["image_shape"] = (1, 28, 28)
    run_training(recipe=name, epochs=2, batch_size=50, **settings)
    assert seen == [True] * (2 * (500 // (50 * RECIPES[name].discriminator_steps)))


@pytest.mark.parametrize("name", LISTENING)
def test_both_networks_listen_to_the_class(name: str, accelerator: Accelerator) -> None:
    """With another class G makes another image, D gives another score, and both have a gradient for it."""
    state = small_state(name, accelerator, seed=0, steps_per_epoch=1)
    taken = inputs(name, 6).to(torch.float32)
    generator, discriminator = state.generator.network.eval(), state.discriminator.network.eval()
    zeros, ones = torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)
    assert not torch.allclose(generator(taken.latents[0], zeros), generator(taken.latents[0], ones))
    scores = discriminator(taken.real[0], zeros), discriminator(taken.real[0], ones)
    assert not torch.allclose(*scores)
    taken.train(state, 1 / 6)
    for network in (generator, discriminator):
        if isinstance(network, StyleGenerator | StyleDiscriminator):
            gradient = network.mapping.embedding.weight.grad.T
        else:
            gradient = network.embedding.weight.grad
        moved = gradient.abs().sum(1) > 0
        assert moved.tolist() == [number in taken.labels for number in range(state.num_classes)]


@pytest.mark.parametrize(
    "spec", [MLP((8, 5)), DCGAN(4), SNResNet(4, 4), R3GAN(4, 1)], ids=lambda spec: type(spec).__name__
)
def test_the_projection_is_the_product_of_features_and_class_vector(spec: Architecture) -> None:
    """Zero class vectors leave the unconditional score; the rest is linear in them."""
    torch.manual_seed(0)
    network = build_discriminator(spec, (1, 28, 28), num_classes=3).eval().double()
    images = torch.randn(4, 1, 28, 28, dtype=torch.float64)
    labels = torch.tensor([0, 2, 1, 2])
    with torch.no_grad():
        score = network(images, labels)
        vectors = network.embedding.weight.clone()
        features = network.features(images).reshape(4, vectors.shape[1], -1).sum(2)
        network.embedding.weight.zero_()
        plain = network(images, labels)
        torch.testing.assert_close(plain, network.head(network.features(images)).flatten())
        torch.testing.assert_close(score - plain, (vectors[labels] * features).sum(1))
    generator = build_generator(spec, 7, (1, 28, 28), num_classes=3)
    assert generator(torch.randn(4, 7), labels).shape == (4, 1, 28, 28)


class Shifted(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images) + 1


class OfUsers(MLP):
    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        return Shifted(*super().discriminator(image_shape))


class Replaced(MLP):
    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        network = super().discriminator(image_shape)
        network.forward = lambda images: images.flatten(1)[:, 0]
        return network


@pytest.mark.parametrize("kind", [OfUsers, Replaced])
def test_a_sequence_with_a_forward_of_its_own_is_not_taken_apart(kind: type[MLP]) -> None:
    """What it does to logits would be done to features."""
    assert isinstance(build_discriminator(OfUsers((8,)), (1, 4, 4)), Shifted)
    with pytest.raises(UsageError, match=rf"^{kind.__name__}: D of a conditional .* has no forward of its own$"):
        build_discriminator(kind((8,)), (1, 4, 4), num_classes=3)


class OfWidth(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 1), nn.Flatten(0))


class Wide(MLP):
    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        return OfWidth(5)


def test_a_sequence_of_a_class_is_taken_apart_without_its_constructor() -> None:
    network = build_discriminator(Wide((8,)), (1, 4, 4), num_classes=3)
    assert network(torch.zeros(2, 1, 4, 4), torch.tensor([0, 2])).shape == (2,)
    assert {name for name in network.state_dict() if name.startswith("features")} == {
        "features.1.weight",
        "features.1.bias",
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("conditional") / "run"
    gan.loop.train(TrainOptions(recipe=CONDITIONAL[0], dataset="digits", epochs=1, batch_size=300, output=output))
    return output


def test_a_grid_by_class_has_a_class_in_each_column(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "grid", output=tmp_path, by_class=True, rows=3))
    picture = np.array(Image.open(path).convert("L"))
    assert picture.shape == (3 * 30 + 2, 10 * 30 + 2)
    generator = load_generator(RunFolder(run).generator, RunFolder(run).generator_config)
    assert generator.num_classes == 10
    from gan.display.figures import image_grid
    from gan.session.sampling import latents_for

    latents = latents_for("grid", 30, generator, SampleOptions(run))
    with torch.no_grad():
        expected = generator.network(latents, torch.arange(30) % 10)
    assert np.array_equal(np.array(image_grid(expected, 10).convert("L")), picture)


def test_sample_grids_in_training_have_a_class_in_each_column(run: Path) -> None:
    assert Image.open(RunFolder(run).sample(1)).size == (10 * 30 + 2, 8 * 30 + 2)


def test_a_run_without_images_of_the_first_classes_shows_others(
    run_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a part of ImageNet with its own numbers of classes; the diversity of images is of these."""
    asked: list[Tensor] = []

    def noted(network: nn.Module, latents: Tensor, labels: Tensor) -> Tensor:
        asked.append(labels)
        return network(latents, labels)

    for module in ("gan.session.epochs", "gan.session.pictures", "gan.sample"):
        monkeypatch.setattr(f"{module}.apply", noted)
    folder = write_pictures(tmp_path / "photos")
    labels = stylegan_labels(folder, [number + 12 for number in CLASSES])
    data = {"dataset": "zip", "data_root": write_zip(tmp_path / "photos.zip", folder, labels)}
    run = run_training(recipe="cgan", image_shape=(3, 8, 8), batch_size=8, steps=1, num_workers=0, **data)
    for picture in (RunFolder(run).real, RunFolder(run).sample(1)):
        assert Image.open(picture).size == (3 * 10 + 2, 8 * 10 + 2)
    sample(SampleOptions(run, "grid", by_class=True, rows=2))
    sample(SampleOptions(run, "compare"))
    sample(SampleOptions(run, "interpolation", rows=4, steps=2))
    sampled = [[12, 13, 14] * 2, [12, 13, 14] * 8, [12, 12, 13, 13, 14, 14, 12, 12]]
    assert [labels.tolist() for labels in asked] == [[12, 13, 14] * 11, [12, 13, 14] * 8, *sampled]
    config = json.loads(RunFolder(run).generator_config.read_text())
    assert config["classes"] == [12, 13, 14]


def test_interpolation_keeps_the_class_of_a_row(run: Path, tmp_path: Path) -> None:
    (path,) = sample(SampleOptions(run, "interpolation", output=tmp_path, rows=3, steps=5))
    assert Image.open(path).size == (5 * 30 + 2, 3 * 30 + 2)


def test_what_has_no_classes_is_refused(run_training, tmp_path: Path) -> None:
    Image.new("L", (28, 28)).save(tmp_path / "a.png")
    Image.new("L", (28, 28)).save(tmp_path / "b.png")
    settings = {"dataset": "folder", "data_root": tmp_path, "steps": 1, "batch_size": 2, "num_workers": 0}
    with pytest.raises(UsageError, match="--dataset folder: has no labels, and the recipe is conditional"):
        run_training(recipe=CONDITIONAL[0], **settings)
    plain = run_training("plain", recipe="mlp-compact", **settings)
    with pytest.raises(UsageError, match=r"--by-class: the generator of .* knows no classes"):
        sample(SampleOptions(plain, "grid", by_class=True))


def test_images_that_cannot_be_halved_are_refused(run_training) -> None:
    settings = {"dataset": "synthetic", "steps": 1, "batch_size": 2}
    for shape in ((1, 30, 30), (3, 5, 5), (1, 28, 112)):
        with pytest.raises(UsageError, match=r"--image-shape .*: dcgan halves images until a side is 4 to 7"):
            run_training(recipe="dcgan", image_shape=shape, **settings)


@pytest.mark.skipif(not (DATA / "MNIST").exists(), reason="MNIST is not in data/")
@pytest.mark.slow
def test_stacked_mnist_has_a_thousand_classes_that_are_its_channels() -> None:
    request = DatasetRequest(DATA, (1, 28, 28), 0, torch.device("cpu"))
    digits, stacked = (DATASETS[name](request) for name in ("mnist", "stacked_mnist"))
    assert stacked.train.shape == (60_000, 3, 28, 28)
    assert stacked.test.shape == (10_000, 3, 28, 28)
    assert len(stacked.labels.unique()) == 1000
    label_of = {
        image.numpy().tobytes(): int(label) for image, label in zip(digits.train, digits.labels, strict=True)
    }
    for image, label in zip(stacked.train[:300], stacked.labels[:300], strict=True):
        hundreds, tens, ones = (label_of[channel.unsqueeze(0).numpy().tobytes()] for channel in image)
        assert label == 100 * hundreds + 10 * tens + ones
    again = DATASETS["stacked_mnist"](request)
    assert torch.equal(again.train[:100], stacked.train[:100])
