"""The DCGAN that most people start from, in the structure of PyTorch's example, as a subject for 3×64×64 images.

D ends in a sigmoid with `BCELoss`, Adam has its defaults, and three numbers are read at every step. G runs once a
step: D learns on its images without their graph, and G's loss goes through that graph after D's update.
The first layer of D and both last layers have biases, so that the networks have the parameters of our `dcgan`.
"""

from itertools import cycle

import torch
from torch import nn

from bench.subjects.subject import Setup, SubjectError

LATENT_DIM = 100
CHANNELS = (512, 256, 128, 64)


def generator():
    layers = [nn.Unflatten(1, (LATENT_DIM, 1, 1)), nn.ConvTranspose2d(LATENT_DIM, 512, 4, 1, 0, bias=False)]
    for before, after in zip(CHANNELS, [*CHANNELS[1:], 3], strict=True):
        layers += [nn.BatchNorm2d(before), nn.ReLU(inplace=True)]
        layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=after == 3)]
    return nn.Sequential(*layers, nn.Tanh())


def discriminator():
    layers = [nn.Conv2d(3, 64, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
    for after in (128, 256, 512):
        layers += [nn.Conv2d(after // 2, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
        layers += [nn.LeakyReLU(0.2, inplace=True)]
    return nn.Sequential(*layers, nn.Conv2d(512, 1, 4, 1, 0), nn.Sigmoid(), nn.Flatten(0))


def initialize(layer):
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)


class Step:
    def __init__(self, setup):
        torch.manual_seed(setup.seed)
        self.images_per_step = setup.batch_size
        self.device = setup.device
        self.g = generator().apply(initialize).to(self.device)
        self.d = discriminator().apply(initialize).to(self.device)
        self.adam_g = torch.optim.Adam(self.g.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.adam_d = torch.optim.Adam(self.d.parameters(), lr=2e-4, betas=(0.5, 0.999))
        self.bce = nn.BCELoss()
        self.batches = cycle(torch.rand(8, setup.batch_size, *setup.image_shape, device=self.device) * 2 - 1)

    def step(self):
        real = next(self.batches)
        ones = torch.ones(len(real), device=self.device)

        self.d.zero_grad()
        d_real = self.d(real)
        loss_real = self.bce(d_real, ones)
        loss_real.backward()
        fake = self.g(torch.randn(len(real), LATENT_DIM, device=self.device))
        loss_fake = self.bce(self.d(fake.detach()), torch.zeros_like(ones))
        loss_fake.backward()
        self.adam_d.step()

        self.g.zero_grad()
        loss_g = self.bce(self.d(fake), ones)
        loss_g.backward()
        self.adam_g.step()
        self.p_real = d_real.mean().item()
        self.last = {"loss_d": (loss_real + loss_fake).item(), "loss_g": loss_g.item()}

    def networks(self):
        return {"generator": self.g, "discriminator": self.d}

    def optimizers(self):
        return {"generator": self.adam_g, "discriminator": self.adam_d}

    def losses(self):
        return self.last


def make(setup: Setup):
    if setup.recipe not in ("", "dcgan") or setup.image_shape != (3, 64, 64):
        raise SubjectError("trains --recipe dcgan on --image-shape 3x64x64")
    if (setup.precision, setup.compile, setup.world_size) != ("fp32", "no", 1):
        raise SubjectError("trains in fp32, without a compiler, in one process")
    return Step(setup)
