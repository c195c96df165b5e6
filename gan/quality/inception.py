"""Inception-v3 as Heusel et al. 2017 (arXiv:1706.08500) score photographs: features and class probabilities.

The network is that of the package `torch-fidelity`, an extra. Its weights come from a file, and are checked.
"""

import io
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.quality.scores import Features
from gan.quality.weights import PublishedFile, Weights

Resize = Literal["clean", "legacy"]
INSTALL = "pip install 'gan-bench[inception]', or pip install torch-fidelity"
INPUT_SIZE = 299
"""Height and width of the images that the network takes."""
NUM_FEATURES = 2048
IMAGES_AT_ONCE = 50
"""Images that go through the network as one batch."""
CLASSIFIER = "fc"
"""The name of the network's last layer. All others, in their order, compute the features."""
PUBLISHED = PublishedFile(
    flag="--inception-weights",
    what="the weights of 2015-12-05 that papers score with",
    names=("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    address=(
        "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth"
    ),
)
"""The file of pytorch-fid, and under another name of torch-fidelity."""


class Inception:
    """Extracts features (N, 2048) and class probabilities (N, 1008) of images.

    Args:
        weights: The file of its weights.
        resize: How images are made to 299×299. ``clean`` is the bicubic, antialiased resampling of Parmar et al.
            2022 (arXiv:2104.11222), without rounding. ``legacy`` is the bilinear one of TensorFlow 1,
            which aliases; torch-fidelity and older papers use it.
        device: Where it computes, in float32.

    Raises:
        UsageError: The extra is not installed, or the file holds no weights of this network.
    """

    def __init__(self, weights: Weights, resize: Resize, device: torch.device) -> None:
        self.weights = weights
        self.resize = resize
        # in this format convolutions on two CPU cores are 1.4 times as fast
        network = _network(weights.path).to(device).to(memory_format=torch.channels_last)
        layers = [layer for name, layer in network.named_children() if name != CLASSIFIER]
        self._features = nn.Sequential(*layers)
        self._classes: Tensor = network.get_submodule(CLASSIFIER).weight  # type: ignore[assignment]
        self._device = device

    @torch.no_grad()
    def extract(self, images: Tensor) -> Features:
        """Return the features of uint8 images (N, C, H, W) of one or three channels, on the CPU.

        The probabilities are those of the logits without their bias, as in the inception score of the papers.
        """
        features = torch.cat([self._extract(rows.to(self._device)) for rows in images.split(IMAGES_AT_ONCE)])
        logits = features @ self._classes.T
        probabilities = logits.cpu().double().softmax(1)
        return Features(features.cpu().double(), probabilities.float().double())  # as they are kept on disk

    def _extract(self, images: Tensor) -> Tensor:
        pixels = resized(images.float().expand(-1, 3, -1, -1), self.resize)
        return self._features((pixels - 128) / 128).flatten(1)  # type: ignore[no-any-return]

    def stamp(self) -> dict[str, Any]:
        """Return what the features depend on, JSON-ready."""
        return {
            "name": "inception-v3",
            "sha256": self.weights.sha256,
            "published": self.weights.is_published,
            "resize": self.resize,
            "torch-fidelity": version("torch-fidelity"),
        }


def resized(pixels: Tensor, resize: Resize) -> Tensor:
    """Return images (N, C, H, W) from 0 to 255 as (N, C, 299, 299)."""
    size = (INPUT_SIZE, INPUT_SIZE)
    if resize == "legacy":
        from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

        return interpolate_bilinear_2d_like_tensorflow1x(pixels, size=size, align_corners=False)  # type: ignore[no-any-return]
    # with antialiasing, torch's bicubic filter is Pillow's, which the paper takes
    enlarged = nn.functional.interpolate(pixels, size, mode="bicubic", align_corners=False, antialias=True)
    return enlarged.clamp(0, 255)


def require_channels(channels: int) -> None:
    """Raise UsageError unless images have one or three channels."""
    if channels not in (1, 3):
        raise UsageError(f"--backbone inception: takes images of 1 or 3 channels, and these have {channels}")


def require_library() -> type[nn.Module]:
    """Return the class of the network.

    Raises:
        UsageError: The extra is not installed.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError as error:
        raise UsageError(
            f"--backbone inception: needs the library torch-fidelity ({error}); install it: {INSTALL}"
        ) from error
    return FeatureExtractorInceptionV3  # type: ignore[no-any-return]


def _network(path: Path) -> nn.Module:
    """Return the network in evaluation mode, on the CPU."""
    extractor = require_library()
    contents = io.BytesIO()
    try:
        # the library would run code that a file holds
        torch.save(torch.load(path, map_location="cpu", weights_only=True), contents)
        contents.seek(0)
        return extractor("inception", [str(NUM_FEATURES), "logits_unbiased"], contents)
    except Exception as error:  # whatever a damaged file makes torch raise
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UsageError(
            f"{PUBLISHED.flag} {path}: holds no weights of this Inception-v3 ({reason}); take {PUBLISHED.address}"
        ) from error
