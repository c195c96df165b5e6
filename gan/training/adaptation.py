"""The probability of augmentation that follows how much D overfits, as a checkpoint holds it."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from gan.methods.adaptive import Adaptive
from gan.training.ranks import mean_over_ranks


@dataclass(frozen=True)
class Adaptation:
    """ADA's controller of a GAN in training. Nothing in it waits for the device.

    Attributes:
        settings: Of the recipe.
        probability: A scalar on the device, which the objectives read.
        signs: The sum, over the steps since the last adaptation, of the mean sign of D's logits of this rank's
            augmented real images, shape (1,), the 1 for this rank.
        overfitting: r_t at the last adaptation, a scalar.
        world_size: Number of ranks.
    """

    settings: Adaptive
    probability: Tensor
    signs: Tensor
    overfitting: Tensor
    world_size: int

    @classmethod
    def of(cls, settings: Adaptive, probability: Tensor, world_size: int) -> "Adaptation":
        """Return the controller before the first step."""
        return cls(settings, probability, probability.new_zeros(1), torch.zeros_like(probability), world_size)

    def observe(self, signs: Tensor) -> None:
        """Take the mean sign of a step, of this rank's images; its mean over ranks is the global batch's."""
        self.signs.add_(signs)

    def follow(self, step: int, num_images: int) -> None:
        """Adapt the probability if that is due; all ranks have to call it after each step.

        Args:
            step: Steps completed.
            num_images: Real images of the last step, over all ranks; the steps before count as many.
        """
        interval = self.settings.interval
        if step % interval:
            return
        signs = mean_over_ranks(self.signs[0], self.world_size, "signs for adaptation")
        self.overfitting.copy_(signs / interval)
        self.signs.zero_()
        adapted = self.settings.adapted(self.probability, self.overfitting, num_images * interval)
        self.probability.copy_(adapted)

    def tensors(self) -> dict[str, Tensor]:
        """Return what a resumed run goes on with, by name."""
        return {"probability": self.probability, "signs": self.signs, "overfitting": self.overfitting}

    def load(self, tensors: Mapping[str, Tensor], rank: int | None) -> None:
        """Take over what `tensors` returned, with the signs of all ranks, shape (ranks,).

        Args:
            tensors: On any device.
            rank: Whose signs to take; None takes the mean over ranks.

        Raises:
            KeyError: A name is missing.
            RuntimeError: A shape differs.
        """
        self.probability.copy_(tensors["probability"])
        self.overfitting.copy_(tensors["overfitting"])
        signs = tensors["signs"]
        self.signs.copy_(signs.mean() if rank is None else signs[rank])
