"""Everything a checkpoint holds, as named objects."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from gan.networks import INITIALIZERS, ImageShape, synchronize_batchnorm
from gan.objectives import DiscriminatorObjective, Generate, GeneratorObjective
from gan.recipes import Recipe
from gan.seeds import derive_seed, seed_default_generator

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
METRICS = ("loss_d", "loss_g", "p_real", "p_fake")
PLAYERS = ("discriminator", "generator")
"""In the order of their losses in METRICS."""
NEVER = torch.iinfo(torch.int64).max
"""The step of what has not happened."""


@dataclass
class Player:
    """One network with what trains it. `objective` is wrapped by Accelerate, `network` is not."""

    network: nn.Module
    objective: Callable[..., Any]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    def update(self, loss: Tensor) -> None:
        """Take one optimizer step on `loss`; a disabled scaler passes everything through."""
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def tensors(self) -> dict[str, Tensor]:
        """Return weights, buffers and optimizer state by name."""
        named = {f"network.{name}": value for name, value in self.network.state_dict().items()}
        for index, values in self.optimizer.state_dict()["state"].items():
            named |= {f"optimizer.{index}.{key}": value for key, value in values.items()}
        return named

    def load(self, tensors: Mapping[str, Tensor], scaler: Mapping[str, Any]) -> None:
        """Take over what `tensors` returned; raise KeyError or RuntimeError where names or shapes differ."""
        network = _strip(tensors, "network.")
        self.network.load_state_dict(network)
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        self.scaler.load_state_dict(dict(scaler))


@dataclass
class Progress:
    """Where a run stands. Images seen is its clock.

    Attributes:
        step: Steps completed; the epoch and the position in it follow from this.
        images_seen: Real images trained on, over all processes, repeats counted.
        epoch_images: The same since the epoch began.
        seconds: Wall time of training, over all sessions of the run.
    """

    step: int = 0
    images_seen: int = 0
    epoch_images: int = 0
    seconds: float = 0.0


@dataclass
class TrainState:
    """A GAN in training.

    Attributes:
        recipe: Its row.
        image_shape: Channels, height, width.
        generator: G with its objective, optimizer and scaler.
        discriminator: D likewise.
        generate: Latents (B, latent_dim) to images (B, C, H, W) with G as it trains, wrapped like the objectives.
        progress: Where the run stands.
        totals: Sums over the epoch of each of METRICS times the images of its step; shape (4,).
        first_nonfinite: The first step at which the loss of each of PLAYERS was not finite, or NEVER; shape
            (2,).
    """

    recipe: Recipe
    image_shape: ImageShape
    generator: Player
    discriminator: Player
    generate: Callable[[Tensor], Tensor]
    progress: Progress
    totals: Tensor
    first_nonfinite: Tensor

    def record(self, metrics: Tensor, num_images: int) -> None:
        """Count a step and add its METRICS, shape (4,), without waiting for the device."""
        self.progress.step += 1
        self.progress.images_seen += num_images
        self.progress.epoch_images += num_images
        self.totals.add_(metrics, alpha=num_images)
        is_first = ~metrics[: len(PLAYERS)].isfinite() & (self.first_nonfinite == NEVER)
        self.first_nonfinite.masked_fill_(is_first, self.progress.step)

    def begin_epoch(self) -> None:
        """Start the epoch's sums anew."""
        self.progress.epoch_images = 0
        self.totals.zero_()

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, on their device; `totals`, the only ones of a process's own, as one row."""
        named = {"totals": self.totals.unsqueeze(0)}
        for player in PLAYERS:
            named |= {f"{player}.{name}": value for name, value in getattr(self, player).tensors().items()}
        return named

    def counters(self) -> dict[str, Any]:
        """Return what is not a tensor, JSON-ready."""
        scalers = {player: getattr(self, player).scaler.state_dict() for player in PLAYERS}
        return {"progress": asdict(self.progress), "scalers": scalers}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any], row: int | None = None) -> None:
        """Take over what `tensors` and `counters` returned, of `totals` one row or the mean of them."""
        for player in PLAYERS:
            getattr(self, player).load(_strip(tensors, f"{player}."), counters["scalers"][player])
        self.totals.copy_(tensors["totals"].mean(0) if row is None else tensors["totals"][row])
        self.progress = Progress(**counters["progress"])


def build_state(
    recipe: Recipe,
    image_shape: ImageShape,
    accelerator: Accelerator,
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
) -> TrainState:
    """Build, initialise and wrap a recipe's networks; the same seed gives the same weights everywhere."""
    device = accelerator.device
    seed_default_generator(torch.device("cpu"), derive_seed(seed, "initialization"))
    generator = recipe.generator.generator(recipe.latent_dim, image_shape)
    discriminator = recipe.discriminator.discriminator(image_shape)
    for network in (generator, discriminator):
        INITIALIZERS[recipe.initialization](network)
        network.to(device, dtype)
    if accelerator.num_processes > 1:
        generator = synchronize_batchnorm(generator, device)
        discriminator = synchronize_batchnorm(discriminator, device)

    def player(network: nn.Module, objective: nn.Module) -> Player:
        settings = recipe.optimizer
        optimizer = torch.optim.Adam(
            network.parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            fused=device.type in FUSED_DEVICES,
        )
        # One scaler a network: a shared one would be updated twice a step, and G's overflow would skip D.
        scaler = torch.amp.GradScaler(device.type, enabled=accelerator.mixed_precision == "fp16")
        with warnings.catch_warnings():  # torch 2.15 renames an argument that Accelerate passes
            warnings.filterwarnings("ignore", message="`broadcast_buffers`", category=FutureWarning)
            wrapped = accelerator.prepare_model(objective)
        return Player(network, wrapped, optimizer, scaler)

    return TrainState(
        recipe=recipe,
        image_shape=image_shape,
        generator=player(generator, GeneratorObjective(generator, discriminator, recipe.loss)),
        discriminator=player(discriminator, DiscriminatorObjective(discriminator, recipe.loss)),
        generate=accelerator.prepare_model(Generate(generator), evaluation_mode=True),
        progress=Progress(),
        totals=torch.zeros(
            len(METRICS), dtype=torch.float32 if device.type == "mps" else torch.float64, device=device
        ),
        first_nonfinite=torch.full((len(PLAYERS),), NEVER, device=device),
    )


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
