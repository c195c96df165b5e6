"""Train the GAN, or let `gan-bench regress --subject train.py:make` measure its step."""

import torch
from tinygan.step import TrainingStep


def make(setup):
    """Return the training step for a setup: device, precision, batch_size, image_shape and others."""
    return TrainingStep(setup.batch_size, setup.image_shape, setup.device, setup.precision)


if __name__ == "__main__":
    torch.manual_seed(0)
    training = TrainingStep(batch_size=64, shape=(1, 28, 28), device="cpu")
    for number in range(1, 201):
        training.step()
        if number % 50 == 0:
            print(number, *(f"{name} {loss.item():.3f}" for name, loss in training.losses().items()))
