"""x-flip of the data: real images as they are, or mirrored."""

import torch
from torch import Tensor


def mirrored(images: Tensor, uniform: Tensor) -> Tensor:
    """Return images (B, C, H, W), mirrored left to right with probability 1/2.

    On average it is what the x-flip of papers does, which adds every image's mirror image to the data (Karras et
    al. 2020, arXiv:2006.06676). Unlike an augmentation of all that D sees, G learns it.

    >>> images = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(2, 1, 1, 2)
    >>> mirrored(images, torch.tensor([0.2, 0.7])).flatten(1)
    tensor([[2., 1.],
            [3., 4.]])

    Args:
        images: Images.
        uniform: On [0, 1), shape (B,).
    """
    return torch.where(uniform.view(-1, 1, 1, 1) < 0.5, images.flip(3), images)
