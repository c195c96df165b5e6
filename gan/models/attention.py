"""Attention of an image's pixels to one another (Zhang et al. 2019, arXiv:1805.08318)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.nn.utils.parametrizations import spectral_norm

NARROWING = 8
"""How many times narrower than the features queries and keys are; values are half as wide as the features."""


def require_level(level: int | None) -> None:
    """Raise ValueError for a level of attention at which no D has any: D begins with a block that halves."""
    if level is not None and level < 1:
        raise ValueError(f"attention_level {level}: must be at least 1, or none")


def lacks_attention(spec: object, network: nn.Module) -> bool:
    """Say whether a network has no attention, though its specification says where it would be.

    It says how often images have been halved there. Small images are not halved so often, and G has attention
    after one of its doublings only, so not at its smallest images.

    Args:
        spec: An architecture; one without an `attention_level` asks for none.
        network: Built by it.
    """
    asked = getattr(spec, "attention_level", None) is not None
    return asked and not any(isinstance(layer, SelfAttention) for layer in network.modules())


class SelfAttention(nn.Module):
    """``x + γ o(softmax(q(x)ᵀ k(x)) v(x))``, with 1×1 convolutions under spectral norm; γ begins at 0.

    arXiv:1805.08318, equations 1 to 3. Keys and values are largest over 2×2 pixels, as in its authors' code: a
    quarter of them needs a quarter of the memory.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        narrow = max(1, channels // NARROWING)
        half = max(1, channels // 2)
        self.query = spectral_norm(nn.Conv2d(channels, narrow, 1, bias=False))
        self.key = spectral_norm(nn.Conv2d(channels, narrow, 1, bias=False))
        self.value = spectral_norm(nn.Conv2d(channels, half, 1, bias=False))
        self.output = spectral_norm(nn.Conv2d(half, channels, 1, bias=False))
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        query = self.query(x).flatten(2)
        key = max_pool2d(self.key(x), 2).flatten(2)
        value = max_pool2d(self.value(x), 2).flatten(2)
        weights = torch.softmax(query.transpose(1, 2) @ key, 2)  # (B, H W, H W / 4); each pixel's add up to 1
        attended = (value @ weights.transpose(1, 2)).unflatten(2, x.shape[2:])
        total: Tensor = x + self.gamma * self.output(attended)
        return total
