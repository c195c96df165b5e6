"""D's probabilities on images that it was not trained on."""

import torch
from torch import Tensor

from gan.images import to_unit_range
from gan.models.networks import apply, evaluating
from gan.process.place import Place
from gan.process.watch import doing
from gan.quality.generated import EVALUATION_BATCH_SIZE
from gan.seeds import derive_seed
from gan.training.state import TrainState


@torch.no_grad()
def mean_probabilities(
    state: TrainState,
    test: Tensor,
    labels: Tensor | None = None,
    *,
    seed: int,
    place: Place,
) -> Tensor:
    """Return D's mean probability of being real on the test images and on as many fakes, in evaluation mode.

    Args:
        state: The GAN. Its networks are used in full precision and left in training mode.
        test: uint8 images (N, C, H, W).
        labels: Their classes (N,), for conditional recipes.
        seed: Seed of the latents, which are the same at every call.
        place: Says which batches this process takes.

    Returns:
        This process's share of (p_real, p_fake), shape (2,). Summed over processes, the shares are the means.
    """
    generator = state.sampler
    discriminator = state.discriminator.network
    parameter = next(generator.parameters())
    sums = torch.zeros(2, dtype=torch.float64 if test.device.type != "mps" else torch.float32, device=test.device)
    with evaluating(generator, discriminator):
        for index, images in enumerate(test.split(EVALUATION_BATCH_SIZE)):
            doing("the probabilities of test batch", index + 1)
            if index % place.world_size != place.rank:
                continue
            source = torch.Generator(test.device).manual_seed(derive_seed(seed, "evaluation", index))
            latents = torch.randn(len(images), state.recipe.latent_dim, generator=source, device=test.device)
            classes = None if labels is None else labels.split(EVALUATION_BATCH_SIZE)[index]
            real_logits = apply(discriminator, to_unit_range(images, parameter.dtype), classes)
            fake = apply(generator, latents.to(parameter.dtype), classes)
            fake_logits = apply(discriminator, fake, classes)
            sums += torch.stack([real_logits.sigmoid().sum(), fake_logits.sigmoid().sum()])
    return sums / len(test)
