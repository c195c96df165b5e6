"""Scores of generated images against real ones, from features and class probabilities: pure functions."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEAREST = 5
"""The k of precision, recall, density and coverage, as Naeem et al. 2020 take it."""
ROWS_AT_ONCE = 1000
MEANING = {
    "fid": "Fréchet distance of features, lower is better",
    "kid": "kernel distance of features, lower is better",
    "precision": "generated images that look real",
    "recall": "real images that could be generated",
    "density": "how deep generated images lie among real ones",
    "coverage": "real images with a generated one near",
    "classifier_score": "sharpness and variety by the classifier",
    "class_kl": "class frequencies against the data's, nats",
    "modes": "classes that were generated",
}
"""Of each score, in the order in which they are shown."""


@dataclass(frozen=True)
class Features:
    """What an extractor makes of a set of images.

    Attributes:
        features: Shape (N, F), float64.
        probabilities: Of each class, shape (N, K), float64.
    """

    features: Tensor
    probabilities: Tensor

    def class_frequencies(self) -> Tensor:
        """Return the fraction of images taken for each class, shape (K,)."""
        classes = self.probabilities.argmax(1)
        return torch.bincount(classes, minlength=self.probabilities.shape[1]).double() / len(classes)


def scores(real: Features, generated: Features, frequencies: Tensor) -> dict[str, float]:
    """Return all scores by name; KID on features that are scaled so that the real ones' mean square is 1.

    Args:
        real: Of real images.
        generated: Of generated images.
        frequencies: Of each class in the data, shape (K,).
    """
    found = generated.class_frequencies()
    scale = (
        real.features.square().mean().sqrt()
    )  # the kernel's constant 1 means nothing beside features of any size
    return {
        "fid": frechet_distance(real.features, generated.features),
        "kid": kernel_distance(real.features / scale, generated.features / scale),
        **manifold_scores(real.features, generated.features),
        "classifier_score": classifier_score(generated.probabilities),
        "class_kl": divergence(found, frequencies),
        "modes": int((found > 0).sum()),
    }


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return the squared Fréchet distance of Gaussians with the two sets' means and covariances.

    ``‖μ₁ - μ₂‖² + tr(C₁ + C₂ - 2 (C₁ C₂)^½)`` (Heusel et al. 2017, arXiv:1706.08500, equation 6), the trace of the
    root by the eigenvalues of ``C₁^½ C₂ C₁^½``, which has those of ``C₁ C₂`` and is symmetric.

    Args:
        real: Features (N, F).
        generated: Features (M, F).
    """
    first, second = (torch.cov(features.T).reshape(features.shape[1], -1) for features in (real, generated))
    values, vectors = torch.linalg.eigh(first)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ second @ root).clamp(min=0).sqrt().sum()
    means = (real.mean(0) - generated.mean(0)).square().sum()
    return float(means + first.trace() + second.trace() - 2 * trace_of_root)


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy under the kernel ``(x·y / F + 1)³``.

    Bińkowski et al. 2018, arXiv:1801.01401, section 3, over all images instead of subsets: the subsets' mean
    without their noise. It may be negative.

    Args:
        real: Features (N, F).
        generated: Features (M, F).
    """

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([_cubic(rows, b).sum() for rows in a.split(ROWS_AT_ONCE)]).sum()

    def within(a: Tensor) -> Tensor:
        return (total(a, a) - _cubic_norm(a).sum()) / (len(a) * (len(a) - 1))

    across = total(real, generated) / (len(real) * len(generated))
    return float(within(real) + within(generated) - 2 * across)


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.T / a.shape[1] + 1) ** 3


def _cubic_norm(a: Tensor) -> Tensor:
    return (a.square().sum(1) / a.shape[1] + 1) ** 3


def manifold_scores(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> dict[str, float]:
    """Return precision, recall, density and coverage by balls that reach to the k-th nearest neighbour.

    Precision and recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991, equations 1 and 2). Density and coverage:
    Naeem et al. 2020 (arXiv:2002.09797, equations 3 and 4).

    Args:
        real: Features (N, F).
        generated: Features (M, F).
        nearest: k; a set needs more images than that.
    """
    around_real, around_generated = (_radii(features, nearest) for features in (real, generated))
    num_balls = torch.zeros(len(generated))
    recalled, covered = [], []
    for first, distances in _distances(real, generated):
        inside = distances < around_real[first : first + len(distances), None]
        num_balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances < around_generated).any(1))
    return {
        "precision": float((num_balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(num_balls.double().mean() / nearest),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the Euclidean distances of some rows of `a` to all of `b`, with the first row's number."""
    for first in range(0, len(a), ROWS_AT_ONCE):
        yield first, torch.cdist(a[first : first + ROWS_AT_ONCE], b)


def _radii(features: Tensor, nearest: int) -> Tensor:
    """Return each point's distance to its k-th nearest neighbour, itself not counted."""
    return torch.cat([rows.kthvalue(nearest + 1, dim=1).values for _, rows in _distances(features, features)])


def classifier_score(probabilities: Tensor) -> float:
    """Return ``exp(E KL(p(y|x) ‖ p(y)))`` of class probabilities (N, K): 1 at worst, K at best.

    The inception score (Salimans et al. 2016, arXiv:1606.03498, section 4) with a classifier of the dataset.
    """
    marginal = probabilities.mean(0)
    information = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, marginal)
    return float(information.sum(1).mean().exp())


def divergence(found: Tensor, expected: Tensor) -> float:
    """Return the Kullback-Leibler divergence of class frequencies ``found`` from ``expected``, in nats."""
    return float((torch.xlogy(found, found) - torch.xlogy(found, expected)).sum())
