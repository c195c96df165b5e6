"""A subject: any GAN's training step, built by a function of a `Setup`.

A subject takes a few lines:

    class MyStep:
        images_per_step = 64

        def step(self) -> None:
            ...  # enqueue one whole training step: every update of D and of G; wait for nothing

    def make(setup: Setup) -> MyStep:
        ...

Four methods are optional, and each makes more of the harness work: `networks`, `optimizers`, `losses` and
`float64_step`. What a subject does not offer is left out of its results, and they say so.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class SubjectError(Exception):
    """A subject cannot be measured, and why, in one line."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a subject is asked to be.

    Attributes:
        device: "cpu" or "cuda"; in several processes, each one's own GPU is the current device.
        precision: "fp32", "tf32", "bf16" or "fp16".
        compile: A backend of torch.compile, or "no".
        batch_size: Real images of a process per update of D.
        image_shape: Channels, height and width.
        num_classes: Classes of the labels; 0 without labels.
        seed: Decides everything random.
        rank: Of this process, from 0.
        world_size: The number of processes.
        recipe: A row of `gan.recipes.RECIPES`; the built-in subjects train it, others may follow it.
        options: Further fields of `gan.options.TrainOptions`, for the built-in subjects.
    """

    device: str = "cpu"
    precision: str = "fp32"
    compile: str = "no"
    batch_size: int = 64
    image_shape: tuple[int, int, int] = (1, 28, 28)
    num_classes: int = 0
    seed: int = 0
    rank: int = 0
    world_size: int = 1
    recipe: str = ""
    options: Mapping[str, Any] | None = None


@runtime_checkable
class Subject(Protocol):
    """A training step that can be measured."""

    @property
    def images_per_step(self) -> int:
        """Real images of a step in this process, over all updates of D."""

    def step(self) -> object:
        """Enqueue one whole training step, and wait for nothing."""


MakeSubject = Callable[[Setup], Subject]
OPTIONAL = {
    "networks": "weights are not counted, and T0 compares losses alone",
    "optimizers": "the optimizer's memory is not counted",
    "losses": "losses are not compared, and T4 is left out",
    "float64_step": "T1 and T2 are left out",
}
"""What a subject may offer besides, and what is left out of its results where it does not.

`networks()` and `optimizers()` return mappings of names to modules and to optimizers, `losses()` a mapping of
names to the last step's scalar losses. `float64_step(inputs)` takes a step in float64 on the given inputs.
"""


def offers(subject: Subject, name: str) -> bool:
    """Say whether a subject has one of the OPTIONAL methods."""
    return callable(getattr(subject, name, None))


def missing_offers(subject: Subject) -> dict[str, str]:
    """Return the OPTIONAL methods that a subject lacks, each with what is left out because of it."""
    return {name: reason for name, reason in OPTIONAL.items() if not offers(subject, name)}


@dataclass(frozen=True)
class MeasuredSubject:
    """A subject where the core's measured runs are expected: see `gan.surface.MeasuredRun`."""

    subject: Subject
    setup: Setup

    @property
    def device(self) -> torch.device:
        """Where the step runs."""
        return torch.device(self.setup.device)

    @property
    def images_per_step(self) -> int:
        """Real images of a step over all processes."""
        return self.subject.images_per_step * self.setup.world_size

    def configuration(self) -> dict[str, Any]:
        """Return what must be alike if the steps of two revisions are compared, JSON-ready."""
        return {
            "device": self.setup.device,
            "processes": self.setup.world_size,
            "batch_size": self.setup.batch_size * self.setup.world_size,
            "images_per_step": self.images_per_step,
            "image_shape": list(self.setup.image_shape),
            "precision": self.setup.precision,
            "compiler": self.setup.compile,
        }

    def steps(self) -> Iterator[None]:
        """Take a step with each `next`, without an end."""
        while True:
            self.subject.step()
            yield

    def networks(self) -> Mapping[str, nn.Module] | None:
        """Return the networks by name, or None if the subject does not show them."""
        return self.subject.networks() if offers(self.subject, "networks") else None  # type: ignore[attr-defined]

    def losses(self) -> Mapping[str, Tensor] | None:
        """Return the last step's losses by name, or None if the subject does not show them."""
        return self.subject.losses() if offers(self.subject, "losses") else None  # type: ignore[attr-defined]
