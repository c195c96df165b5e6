"""A subject as the processes that measure see it: where a core's run is expected, and all of its errors one line."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.subjects.blame import blamed
from bench.subjects.subject import Setup, Subject, SubjectError, offers


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

    def networks(self) -> Mapping[str, nn.Module] | None:
        """Return the networks by name, or None if the subject does not show them."""
        return self._offered("networks", nn.Module, "modules")

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer] | None:
        """Return the optimizers by name, or None if the subject does not show them."""
        return self._offered("optimizers", torch.optim.Optimizer, "optimizers of torch.optim")

    def losses(self) -> Mapping[str, float] | None:
        """Return the last step's losses by name, or None if the subject does not show them."""
        return self._offered("losses", (Tensor, float, int), "numbers", of=self._number)

    def float64_step(self, inputs: object) -> Mapping[str, float]:
        """Take the first step in float64 and return its losses; the subject has to offer it."""
        return self._read("float64_step", (inputs,), (Tensor, float, int), "numbers", self._number)

    def _offered(self, name: str, kind: Any, kinds: str, of: Callable[[Any], Any] = lambda value: value) -> Any:
        return self._read(name, (), kind, kinds, of) if offers(self.subject, name) else None

    def _read(
        self, name: str, arguments: tuple[object, ...], kind: Any, kinds: str, of: Callable[[Any], Any]
    ) -> Any:
        with blamed(self.spec, f"{name}()", self.place):
            values = getattr(self.subject, name)(*arguments)
            if not isinstance(values, Mapping) or not all(
                isinstance(key, str) and isinstance(value, kind) for key, value in values.items()
            ):
                shown = " ".join(repr(values).split())[:60]
                raise SubjectError(f"{self.spec}: {name}() returned {shown}; give a mapping of names to {kinds}")
            return {key: of(value) for key, value in values.items()}

    @staticmethod
    def _number(value: Any) -> float:
        if isinstance(value, Tensor) and value.numel() != 1:
            raise ValueError(f"a loss has the shape {tuple(value.shape)}; give tensors of one element")
        return float(value)
