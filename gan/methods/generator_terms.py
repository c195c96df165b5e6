"""Terms that are added to G's loss in each of its updates, besides what D says of its images."""

from typing import Any, Protocol

from torch import Tensor


class GeneratorTerm(Protocol):
    """A term that is added to G's loss, multiplied by `weight`: on its weights, or on the images it makes.

    A penalty that takes an update of its own is a `gan.methods.path_length.GeneratorPenalty`.
    """

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
