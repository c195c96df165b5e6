"""G's loss on images that are there, against a D that it does not train."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan.methods.augmentations import augment
from gan.methods.auxiliary import AuxiliaryLoss
from gan.methods.top_k import top_k_weights
from gan.models.heads import judge
from gan.models.networks import full_precision
from gan.training.batch import Batch
from gan.training.recompute import as_one_segment
from gan.training.terms import Terms


class GeneratorLosses(NamedTuple):
    """G's loss, and its adversarial part without a graph if it has others; scalars."""

    loss: Tensor
    adversarial: Tensor | None = None


def with_added(losses: GeneratorLosses, added: Tensor | None) -> GeneratorLosses:
    """Return G's losses with what else is added to the loss, a scalar; as they are if nothing is."""
    if added is None:
        return losses
    adversarial = losses.loss.detach() if losses.adversarial is None else losses.adversarial
    return GeneratorLosses(losses.loss + added, adversarial)


class GeneratorLoss(nn.Module):
    """G's loss on generated images, against a frozen D.

    D is no submodule, and is called with its parameters detached: DDP does not see it, no gradient is computed
    for it, and no `requires_grad` is toggled.
    """

    probability: Tensor | None
    top_k: Tensor | None
    recompute = False
    """Whether the networks compute activations again in backward passes."""

    def __init__(self, discriminator: nn.Module, terms: Terms) -> None:
        super().__init__()
        self.loss = terms.loss
        self.augmentation = terms.augmentation
        self.auxiliary = terms.auxiliary
        self.register_buffer("probability", terms.probability, persistent=False)
        self.register_buffer("top_k", terms.top_k, persistent=False)
        self._frozen = (discriminator,)

    def forward(self, batch: Batch, fake: Tensor) -> GeneratorLosses:
        """Return the loss, and what of it is adversarial.

        Args:
            batch: What the images were made of. A relativistic loss takes its real images, too.
            fake: Generated images (B, C, H, W), attached to G's graph.
        """
        of_real, of_fake = batch.warp_pair
        fake_logits, outputs = self._frozen_judgement(self._augmented(fake, of_fake), batch.labels)
        real_logits = None
        if self.loss.relativistic:
            with torch.no_grad():
                real_logits, _ = self._frozen_judgement(self._augmented(batch.real, of_real), batch.labels)
        losses = self.loss.generator(fake_logits, *([] if real_logits is None else [real_logits]))
        if self.top_k is not None:
            losses = losses * top_k_weights(fake_logits, self.top_k)
        if not self.auxiliary:
            return GeneratorLosses(losses.sum() * batch.share)
        assert outputs is not None
        auxiliary = self.auxiliary.generator(outputs, batch.latents, batch.labels)
        both = losses + self.auxiliary.weight * auxiliary
        return GeneratorLosses(both.sum() * batch.share, losses.detach().sum() * batch.share)

    def _augmented(self, images: Tensor, warp: Tensor | None) -> Tensor:
        return augment(images, self.augmentation, warp, self.probability)

    def _frozen_judgement(self, images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return D's logits (B,), and its second head's outputs (B, K) if there is an auxiliary loss."""
        (discriminator,) = self._frozen
        parameters = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}

        def frozen(*inputs: Tensor, **settings: bool) -> Any:
            return functional_call(discriminator, parameters, inputs, settings)

        if self.recompute:
            judgement: tuple[Tensor, Tensor | None]
            judgement = as_one_segment(discriminator, judged, frozen, images, labels, self.auxiliary)
            return judgement
        return judged(frozen, images, labels, self.auxiliary)


def judged(
    discriminator: Callable[..., Any], images: Tensor, labels: Tensor | None, auxiliary: AuxiliaryLoss | None
) -> tuple[Tensor, Tensor | None]:
    """Return D's logits (B,), and its second head's outputs (B, K) for an auxiliary loss, as full precision."""
    logits, outputs = judge(discriminator, images, labels, with_outputs=auxiliary is not None)
    return full_precision(logits), None if outputs is None else full_precision(outputs)
