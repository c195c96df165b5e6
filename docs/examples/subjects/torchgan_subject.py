"""torchgan 0.1.0 from PyPI as a subject, with the networks, loss and optimizers of a recipe such as dcgan.

`step()` does what torchgan's `Trainer.train` does with a batch. The images are in memory, without a DataLoader.
"""

from itertools import cycle

import torch

from bench.subjects.subject import Setup, SubjectError
from gan.models.initialization import initialize
from gan.recipes import RECIPES


class Step:
    def __init__(self, trainer, setup):
        self.trainer = trainer
        self.images_per_step = trainer.batch_size = setup.batch_size
        self.batches = cycle(torch.rand(8, setup.batch_size, *setup.image_shape, device=setup.device) * 2 - 1)

    def step(self):
        self.trainer.real_inputs = next(self.batches)
        self.last = self.trainer.train_iter()  # losses of G and of D, numbers of their updates
        for name, value in zip(self.trainer.loss_information, self.last, strict=True):
            self.trainer.loss_information[name] += value
        self.trainer.logger.run_mid_epoch(self.trainer)

    def networks(self):
        return {name: getattr(self.trainer, name) for name in self.trainer.model_names}

    def optimizers(self):
        return {name: getattr(self.trainer, name) for name in self.trainer.optimizer_names}

    def losses(self):
        return {"loss_g": self.last[0], "loss_d": self.last[1]}


def make(setup: Setup):
    from torchgan import losses, models, trainer  # pip install --no-deps torchgan==0.1.0

    if setup.recipe not in ("mlp-dropout", "mlp-batchnorm", "mlp-compact", "dcgan"):
        raise SubjectError("has the loss of --recipe mlp-dropout, mlp-batchnorm, mlp-compact and dcgan")
    if (setup.precision, setup.compile, setup.world_size) != ("fp32", "no", 1):
        raise SubjectError("trains in fp32, without a compiler, in one process")
    row = RECIPES[setup.recipe]
    generator = row.generator.generator(row.latent_dim, setup.image_shape)
    discriminator = row.discriminator.discriminator(setup.image_shape)
    adam = {"name": torch.optim.Adam, "args": row.optimizer.after(0)}
    players = {}
    for player, net in ((models.Generator(row.latent_dim), generator), (models.Discriminator(1), discriminator)):
        initialize(net, row.initialization)
        player.network = net
        player.forward = net.__call__
        players[type(player).__name__.lower()] = {"name": lambda player=player: player, "optimizer": adam}
    both = [losses.MinimaxDiscriminatorLoss(1 - row.loss.real_label), losses.MinimaxGeneratorLoss()]
    # torchgan makes the folders of its checkpoints and pictures at once; these are there.
    return Step(trainer.Trainer(players, both, device=setup.device, checkpoints="./gan", recon="."), setup)
