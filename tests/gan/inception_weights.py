"""Inception-v3 with random weights, which no test can have the published ones of; and stand-ins for it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gan.quality.scores import Features


def write_random_weights(path: Path, seed: int = 0) -> Path:
    """Write weights whose features are neither zero nor huge, in the layout of the published file."""
    module = pytest.importorskip(
        "torch_fidelity.feature_extractor_inceptionv3", reason="the extra is not installed"
    )

    class Untrained(module.FeatureExtractorInceptionV3):  # type: ignore[misc,name-defined]
        """Its weights are loaded from nowhere."""

        def load_state_dict(self, *_: object, **__: object) -> None:
            pass

    torch.manual_seed(seed)
    placeholder = path.with_suffix(".empty")
    torch.save({}, placeholder)
    network = Untrained("untrained", ["2048"], str(placeholder))
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.8, 1.2)
            nn.init.normal_(layer.bias, std=0.1)
    nn.init.normal_(network.fc.weight, std=0.05)
    torch.save(network.state_dict(), path)
    return path


class SmallBackbone:
    """Stands in for Inception-v3: features of a few random filters, within milliseconds."""

    resize = "clean"

    def __init__(self, *_: object) -> None:
        generator = torch.Generator().manual_seed(0)
        self.filters = torch.randn(6, 3 * 16, generator=generator)
        self.num_images = 0

    def extract(self, images: Tensor) -> Features:
        self.num_images += len(images)
        small = nn.functional.adaptive_avg_pool2d(images.float().cpu().expand(-1, 3, -1, -1) / 128 - 1, 4)
        features = (small.flatten(1) @ self.filters.T).relu()
        return Features(features.double(), features.double().softmax(1).float().double())

    def stamp(self) -> dict[str, Any]:
        return {"name": "small", "sha256": "0" * 64, "published": False, "resize": self.resize}
