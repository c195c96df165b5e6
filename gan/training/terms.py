"""What the losses of both networks are made of."""

from dataclasses import dataclass

import torch
from torch import Tensor

from gan.methods.augmentations import Augmentations
from gan.methods.auxiliary import AuxiliaryLoss
from gan.methods.generator_penalties import GeneratorPenalty, GeneratorTerm
from gan.methods.latent_consistency import LatentConsistency
from gan.methods.lecam import LeCam
from gan.methods.losses import AdversarialLoss
from gan.methods.penalties import Penalty
from gan.methods.schedules import at
from gan.recipes import Recipe
from gan.training.latent_difference import LatentDifference


@dataclass(frozen=True, eq=False)
class Terms:
    """A recipe's losses, penalties and augmentation, and the tensors on the device that they read.

    All objectives of a state keep the same tensors, so that what is written into one of them counts everywhere.

    Attributes:
        loss: The adversarial losses of both networks.
        augmentation: Of all that D sees.
        auxiliary: Added to both losses, for D's second head.
        penalty: Added to D's loss, or lazy.
        lecam: Added to D's loss.
        latent_consistency: Its part that is added to D's loss.
        generator_terms: Added to G's loss in every update of it: a penalty that is not lazy, and zCR's part.
        generator_penalty: Of G, lazy.
        tells_signs: Whether D's objective returns the mean sign of the logits of real images.
        adds_terms: Whether D's objective returns the adversarial part of its loss.
        probability: Of augmentation, a scalar; None where no augmentation takes it.
        top_k: The part of its images that G learns on, a scalar; None where it is all of them.
        anchors: LeCam's, shape (2,); None without it.
    """

    loss: AdversarialLoss
    augmentation: Augmentations = ()
    auxiliary: AuxiliaryLoss | None = None
    penalty: Penalty | None = None
    lecam: LeCam | None = None
    latent_consistency: LatentConsistency | None = None
    generator_terms: tuple[GeneratorTerm, ...] = ()
    generator_penalty: GeneratorPenalty | None = None
    tells_signs: bool = False
    adds_terms: bool = False
    probability: Tensor | None = None
    top_k: Tensor | None = None
    anchors: Tensor | None = None

    @classmethod
    def of(cls, recipe: Recipe, dtype: torch.dtype, device: torch.device) -> "Terms":
        """Return those of a recipe before the first image."""

        def scalar(value: float) -> Tensor:
            return torch.tensor(value, dtype=dtype, device=device)

        return cls(
            loss=recipe.loss,
            augmentation=recipe.augmentation,
            auxiliary=recipe.auxiliary,
            penalty=recipe.penalty,
            lecam=recipe.lecam,
            latent_consistency=recipe.latent_consistency,
            generator_terms=_generator_terms(recipe),
            generator_penalty=recipe.lazy_generator_penalty,
            tells_signs=recipe.adaptive is not None,
            adds_terms=recipe.adds_terms,
            probability=scalar(recipe.probability(0)) if recipe.takes_probability else None,
            top_k=scalar(at(recipe.generator_top_k, 0)) if recipe.takes_top_k else None,
            anchors=None if recipe.lecam is None else torch.zeros(2, dtype=dtype, device=device),
        )


def _generator_terms(recipe: Recipe) -> tuple[GeneratorTerm, ...]:
    terms: list[GeneratorTerm] = []
    if recipe.generator_term is not None:
        terms.append(recipe.generator_term)
    if recipe.latent_consistency is not None:
        terms.append(LatentDifference(recipe.latent_consistency))
    return tuple(terms)
