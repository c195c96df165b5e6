"""zCR: images of near latents look alike to D, and G makes them different."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from gan.methods.consistency import squared_change
from gan.methods.draws import BITS, many_normal

MOST_SEEDS = 4
"""Latents of an image that the noise on all of them is made of: 96 bits."""


@dataclass(frozen=True)
class LatentConsistency:
    """zCR (Zhao et al. 2021, arXiv:2002.04724, algorithm 2): what noise δ on the latents changes.

    D's loss gets ``discriminator_weight * (D(G(z)) - D(G(z + δ)))²``, so that near latents look alike to D. G's
    loss gets ``-generator_weight * ||G(z) - G(z + δ)||² / n``, so that it does not make the same image of them; n
    are the numbers of an image. The paper writes the norm alone; the mean is that of PyTorch-StudioGAN. Together
    with `gan.methods.consistency.Consistency` on generated images it is the paper's ICR.

    Attributes:
        discriminator_weight: λ_dis; PyTorch-StudioGAN has 20 for BigGAN on CIFAR-10.
        generator_weight: λ_gen.
        deviation: The standard deviation of δ; PyTorch-StudioGAN has 0.05 for BigGAN on CIFAR-10.
    """

    discriminator_weight: float = 5.0
    generator_weight: float = 0.5
    deviation: float = 0.03

    def near(self, latents: Tensor) -> Tensor:
        """Return ``z + δ``, of the shape (B, latent_dim) of the latents z.

        A step draws nothing itself, so δ is a hash of z. For fresh z it is as good as independent of it.
        """
        # the bits of fp32, which other precisions of the same latents share; the last ones look random
        bits = latents[:, :MOST_SEEDS].float().contiguous().view(torch.int32) & (2**BITS - 1)
        noise = many_normal(bits.float() / 2**BITS, latents.shape[1])
        return latents + self.deviation * noise.to(latents.dtype)

    def of_discriminator(self, logits: Tensor, near_logits: Tensor) -> Tensor:
        """Return what is added to D's loss, shape (B,).

        >>> LatentConsistency().of_discriminator(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.0]))
        tensor([20.,  0.])

        Args:
            logits: Of images of the latents, shape (B,).
            near_logits: Of images of near latents.
        """
        return self.discriminator_weight * squared_change(logits, near_logits)

    def of_generator(self, images: Tensor, near_images: Tensor) -> Tensor:
        """Return ``-||G(z) - G(z + δ)||² / n``, shape (B,), never in half precision.

        >>> LatentConsistency().of_generator(torch.ones(2, 1, 4, 4), torch.full((2, 1, 4, 4), 3.0))
        tensor([-4., -4.])

        Args:
            images: Of the latents, (B, C, H, W).
            near_images: Of near latents.
        """
        exact = torch.promote_types(images.dtype, torch.float32)
        return -squared_change(images.to(exact), near_images.to(exact)) / math.prod(images.shape[1:])
