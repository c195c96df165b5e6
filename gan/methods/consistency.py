"""Consistency regularisation: mirroring and shifting an image should not change D's logit.

CR (Zhang et al. 2020, arXiv:1910.12027) and bCR (Zhao et al. 2021, arXiv:2002.04724).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from gan.methods.draws import Draws, many_uniform
from gan.methods.geometry import copied, mirror_and_shift
from gan.methods.schedules import Scheduled

UNIFORMS = 3
"""Random numbers of `moved_at_random` per image."""


def moved_at_random(images: Tensor, uniform: Tensor) -> Tensor:
    """Mirror half of the images (B, C, H, W), and shift all by up to an eighth of each side, 4 of 32 pixels.

    Pixels that come in from outside are those inside, mirrored at the edge.

    Args:
        images: Images.
        uniform: On [0, 1), shape (B, UNIFORMS).
    """
    height, width = images.shape[2:]
    draws = Draws(uniform, torch.ones((), dtype=uniform.dtype, device=uniform.device))
    return copied(images, mirror_and_shift(draws, height, width))


@dataclass(frozen=True)
class Consistency:
    """CR, a penalty on what mirroring and shifting an image changes in its logit; with `on_fakes`, bCR.

    CR is ``weight * (D(x) - D(T(x)))²`` for real images x (Zhang et al. 2020, arXiv:1910.12027, section 2, with
    weight 10). bCR adds ``weight * (D(G(z)) - D(T(G(z))))²`` (Zhao et al. 2021, arXiv:2002.04724, algorithm 1,
    where both weights are 10 as well). T is `moved_at_random`. Both logits have gradients.

    >>> left = lambda images: images[:, 0, :, 0].sum(1)  # how bright the first column is
    >>> images = torch.tensor([[1.0, 2.0], [1.0, 2.0]]).view(1, 1, 2, 2)
    >>> sorted({Consistency()(left, images, images, torch.tensor([mix / 10])).item() for mix in range(10)})
    [0.0, 4.0]

    Attributes:
        weight: λ.
        on_fakes: Whether the penalty is added for generated images, too.
    """

    mixes: ClassVar[bool] = True
    weight: Scheduled = 10.0
    on_fakes: bool = False

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self,
        discriminator: Callable[[Tensor], Tensor],
        real: Tensor,
        fake: Tensor,
        mix: Tensor | None = None,
    ) -> Tensor:
        """Return the penalty without its weight, shape (B,); `mix` is the seed of each image's movement."""
        assert mix is not None
        with torch.autocast(real.device.type, enabled=False):
            of_real, of_fake = many_uniform(mix.to(real.dtype).unsqueeze(1), 2 * UNIFORMS).tensor_split(2, dim=1)
            penalty = squared_change(discriminator(real), discriminator(moved_at_random(real, of_real)))
            if self.on_fakes:
                moved = moved_at_random(fake, of_fake)
                penalty = penalty + squared_change(discriminator(fake), discriminator(moved))
            return penalty


def squared_change(values: Tensor, moved: Tensor) -> Tensor:
    """Return the squared Euclidean distance of each sample's values before and after a change, shape (B,).

    >>> squared_change(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5]))
    tensor([4.0000, 0.2500])

    Args:
        values: Shape (B, …).
        moved: Of the same shape.
    """
    return (values - moved).square().flatten(1).sum(1) if values.ndim > 1 else (values - moved).square()
