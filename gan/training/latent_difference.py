"""The part of zCR that G learns by: a term of its loss, for which G makes images of near latents."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.methods.latent_consistency import LatentConsistency
from gan.models.batch_statistics import running_statistics_kept
from gan.models.networks import apply
from gan.training.recompute import activations_kept


@dataclass(frozen=True)
class LatentDifference:
    """The difference that G maximises, as a `gan.methods.generator_penalties.GeneratorTerm`.

    Attributes:
        consistency: zCR's settings.
    """

    consistency: LatentConsistency

    @property
    def weight(self) -> float:
        """The factor."""
        return self.consistency.generator_weight

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(self, generator: nn.Module, latents: Tensor, labels: Tensor | None, fake: Tensor) -> Tensor:
        """Return the term without its weight, shape (B,); G's running statistics are those of `fake` alone."""
        # activations are kept, because BatchNorm saves other tensors for a pass that keeps running statistics
        with activations_kept(), running_statistics_kept(generator):
            near = apply(generator, self.consistency.near(latents), labels)
        return self.consistency.of_generator(fake, near)
