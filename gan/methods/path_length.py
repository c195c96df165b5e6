"""A penalty of style-based generators: the path length, which G takes updates for alone."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gan.methods.double_backward import DoubleBackward
from gan.methods.schedules import Scheduled


@dataclass(frozen=True)
class PathLength:
    """Path length regularisation of a style-based generator.

    ``weight * (||J_w^T y||₂ - a)²``, where J_w is the Jacobian of the images g(w) with respect to the styles w, y
    is normal noise divided by the square root of the number of pixels, and a is the running mean of the lengths
    ``||J_w^T y||₂`` (Karras et al. 2020, arXiv:1912.04958, section 3.2 and equation 4). G takes a style in each of
    its layers: the length is the root of the mean over layers of the squared lengths, as the authors' code has it.

    The running mean is that before the batch, so that it is the same for any number of processes and
    micro-batches. The authors' has a hundredth of the batch's own mean in it. They take fresh latents, and half of
    a batch, to save memory; here a penalty has the latents of the update before it.

    Attributes:
        weight: The factor.
        decay: Of the running mean a.
        every: Updates of G from one penalty to the next.
    """

    weight: Scheduled = 2.0
    decay: float = 0.01
    every: int = 4

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, generator: Any, latents: Tensor, labels: Tensor | None, directions: Tensor, mean: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return ``(||J_w^T y||₂ - a)²`` and ``||J_w^T y||₂``, both of shape (B,).

        Args:
            generator: Its `styles(latents, labels)` have the shape (B, layers, width), and its `synthesis(styles)`
                are images.
            latents: Shape (B, latent_dim).
            labels: Classes (B,), if conditional.
            directions: Standard normal, of the shape of the images (B, C, H, W).
            mean: The running mean a, a scalar.
        """
        if not (hasattr(generator, "styles") and hasattr(generator, "synthesis")):
            raise TypeError("PathLength needs a style-based generator, with the methods styles and synthesis")
        with torch.autocast(latents.device.type, enabled=False):
            styles = generator.styles(latents, labels)
            noise = directions / math.sqrt(directions.shape[2] * directions.shape[3])
            with DoubleBackward(styles) as recorded:
                images = generator.synthesis(styles)
            lengths: Tensor = recorded.gradient((images * noise).sum()).square().sum(2).mean(1).sqrt()
            return (lengths - mean).square(), lengths.detach()
