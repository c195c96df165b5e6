"""A subject where a run of the core is expected; whatever goes wrong in it is one line."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bench.subjects.blame import blamed
from bench.subjects.subject import Setup, Subject, SubjectError, offers

T = TypeVar("T")


@dataclass(frozen=True)
class MeasuredSubject:
    """A subject where the core's measured runs are expected: see `gan.surface.MeasuredRun`.

    Whatever the subject raises becomes a SubjectError that names the subject, what was called, and the line.

    Attributes:
        subject: The subject.
        setup: What it was built from.
        spec: Its name, as `bench.subjects.load` takes it.
        place: The directory that its files are named relative to.
    """

    subject: Subject
    setup: Setup
    spec: str = "the subject"
    place: Path = Path()

    @property
    def device(self) -> torch.device:
        """Where the step runs."""
        return torch.device(self.setup.device)

    @property
    def images_per_step(self) -> int:
        """Real images of a step over all processes."""
        return self.subject.images_per_step * self.setup.world_size

    @property
    def period(self) -> int:
        """Steps after which the costs of its steps repeat; 1 if the subject does not say."""
        period = getattr(self.subject, "period", 1)
        if not isinstance(period, int) or isinstance(period, bool) or period < 1:
            raise SubjectError(f"{self.spec}: period is {period!r:.60}; it must be a whole number of at least 1")
        return period

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

    def step(self) -> object:
        """Take a step and return what the subject returns."""
        with blamed(self.spec, "step()", self.place):
            return self.subject.step()

    def steps(self) -> Iterator[None]:
        """Take a step with each `next`, without an end."""
        step = self.subject.step
        while True:
            with blamed(self.spec, "step()", self.place):
                while True:
                    step()
                    yield

    def networks(self) -> dict[str, nn.Module] | None:
        """Return the networks by name, or None if the subject does not show them."""
        return self._offered("networks", _module) if offers(self.subject, "networks") else None

    def optimizers(self) -> dict[str, torch.optim.Optimizer] | None:
        """Return the optimizers by name, or None if the subject does not show them."""
        return self._offered("optimizers", _optimizer) if offers(self.subject, "optimizers") else None

    def losses(self) -> dict[str, float] | None:
        """Return the last step's losses by name, or None if the subject does not show them."""
        return self._offered("losses", _number) if offers(self.subject, "losses") else None

    def float64_step(self, inputs: object) -> dict[str, float]:
        """Take the first step in float64 and return its losses; the subject has to offer it."""
        return self._offered("float64_step", _number, inputs)

    def _offered(self, name: str, parse: Callable[[Any], T], *arguments: object) -> dict[str, T]:
        with blamed(self.spec, f"{name}()", self.place):
            values = getattr(self.subject, name)(*arguments)
            if not isinstance(values, Mapping):
                raise SubjectError(
                    f"{self.spec}: {name}() returned {type(values).__name__}; give a mapping by name"
                )
            try:
                return {str(key): parse(value) for key, value in values.items()}
            except _UnfitError as error:
                raise SubjectError(f"{self.spec}: {name}() returned a mapping with {error}") from None


class _UnfitError(Exception):
    """A value is not what it has to be; the message says both."""


def _module(value: Any) -> nn.Module:
    if not isinstance(value, nn.Module):
        raise _UnfitError(f"{type(value).__name__}; give modules of torch.nn")
    return value


def _optimizer(value: Any) -> torch.optim.Optimizer:
    if not isinstance(value, torch.optim.Optimizer):
        raise _UnfitError(f"{type(value).__name__}; give optimizers of torch.optim")
    return value


def _number(value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise _UnfitError(f"a tensor of the shape {tuple(value.shape)}; give losses of one element")
    if not isinstance(value, Tensor | float | int):
        raise _UnfitError(f"{type(value).__name__}; give numbers, or tensors of one element")
    return float(value.detach()) if isinstance(value, Tensor) else float(value)
