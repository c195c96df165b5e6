"""Features of Inception-v3 and the scores of papers are torch-fidelity's; weights are what they should be."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from gan.errors import UsageError
from gan.quality.inception import INPUT_SIZE, PUBLISHED, Inception, require_channels, resized
from gan.quality.paper import paper_scores, part_scores, subset_kernel_distances
from gan.quality.perceptual import LPIPS, VGG16
from gan.quality.scores import Features
from gan.quality.weights import Weights, checked_weights, require_sha256
from tests.gan.inception_weights import write_random_weights

CPU = torch.device("cpu")


def pictures(count: int, size: int = 32, seed: int = 0, scale: float = 1.0) -> Tensor:
    """Blurred noise: uint8 images (N, 3, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size // 4, size // 4, generator=generator)
    return (noise.repeat_interleave(4, 2).repeat_interleave(4, 3) * 60 * scale + 128).clamp(0, 255).byte()


def gaussian(count: int, seed: int, features: int = 20) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64).float().double()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_weights(tmp_path_factory.mktemp("weights") / "random.pth")


def accepted(path: Path) -> Weights:
    return Weights(path, "0" * 64, is_published=False)


@pytest.mark.slow
def test_features_and_probabilities_are_those_of_torch_fidelity(weights: Path) -> None:
    module = pytest.importorskip("torch_fidelity.feature_extractor_inceptionv3")
    images = pictures(4)
    with torch.no_grad():
        theirs = module.FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], str(weights))(images)
    ours = Inception(accepted(weights), "legacy", CPU).extract(images)
    assert ours.features.std(0).mean() > 0.01, "features of different images differ"
    torch.testing.assert_close(ours.features.float(), theirs[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours.probabilities.float(), theirs[1].softmax(1), rtol=1e-4, atol=1e-7)


@pytest.mark.slow
def test_grey_images_are_seen_as_three_equal_channels(weights: Path) -> None:
    inception = Inception(accepted(weights), "clean", CPU)
    grey = pictures(2)[:, :1]
    assert torch.equal(inception.extract(grey).features, inception.extract(grey.repeat(1, 3, 1, 1)).features)
    with pytest.raises(UsageError, match="1 or 3 channels, and these have 2"):
        require_channels(2)


@pytest.mark.parametrize("size", [32, 512])
def test_the_clean_resize_is_that_of_pillow(size: int) -> None:
    """As clean-fid does it: each channel in floating point, bicubic, antialiased where images become smaller."""
    image = pictures(1, size)
    channels = [Image.fromarray(channel.float().numpy()) for channel in image[0]]
    shape = (INPUT_SIZE, INPUT_SIZE)
    expected = np.stack([np.asarray(one.resize(shape, Image.Resampling.BICUBIC)).clip(0, 255) for one in channels])
    np.testing.assert_allclose(resized(image.float(), "clean")[0].numpy(), expected, atol=0.01)


def test_the_legacy_resize_aliases_and_the_clean_one_does_not() -> None:
    pytest.importorskip("torch_fidelity")
    stripes = torch.zeros(1, 3, 4 * INPUT_SIZE, 4 * INPUT_SIZE)
    stripes[..., ::4] = 255  # the mean of a large grid of lines is a quarter
    assert float(resized(stripes, "clean").mean()) == pytest.approx(255 / 4, rel=0.02)
    assert float(resized(stripes, "legacy").mean()) == pytest.approx(255)


def test_scores_are_those_of_torch_fidelity(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the same features: also where sets differ in size, and KID's subsets are drawn."""
    monkeypatch.setattr("gan.quality.paper.KID_SUBSETS", 7)
    monkeypatch.setattr("gan.quality.paper.KID_SUBSET_SIZE", 200)
    fid, isc, kid, prc = (
        pytest.importorskip(f"torch_fidelity.metric_{name}") for name in ("fid", "isc", "kid", "prc")
    )
    real, generated = gaussian(600, 1), 0.9 * gaussian(503, 2) + 0.2
    logits = 2 * gaussian(503, 3)
    ours = paper_scores(Features(real, torch.ones(600, 20) / 20), Features(generated, logits.softmax(1)))
    statistics = [fid.fid_features_to_statistics(features.double()) for features in (generated, real)]
    settings = {"kid_subsets": 7, "kid_subset_size": 200, "rng_seed": 2020, "verbose": False}
    theirs = {
        **fid.fid_statistics_to_metric(*statistics, verbose=False),
        **kid.kid_features_to_metric(generated, real, **settings),
        **isc.isc_features_to_metric(logits, splits=10, shuffle=True, rng_seed=2020),
    }
    precision, recall = prc.calculate_precision_recall_full(generated, real)
    assert ours == {
        "fid": pytest.approx(theirs["frechet_inception_distance"], abs=1e-6),
        "kid": pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-7),
        "kid_std": pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-7),
        "inception_score": pytest.approx(theirs["inception_score_mean"], abs=1e-7),
        "inception_score_std": pytest.approx(theirs["inception_score_std"], abs=1e-7),
        "precision": pytest.approx(precision),
        "recall": pytest.approx(recall),
    }
    assert 0.1 < ours["recall"] < 0.95, "not at an end, where any mistake looks right"


def test_subsets_are_all_images_where_there_are_few() -> None:
    real, generated = gaussian(150, 1), gaussian(150, 2) + 0.3
    few = subset_kernel_distances(real, generated)
    assert len(few) == 100
    assert float(few.std()) == 0
    assert float(subset_kernel_distances(real, gaussian(160, 2) + 0.3).std()) > 0
    assert len(part_scores(torch.full((101, 4), 0.25))) == 10


def test_a_file_of_weights_runs_no_code(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")

    class Runs:
        def __reduce__(self) -> tuple[Any, ...]:
            return (tmp_path / "ran").touch, ()

    torch.save({"fc.bias": Runs()}, tmp_path / "hostile.pth")
    with pytest.raises(UsageError, match=r"hostile\.pth: holds no weights"):
        Inception(accepted(tmp_path / "hostile.pth"), "clean", CPU)
    assert not (tmp_path / "ran").exists()


@pytest.mark.nightly
@pytest.mark.slow
def test_scores_of_images_are_those_of_torch_fidelity(weights: Path) -> None:
    """All of its own: reading, features, and scores. FID takes long, for the roots of large matrices."""
    torch_fidelity = pytest.importorskip("torch_fidelity")
    real, generated = pictures(24, seed=1), pictures(20, seed=2, scale=0.8)
    theirs = torch_fidelity.calculate_metrics(
        input1=_Images(generated),
        input2=_Images(real),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
        kid_subset_size=20,
        fid=True,
        isc=True,
        kid=True,
        prc=True,
        cuda=False,
        cache=False,
        verbose=False,
        save_cpu_ram=True,
    )
    inception = Inception(accepted(weights), "legacy", CPU)
    ours = paper_scores(inception.extract(real), inception.extract(generated))
    names = {
        "frechet_inception_distance": "fid",
        "kernel_inception_distance_mean": "kid",
        "kernel_inception_distance_std": "kid_std",
        "inception_score_mean": "inception_score",
        "inception_score_std": "inception_score_std",
        "precision": "precision",
        "recall": "recall",
    }
    for name, our_name in names.items():
        assert ours[our_name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-4), name


class _Images(torch.utils.data.Dataset[Tensor]):
    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_weights_are_taken_if_they_are_the_published_ones_or_accepted(tmp_path: Path) -> None:
    path = tmp_path / "mine.pth"
    path.write_bytes(b"weights")
    other = "0" * 64
    accept = "--inception-sha256"
    with pytest.raises(UsageError, match=r"mine\.pth: another file \(its SHA-256 is ") as refused:
        checked_weights(PUBLISHED, path, "--backbone inception", None, accept)
    assert str(refused.value).count(PUBLISHED.sha256) == 1
    taken = str(refused.value).split(f"{accept} ")[1].split(":")[0]
    assert checked_weights(PUBLISHED, path, "it", taken, accept) == Weights(path, taken, is_published=False)
    with pytest.raises(UsageError, match=f"not {other}"):
        checked_weights(PUBLISHED, path, "it", other, accept)
    published = replace(PUBLISHED, sha256=taken)
    assert checked_weights(published, path, "it") == Weights(path, taken, is_published=True)


def test_missing_weights_are_one_line_that_says_where_they_may_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for published in (PUBLISHED, VGG16):
        with pytest.raises(UsageError) as missing:
            published.located(None, "--backbone inception")
        assert str(missing.value) == (
            f"{published.flag}: not named, and not in {tmp_path}/hub/checkpoints; --backbone inception needs "
            f"{published.what}, {published.names[0]}; it may be had at {published.address}, and is not downloaded"
        )
    with pytest.raises(UsageError, match=f"--inception-weights {tmp_path}/mine: no such file; "):
        PUBLISHED.located(tmp_path / "mine", "--backbone inception")
    with pytest.raises(UsageError, match="not a file"):
        PUBLISHED.located(tmp_path, "--backbone inception")


def test_weights_are_looked_for_where_libraries_keep_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    kept = tmp_path / "hub" / "checkpoints" / PUBLISHED.names[1]
    kept.write_bytes(b"weights")
    assert PUBLISHED.located(None, "it") == kept
    pytest.importorskip("torchmetrics")
    assert checked_weights(LPIPS, None, "--ppl").is_published


def test_a_digest_is_64_digits() -> None:
    require_sha256("--inception-sha256", PUBLISHED.sha256)
    with pytest.raises(UsageError, match="--inception-sha256 6726825d: must be 64 hexadecimal digits"):
        require_sha256("--inception-sha256", "6726825d")


def test_a_file_that_holds_other_weights_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("torch_fidelity")
    path = tmp_path / "other.pth"
    for content in (b"nothing", None):
        if content is None:
            torch.save({"fc.bias": torch.zeros(3)}, path)
        else:
            path.write_bytes(content)
        with pytest.raises(UsageError, match=r"other\.pth: holds no weights of this Inception-v3") as refused:
            Inception(accepted(path), "clean", CPU)
        assert "\n" not in str(refused.value)
