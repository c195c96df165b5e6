"""Discriminators with a second head, beside the one of the logit."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class HeadedDiscriminator(nn.Module):
    """Features of an image, the head of the logit, and a second head of K outputs.

    The class of an image, if the recipe has classes, is what the second head may learn to tell. It is not given
    to the network.

    Args:
        features: Images (B, C, H, W) to features (B, F).
        head: Features to logits (B, 1).
        second_head: Features to outputs (B, K).
    """

    def __init__(self, features: nn.Module, head: nn.Module, second_head: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.second_head = second_head

    def forward(self, images: Tensor, _labels: Tensor | None = None, *, with_outputs: bool = False) -> Any:
        """Map images (B, C, H, W) to logits (B,), and with `with_outputs` to these and outputs (B, K)."""
        features = self.features(images)
        logits: Tensor = self.head(features).flatten()
        return (logits, self.second_head(features)) if with_outputs else logits


def has_second_head(discriminator: nn.Module) -> bool:
    """Say whether a discriminator has outputs besides its logits."""
    return hasattr(discriminator, "second_head")


def judge(
    discriminator: Callable[..., Any], images: Tensor, labels: Tensor | None, *, with_outputs: bool
) -> tuple[Tensor, Tensor | None]:
    """Call a discriminator; return its logits (B,), and its second head's outputs (B, K) or None."""
    arguments = (images,) if labels is None else (images, labels)
    if not with_outputs:
        return discriminator(*arguments), None
    logits, outputs = discriminator(*arguments, with_outputs=True)
    return logits, outputs
