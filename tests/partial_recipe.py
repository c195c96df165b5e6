"""A recipe whose D is trained in part: a layer that nothing uses, and one that is frozen at first."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from gan.images import ImageShape
from gan.models.mlp import MLP
from gan.recipes import RECIPES

PASSES_FROZEN = 6
"""Of D, in two of which each of its updates takes it."""


class Growing(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_passes = 0
        self.late = nn.Linear(width, width).requires_grad_(requires_grad=False)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.num_passes += 1
        self.late.requires_grad_(self.num_passes > PASSES_FROZEN)
        return x + torch.sin(self.late(x))


@dataclass(frozen=True)
class GrowingNetwork:
    width: int = 8
    batchnorm: ClassVar[bool] = False

    def discriminator(self, image_shape: ImageShape) -> nn.Module:
        pixels = math.prod(image_shape)
        layers = [nn.Linear(pixels, self.width), Growing(self.width), nn.Linear(self.width, 1)]
        return nn.Sequential(nn.Flatten(), *layers, nn.Flatten(0))


recipe = replace(RECIPES["mlp-compact"], generator=MLP((16,)), discriminator=GrowingNetwork())
