"""Penalties of G, in updates of their own or as terms of its loss; and their names."""

from collections.abc import Callable
from typing import Any, Protocol, TypeGuard

from torch import Tensor

from gan.methods.orthogonal import OrthogonalRegularization
from gan.methods.path_length import PathLength
from gan.methods.schedules import Scheduled


class GeneratorPenalty(Protocol):
    """A lazy penalty: G minimises it in an update of its own, every so many updates. See `gan.methods.lazy`.

    It may compare what it measures of each image with the running mean of that.
    """

    @property
    def weight(self) -> Scheduled:
        """The factor, which may change with images seen."""

    @property
    def every(self) -> int:
        """Updates of G from one penalty to the next."""

    @property
    def decay(self) -> float:
        """By how much of their distance the running mean moves towards a batch's mean."""

    def __call__(
        self, generator: Any, latents: Tensor, labels: Tensor | None, directions: Tensor, mean: Tensor, /
    ) -> tuple[Tensor, Tensor]:
        """Return the penalty without its weight, and what was measured, both of shape (B,).

        Neither is in half precision. The penalty is differentiable with respect to G's parameters.

        Args:
            generator: G.
            latents: Shape (B, latent_dim).
            labels: Classes (B,), if conditional.
            directions: Standard normal, of the shape of the images (B, C, H, W).
            mean: The running mean of what was measured, before this batch; a scalar.
        """


class GeneratorTerm(Protocol):
    """A term that is added to G's loss in each of its updates: on its weights, or on the images it makes."""

    @property
    def weight(self) -> float:
        """The factor."""

    def __call__(self, generator: Any, latents: Tensor, labels: Tensor | None, fake: Tensor, /) -> Tensor:
        """Return the term without its weight, differentiable with respect to G's parameters.

        Its shape is (B,), a value for each image, so that it is the same for any number of processes and
        micro-batches. A term on weights alone is the same for each image: a scalar counts as that.

        Args:
            generator: G.
            latents: Shape (B, latent_dim).
            labels: Classes (B,), if conditional.
            fake: The images that G made of them, (B, C, H, W), attached to its graph.
        """


def is_lazy(penalty: GeneratorPenalty | GeneratorTerm | None) -> TypeGuard[GeneratorPenalty]:
    """Say whether G takes updates for a penalty alone: then it has a field `every`.

    >>> is_lazy(PathLength(every=1)), is_lazy(OrthogonalRegularization()), is_lazy(None)
    (True, False, False)
    """
    return hasattr(penalty, "every")


GENERATOR_PENALTIES: dict[str, Callable[..., GeneratorPenalty | GeneratorTerm]] = {
    "PathLength": PathLength,
    "OrthogonalRegularization": OrthogonalRegularization,
}
"""By the name of the class."""
