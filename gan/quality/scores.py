"""Scores of generated images against real ones: pure functions of features and class probabilities."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

NEAREST = 5
"""The k of precision, recall, density and coverage, as Naeem et al. 2020 take it."""
ROWS_AT_ONCE = 1000
"""Rows computed at once of a matrix of all pairs of images, which would not fit into memory."""
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
"""What each score says, in the order in which scores are shown."""


@dataclass(frozen=True)
class Features:
    """The outputs of a feature extractor for a set of images.

    Attributes:
        features: Shape (N, F), float64.
        probabilities: Class probabilities, shape (N, K), float64.
    """

    features: Tensor
    probabilities: Tensor

    def class_frequencies(self) -> Tensor:
        """Return the fraction of images that are classified as each class, shape (K,)."""
        classes = self.probabilities.argmax(1)
        return torch.bincount(classes, minlength=self.probabilities.shape[1]).double() / len(classes)


def scores(real: Features, generated: Features, frequencies: Tensor) -> dict[str, float]:
    """Return all scores by name, the keys of MEANING.

    Args:
        real: Features of real images.
        generated: Features of generated images.
        frequencies: Frequency of each class in the data, shape (K,).
    """
    generated_frequencies = generated.class_frequencies()
    # KID's kernel (x·y / F + 1)³ adds 1 to the product, so it depends on the unit of the features. Their unit is
    # arbitrary here; divided by the root mean square of the real ones, x·y / F is about 1 for a real x = y.
    scale = real.features.square().mean().sqrt()
    return {
        "fid": frechet_distance(real.features, generated.features),
        "kid": kernel_distance(real.features / scale, generated.features / scale),
        **manifold_scores(real.features, generated.features),
        "classifier_score": classifier_score(generated.probabilities),
        "class_kl": divergence(generated_frequencies, frequencies),
        "modes": int((generated_frequencies > 0).sum()),
    }


def frechet_distance(real: Tensor, generated: Tensor) -> float:
    """Return the squared Fréchet distance of Gaussians with the two sets' means and covariances.

    ``‖μ₁ - μ₂‖² + tr(C₁ + C₂ - 2 (C₁ C₂)^½)`` (Heusel et al. 2017, arXiv:1706.08500, equation 6). The root's trace
    is the sum of the roots of the eigenvalues of ``C₁ C₂``. That product is not symmetric, and its root is
    unstable where covariances are singular. ``C₁^½ C₂ C₁^½`` has the same eigenvalues and is symmetric, so a
    symmetric solver finds them; those that rounding has made negative are set to 0.

    >>> corners = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).double()
    >>> round(frechet_distance(corners, corners + 2), 9)  # 2² for each of two features
    8.0

    Args:
        real: Features (N, F).
        generated: Features (M, F).
    """
    num_features = real.shape[1]
    real_covariance = torch.cov(real.T).reshape(num_features, num_features)
    covariance = torch.cov(generated.T).reshape(num_features, num_features)
    values, vectors = torch.linalg.eigh(real_covariance)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    trace_of_root = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=0).sqrt().sum()
    means = (real.mean(0) - generated.mean(0)).square().sum()
    return float(means + real_covariance.trace() + covariance.trace() - 2 * trace_of_root)


def kernel_distance(real: Tensor, generated: Tensor) -> float:
    """Return the unbiased squared maximum mean discrepancy under the kernel ``(x·y / F + 1)³``.

    Bińkowski et al. 2018, arXiv:1801.01401, section 4. They average over random subsets; here all images are taken
    at once, which has the same expectation and less noise. The distance may be negative.

    Args:
        real: Features (N, F).
        generated: Features (M, F).
    """

    def total(a: Tensor, b: Tensor) -> Tensor:
        return torch.stack([_cubic(rows, b).sum() for rows in a.split(ROWS_AT_ONCE)]).sum()

    def within(a: Tensor) -> Tensor:
        # Without the pairs of an image with itself: they would bias the mean upwards.
        return (total(a, a) - _cubic_norm(a).sum()) / (len(a) * (len(a) - 1))

    across = total(real, generated) / (len(real) * len(generated))
    return float(within(real) + within(generated) - 2 * across)


def _cubic(a: Tensor, b: Tensor) -> Tensor:
    """Return the kernel of all pairs of rows (N, F) and (M, F), shape (N, M)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


def _cubic_norm(a: Tensor) -> Tensor:
    """Return the kernel of each row (N, F) with itself, shape (N,)."""
    return (a.square().sum(1) / a.shape[1] + 1) ** 3


def manifold_scores(real: Tensor, generated: Tensor, nearest: int = NEAREST) -> dict[str, float]:
    """Return precision, recall, density and coverage.

    Each image is the centre of a ball that reaches to its k-th nearest neighbour of the same set. Precision and
    recall: Kynkäänniemi et al. 2019 (arXiv:1904.06991, equations 1 and 2). Density and coverage: Naeem et al. 2020
    (arXiv:2002.09797).

    Args:
        real: Features (N, F).
        generated: Features (M, F).
        nearest: k; each set needs more images than this.
    """
    real_radii = _radii(real, nearest)
    generated_radii = _radii(generated, nearest)
    num_balls = torch.zeros(len(generated), device=generated.device)
    recalled: list[Tensor] = []
    covered: list[Tensor] = []
    for first, distances in _distances(real, generated):
        inside = distances < real_radii[first : first + len(distances), None]
        num_balls += inside.sum(0)
        covered.append(inside.any(1))
        recalled.append((distances < generated_radii).any(1))
    return {
        "precision": float((num_balls > 0).double().mean()),
        "recall": float(torch.cat(recalled).double().mean()),
        "density": float(num_balls.double().mean() / nearest),
        "coverage": float(torch.cat(covered).double().mean()),
    }


def _distances(a: Tensor, b: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the number of a row of `a`, and the Euclidean distances of the rows from there on to all of `b`."""
    for first in range(0, len(a), ROWS_AT_ONCE):
        yield first, torch.cdist(a[first : first + ROWS_AT_ONCE], b)


def _radii(features: Tensor, nearest: int) -> Tensor:
    """Return each row's distance to its k-th nearest neighbour among the others, shape (N,)."""
    # the nearest of all rows is the row itself
    return torch.cat([rows.kthvalue(nearest + 1, dim=1).values for _, rows in _distances(features, features)])


def classifier_score(probabilities: Tensor) -> float:
    """Return ``exp(E KL(p(y|x) ‖ p(y)))`` of class probabilities (N, K): 1 at worst, K at best.

    The inception score (Salimans et al. 2016, arXiv:1606.03498, section 4) with a classifier of the dataset.

    >>> round(classifier_score(torch.eye(3)), 6), round(classifier_score(torch.full((3, 3), 1 / 3)), 6)
    (3.0, 1.0)
    """
    marginal = probabilities.mean(0)
    information = torch.xlogy(probabilities, probabilities) - torch.xlogy(probabilities, marginal)
    return float(information.sum(1).mean().exp())


def divergence(observed: Tensor, expected: Tensor) -> float:
    """Return ``KL(observed ‖ expected)``, the divergence of class frequencies (K,) from others, in nats.

    >>> round(divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])), 4)  # ln 2
    0.6931
    """
    return float((torch.xlogy(observed, observed) - torch.xlogy(observed, expected)).sum())
