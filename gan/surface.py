"""What the regression check uses of this package: it measures other revisions, too, by these few names.

Within a VERSION the names, their parameters and their meaning stay. A change of any of them takes a new VERSION,
and the check then refuses revisions of another one.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan.command_line import MOST_COUNT
from gan.data.in_memory import InMemoryImages
from gan.loop import take_step, train_until
from gan.options import TrainOptions
from gan.recipes import RECIPES
from gan.session.inputs import epoch_inputs
from gan.session.run import Run
from gan.session.run import prepare as prepare_training
from gan.training.metrics import metrics_of
from gan.training.state import TrainState

VERSION = 1
NOWHERE = Path(os.devnull, "run")
"""An output directory that cannot come to be."""


@dataclass(frozen=True)
class MeasuredRun:
    """A run over synthetic images: all batches are whole, and steps are alike but for the penalties that are due.

    Attributes:
        run: What stays the same from step to step; not a part of the surface.
        state: The networks and where the run stands; not a part of the surface.
    """

    run: Run
    state: TrainState

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.run.place.device

    @property
    def images_per_step(self) -> int:
        """Real images of a step over all processes."""
        return self.run.images_per_step

    @property
    def period(self) -> int:
        """Steps whose mean is what a step takes: lazy penalties cost more in some of them."""
        return self.run.recipe.period

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks by name."""
        return {name: player.network for name, player in self.state.players.items()}

    def losses(self) -> dict[str, Tensor]:
        """Return the losses of the last step on this rank."""
        last = self.state.history[self.state.progress.position - 1]
        metrics = dict(zip(metrics_of(self.state.recipe), last, strict=True))
        return {name: metrics[name] for name in ("loss_d", "loss_g")}

    def configuration(self) -> dict[str, Any]:
        """Return what must be alike if the steps of two runs are compared, JSON-ready."""
        accelerator = self.run.accelerator
        return {
            "device": self.device.type,
            "processes": self.run.place.world_size,
            "batch_size": self.run.global_batch_size,
            "image_shape": list(self.run.dataset.image_shape),
            "images": len(self.run.dataset),
            "precision": str(accelerator.mixed_precision),
            "compiler": str(accelerator.state.dynamo_plugin.backend.value).lower(),
        }

    def steps(self) -> Iterator[None]:
        """Train a step with each `next`, without an end and without waiting for the device."""
        while True:
            for inputs, num_images in epoch_inputs(self.run, self.state, self.run.steps_per_epoch):
                take_step(self.state, inputs, num_images)
                yield
            self.state.end_epoch()

    def epochs(self) -> Iterator[None]:
        """Train a whole epoch with each `next`, as gan/train.py does, without an end."""
        while True:
            last_step = self.state.progress.step + self.run.steps_per_epoch
            train_until(self.run, self.state, last_step, recorded=False)
            yield


def recipe_names() -> list[str]:
    """Return the recipes that can be prepared."""
    return list(RECIPES)


def prepare(options: Mapping[str, Any], most_steps: int = sys.maxsize) -> MeasuredRun:
    """Build a run over synthetic images, which writes nothing.

    Args:
        options: Fields of TrainOptions; a field that this revision does not have is left out.
        most_steps: Of an epoch, which has whole batches only.

    Raises:
        UsageError: Bad options.
    """
    ours = {"dataset": "synthetic", "output": NOWHERE, "checkpoint_every": MOST_COUNT}
    known = {field.name for field in fields(TrainOptions)}
    settings = TrainOptions(**{name: value for name, value in {**options, **ours}.items() if name in known})
    settings.validate()
    run, state = prepare_training(settings)
    return MeasuredRun(whole_batches(run, most_steps), state)


def whole_batches(run: Run, most_steps: int = sys.maxsize) -> Run:
    """Cut a run's dataset to whole batches, so that every step is alike; not a part of the surface."""
    assert isinstance(run.dataset, InMemoryImages)
    num_steps = min(most_steps, len(run.dataset) // run.images_per_step)
    images = run.dataset.train[: num_steps * run.images_per_step]
    labels = None if run.dataset.labels is None else run.dataset.labels[: len(images)]
    return replace(run, dataset=InMemoryImages(images, labels=labels), steps_per_epoch=num_steps)
