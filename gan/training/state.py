"""Everything a checkpoint holds, as named objects."""

import copy
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DynamoBackend
from torch import Tensor, nn

from gan.images import ImageShape
from gan.methods.lazy import Due
from gan.methods.schedules import at
from gan.models.batch_statistics import running_statistics_kept
from gan.process.place import place_of
from gan.recipes import Recipe
from gan.training.adaptation import Adaptation
from gan.training.average import AveragedTensors
from gan.training.execution import Execution
from gan.training.generator_loss import GeneratorLoss, GeneratorLosses
from gan.training.graphs import StepGraphs
from gan.training.health import PLAYERS, Alarm, Health
from gan.training.metrics import metrics_of, with_columns
from gan.training.networks import build_networks
from gan.training.objectives import DiscriminatorObjective, Generate, GeneratorObjective
from gan.training.optimizers import build_optimizer, set_numbers
from gan.training.player import Player, stripped
from gan.training.progress import Best, Progress
from gan.training.ranks import mean_over_ranks
from gan.training.terms import Terms
from gan.training.wrapping import share_gradients, wrap

DEFAULT_EXECUTION = Execution()
PER_RANK = ("history", "adaptation.signs")
"""Tensors of a checkpoint that have a row for each rank. `history` has shape (ranks, steps, columns)."""


@dataclass
class TrainState:
    """A GAN in training.

    Attributes:
        recipe: Its row.
        image_shape: Channels, height, width.
        num_classes: Of a conditional recipe; 0 otherwise.
        generator: G with its objective, optimizer and scaler.
        discriminator: D likewise.
        generate: Latents (B, latent_dim), and classes (B,) or None, to images (B, C, H, W) with G as it trains,
            wrapped like the objectives.
        generator_loss: G's losses on images that are there already, as `GeneratorLoss` has it, wrapped likewise.
        average: The moving average of G, on the device and in evaluation mode; None where the recipe has none.
        penalty_weight: The penalty's factor in D's loss; a scalar on the device.
        generator_penalty_weight: That of G's penalty, None without one.
        generator_penalty_mean: The running mean of what G's penalty measures; a scalar on the device, or None.
        anchors: LeCam's moving averages of D's mean logits of real and of generated images; shape (2,), on the
            device, or None.
        top_k: The part of its images that G learns on; a scalar on the device, None where it is all of them.
        probability: Of augmentation; a scalar on the device, None where no augmentation takes it.
        adaptation: What adapts that probability, if the recipe does.
        world_size: Number of ranks.
        progress: Where the run stands.
        compiled: Whether the objectives are compiled; each step then begins a new generation of CUDA graphs.
        execution: How a step runs, without "auto".
        graphs: Of whole steps, if they run as such.
        history: What `metrics_of` names, of each step of the epoch on this rank's images, shape (steps, columns);
            rows from `progress.position` on are stale.
        health: Watches the adversarial losses.
        best: The best evaluation so far, of a run that keeps it.
    """

    recipe: Recipe
    image_shape: ImageShape
    num_classes: int
    generator: Player
    discriminator: Player
    generate: Callable[[Tensor, Tensor | None], Tensor]
    generator_loss: Callable[..., GeneratorLosses]
    average: nn.Module | None
    penalty_weight: Tensor
    generator_penalty_weight: Tensor | None
    generator_penalty_mean: Tensor | None
    anchors: Tensor | None
    top_k: Tensor | None
    probability: Tensor | None
    adaptation: Adaptation | None
    world_size: int
    compiled: bool
    execution: Execution
    graphs: StepGraphs | None
    progress: Progress
    history: Tensor
    health: Health
    best: Best | None = None

    @property
    def players(self) -> dict[str, Player]:
        """Both networks by name, in the order of PLAYERS."""
        return {player: getattr(self, player) for player in PLAYERS}

    @property
    def due(self) -> Due:
        """Which updates of the next step are followed by one for a penalty."""
        return self.recipe.due(self.progress.step)

    def preview(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return what G's next pass makes of the same latents, and leave the running statistics to that pass."""
        with running_statistics_kept(self.generator.network):
            return self.generate(latents, labels)

    def move_penalty_mean(self, mean: Tensor) -> None:
        """Let the running mean of what G's penalty measures follow this rank's part of a batch's mean."""
        penalty = self.recipe.lazy_generator_penalty
        assert penalty is not None
        assert self.generator_penalty_mean is not None
        of_batch = mean_over_ranks(mean, self.world_size, "mean of G's penalty")
        self.generator_penalty_mean.lerp_(of_batch, penalty.decay)

    def move_anchors(self, means: Tensor) -> None:
        """Let LeCam's anchors follow this rank's part of a batch's mean logits, shape (2,)."""
        assert self.recipe.lecam is not None
        assert self.anchors is not None
        of_batch = mean_over_ranks(means, self.world_size, "LeCam's anchors")
        self.anchors.copy_(self.recipe.lecam.moved(self.anchors, of_batch))

    def record(self, metrics: Tensor, num_images: int) -> None:
        """Count a step over `num_images` real images of all ranks, keep its metrics, and average G.

        Nothing in it waits for the device.
        """
        self.history[self.progress.position] = metrics
        self.progress.step += 1
        self.progress.position += 1
        self.progress.images_seen += num_images
        if self.average is not None:
            # After a half-life of H images, half of the average's weight is on older generators: 0.5 ** (n / H).
            half_life = self.recipe.half_life(self.progress.images_seen)
            weight = 1 - 0.5 ** (num_images / half_life) if half_life else 1.0
            self._averaged.move(weight)
        if self.adaptation is not None:
            self.adaptation.follow(self.progress.step, num_images)
        if self.recipe.scheduled:
            self.follow_schedules()

    def follow_schedules(self) -> None:
        """Set what follows the images seen: the optimizers' numbers, weights of penalties, the probability."""
        recipe = self.recipe
        seen = self.progress.images_seen
        for name, player in self.players.items():
            set_numbers(player.optimizer, recipe.numbers(name, seen))
        if recipe.penalty:
            self.penalty_weight.fill_(at(recipe.penalty.weight, seen))
        if recipe.generator_penalty and self.generator_penalty_weight is not None:
            self.generator_penalty_weight.fill_(at(recipe.generator_penalty.weight, seen))
        if self.top_k is not None:
            self.top_k.fill_(at(recipe.generator_top_k, seen))
        if self.probability is not None and self.adaptation is None:
            self.probability.fill_(recipe.probability(seen))

    @property
    def at_best(self) -> bool:
        """Whether the state is that of the best evaluation so far."""
        return self.best is not None and self.best.images_seen == self.progress.images_seen

    @property
    def sampler(self) -> nn.Module:
        """The generator to save and to sample: the average, where there is one."""
        return self.generator.network if self.average is None else self.average

    def sampler_of(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights and buffers of `sampler` out of what `tensors` returned."""
        return stripped(tensors, "generator.network." if self.average is None else "average.")

    @cached_property
    def _averaged(self) -> AveragedTensors:
        assert self.average is not None
        return AveragedTensors(self.average, self.generator.network)

    def watch(self) -> list[Alarm]:
        """Return new alarms about the losses since the last call. It waits for the device."""
        return self.health.watch(self.history[: self.progress.position].cpu(), self.progress.step)

    def end_epoch(self) -> None:
        """Begin the next epoch."""
        self.progress.epoch += 1
        self.progress.position = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, on their device.

        Those of PER_RANK are this rank's, and have a first dimension of 1.
        """
        named = {"history": self.history[: self.progress.position].unsqueeze(0)}
        for name, player in self.players.items():
            named |= {f"{name}.{key}": value for key, value in player.tensors().items()}
        if self.average is not None:
            named |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        if self.generator_penalty_mean is not None:
            named["generator_penalty.mean"] = self.generator_penalty_mean
        if self.anchors is not None:
            named["lecam.anchors"] = self.anchors
        if self.adaptation is not None:
            named |= {f"adaptation.{name}": value for name, value in self.adaptation.tensors().items()}
        return named

    def counters(self) -> dict[str, Any]:
        """Return what is not a tensor, JSON-ready."""
        scalers = {name: player.scaler.state_dict() for name, player in self.players.items()}
        best = {} if self.best is None else {"best": self.best.to_json()}
        return {"progress": asdict(self.progress), "scalers": scalers, "health": self.health.to_json(), **best}

    def load(self, tensors: Mapping[str, Tensor], counters: Mapping[str, Any], rank: int | None = None) -> None:
        """Take over what `tensors` and `counters` returned.

        Args:
            tensors: On any device.
            counters: JSON-ready.
            rank: Whose part of PER_RANK to take; None takes the mean over ranks, if the world size has changed.

        Raises:
            KeyError: A name is missing.
            RuntimeError: A shape differs.
        """
        for name, player in self.players.items():
            player.load(stripped(tensors, f"{name}."), counters["scalers"][name])
        if self.average is not None:
            self.average.load_state_dict(stripped(tensors, "average."))
        if self.generator_penalty_mean is not None:
            self.generator_penalty_mean.copy_(tensors["generator_penalty.mean"])
        if self.anchors is not None:
            self.anchors.copy_(tensors["lecam.anchors"])
        if self.adaptation is not None:
            self.adaptation.load(stripped(tensors, "adaptation."), rank)
        if self.graphs is not None:
            self.graphs.forget()  # the optimizers have other tensors now
        self.progress = Progress(**counters["progress"])
        self.health.load(counters["health"])
        self.best = Best.of(counters["best"]) if "best" in counters else None
        if self.progress.position:
            saved = tensors["history"].mean(0) if rank is None else tensors["history"][rank]
            saved = with_columns(saved, self.history.shape[1])
            self.history[: self.progress.position] = saved.to(self.history.device)
        self.follow_schedules()


def build_state(
    recipe: Recipe,
    image_shape: ImageShape,
    accelerator: Accelerator,
    *,
    seed: int,
    steps_per_epoch: int,
    num_classes: int = 0,
    dtype: torch.dtype = torch.float32,
    execution: Execution = DEFAULT_EXECUTION,
    partly_used: Collection[str] = (),
) -> TrainState:
    """Build, initialise and wrap a recipe's networks; the same seed gives the same weights everywhere.

    `partly_used` names the networks with parameters that get no gradient, as `rehearse` returns them.
    """
    device = accelerator.device
    world_size = place_of(accelerator).world_size
    execution = execution.settled(recipe, accelerator)
    networks = build_networks(
        recipe,
        image_shape,
        num_classes,
        seed,
        device=device,
        dtype=dtype,
        execution=execution,
        world_size=world_size,
    )
    generator, discriminator = networks["generator"], networks["discriminator"]
    shared = share_gradients(networks, execution)
    execution = replace(execution, shared_memory=bool(shared))

    def player(name: str, objective: nn.Module, clip: float = 0.0) -> Player:
        network = networks[name]
        optimizer = build_optimizer(
            recipe.optimizers[name], network, device, recipe.numbers(name, 0), capturable=execution.cuda_graph
        )
        # One scaler a network: a shared one would be updated twice a step, and G's overflow would skip D.
        scaler = torch.amp.GradScaler(device.type, enabled=accelerator.mixed_precision == "fp16")
        wrapped = wrap(
            objective,
            accelerator,
            execution,
            partly_used=name in partly_used,
            evaluation_mode=execution.shared_memory,
        )
        frozen = [weight for weight in network.parameters() if not weight.requires_grad] if world_size > 1 else []
        return Player(network, wrapped, optimizer, scaler, clip, shared.get(name), frozen)

    terms = Terms.of(recipe, dtype, device)
    generator_objective = GeneratorObjective(generator, discriminator, terms)
    generator_loss = GeneratorLoss(discriminator, terms)
    discriminator_objective = DiscriminatorObjective(discriminator, terms)
    generator_loss.recompute = generator_objective.loss_of.recompute = execution.recompute
    discriminator_objective.recompute = execution.recompute
    players = {
        "generator": player("generator", generator_objective),
        "discriminator": player("discriminator", discriminator_objective, recipe.discriminator_clip),
    }
    adaptation: Adaptation | None = None
    if recipe.adaptive is not None and terms.probability is not None:
        adaptation = Adaptation.of(recipe.adaptive, terms.probability, world_size)
    # Not before: now all processes have the weights of rank 0.
    average = copy.deepcopy(generator).eval().requires_grad_(requires_grad=False) if recipe.ema_half_life else None

    return TrainState(
        recipe=recipe,
        image_shape=image_shape,
        num_classes=num_classes,
        generator=players["generator"],
        discriminator=players["discriminator"],
        generate=wrap(Generate(generator), accelerator, execution, evaluation_mode=True),
        generator_loss=wrap(generator_loss, accelerator, execution, evaluation_mode=True),
        average=average,
        penalty_weight=discriminator_objective.penalty_weight,
        generator_penalty_weight=generator_objective.penalty_weight,
        generator_penalty_mean=generator_objective.penalty_mean,
        anchors=terms.anchors,
        top_k=terms.top_k,
        probability=terms.probability,
        adaptation=adaptation,
        world_size=world_size,
        compiled=accelerator.state.dynamo_plugin.backend != DynamoBackend.NO,
        execution=execution,
        graphs=StepGraphs((generator, discriminator)) if execution.cuda_graph else None,
        progress=Progress(),
        history=torch.zeros(steps_per_epoch, len(metrics_of(recipe)), dtype=dtype, device=device),
        health=Health(recipe.loss, apart=recipe.adds_terms),
    )
