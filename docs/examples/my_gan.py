"""A GAN as a subject of the benchmarks. Only `images_per_step` and `step` have to be there."""

import copy

import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce

from bench.subjects.subject import Setup, SubjectError


class MyGan:
    def __init__(self, setup: Setup) -> None:
        if setup.world_size > 1 or setup.precision not in ("fp32", "bf16") or setup.compile != "no":
            raise SubjectError("my GAN trains in one process, in fp32 or bf16, and eagerly")
        torch.manual_seed(setup.seed)
        self.setup = setup
        self.images_per_step = setup.batch_size
        channels, height, width = setup.image_shape
        self.images = torch.rand(1024, channels, height, width, device=setup.device) * 2 - 1
        pixels = channels * height * width
        self.generator = nn.Sequential(
            nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, pixels), nn.Tanh(), nn.Unflatten(1, setup.image_shape)
        ).to(setup.device)
        self.discriminator = nn.Sequential(
            nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.LeakyReLU(0.2), nn.Flatten(), nn.LazyLinear(1)
        ).to(setup.device)
        self.discriminator(self.images[:1])  # gives LazyLinear its shape
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), lr=2e-4, betas=(0.5, 0.999))

    def step(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.randint(len(self.images), (self.images_per_step,), device=self.setup.device)
        inputs = self.images[rows], torch.randn(self.images_per_step, 64, device=self.setup.device)
        with torch.autocast(self.setup.device, torch.bfloat16, enabled=self.setup.precision == "bf16"):
            self.train(*inputs)
        return inputs  # only for float64_step

    def train(self, real: torch.Tensor, latents: torch.Tensor) -> None:
        ones, zeros = torch.ones(len(real), 1).to(real), torch.zeros(len(real), 1).to(real)
        fake = self.generator(latents)
        self.loss_d = bce(self.discriminator(real), ones) + bce(self.discriminator(fake.detach()), zeros)
        self.optimizer_d.zero_grad()
        self.loss_d.backward()
        self.optimizer_d.step()
        self.loss_g = bce(self.discriminator(fake), ones)
        self.optimizer_g.zero_grad()
        self.loss_g.backward()
        self.optimizer_g.step()

    def networks(self) -> dict[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {"generator": self.optimizer_g, "discriminator": self.optimizer_d}

    def losses(self) -> dict[str, torch.Tensor]:
        return {"loss_d": self.loss_d, "loss_g": self.loss_g}

    def float64_step(self, inputs: tuple[torch.Tensor, torch.Tensor]) -> dict[str, torch.Tensor]:
        exact = copy.deepcopy(self)  # the optimizers' copies hold the copied weights
        for network in exact.networks().values():
            network.double()
        exact.train(*(value.double() for value in inputs))
        return exact.losses()


def make(setup: Setup) -> MyGan:
    return MyGan(setup)
