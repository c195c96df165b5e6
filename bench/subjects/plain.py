"""The plain tutorial loop, as people write it: what the training core is compared with.

A DataLoader with a transform per item, BCELoss on a sigmoid, D trainable in G's update, `.item()` at each step,
fp32, eager, optimizers with their defaults.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bench.subjects.subject import Setup, SubjectError
from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.data.order import Sampling
from gan.methods.augmentations import AUGMENTATIONS
from gan.methods.losses import NonSaturating
from gan.methods.optimizers import Adam, RMSprop
from gan.methods.penalties import GradientPenalty, ZeroCentred
from gan.methods.schedules import at
from gan.models.architectures import build_discriminator, build_generator
from gan.models.initialization import initialize
from gan.recipe_files import recipe_named
from gan.recipe_settings import with_settings
from gan.recipes import Recipe


def plain_step(
    recipe: Recipe,
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Sequence[Tensor],
    latents: Tensor,
    mix: Tensor | None = None,
    labels: Sequence[Tensor | None] = (None,),
    accumulate: int = 1,
    warps: Tensor | None = None,
) -> list[float]:
    """Take one step of a recipe as its tutorial would, and return loss_d, loss_g, p_real and p_fake.

    It is one long function on purpose: it reads like the tutorials, and shares no code with the step it judges.

    Args:
        recipe: A row.
        generator: Latents (B, latent_dim) to images (B, C, H, W).
        discriminator: Images to scores (B,).
        optimizer_g: Of the generator.
        optimizer_d: Of the discriminator.
        real: Images in [-1, 1], (B, C, H, W) for each update of D.
        latents: Shape (recipe.latents_per_step, B, latent_dim).
        mix: Uniform on [0, 1), shape (recipe.discriminator_steps, B), for a gradient penalty.
        labels: Classes (B,) for each update of D, for a conditional recipe.
        accumulate: Micro-batches of an update, of equal size.
        warps: Uniform on [0, 1), shape (recipe.discriminator_steps + 1, 2, B, recipe.warp_dim), for augmentation
            of the real and the generated images of each update of D, and of the one of G.
    """
    objective = recipe.loss
    bce = nn.BCELoss()
    labels = [*labels] * (len(real) if len(labels) == 1 else 1)
    num_parts = min(accumulate, len(real[0]))
    fakes: list[Tensor] = []

    def score(images: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        scores: Tensor = discriminator(images, *condition)
        return scores.sigmoid() if type(objective) is NonSaturating else scores

    def warp_of(update: int) -> Tensor | None:
        return None if warps is None else warps[update].movedim(1, 0)  # images first: they are split into parts

    def augmented(images: Tensor, warp: Tensor | None, kind: int) -> Tensor:
        for item in recipe.augmentation:
            function = AUGMENTATIONS[item] if isinstance(item, str) else item
            assert warp is not None
            images = function(images, warp[:, kind])
        return images

    def targets(scores: Tensor, value: float) -> Tensor:
        return torch.full((len(scores),), value, dtype=scores.dtype, device=scores.device)

    def update(
        optimizer: torch.optim.Optimizer, loss_of: Callable[..., list[Tensor]], *batch: Tensor | None
    ) -> list[float]:
        optimizer.zero_grad()
        parts = [(None,) * num_parts if whole is None else whole.tensor_split(num_parts) for whole in batch]
        values = []
        for part in zip(*parts, strict=True):
            loss, *probabilities = loss_of(*part)
            (loss if num_parts == 1 else loss / num_parts).backward()
            values.append([loss, *probabilities])
        optimizer.step()
        return [sum(value.item() for value in column) / num_parts for column in zip(*values, strict=True)]

    def loss_of_generator(images: Tensor, z: Tensor, classes: Tensor | None, warp: Tensor | None) -> list[Tensor]:
        condition = () if classes is None else (classes,)
        fake = generator(z, *condition)
        fakes.append(fake)
        scores = score(augmented(fake, warp, 1), condition)
        if type(objective) is NonSaturating:
            return [bce(scores, targets(scores, 1.0))]
        scores_real = score(augmented(images, warp, 0), condition) if objective.relativistic else None
        return [objective.generator(scores, scores_real).mean()]

    def loss_of_discriminator(
        images: Tensor, z: Tensor, classes: Tensor | None, warp: Tensor | None, epsilon: Tensor | None
    ) -> list[Tensor]:
        condition = () if classes is None else (classes,)
        fake = fakes.pop(0) if recipe.generator_first else generator(z, *condition)
        images = augmented(images, warp, 0)
        fake = augmented(fake.detach(), warp, 1)
        scores_real = score(images, condition)
        scores_fake = score(fake, condition)
        p_real = scores_real
        p_fake = scores_fake
        if type(objective) is NonSaturating:
            loss_real = bce(scores_real, targets(scores_real, objective.real_label))
            loss = objective.scale * (loss_real + bce(scores_fake, targets(scores_fake, 0.0)))
        else:
            loss = objective.discriminator(scores_real, scores_fake).mean()
            p_real = scores_real.sigmoid()
            p_fake = scores_fake.sigmoid()
        if type(recipe.penalty) is ZeroCentred:
            for samples in (images, fake):
                gradients = input_gradients(samples, condition)
                loss = loss + at(recipe.penalty.weight, 0) / 2 * gradients.square().sum(1).mean()
        elif type(recipe.penalty) is GradientPenalty:
            assert epsilon is not None
            penalty = gradient_penalty(images, fake, condition, epsilon)
            loss = loss + at(recipe.penalty.weight, 0) * penalty
        elif recipe.penalty:  # somebody's own
            penalties = recipe.penalty(lambda samples: discriminator(samples, *condition), images, fake, epsilon)
            loss = loss + at(recipe.penalty.weight, 0) * penalties.mean()
        return [loss, p_real.mean(), p_fake.mean()]

    def gradient_penalty(images: Tensor, fake: Tensor, condition: tuple[Tensor, ...], epsilon: Tensor) -> Tensor:
        epsilon = epsilon.view(-1, 1, 1, 1)
        gradients = input_gradients(epsilon * images + (1 - epsilon) * fake, condition)
        penalty: Tensor = ((gradients.norm(2, dim=1) - 1) ** 2).mean()
        return penalty

    def input_gradients(samples: Tensor, condition: tuple[Tensor, ...]) -> Tensor:
        samples = samples.detach().clone().requires_grad_(True)
        scores = discriminator(samples, *condition)
        gradients = torch.autograd.grad(scores, samples, torch.ones_like(scores), create_graph=True)[0]
        return gradients.view(len(gradients), -1)

    if recipe.generator_first:
        (loss_g,) = update(optimizer_g, loss_of_generator, real[0], latents[0], labels[0], warp_of(-1))
    updates = []
    for index, images in enumerate(real):
        epsilon = None if mix is None else mix[index]
        batch = (images, latents[index], labels[index], warp_of(index), epsilon)
        updates.append(update(optimizer_d, loss_of_discriminator, *batch))
        if recipe.discriminator_clip:
            for parameter in discriminator.parameters():
                parameter.data.clamp_(-recipe.discriminator_clip, recipe.discriminator_clip)
    loss_d, p_real, p_fake = (sum(values) / len(real) for values in zip(*updates, strict=True))
    if not recipe.generator_first:
        (loss_g,) = update(optimizer_g, loss_of_generator, real[-1], latents[-1], labels[-1], warp_of(-1))
    return [loss_d, loss_g, p_real, p_fake]


class _Pictures(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, C, H, W), made PIL images and transformed one by one, as in torchvision's MNIST."""

    def __init__(self, images: Tensor, labels: Tensor | None) -> None:
        self.labels = [0] * len(images) if labels is None else labels.tolist()
        channels = images.shape[1]
        self.images = images[:, 0].cpu() if channels == 1 else images.permute(0, 2, 3, 1).contiguous().cpu()
        normalize = transforms.Normalize([0.5] * channels, [0.5] * channels)
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), self.labels[index]


def plain_optimizers(
    recipe: Recipe, generator: nn.Module, discriminator: nn.Module
) -> tuple[torch.optim.Optimizer, torch.optim.Optimizer]:
    """Return the optimizers of G and D, with the row's settings at the first step, and PyTorch's defaults."""

    def optimizer(settings: Adam | RMSprop, network: nn.Module) -> torch.optim.Optimizer:
        kind = torch.optim.RMSprop if isinstance(settings, RMSprop) else torch.optim.Adam
        return kind(network.parameters(), **settings.after(0))

    of_discriminator = recipe.discriminator_optimizer or recipe.optimizer
    return optimizer(recipe.optimizer, generator), optimizer(of_discriminator, discriminator)


@dataclass(frozen=True)
class PlainGan:
    """The networks and optimizers of the plain loop, and a moving average of G if the row has one."""

    generator: nn.Module
    discriminator: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    average: nn.Module | None

    @classmethod
    def of(cls, recipe: Recipe, images: Tensor, labels: Tensor | None, device: torch.device) -> "PlainGan":
        """Build them for images (N, C, H, W) and their classes (N,)."""
        shape = (images.shape[1], images.shape[2], images.shape[3])
        num_classes = int(labels.max()) + 1 if recipe.conditional and labels is not None else 0
        generator = build_generator(recipe.generator, recipe.latent_dim, shape, num_classes)
        discriminator = build_discriminator(recipe.discriminator, shape, num_classes)
        for network in (generator, discriminator):
            initialize(network, recipe.initialization)
            network.to(device)
        optimizers = plain_optimizers(recipe, generator, discriminator)
        average = copy.deepcopy(generator) if recipe.ema_half_life else None
        return cls(generator, discriminator, *optimizers, average)


def plain_loop(
    recipe: Recipe,
    images: Tensor,
    labels: Tensor | None,
    batch_size: int,
    device: torch.device,
    accumulate: int = 1,
    gan: PlainGan | None = None,
) -> Iterator[list[float]]:
    """Train forever, and yield after each step what a tutorial would print.

    Args:
        recipe: A row.
        images: The dataset, uint8 (N, C, H, W).
        labels: Its classes (N,), for a conditional recipe.
        batch_size: Images of a micro-batch.
        device: Where to train.
        accumulate: Micro-batches of an update.
        gan: What to train; None to build it at the first step.
    """
    gan = gan or PlainGan.of(recipe, images, labels, device)
    networks = (gan.generator, gan.discriminator, gan.optimizer_g, gan.optimizer_d)
    for real, classes in _batches(recipe, images, labels, batch_size * accumulate, device):
        size = len(real[0])
        latents = torch.randn(recipe.latents_per_step, size, recipe.latent_dim, device=device)
        mix = torch.rand(len(real), size, device=device)
        warps = None
        if recipe.augmentation:
            warps = torch.rand(len(real) + 1, 2, size, recipe.warp_dim, device=device)
        metrics = plain_step(recipe, *networks, real, latents, mix, classes, accumulate, warps)
        if gan.average is not None:
            for kept, now in zip(gan.average.parameters(), gan.generator.parameters(), strict=True):
                kept.data.lerp_(now.data, 0.001)
        yield metrics


def _batches(
    recipe: Recipe, images: Tensor, labels: Tensor | None, batch_size: int, device: torch.device
) -> Iterator[tuple[list[Tensor], list[Tensor | None]]]:
    """Yield images and classes of each step: as many batches as D has updates, epoch after epoch."""
    loader = DataLoader(
        _Pictures(images, labels),
        batch_size=batch_size,
        shuffle=True,
        drop_last=recipe.sampling is not Sampling.SHUFFLE,
    )
    real: list[Tensor] = []
    classes: list[Tensor | None] = []
    while True:
        for batch, batch_labels in loader:
            real.append(batch.to(device))
            classes.append(batch_labels.to(device) if recipe.conditional else None)
            if len(real) == recipe.discriminator_steps:
                yield real, classes
                real = []
                classes = []


@contextmanager
def products_in_fp32(*, cudnn_tf32: bool = True) -> Iterator[None]:
    """Multiply matrices in fp32 whatever the case asks for.

    Args:
        cudnn_tf32: Whether convolutions on a GPU use TF32, which is PyTorch's default.
    """
    precision = torch.get_float32_matmul_precision()
    cudnn = torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = cudnn_tf32
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn


class PlainLoop:
    """The plain loop of a row over random images, as a subject."""

    def __init__(self, setup: Setup) -> None:
        options = setup.options or {}
        recipe = with_settings(recipe_named(setup.recipe), options.get("set", ()))
        device = torch.device(setup.device)
        accumulate = int(options.get("accumulate", 1))
        self.images_per_step = setup.batch_size * accumulate * recipe.discriminator_steps
        request = DatasetRequest(Path(), setup.image_shape, self.images_per_step, device)
        dataset = DATASETS["synthetic"](request)
        assert isinstance(dataset, InMemoryImages)
        torch.manual_seed(setup.seed)
        self._gan = PlainGan.of(recipe, dataset.train, dataset.labels, device)
        self._steps = plain_loop(
            recipe, dataset.train, dataset.labels, setup.batch_size, device, accumulate, self._gan
        )
        self._losses: dict[str, float] = {}

    def step(self) -> None:
        """Take a step; the loop itself waits for its losses, as tutorials do."""
        with products_in_fp32():
            loss_d, loss_g, *_ = next(self._steps)
        self._losses = {"loss_d": loss_d, "loss_g": loss_g}

    def networks(self) -> Mapping[str, nn.Module]:
        """Return both networks."""
        return {"generator": self._gan.generator, "discriminator": self._gan.discriminator}

    def optimizers(self) -> Mapping[str, torch.optim.Optimizer]:
        """Return the optimizer of each network."""
        return {"generator": self._gan.optimizer_g, "discriminator": self._gan.optimizer_d}

    def losses(self) -> Mapping[str, float]:
        """Return the last step's losses."""
        return self._losses


def make(setup: Setup) -> PlainLoop:
    """Return the plain loop of `setup.recipe`: always fp32 and eager, in one process.

    Raises:
        SubjectError: The setup asks for something else, or names no recipe.
    """
    if not setup.recipe:
        raise SubjectError("the plain loop trains a recipe; name one with --recipe")
    if setup.world_size > 1:
        raise SubjectError("the plain loop runs in one process")
    if setup.precision != "fp32" or setup.compile != "no":
        raise SubjectError("the plain loop is always fp32 and eager")
    return PlainLoop(setup)
