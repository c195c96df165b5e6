"""Everything a checkpoint holds, as named objects."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor, nn

from gan.networks import INITIALIZERS, ImageShape, synchronize_batchnorm, use_onednn
from gan.objectives import DiscriminatorObjective, Generate, GeneratorObjective
from gan.recipes import Recipe
from gan.seeds import derive_seed, seed_default_generator

FUSED_DEVICES = frozenset({"cpu", "cuda", "mps", "xpu"})
METRICS = ("loss_d", "loss_g", "p_real", "p_fake")
PLAYERS = ("discriminator", "generator")
"""In the order of their losses in METRICS."""


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
        self.network.load_state_dict(_strip(tensors, "network."))
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip(tensors, "optimizer.").items():
            index, key = name.split(".", 1)
            state.setdefault(int(index), {})[key] = value
        parameters = list(self.network.parameters())
        for number, values in state.items():
            if any(value.ndim and value.shape != parameters[number].shape for value in values.values()):
                raise RuntimeError(f"the optimizer's state of parameter {number} has another shape")
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        if scaler:  # empty unless it was saved in fp16
            self.scaler.load_state_dict(dict(scaler))


@dataclass
class Progress:
    """Where a run stands. Images seen is its clock.

    Attributes:
        step: Steps completed.
        epoch: Epochs completed.
        position: Steps completed since the last of them.
        images_seen: Real images trained on, over all processes, repeats counted.
        seconds: Wall time of training, over all sessions of the run.
    """

    step: int = 0
    epoch: int = 0
    position: int = 0
    images_seen: int = 0
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
        compiled: Whether the objectives are; a step is then one generation of CUDA graphs.
        history: METRICS of each step of the epoch on this process's samples, shape (steps, 4); rows from
            `progress.position` on are stale.
    """

    recipe: Recipe
    image_shape: ImageShape
    generator: Player
    discriminator: Player
    generate: Callable[[Tensor], Tensor]
    compiled: bool
    progress: Progress
    history: Tensor

    @property
    def players(self) -> dict[str, Player]:
        """Both networks by name, in the order of PLAYERS."""
        return {player: getattr(self, player) for player in PLAYERS}

    def record(self, metrics: Tensor, num_images: int) -> None:
        """Count a step over `num_images` of all processes and keep its METRICS, without waiting for the device."""
        self.history[self.progress.position] = metrics
        self.progress.step += 1
        self.progress.position += 1
        self.progress.images_seen += num_images

    def end_epoch(self) -> None:
        """Begin the next epoch."""
        self.progress.epoch += 1
        self.progress.position = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, on their device; `history`, this process's own, with a dimension for it."""
        named = {"history": self.history[: self.progress.position].unsqueeze(0)}
        for name, player in self.players.items():
            named |= {f"{name}.{key}": value for key, value in player.tensors().items()}
        return named

    def counters(self) -> dict[str, Any]:
        """Return what is not a tensor, JSON-ready."""
        scalers = {name: player.scaler.state_dict() for name, player in self.players.items()}
        return {"progress": asdict(self.progress), "scalers": scalers}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any], rank: int | None = None) -> None:
        """Take over what `tensors` and `counters` returned, of `history` one rank's or the mean of all."""
        for name, player in self.players.items():
            player.load(_strip(tensors, f"{name}."), counters["scalers"][name])
        self.progress = Progress(**counters["progress"])
        if self.progress.position:
            saved = tensors["history"].mean(0) if rank is None else tensors["history"][rank]
            self.history[: self.progress.position] = saved.to(self.history.device)


def build_state(
    recipe: Recipe,
    image_shape: ImageShape,
    accelerator: Accelerator,
    *,
    seed: int,
    steps_per_epoch: int,
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
        if device.type == "cpu":
            use_onednn(network)
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
        compiled=accelerator.state.dynamo_plugin.backend != DynamoBackend.NO,
        progress=Progress(),
        history=torch.zeros(steps_per_epoch, len(METRICS), dtype=dtype, device=device),
    )


def _strip(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
