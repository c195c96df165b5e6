"""LPIPS: how different two images look to a person, by VGG-16 (Zhang et al. 2018, arXiv:1801.03924)."""

from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from gan.errors import UsageError
from gan.images import ImageShape
from gan.quality.weights import PublishedFile, Weights

VGG16 = PublishedFile(
    flag="--vgg16-weights",
    what="torchvision's weights of VGG-16",
    names=("vgg16-397923af.pth",),
    sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
    address="https://download.pytorch.org/models/vgg16-397923af.pth",
)
LPIPS = PublishedFile(
    flag="--lpips-weights",
    what="the weights of LPIPS 0.1 for VGG-16, which torchmetrics and lpips also install",
    names=("vgg.pth",),
    sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
    address="https://github.com/richzhang/PerceptualSimilarity/raw/master/lpips/weights/v0.1/vgg.pth",
    in_packages=(("torchmetrics", "functional/image/lpips_models/vgg.pth"), ("lpips", "weights/v0.1/vgg.pth")),
)
LAST_LAYERS = (3, 8, 15, 22, 29)
"""The layers of VGG-16 whose outputs are compared: the last ReLU of each block."""
SHIFT = (-0.030, -0.088, -0.188)
"""Mean of images in [-1, 1] that VGG-16 was trained on, by channel; and their standard deviation."""
SCALE = (0.458, 0.448, 0.450)
SMALLEST = 1e-10
LEAST_SIDE = 16
"""Pixels: VGG-16 halves images four times."""


def require_large_enough(image_shape: ImageShape, label: object) -> None:
    """Raise UsageError for images that VGG-16 cannot halve so often.

    Args:
        image_shape: Channels, height, width.
        label: Whose images they are, for the error.
    """
    if min(image_shape[1:]) < LEAST_SIDE:
        size = "×".join(map(str, image_shape[1:]))
        raise UsageError(
            f"--ppl: VGG-16 takes images of at least {LEAST_SIDE}×{LEAST_SIDE}, and those of {label} have {size}; "
            "leave --ppl out"
        )


class PerceptualDistance(nn.Module):
    """Distances of images.

    Args:
        vgg16: The file of VGG-16.
        lpips: The file of the weights of its channels.

    Raises:
        UsageError: A file holds other weights.
    """

    def __init__(self, vgg16: Weights, lpips: Weights) -> None:
        super().__init__()
        self.files = {"vgg16": vgg16, "lpips": lpips}
        with torch.device("meta"):
            layers = torchvision.models.vgg16(weights=None, init_weights=False).features
        state = _read(VGG16, vgg16)
        try:
            weights = {name.removeprefix("features."): state[name] for name in state if "features." in name}
            layers.load_state_dict(weights, assign=True)
            read = _read(LPIPS, lpips)
            channels = [read[f"lin{block}.model.1.weight"].flatten() for block in range(len(LAST_LAYERS))]
        except (KeyError, RuntimeError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"{vgg16.path}, {lpips.path}: not the weights of VGG-16 and LPIPS ({reason})"
            ) from error
        firsts = (0, *(last + 1 for last in LAST_LAYERS))
        self.blocks = nn.ModuleList(
            layers[first : last + 1] for first, last in zip(firsts, LAST_LAYERS, strict=False)
        )
        for block, weight in enumerate(channels):
            self.register_buffer(f"channels{block}", weight)
        self.register_buffer("shift", torch.tensor(SHIFT).view(1, 3, 1, 1))
        self.register_buffer("scale", torch.tensor(SCALE).view(1, 3, 1, 1))
        self.eval().requires_grad_(requires_grad=False)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distances (B,) of pairs of images (B, C, H, W) in [-1, 1]; a grey channel is taken thrice."""
        both = torch.cat([first, second]).expand(-1, 3, -1, -1)
        outputs = (both - self.get_buffer("shift")) / self.get_buffer("scale")
        distances = torch.zeros(len(first), device=first.device)
        for number, block in enumerate(self.blocks):
            outputs = block(outputs)
            unit = outputs / (outputs.square().sum(1, keepdim=True).sqrt() + SMALLEST)
            one, other = unit.chunk(2)
            by_channel = (one - other).square().mean((2, 3))
            distances += by_channel @ self.get_buffer(f"channels{number}")
        return distances

    def stamp(self) -> dict[str, Any]:
        """Return what distances depend on, JSON-ready."""
        return {name: file.sha256 for name, file in self.files.items()}


def _read(published: PublishedFile, weights: Weights) -> dict[str, Tensor]:
    try:
        state: dict[str, Tensor] = torch.load(weights.path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a damaged file makes torch raise
        reason = " ".join(str(error).split())[:200]
        raise UsageError(
            f"{published.flag} {weights.path}: cannot be read ({reason}); take {published.address}"
        ) from error
    return state
