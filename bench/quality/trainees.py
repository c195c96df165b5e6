"""What is trained to the target: a recipe by the training core, or by the plain loop."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import nn

from bench.subjects.plain import PlainGan, plain_loop, products_in_fp32
from gan.data.datasets import ImageSource, load_dataset
from gan.data.in_memory import InMemoryImages
from gan.data.order import Sampling
from gan.errors import DivergedError, UsageError
from gan.options import TrainOptions
from gan.process.place import Place
from gan.recipes import Recipe
from gan.session.run import dataset_request, prepare, run_length
from gan.session.strategy import build_accelerator, configure_backends
from gan.surface import MeasuredRun


class Trainee(Protocol):
    """A GAN that trains from scratch, a number of images at a time."""

    @property
    def images_seen(self) -> int:
        """Real images trained on."""

    recipe: Recipe
    dataset: ImageSource
    place: Place

    def train(self, images: int) -> None:
        """Train until at least `images` were seen in all, and wait for the device.

        Raises:
            DivergedError: A loss is not finite.
        """

    def generator(self) -> nn.Module:
        """Return the generator that is sampled."""


class CoreTrainee:
    """A recipe trained as gan/train.py does, with no folder and no record."""

    def __init__(self, options: TrainOptions) -> None:
        run, self._state = prepare(options)
        self._steps = MeasuredRun(run, self._state).steps()
        self.recipe = run.recipe
        self.dataset = run.dataset
        self.place = run.place

    @property
    def images_seen(self) -> int:
        """Real images trained on."""
        return self._state.progress.images_seen

    def train(self, images: int) -> None:
        """Take steps as gan/train.py does between two log points."""
        while self.images_seen < images:
            next(self._steps)
        progress = self._state.progress
        if not self._state.history[progress.position - 1].isfinite().all():  # waits for the device
            raise DivergedError(f"step {progress.step}: a loss is not finite")

    def generator(self) -> nn.Module:
        """Return G, or its moving average."""
        return self._state.sampler


class PlainTrainee:
    """A recipe trained by the plain loop: fp32, eager, in one process."""

    def __init__(self, options: TrainOptions) -> None:
        self.place = Place(0, 1, build_accelerator(options).device)
        configure_backends(options)
        self.recipe = options.row
        if lacking := _not_in_plain_loop(self.recipe):
            raise UsageError(
                f"--subject plain: the plain loop has no {' and no '.join(lacking)}, so it would not train "
                f"{options.label}; use core, or switch that off by --set"
            )
        dataset = load_dataset(self.recipe.dataset, dataset_request(options, self.place))
        assert isinstance(dataset, InMemoryImages)
        labels = dataset.labels
        if labels is None:
            raise UsageError(f"--dataset {self.recipe.dataset}: has no labels")
        num_classes = int(labels.max()) + 1
        # refuses a batch larger than the dataset: there would be none
        run_length(options, len(dataset), 1, dataset.image_shape, num_classes if self.recipe.conditional else 0)
        self.dataset: ImageSource = dataset
        self.images_seen = 0
        torch.manual_seed(options.seed)
        self._gan = PlainGan.of(self.recipe, dataset.image_shape, num_classes, self.place.device)
        batch_size = self.recipe.batch_size
        self._steps = plain_loop(self.recipe, self._gan, dataset.train, labels, batch_size, self.place.device, 1)
        self._sizes = _sizes(self.recipe, len(dataset.train))

    def train(self, images: int) -> None:
        """Take steps, each of which waits for its losses."""
        with products_in_fp32():
            while self.images_seen < images:
                losses = next(self._steps)
                if not all(map(math.isfinite, losses)):
                    raise DivergedError(f"the plain loop's losses are {losses}")
                self.images_seen += sum(itertools.islice(self._sizes, self.recipe.discriminator_steps))

    def generator(self) -> nn.Module:
        """Return G."""
        return self._gan.generator


def _not_in_plain_loop(recipe: Recipe) -> list[str]:
    """Return what a row has and the plain loop leaves out, or does with a value of its own."""
    of_row = {
        "schedules": recipe.scheduled,
        "adaptive augmentation": recipe.adaptive is not None,
        "average of G with the row's half-life": bool(recipe.ema_half_life),
        "mirrored images": recipe.mirror,
    }
    return [name for name, has_it in of_row.items() if has_it]


def _sizes(recipe: Recipe, num_images: int) -> Iterator[int]:
    """Yield the number of images in each batch of the plain loop, epoch after epoch."""
    epoch = [recipe.batch_size] * (num_images // recipe.batch_size)
    if recipe.sampling is Sampling.SHUFFLE and num_images % recipe.batch_size:
        epoch.append(num_images % recipe.batch_size)
    return itertools.cycle(epoch)


TRAINEES: dict[str, Callable[[TrainOptions], Trainee]] = {"core": CoreTrainee, "plain": PlainTrainee}
"""By the name of the subject."""
