"""A training step of your own, measured by pytest: `measure_step` comes with the installed harness."""

import torch
from torch import nn
from torch.nn.functional import softplus


def test_my_step(measure_step) -> None:
    generator = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 784), nn.Tanh())
    discriminator = nn.Sequential(nn.Linear(784, 256), nn.LeakyReLU(0.2), nn.Linear(256, 1))
    optimizers = [torch.optim.Adam(network.parameters(), 2e-4) for network in (generator, discriminator)]
    images = torch.rand(64, 784)

    def step() -> dict[str, torch.Tensor]:
        fake = generator(torch.randn(64, 64))
        loss_d = softplus(discriminator(fake.detach())).mean() + softplus(-discriminator(images)).mean()
        loss_g = softplus(-discriminator(fake)).mean()
        for optimizer, loss, network in zip(optimizers, (loss_g, loss_d), (generator, discriminator), strict=True):
            optimizer.zero_grad()
            loss.backward(inputs=list(network.parameters()))
        for optimizer in optimizers:
            optimizer.step()
        return {"loss_d": loss_d.detach(), "loss_g": loss_g.detach()}

    measure_step(step, images=64)
