"""Images of a generator that are scored, and their features."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from gan.images import to_uint8
from gan.methods.truncation import normal_latents
from gan.models.networks import apply, evaluating
from gan.process.place import Place
from gan.quality.batches import features_of_batches
from gan.quality.judge import Judge
from gan.quality.scores import Features
from gan.seeds import derive_seed, seed_default_generator
from gan.training.state import TrainState

EVALUATION_BATCH_SIZE = 1000


class ExtractsFeatures(Protocol):
    """What images are generated for: `Judge`, or `PaperJudge` of `gan.quality.paper`."""

    @property
    def label_frequencies(self) -> Tensor:
        """Frequency of each class that a conditional generator takes, shape (C,)."""

    def extract(self, images: Tensor) -> Features:
        """Return the features of uint8 images (N, C, H, W), on the CPU."""


@dataclass(frozen=True)
class GeneratedImages:
    """Images of a generator in batches, each of which has a seed of its own.

    Attributes:
        generator: Latents (B, latent_dim), and classes (B,) if conditional, to images; used in evaluation mode.
        latent_dim: Width of its latents.
        num_images: Number of images.
        batch_size: Images of a batch; the last one may have fewer.
        device: Where the generator is.
        label_frequencies: Frequency of each class that is drawn, shape (C,); None for a generator without classes.
        seed: Seed of latents, classes, and of what the generator draws itself.
        threshold: How far from 0 a number of the latents may be; None truncates none.
    """

    generator: nn.Module
    latent_dim: int
    num_images: int
    batch_size: int
    device: torch.device
    label_frequencies: Tensor | None
    seed: int
    threshold: float | None = None

    @property
    def num_batches(self) -> int:
        """Number of batches."""
        return -(-self.num_images // self.batch_size)

    @torch.no_grad()
    def batch(self, index: int) -> Tensor:
        """Return a batch as uint8 images (B, C, H, W)."""
        count = min(self.batch_size, self.num_images - index * self.batch_size)
        source = torch.Generator().manual_seed(derive_seed(self.seed, "generated images", index))
        latents = normal_latents(count, self.latent_dim, self.threshold, source).to(self.device)
        classes = None
        if self.label_frequencies is not None:
            drawn = torch.multinomial(self.label_frequencies, count, replacement=True, generator=source)
            classes = drawn.to(self.device)
        seed_default_generator(self.device, derive_seed(self.seed, "generated noise", index))
        with evaluating(self.generator):
            return to_uint8(apply(self.generator, latents, classes))

    def images(self, rows: Tensor) -> Tensor:
        """Return chosen images again, as uint8 (N, C, H, W) on the CPU."""
        numbers = rows.tolist()
        batches = {row // self.batch_size: torch.empty(0) for row in numbers}
        for index in batches:
            batches[index] = self.batch(index).cpu()
        return torch.stack([batches[row // self.batch_size][row % self.batch_size] for row in numbers])


def generated_features(
    judge: ExtractsFeatures,
    generator: nn.Module,
    latent_dim: int,
    num_images: int,
    place: Place,
    *,
    conditional: bool = False,
    seed: int = 0,
) -> Features:
    """Return the features of `num_images` generated images; every process gets those of all.

    Args:
        judge: It extracts the features, and its label frequencies are those of the classes.
        generator: As in `GeneratedImages`.
        latent_dim: Width of its latents.
        num_images: Number of images, over all processes.
        place: Says which batches this process makes, and on which device.
        conditional: Whether the generator takes classes.
        seed: Seed of latents and classes.
    """
    label_frequencies = judge.label_frequencies if conditional else None
    images = GeneratedImages(
        generator, latent_dim, num_images, EVALUATION_BATCH_SIZE, place.device, label_frequencies, seed
    )
    return features_of_batches(
        judge.extract, images.batch, images.num_batches, place, "the features of generated batch"
    )


def features_of_state(judge: Judge, state: TrainState, place: Place, seed: int) -> Features:
    """Return the features of images of a GAN in training, as many as its judge has real ones."""
    return generated_features(
        judge,
        state.sampler,
        state.recipe.latent_dim,
        len(judge.real.features),
        place,
        conditional=state.recipe.conditional,
        seed=seed,
    )
