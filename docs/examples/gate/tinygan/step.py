"""One training step: an update of D and one of G."""

import torch
from torch import Tensor, nn

from tinygan.data import discs
from tinygan.losses import discriminator_loss, generator_loss
from tinygan.networks import LATENT_DIM, Discriminator, Generator


class TrainingStep:
    """The networks, their optimizers, and a step of them."""

    def __init__(self, batch_size: int, shape: tuple[int, int, int], device: str, precision: str = "fp32") -> None:
        self.images_per_step = batch_size
        self.shape = shape
        self.device = device
        self.generator = Generator(shape).to(device)
        self.discriminator = Discriminator(shape).to(device)
        self.optimizer_g = torch.optim.Adam(self.generator.parameters(), 2e-4, betas=(0.5, 0.999))
        self.optimizer_d = torch.optim.Adam(self.discriminator.parameters(), 2e-4, betas=(0.5, 0.999))
        self.autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16")
        self.loss_d = self.loss_g = torch.zeros(())

    def step(self) -> None:
        """Train once. Nothing here waits for a GPU: no loss is printed."""
        real = discs(self.images_per_step, self.shape, self.device)
        latents = torch.randn(self.images_per_step, LATENT_DIM, device=self.device)
        with self.autocast:
            fake = self.generator(latents)
            self.loss_d = discriminator_loss(self.discriminator(real), self.discriminator(fake.detach()))
        self.optimizer_d.zero_grad()
        self.loss_d.backward()
        self.optimizer_d.step()
        with self.autocast:
            self.loss_g = generator_loss(self.discriminator(fake))
        self.optimizer_g.zero_grad()
        self.loss_g.backward()
        self.optimizer_g.step()

    def losses(self) -> dict[str, Tensor]:
        """Return the losses of the last step."""
        return {"loss_d": self.loss_d, "loss_g": self.loss_g}

    def networks(self) -> dict[str, nn.Module]:
        """Return the networks, whose parameters are counted."""
        return {"generator": self.generator, "discriminator": self.discriminator}
