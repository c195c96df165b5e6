"""How often images are augmented, by how much D overfits (Karras et al. 2020, arXiv:2006.06676, section 3)."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Adaptive:
    """ADA's controller of the probability of augmentation.

    Once in `interval` steps, D's overfitting ``r_t = E[sign(D(x))]`` over the augmented real images of these steps
    (equation 1) is compared with a target. Above it the probability rises, below it falls, by a fixed amount, and
    never below 0.

    Attributes:
        target: Of r_t.
        interval: Steps from one adaptation to the next.
        images: Real images, over all processes, in which the probability rises from 0 to 1 if it rises all along.
        begin: The probability before the first adaptation.
    """

    target: float = 0.6
    interval: int = 4
    images: int = 500_000
    begin: float = 0.0

    def adapted(self, probability: Tensor, overfitting: Tensor, num_images: int) -> Tensor:
        """Return the next probability, a scalar; it may be above 1, and then counts as 1.

        >>> import torch
        >>> Adaptive().adapted(torch.tensor(0.5), torch.tensor(0.7), num_images=5_000)
        tensor(0.5100)

        Args:
            probability: Now, a scalar.
            overfitting: r_t, a scalar.
            num_images: Real images since the last adaptation.
        """
        step = num_images / self.images
        return (probability + step * (overfitting - self.target).sign()).clamp(min=0)
