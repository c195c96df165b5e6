"""What a step takes besides the state, and the part of it that one forward and backward pass takes."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

DIM_OF_IMAGES = {"warps": 1}
"""The dimension of a batch's tensors that counts images, where it is not the first."""


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward and backward pass takes besides generated images: an update's batch, or a micro-batch.

    Attributes:
        share: World size / images in the global batch of the update; see `gan.training.objectives`.
        real: Real images in [-1, 1], shape (B, C, H, W).
        latents: Standard normal, shape (B, latent_dim).
        labels: Classes of real and generated images, shape (B,), if conditional.
        mix: Uniform on [0, 1), shape (B,), for a penalty of D that takes it.
        warps: Uniform on [0, 1), shape (2, B, warp_dim), for augmentation of the real and the generated images.
        directions: Standard normal, shape (B, C, H, W), for a lazy penalty of G.
    """

    share: float
    real: Tensor
    latents: Tensor
    labels: Tensor | None = None
    mix: Tensor | None = None
    warps: Tensor | None = None
    directions: Tensor | None = None

    @property
    def warp_pair(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """What augmentation of the real images takes, and what that of the generated ones does: (B, warp_dim)."""
        return (None, None) if self.warps is None else (self.warps[0], self.warps[1])

    def split(self, num_parts: int) -> list["Batch"]:
        """Return micro-batches, of which the first ones may have one image more than the last ones."""
        if num_parts == 1:
            return [self]
        parts = {
            name: whole.tensor_split(num_parts, DIM_OF_IMAGES.get(name, 0))
            for name, whole in vars(self).items()
            if isinstance(whole, Tensor)
        }
        return [
            Batch(self.share, **dict(zip(parts, part, strict=True))) for part in zip(*parts.values(), strict=True)
        ]


class StepInputs(NamedTuple):
    """What a step takes besides the state, for its `num_updates` updates of D and the one of G.

    B is this rank's part of the global batch of one update.

    Attributes:
        real: Real images in [-1, 1], shape (num_updates * B, C, H, W), those of D's first update first.
        latents: Standard normal, shape (recipe.latents_per_step, B, latent_dim).
        share: World size / images in the global batch of one update; see `gan.training.objectives`.
        mix: Uniform on [0, 1), shape (num_updates, B), for a penalty that takes it.
        labels: Classes of the real images, shape (num_updates * B,), for conditional recipes. Generated images
            take the same classes.
        warps: Uniform on [0, 1), shape (num_updates + 1, 2, B, recipe.warp_dim), for augmentation of the real and
            the generated images: a row for each of D's updates, and the last one for G's.
        num_micro_batches: Parts that an update's batch is divided into. Their gradients are added up.
        directions: Standard normal, shape (B, C, H, W), in a step in which a penalty of G is due.
    """

    real: Tensor
    latents: Tensor
    share: float
    mix: Tensor | None = None
    labels: Tensor | None = None
    warps: Tensor | None = None
    num_micro_batches: int = 1
    directions: Tensor | None = None

    def batch(self, num_updates: int, update: int, *, with_directions: bool = False) -> Batch:
        """Return what an update of D takes, or that of G, which is number -1.

        Args:
            num_updates: Of D in the step.
            update: Its number, from 0.
            with_directions: For an update for G's penalty alone. Others do without, so that a compiler sees the
                same kind of batch in every step.
        """
        settings: dict[str, Any] = {
            "labels": None if self.labels is None else self.labels.tensor_split(num_updates)[update],
            "mix": None if self.mix is None else self.mix[update],
            "warps": None if self.warps is None else self.warps[update],
            "directions": self.directions if with_directions else None,
        }
        return Batch(self.share, self.real.tensor_split(num_updates)[update], self.latents[update], **settings)
