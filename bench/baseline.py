"""The plain tutorial loop, as people write it: what the training core is compared with.

A DataLoader with per-item transforms, BCELoss on a sigmoid, D trainable in G's turn, `.item()` at each step, Adam
with its defaults. `python -m bench.baseline` measures it beside the core, taking turns on one machine.
"""

import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torchvision
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import transforms

from gan.errors import UsageError
from gan.images import DEFAULT_IMAGE_SHAPE, Sampling
from gan.loop import train_epoch
from gan.losses import NonSaturating
from gan.networks import INITIALIZERS
from gan.options import TrainOptions, parse
from gan.recipes import RECIPES, Recipe
from gan.records import environment
from gan.run import prepare
from gan.script import exit_code_of
from gan.step import train_step

DATASETS = {"mnist": torchvision.datasets.MNIST, "fashion_mnist": torchvision.datasets.FashionMNIST}


def plain_step(
    recipe: Recipe,
    generator: nn.Module,
    discriminator: nn.Module,
    optimizer_g: torch.optim.Optimizer,
    optimizer_d: torch.optim.Optimizer,
    real: Tensor,
    latents: Tensor,
) -> list[float]:
    """Take one step of a recipe as its tutorial would, and return loss_d, loss_g, p_real and p_fake.

    Args:
        recipe: One of the non-saturating rows.
        generator: Latents (B, latent_dim) to images (B, C, H, W).
        discriminator: Images to *probabilities* (B,).
        optimizer_g: Of the generator.
        optimizer_d: Of the discriminator.
        real: Images in [-1, 1], shape (B, C, H, W).
        latents: Shape (recipe.latents_per_step, B, latent_dim).
    """
    objective = recipe.loss
    assert isinstance(objective, NonSaturating)
    bce = nn.BCELoss()
    valid = torch.ones(len(real), dtype=real.dtype)
    smooth = torch.full((len(real),), objective.real_label, dtype=real.dtype)
    invalid = torch.zeros(len(real), dtype=real.dtype)

    def update_generator(z: Tensor) -> tuple[Tensor, float]:
        optimizer_g.zero_grad()
        fake = generator(z)
        loss = bce(discriminator(fake), valid)
        loss.backward()
        optimizer_g.step()
        return fake, loss.item()

    def update_discriminator(fake: Tensor) -> tuple[float, float, float]:
        optimizer_d.zero_grad()
        p_real, p_fake = discriminator(real), discriminator(fake.detach())
        loss = objective.scale * (bce(p_real, smooth) + bce(p_fake, invalid))
        loss.backward()
        optimizer_d.step()
        return loss.item(), p_real.mean().item(), p_fake.mean().item()

    if recipe.generator_first:
        fake, loss_g = update_generator(latents[0])
        loss_d, p_real, p_fake = update_discriminator(fake)
    else:
        loss_d, p_real, p_fake = update_discriminator(generator(latents[0]))
        _, loss_g = update_generator(latents[1])
    return [loss_d, loss_g, p_real, p_fake]


def plain_loop(recipe: Recipe, data_root: Path, seed: int) -> Iterator[list[float]]:
    """Train forever as a tutorial would, yielding after each step what it would print."""
    torch.manual_seed(seed)
    generator = recipe.generator.generator(recipe.latent_dim, DEFAULT_IMAGE_SHAPE)
    discriminator = nn.Sequential(recipe.discriminator.discriminator(DEFAULT_IMAGE_SHAPE), nn.Sigmoid())
    for network in (generator, discriminator):
        INITIALIZERS[recipe.initialization](network)
    settings = recipe.optimizer
    optimizer_g, optimizer_d = (
        torch.optim.Adam(network.parameters(), settings.learning_rate, settings.betas, settings.eps)
        for network in (generator, discriminator)
    )
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5], [0.5])])
    loader = DataLoader(
        DATASETS[recipe.dataset](data_root, train=True, download=True, transform=transform),
        batch_size=recipe.batch_size,
        shuffle=True,
        drop_last=recipe.sampling is not Sampling.SHUFFLE,
    )
    while True:
        for real, _ in loader:
            latents = torch.randn(recipe.latents_per_step, len(real), recipe.latent_dim)
            yield plain_step(recipe, generator, discriminator, optimizer_g, optimizer_d, real, latents)


@dataclass(frozen=True)
class CompareOptions:
    """Measure the plain tutorial loop, gan/train.py's loop and its bare step, taking turns window by window."""

    recipe: str = "mlp"
    """Which GAN: a row of gan/recipes.py on mnist or fashion_mnist."""
    data_root: Path = Path("data")
    """Where the dataset is."""
    rounds: int = 16
    """Windows of each arm."""
    steps: int = 200
    """Steps in a window, up to 400; each of the loop's windows also pays what an epoch pays once."""


def compare(options: CompareOptions) -> dict[str, list[float]]:
    """Return milliseconds per step of each window of each arm, after a warm-up of two rounds."""
    if options.recipe not in RECIPES or RECIPES[options.recipe].dataset not in DATASETS:
        known = [name for name, recipe in RECIPES.items() if recipe.dataset in DATASETS]
        raise UsageError(f"--recipe {options.recipe}: choose one of {', '.join(known)}")
    if options.rounds < 2 or not 1 <= options.steps <= 400:
        raise UsageError(
            f"--rounds {options.rounds} --steps {options.steps}: at least 2 rounds, of 1 to 400 steps"
        )
    train_options = TrainOptions(
        recipe=options.recipe, data_root=options.data_root, checkpoint_every=sys.maxsize, output=Path(os.devnull)
    )
    run, state = prepare(train_options)
    _, bare_state = prepare(train_options)
    recipe = run.recipe
    plain = plain_loop(recipe, options.data_root, seed=0)
    batches = torch.randperm(len(run.dataset))[: 100 * recipe.batch_size].split(recipe.batch_size)
    latents_shape = (recipe.latents_per_step, recipe.batch_size, recipe.latent_dim)
    ready = itertools.cycle([(images, torch.randn(latents_shape)) for images in run.dataset.stream(batches)])

    def plain_window() -> None:
        for _ in range(options.steps):
            next(plain)

    def loop_window() -> None:
        if state.progress.position + options.steps > run.steps_per_epoch:
            state.end_epoch()
        train_epoch(run, state, state.progress.position + options.steps, 0.0)

    def bare_window() -> None:
        for _ in range(options.steps):
            train_step(bare_state, *next(ready), 1 / recipe.batch_size)

    arms: dict[str, Callable[[], None]] = {"plain": plain_window, "loop": loop_window, "bare": bare_window}
    windows: dict[str, list[float]] = {name: [] for name in arms}
    names = list(arms)
    for index in range(options.rounds + 2):
        for name in names if index % 2 else reversed(names):
            began = time.perf_counter()
            arms[name]()
            if index >= 2:
                windows[name].append(1000 * (time.perf_counter() - began) / options.steps)
    return windows


def main() -> None:
    """Print the comparison and the machine it was made on."""
    options = parse(CompareOptions, "python -m bench.baseline", sys.argv[1:])
    windows = compare(options)
    batch_size = RECIPES[options.recipe].batch_size
    table = Table(title=f"{options.recipe}, fp32, eager, batch {batch_size}")
    for column in ("arm", "ms/step", "IQR", "images/s", "× plain", "of the bare step"):
        table.add_column(column, justify="left" if column == "arm" else "right")
    labels = {"plain": "plain tutorial loop", "loop": "gan/train.py's loop", "bare": "bare step"}
    for name, values in windows.items():
        low, middle, high = statistics.quantiles(values, n=4)
        times_plain = statistics.median(p / v for p, v in zip(windows["plain"], values, strict=True))
        of_bare = statistics.median(b / v for b, v in zip(windows["bare"], values, strict=True))
        cells = (f"{middle:.2f}", f"{high - low:.2f}", f"{1000 * batch_size / middle:,.0f}")
        table.add_row(labels[name], *cells, f"{times_plain:.2f}", f"{of_bare:.1%}")
    Console().print(table)
    machine = machine_line(environment())
    print(f"{options.rounds} windows of {options.steps} steps each, taking turns; ratios are medians over rounds")
    print(machine)


def machine_line(record: dict[str, object]) -> str:
    """Return the machine and versions of an environment record as one line."""
    cpu, packages = record["cpu"], record["packages"]
    assert isinstance(cpu, dict)
    assert isinstance(packages, dict)
    return (
        f"{cpu['model']}, {cpu['cores']} cores, {record['threads']} threads; Python {record['python']}, "
        + ", ".join(f"{name} {version}" for name, version in packages.items())
    )


if __name__ == "__main__":
    sys.exit(exit_code_of(main))
