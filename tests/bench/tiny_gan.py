"""A subject of two small layers that does as it is told, also wrongly."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import Setup

PIXELS = 12


@dataclass
class Faults:
    """What is wrong with a GAN; nothing by default.

    Attributes:
        seed: What its weights and batches follow from, as a function of the setup's.
        factor: Of D's gradients in `step`.
        coarse: Whether D's loss is summed up in half precision if bf16 is asked for.
        loss: What D's loss becomes, of the loss and the number of the step.
    """

    seed: Callable[[int], int] = lambda seed: seed
    factor: float = 1.0
    coarse: bool = False
    loss: Callable[[Tensor, int], Tensor] = lambda loss, _: loss


@dataclass
class TinyGan:
    setup: Setup
    faults: Faults = field(default_factory=Faults)

    def __post_init__(self) -> None:
        self.images_per_step = self.setup.batch_size
        self.source = torch.Generator().manual_seed(self.faults.seed(self.setup.seed))
        self.g = nn.Linear(4, PIXELS)
        self.d = nn.Linear(PIXELS, 1)
        with torch.no_grad():
            for parameter in (*self.g.parameters(), *self.d.parameters()):
                parameter.copy_(torch.randn(parameter.shape, generator=self.source) / 4)
        self.optimizer_g = torch.optim.Adam(self.g.parameters(), lr=1e-3)
        self.optimizer_d = torch.optim.Adam(self.d.parameters(), lr=1e-3)
        self.num_steps = 0
        self.seen_by = self.d  # what scores images: D itself, or D compiled
        if self.setup.compile != "no":
            self.seen_by = torch.compile(self.d, backend=self.setup.compile)  # type: ignore[assignment]

    def step(self) -> tuple[Tensor, Tensor]:
        size = self.images_per_step
        inputs = torch.randn(size, PIXELS, generator=self.source), torch.randn(size, 4, generator=self.source)
        bf16 = self.setup.precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            self.train(*inputs, self.faults.factor, coarse=bf16 and self.faults.coarse)
        return inputs

    def train(self, real: Tensor, latents: Tensor, factor: float = 1.0, *, coarse: bool = False) -> None:
        self.num_steps += 1
        fake = self.g(latents)
        loss = (softplus(-self.seen_by(real)) + softplus(self.seen_by(fake.detach()))).mean()
        loss = (loss + 1000).bfloat16() - 1000 if coarse else loss
        self.loss_d = self.faults.loss(loss, self.num_steps)
        self.optimizer_d.zero_grad()
        (factor * self.loss_d).backward()
        self.optimizer_d.step()
        self.loss_g = softplus(-self.d(fake)).mean()
        self.optimizer_g.zero_grad()
        self.loss_g.backward()
        self.optimizer_g.step()

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.g, "discriminator": self.d}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.optimizer_g, "discriminator": self.optimizer_d}

    def losses(self) -> dict[str, Tensor]:
        return {"loss_d": self.loss_d, "loss_g": self.loss_g}

    def float64_step(self, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        exact = copy.deepcopy(self)
        exact.seen_by = exact.d
        for network in exact.networks().values():
            network.double()
        exact.train(*(value.double() for value in inputs))
        return exact.losses()


class StepAlone:
    """A subject that offers nothing."""

    images_per_step = 3

    def __init__(self) -> None:
        self.images = torch.rand(5, 7)
        self.weights = torch.rand(7, 2)

    def step(self) -> None:
        self.images @ self.weights


def builder(faults: Faults | None = None) -> Callable[[Setup], MeasuredSubject]:
    """Return what builds the GAN anew, with its faults."""
    return lambda setup: MeasuredSubject(TinyGan(setup, faults or Faults()), setup, "tiny")
