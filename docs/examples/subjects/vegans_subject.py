"""vegans 0.4.0 from PyPI as a subject: its VanillaGAN, with the networks, loss and optimizers of the recipe mlp.

`step()` does what vegans' `fit` does with a batch; `fit` itself calls what torch no longer has. The recipe
shows D the images that G was updated with; vegans makes them again, after G's update.
"""

from itertools import cycle

import torch

from bench.subjects.subject import Setup, SubjectError
from gan.recipes import RECIPES


class Step:
    def __init__(self, model, setup):
        self.model = model
        self.images_per_step = setup.batch_size
        self.batches = cycle(torch.rand(8, setup.batch_size, *setup.image_shape, device=setup.device) * 2 - 1)
        self.last = {}

    def step(self):
        images = next(self.batches)
        latents = self.model.sample(n=len(images))
        for name in self.model.neural_nets:
            self.model._losses = self.model.calculate_losses(X_batch=images, Z_batch=latents, who=name)
            self.model._zero_grad(who=name)
            self.model._backward(who=name)
            self.model._step(who=name)
            self.last[name] = self.model._losses[name].detach()

    def networks(self):
        return self.model.neural_nets

    def optimizers(self):
        return self.model.optimizers

    def losses(self):
        return {"loss_g": self.last["Generator"], "loss_d": self.last["Adversary"]}


def make(setup: Setup):
    from vegans.GAN import VanillaGAN  # pip install --no-deps vegans==0.4.0

    if (setup.recipe, setup.precision, setup.compile, setup.world_size) != ("mlp", "fp32", "no", 1):
        raise SubjectError("trains --recipe mlp in fp32, without a compiler, in one process")
    row = RECIPES[setup.recipe]  # its initial weights are PyTorch's
    generator = row.generator.generator(row.latent_dim, setup.image_shape)
    discriminator = row.discriminator.discriminator(setup.image_shape)
    probability = torch.nn.Sequential(discriminator, torch.nn.Sigmoid())
    adam = dict.fromkeys(("Generator", "Adversary"), row.optimizer.after(0))
    settings = {"optim_kwargs": adam, "device": setup.device, "folder": None, "secure": False}
    model = VanillaGAN(generator, probability, setup.image_shape, row.latent_dim, **settings)
    model.train()
    return Step(model, setup)
