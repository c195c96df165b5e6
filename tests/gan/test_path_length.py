"""Perceptual path length on generators whose path lengths are known, and LPIPS beside torchmetrics'."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from gan.errors import UsageError
from gan.evaluate import evaluate, main
from gan.models.networks import evaluating
from gan.models.stylegan2 import StyleGAN2
from gan.process.place import Place
from gan.quality.path_length import EPSILON, Paths, path_lengths, perceptual_path_length, require_style_based
from gan.quality.perceptual import LPIPS, VGG16, PerceptualDistance, require_large_enough
from gan.quality.weights import Weights, checked_weights
from gan.run_options import EvaluateOptions
from gan.seeds import derive_seed
from gan.session.subject import subject_of

ALONE = Place(0, 1, torch.device("cpu"))
WIDTH = 4


class Linear(nn.Module):
    """Images that are a linear map of styles, which are twice the latents; with noise that paths do not see."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Parameter(torch.randn(WIDTH, 3 * 16, generator=torch.Generator().manual_seed(1)).double())
        self.classes: list[Tensor] = []

    def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        if labels is not None:
            self.classes.append(labels)
        return 2 * latents.double().unsqueeze(1).expand(-1, 3, -1)

    def synthesis(self, styles: Tensor) -> Tensor:
        images = (styles.mean(1) @ self.map).view(-1, 3, 4, 4)
        return images + torch.randn(images.shape)

    def forward(self, latents: Tensor) -> Tensor:
        return self.synthesis(self.styles(latents))


def squared(first: Tensor, second: Tensor) -> Tensor:
    return (first - second).square().flatten(1).sum(1)


def test_path_lengths_of_a_linear_generator_are_squared_distances_of_the_ends() -> None:
    generator = Linear().train()
    paths = Paths(WIDTH, 10, 4, None, seed=3)
    lengths = path_lengths(generator, squared, paths, ALONE)
    assert generator.training
    assert lengths.shape == (10,)
    drawn = [path_lengths(generator, lambda a, _: a.flatten(1).sum(1), paths, ALONE) for _ in range(2)]
    assert torch.equal(*drawn), "the same latents and noise at every call"
    expected = []
    for index, count in enumerate((4, 4, 2)):
        source = torch.Generator().manual_seed(derive_seed(3, "path latents", index))
        start, end = torch.randn(2 * count, WIDTH, generator=source).double().chunk(2)
        expected.append((2 * (end - start) @ generator.map.detach()).square().sum(1))
    assert lengths.tolist() == pytest.approx(torch.cat(expected).tolist(), rel=1e-5)


def test_path_lengths_of_stylegan2_are_those_of_its_derivative() -> None:
    """Along the path, at its beginning, with the noise as it was drawn; in fp32, so to a few per cent."""
    torch.manual_seed(0)
    generator = StyleGAN2(4, max_channels=8, style_width=8, mapping_layers=2).generator(6, (3, 16, 16))
    paths = Paths(6, 5, 5, None, seed=1)
    lengths = path_lengths(require_style_based(generator, "it"), squared, paths, ALONE)
    source = torch.Generator().manual_seed(derive_seed(1, "path latents", 0))
    with evaluating(generator):
        start, end = generator.styles(torch.randn(10, 6, generator=source)).detach().chunk(2)

        def images(styles: Tensor) -> Tensor:
            torch.manual_seed(derive_seed(1, "path noise", 0))
            return generator.synthesis(styles)

        _, change = torch.autograd.functional.jvp(images, start, end - start)
    assert lengths.tolist() == pytest.approx(change.square().flatten(1).sum(1).tolist(), rel=0.05)


def test_several_processes_measure_the_paths_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = Paths(WIDTH, 10, 4, torch.tensor([0.5, 0.5]), seed=0)
    generator = Linear()
    whole = path_lengths(generator, squared, paths, ALONE)
    assert all(torch.equal(*classes.chunk(2)) for classes in generator.classes), "a path has one class"
    gathered: list = []
    monkeypatch.setattr("gan.quality.path_length.gather_object", lambda made: gathered.extend(made) or gathered)
    path_lengths(Linear(), squared, paths, Place(1, 2, ALONE.device))
    assert torch.equal(path_lengths(Linear(), squared, paths, Place(0, 2, ALONE.device)), whole)


def test_the_longest_and_shortest_paths_are_left_out() -> None:
    lengths = torch.arange(1.0, 301.0)
    lengths[7] = 1e9
    lengths[11] = -1e9
    assert perceptual_path_length(lengths) < 400
    kept = lengths.sort().values[2:-2]  # of 300, the first and last percentile are 2 each
    assert perceptual_path_length(lengths) == pytest.approx(float(kept.mean()))


def test_large_images_are_averaged_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.quality.path_length.LARGEST", 2)
    shapes = []
    path_lengths(
        Linear(), lambda a, _: shapes.append(a.shape) or a.sum((1, 2, 3)), Paths(WIDTH, 4, 4, None, 0), ALONE
    )
    assert shapes == [(4, 3, 2, 2)]


def test_other_generators_have_no_paths() -> None:
    with pytest.raises(UsageError, match=r"--ppl: the generator of runs/a is not style-based"):
        require_style_based(nn.Linear(2, 2), "runs/a")


def test_images_that_vgg16_cannot_halve_are_refused() -> None:
    require_large_enough((3, 16, 32), "runs/a")
    with pytest.raises(UsageError, match=r"^--ppl: .* at least 16×16, and those of runs/a have 32×8; leave --ppl"):
        require_large_enough((1, 32, 8), "runs/a")


@pytest.fixture(scope="module")
def vgg16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, in the layout of torchvision's file."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "vgg16.pth"
    with torch.device("meta"):
        features = torchvision.models.vgg16(weights=None, init_weights=False).features
    features.to_empty(device="cpu")
    for layer in features:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
            nn.init.normal_(layer.bias, std=0.1)
    torch.save({f"features.{name}": value for name, value in features.state_dict().items()}, path)
    return path


@pytest.mark.slow
def test_distances_are_those_of_torchmetrics(vgg16: Path) -> None:
    lpips = pytest.importorskip("torchmetrics.functional.image.lpips")
    distance = PerceptualDistance(Weights(vgg16, "0", is_published=False), checked_weights(LPIPS, None, "--ppl"))
    theirs = lpips._LPIPS(net="vgg", pnet_rand=True)
    state = torch.load(vgg16, weights_only=True)
    numbers = iter(state.values())
    for block in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5):
        for layer in block:
            if isinstance(layer, nn.Conv2d):
                layer.load_state_dict({"weight": next(numbers), "bias": next(numbers)})
    first, second = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1
    ours = distance(first, second)
    assert ours.tolist() == pytest.approx(theirs(first, second).flatten().tolist(), rel=1e-4)
    assert float(ours.min()) > 0
    assert distance(first, first).tolist() == [0, 0]
    grey = first[:, :1]
    assert torch.equal(
        distance(grey, second[:, :1]), distance(grey.repeat(1, 3, 1, 1), second[:, :1].repeat(1, 3, 1, 1))
    )


def test_files_of_other_weights_are_one_line(vgg16: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pth"
    torch.save({"features.0.weight": torch.zeros(1)}, other)
    good = Weights(vgg16, "0", is_published=False)
    for first, second in ((other, vgg16), (vgg16, other)):
        with pytest.raises(UsageError, match="not the weights of VGG-16 and LPIPS") as refused:
            PerceptualDistance(replace(good, path=first), replace(good, path=second))
        assert "\n" not in str(refused.value)
    (tmp_path / "empty.pth").touch()
    with pytest.raises(UsageError, match=r"--vgg16-weights .*empty\.pth: cannot be read"):
        PerceptualDistance(replace(good, path=tmp_path / "empty.pth"), good)


@pytest.mark.slow
def test_a_style_based_run_gets_a_path_length(
    run_training: Callable[..., Path], vgg16: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchmetrics")
    run = run_training(recipe="mlp-compact", dataset="digits", batch_size=600, steps=1)
    with pytest.raises(UsageError, match=r"--ppl: the generator of .* is not style-based"):
        evaluate(EvaluateOptions(run, num_images=100, ppl=True))
    subject = subject_of(EvaluateOptions(run))
    assert subject.generator is not None

    class Styled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.generator = subject.generator.network

        def styles(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
            return latents.unsqueeze(1)

        def synthesis(self, styles: Tensor) -> Tensor:
            return nn.functional.interpolate(self.generator(styles[:, 0]), 16)

        def forward(self, latents: Tensor) -> Tensor:
            return self.generator(latents)

    styled = replace(subject, generator=replace(subject.generator, network=Styled()))
    monkeypatch.setattr("gan.evaluate.subject_of", lambda _: styled)
    published = replace(VGG16, sha256=hashlib.sha256(vgg16.read_bytes()).hexdigest())
    monkeypatch.setattr("gan.session.evaluation.VGG16", published)
    record = evaluate(EvaluateOptions(run, num_images=100, ppl=True, vgg16_weights=vgg16))
    measured = json.loads((run / "evaluation.json").read_text())["perceptual_path_length"]
    assert measured == record["perceptual_path_length"]
    assert measured["mean"] > 0
    assert (measured["num_paths"], measured["epsilon"], measured["vgg16"]) == (100, EPSILON, published.sha256)


def test_missing_weights_are_one_line(
    run_training: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    script: Callable[..., tuple],
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("gan.session.evaluation.require_style_based", lambda network, _: network)
    run = run_training(recipe="mlp-compact", dataset="digits", batch_size=600, steps=1)
    code, _, said = script(main, run, "--ppl")
    assert code == 2
    (line,) = [line for line in said.splitlines() if line.startswith("error")]
    assert line.startswith(
        f"error: --vgg16-weights: not named, and not in {tmp_path}/hub/checkpoints; --ppl needs "
    )
