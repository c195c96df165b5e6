import math

import pytest
import torch
from torch import Tensor, nn

from gan.quality.scores import (
    Features,
    classifier_score,
    divergence,
    frechet_distance,
    kernel_distance,
    manifold_scores,
    scores,
)

FEATURES = 8


def gaussian(count: int, seed: int, features: int = FEATURES) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, features, generator=generator, dtype=torch.float64)


def white(count: int) -> Tensor:
    """Features with a mean of exactly 0 and a covariance of exactly 1."""
    centred = gaussian(count, 0) - gaussian(count, 0).mean(0)
    return torch.linalg.qr(centred).Q * math.sqrt(count - 1)


def test_frechet_distance_of_known_gaussians() -> None:
    features = white(100)
    assert frechet_distance(features, features) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(features, features + 0.5) == pytest.approx(FEATURES * 0.25)
    assert frechet_distance(features, 3 * features) == pytest.approx(FEATURES * (1 + 9 - 2 * 3))


def test_frechet_distance_of_covariances_that_do_not_commute() -> None:
    first, second = (gaussian(200, seed) @ gaussian(FEATURES, seed + 10) for seed in (1, 2))
    covariances = torch.cov(first.T) @ torch.cov(second.T)
    root = torch.linalg.eigvals(covariances).sqrt().sum().real
    means = (first.mean(0) - second.mean(0)).square().sum()
    expected = means + torch.cov(first.T).trace() + torch.cov(second.T).trace() - 2 * root
    assert frechet_distance(first, second) == pytest.approx(float(expected), rel=1e-9)


def test_kernel_distance_is_the_unbiased_estimate() -> None:
    real, generated = gaussian(7, 0), gaussian(5, 1) + 1

    def kernel(a: Tensor, b: Tensor) -> float:
        return float((a @ b / FEATURES + 1) ** 3)

    def within(rows: Tensor) -> float:
        pairs = [kernel(a, b) for i, a in enumerate(rows) for j, b in enumerate(rows) if i != j]
        return sum(pairs) / len(pairs)

    across = [kernel(a, b) for a in real for b in generated]
    expected = within(real) + within(generated) - 2 * sum(across) / len(across)
    assert kernel_distance(real, generated) == pytest.approx(expected)


class _Given(nn.Module):
    """An extractor that is given its features."""

    num_features = FEATURES

    def forward(self, features: Tensor) -> Tensor:
        return features


def test_distances_agree_with_torchmetrics() -> None:
    fid, kid = (pytest.importorskip(f"torchmetrics.image.{name}") for name in ("fid", "kid"))
    real, generated = gaussian(600, 1), 1.3 * gaussian(600, 2) + 0.2
    frechet = fid.FrechetInceptionDistance(feature=_Given()).set_dtype(torch.float64)
    kernel = kid.KernelInceptionDistance(feature=_Given(), subsets=1, subset_size=600)
    for metric in (frechet, kernel):
        metric.update(real, real=True)
        metric.update(generated, real=False)
    assert frechet_distance(real, generated) == pytest.approx(float(frechet.compute()), rel=1e-4)
    assert kernel_distance(real, generated) == pytest.approx(float(kernel.compute()[0]), rel=1e-4)


def test_kid_does_not_depend_on_the_size_of_the_features() -> None:
    """A classifier's may be of any; the kernel adds 1 to their product."""
    real, generated = gaussian(600, 1), 1.3 * gaussian(600, 2) + 0.2
    probabilities = torch.full((600, 2), 0.5)

    def kid(scale: float) -> float:
        sets = (Features(features * scale, probabilities) for features in (real, generated))
        return scores(*sets, torch.tensor([0.5, 0.5]))["kid"]

    assert kid(1.0) == pytest.approx(kid(100.0), rel=1e-9)
    unit = real.square().mean().sqrt()
    assert kid(1.0) == pytest.approx(kernel_distance(real / unit, generated / unit), rel=1e-9)


def test_manifold_scores_count_what_lies_in_balls() -> None:
    real = gaussian(40, 1)
    generated = gaussian(30, 2) + 0.7
    nearest = 3

    def radius(rows: Tensor, index: int) -> float:
        return sorted(float((rows[index] - other).norm()) for other in rows)[nearest]

    def inside(balls: Tensor, point: Tensor) -> int:
        return sum(float((ball - point).norm()) < radius(balls, index) for index, ball in enumerate(balls))

    in_real = [inside(real, point) for point in generated]
    in_generated = [inside(generated, point) for point in real]
    covered = [
        any(float((ball - point).norm()) < radius(real, index) for point in generated)
        for index, ball in enumerate(real)
    ]
    assert manifold_scores(real, generated, nearest) == {
        "precision": pytest.approx(sum(map(bool, in_real)) / 30),
        "recall": pytest.approx(sum(map(bool, in_generated)) / 40),
        "density": pytest.approx(sum(in_real) / 30 / nearest),
        "coverage": pytest.approx(sum(covered) / 40),
    }


def test_manifold_scores_agree_with_those_of_their_authors() -> None:
    prdc = pytest.importorskip("prdc")
    real, generated = gaussian(900, 1, 20), 0.9 * gaussian(700, 2, 20) + 0.1
    theirs = prdc.compute_prdc(real.numpy(), generated.numpy(), nearest_k=5)
    assert manifold_scores(real, generated) == pytest.approx(theirs, abs=1e-4)


@pytest.mark.nightly
@pytest.mark.slow
def test_manifold_scores_of_two_sets_of_one_gaussian() -> None:
    """What the authors of density and coverage print of 10,000 × 1,000 dimensions and k = 5.

    Theirs is one draw. Between draws density goes from 0.93 to 1.13, because few points of so many dimensions are
    near to many others; the rest stays within 0.02.
    """
    real, generated = (gaussian(10_000, seed, 1000) for seed in (1, 2))
    ours = manifold_scores(real, generated)
    assert ours.pop("density") == pytest.approx(1.056, abs=0.15)
    assert ours == pytest.approx({"precision": 0.477, "recall": 0.471, "coverage": 0.974}, abs=0.03)


def test_classifier_score_agrees_with_torchmetrics() -> None:
    inception = pytest.importorskip("torchmetrics.image.inception")
    logits = 2 * gaussian(500, 3)
    metric = inception.InceptionScore(feature=_Given(), splits=1).set_dtype(torch.float64)
    metric.update(logits)
    assert classifier_score(logits.softmax(1)) == pytest.approx(float(metric.compute()[0]), rel=1e-4)


def test_classifier_score_goes_from_one_to_the_number_of_classes() -> None:
    sure = torch.eye(5, dtype=torch.float64).repeat(4, 1)
    assert classifier_score(sure) == pytest.approx(5)
    assert classifier_score(sure[:1].repeat(20, 1)) == pytest.approx(1)
    assert classifier_score(torch.full((20, 5), 0.2, dtype=torch.float64)) == pytest.approx(1)


def test_divergence_of_class_frequencies() -> None:
    half, skewed = torch.tensor([0.5, 0.5]), torch.tensor([0.9, 0.1])
    assert divergence(half, half) == 0
    assert divergence(torch.tensor([1.0, 0.0]), half) == pytest.approx(math.log(2))
    assert divergence(skewed, half) == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))


def test_modes_are_the_classes_that_occur() -> None:
    features = gaussian(20, 1)
    probabilities = torch.eye(4, dtype=torch.float64)[torch.tensor([0, 0, 3, 3] * 5)]
    images = Features(features, probabilities)
    score = scores(images, images, torch.full((4,), 0.25))
    assert score["modes"] == 2
    assert score["class_kl"] == pytest.approx(math.log(2))
    assert score["fid"] == pytest.approx(0, abs=1e-9)
