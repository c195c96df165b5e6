"""LeCam regularisation of D by what it lately thought of the other kind of image (Tseng et al. 2021)."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import relu


@dataclass(frozen=True)
class LeCam:
    """A term in D's loss that holds its logits near moving averages of earlier ones, the anchors.

    ``weight * ((D(x) - α_F)² + (D(G(z)) - α_R)²)``, where the anchors α_R and α_F are moving averages of D's mean
    logits of real and of generated images (Tseng et al. 2021, arXiv:2104.03310, R_LC of section 3). In the
    authors' code only a real logit above α_F counts, and only a generated one below α_R; `one_sided` says so.

    The anchors are a tensor (2,), real first. It is kept in checkpoints, and follows means over the global batch,
    so that it is the same for any number of processes. A batch is compared with the anchors before it; the
    authors' have a hundredth of its mean in them.

    >>> import torch
    >>> anchors = torch.tensor([1.0, -1.0])
    >>> LeCam()(torch.tensor([0.0, 2.0]), torch.tensor([0.0, 0.0]), anchors)
    tensor([ 2., 10.])

    Attributes:
        weight: λ; 0.3 on CIFAR in the paper.
        decay: Of the anchors.
        one_sided: As in the authors' code, and not as in the equation.
    """

    weight: float = 0.3
    decay: float = 0.99
    one_sided: bool = True

    def __call__(self, real_logits: Tensor, fake_logits: Tensor, anchors: Tensor) -> Tensor:
        """Return the term without its weight, shape (B,), for pairs of a real and a generated image.

        Args:
            real_logits: Shape (B,).
            fake_logits: Shape (B,).
            anchors: Shape (2,), without a gradient.
        """
        of_real, of_fake = anchors.detach().unbind()
        above = real_logits - of_fake
        below = of_real - fake_logits
        if self.one_sided:
            above = relu(above)
            below = relu(below)
        return above.square() + below.square()

    def moved(self, anchors: Tensor, means: Tensor) -> Tensor:
        """Return the anchors after a batch, shape (2,).

        >>> import torch
        >>> LeCam(decay=0.75).moved(torch.tensor([1.0, -1.0]), torch.tensor([2.0, -1.0]))
        tensor([ 1.2500, -1.0000])

        Args:
            anchors: Before it, real first; zeros before the first batch.
            means: Mean logits of real and of generated images over the global batch, shape (2,).
        """
        return anchors.lerp(means.detach(), 1 - self.decay)
