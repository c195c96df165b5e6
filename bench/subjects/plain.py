"""The plain loop as a subject: a DataLoader with a transform per item, and the steps of `plain_step`."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from bench.subjects.plain_step import plain_optimizers, plain_step
from bench.subjects.subject import Setup, SubjectError
from gan.data.datasets import DATASETS, SYNTHETIC_NUM_CLASSES, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.data.order import Sampling
from gan.images import ImageShape
from gan.models.architectures import build_discriminator, build_generator
from gan.models.initialization import initialize
from gan.recipe_files import recipe_named
from gan.recipe_settings import with_settings
from gan.recipes import Recipe


class _Pictures(Dataset[tuple[Tensor, int]]):
    """uint8 images (N, C, H, W), made PIL images and transformed one by one, as in torchvision's MNIST."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.labels = labels.tolist()
        channels = images.shape[1]
        self.images = images[:, 0].cpu() if channels == 1 else images.permute(0, 2, 3, 1).contiguous().cpu()
        normalize = transforms.Normalize([0.5] * channels, [0.5] * channels)
        self.transform = transforms.Compose([transforms.ToTensor(), normalize])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index].numpy())), self.labels[index]


@dataclass(frozen=True)
class PlainGan:
    """The networks and optimizers of the plain loop, and a moving average of G if the row has one."""

    generator: nn.Module
    discriminator: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    average: nn.Module | None

    @classmethod
    def of(cls, recipe: Recipe, shape: ImageShape, num_classes: int, device: torch.device) -> "PlainGan":
        """Build them for images of a shape (C, H, W), and for so many classes if the row is conditional."""
        num_classes = num_classes if recipe.conditional else 0
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
    gan: PlainGan,
    images: Tensor,
    labels: Tensor,
    batch_size: int,
    device: torch.device,
    accumulate: int,
) -> Iterator[list[float]]:
    """Train forever, and yield after each step what a tutorial would print.

    Args:
        recipe: A row.
        gan: What to train.
        images: The dataset, uint8 (N, C, H, W).
        labels: Its classes (N,), for a conditional recipe.
        batch_size: Images of a micro-batch.
        device: Where to train.
        accumulate: Micro-batches of an update.
    """
    networks = (gan.generator, gan.discriminator, gan.optimizer_g, gan.optimizer_d)
    mean = torch.zeros((), device=device)
    anchors = torch.zeros(2, device=device)
    batches = _batches(recipe, images, labels, batch_size * accumulate, device)
    for step, (real, classes) in enumerate(batches):
        size = len(real[0])
        latents = torch.randn(recipe.latents_per_step, size, recipe.latent_dim, device=device)
        mix = torch.rand(len(real), size, device=device)
        warps = None
        if recipe.augmentation:
            warps = torch.rand(len(real) + 1, 2, size, recipe.warp_dim, device=device)
        directions = torch.randn_like(real[0]) if recipe.due(step).generator else None
        metrics = plain_step(
            recipe, *networks, real, latents, mix, classes, accumulate, warps, directions, mean, step, anchors
        )
        if gan.average is not None:
            for kept, now in zip(gan.average.parameters(), gan.generator.parameters(), strict=True):
                kept.data.lerp_(now.data, 0.001)
        yield metrics


def _batches(
    recipe: Recipe, images: Tensor, labels: Tensor, batch_size: int, device: torch.device
) -> Iterator[tuple[list[Tensor], list[Tensor | None]]]:
    """Yield images and classes of each step: as many batches as D has updates, epoch after epoch."""
    pictures = _Pictures(images, labels)
    loader = DataLoader(
        pictures,
        batch_size=batch_size,
        sampler=RandomSampler(pictures, replacement=recipe.sampling is Sampling.WITH_REPLACEMENT),
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
        self.period = recipe.period
        request = DatasetRequest(Path(), setup.image_shape, 0, device, images_per_step=self.images_per_step)
        dataset = DATASETS["synthetic"](request)
        assert isinstance(dataset, InMemoryImages)
        assert dataset.labels is not None
        num_images = len(dataset) // self.images_per_step * self.images_per_step  # so that every step is alike
        if not num_images:
            raise SubjectError(f"a step of the plain loop takes {self.images_per_step} images of {len(dataset)}")
        images = dataset.train[:num_images]
        labels = dataset.labels[:num_images]
        torch.manual_seed(setup.seed)
        self._gan = PlainGan.of(recipe, setup.image_shape, SYNTHETIC_NUM_CLASSES, device)
        self._steps = plain_loop(recipe, self._gan, images, labels, setup.batch_size, device, accumulate)
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


def unfit(setup: Setup) -> str | None:
    """Return why the plain loop cannot be what a setup asks for, or None."""
    if not setup.recipe:
        return "the plain loop trains a recipe; name one with --recipe"
    if setup.world_size > 1:
        return "the plain loop runs in one process"
    if setup.precision != "fp32" or setup.compile != "no":
        return "the plain loop is always fp32 and eager"
    return None


def make(setup: Setup) -> PlainLoop:
    """Return the plain loop of `setup.recipe`: always fp32 and eager, in one process.

    Raises:
        SubjectError: The setup asks for something else, or names no recipe.
    """
    if reason := unfit(setup):
        raise SubjectError(reason)
    return PlainLoop(setup)
