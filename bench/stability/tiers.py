"""Does a configuration train the same GAN? Checks with limits, from bitwise repetition to the health of a run.

T0, determinism: the same steps twice, bit for bit. T1, semantics: one step in float64 against the plain tutorial
loop in one process, and against a resumed run. T2, precision: losses, gradients, penalties and optimizers against
float64, from the same states. T3 is in bench/stability/convergence.py. T4, health: some hundred steps without
an alarm. All on the bundled digits. docs/stability.md says how the limits came about.
"""

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from bench.harness.exchange import Phase, Report, no_report
from bench.results.checks import Check
from bench.subjects.plain import plain_optimizers, plain_step, products_in_fp32
from gan.data.in_memory import InMemoryImages
from gan.data.order import shard
from gan.images import to_unit_range
from gan.loop import diversity_ratio, epoch_inputs, take_step
from gan.methods.augmentations import augment
from gan.methods.penalties import Penalty
from gan.models.architectures import build_discriminator, build_generator
from gan.models.networks import apply
from gan.recipes import Adam
from gan.run import Run
from gan.seeds import derive_seed
from gan.training.checkpoints import load_checkpoint, newest_first, save_checkpoint
from gan.training.health import PLAYERS, Alarm
from gan.training.objectives import DiscriminatorObjective, GeneratorObjective
from gan.training.state import METRICS, Player, TrainState, build_state
from gan.training.step import StepInputs, train_step

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
REPEATED_STEPS = 20
HEALTH_STEPS = 400
WATCHED_STEPS = 50
FLOAT64_LIMIT = 1e-9
UPDATE_LIMIT = 1e-4
GRADIENT_TIMES = 8.0
LOSS_TIMES = 16.0
COSINE_LIMIT = 0.01
FULL_PRECISION_LIMIT = 1e-4
PENALTY_LIMIT = 1e-3
OPTIMIZER_LIMIT = 1e-5
STEP_LIMIT = 1e-2
MOST_HALVINGS = 20
LEAST_NORM = 1e-5
LEAST_LOSS = 0.1


def fresh(run: Run, seed: int) -> tuple[Run, TrainState]:
    """Return a run with another seed, and its state before the first step.

    Args:
        run: Over labelled images in memory.
        seed: Of weights, order and latents.
    """
    run = replace(run, options=replace(run.options, seed=seed))
    return run, _built(run, run.steps_per_epoch, torch.float32)


def _built(run: Run, steps_per_epoch: int, dtype: torch.dtype) -> TrainState:
    assert isinstance(run.dataset, InMemoryImages)
    assert run.dataset.labels is not None
    return build_state(
        run.recipe,
        run.dataset.image_shape,
        run.accelerator,
        seed=run.options.seed,
        steps_per_epoch=steps_per_epoch,
        num_classes=int(run.dataset.labels.max()) + 1 if run.recipe.conditional else 0,
        dtype=dtype,
    )


def tiers(run: Run, precision: str, folder: Path, report: Report = no_report) -> dict[str, Any]:
    """Return the `checks` of all tiers, and the course of the `losses`, None where they are not finite.

    Args:
        run: Over labelled images in memory, whole batches only.
        precision: Of the configuration.
        folder: For a checkpoint.
        report: Told what is done; what may have to compile is a `Phase.FIRST_STEP`.
    """
    report("first step of T1", Phase.FIRST_STEP)
    checks = semantics(run)
    run, state = fresh(run, run.options.seed)

    def on_step() -> None:
        report(f"step {state.progress.step}")

    def errors() -> list[Check]:
        report("first step of T2", Phase.FIRST_STEP)
        return precision_errors(run, state, precision)

    if run.accelerator.num_processes == 1:
        checks += errors()
    report("first step of T0", Phase.FIRST_STEP)
    checks += repetition(run, state, folder, on_step)
    if run.accelerator.num_processes == 1:
        checks += [replace(check, name=f"{check.name}, trained") for check in errors()]
    alarms, course = health(run, state, on_step)
    checks.append(Check("T4", "alarms", len(alarms), 0, "; ".join(map(str, alarms)) or "a sick run"))
    losses = [[value if math.isfinite(value) else None for value in values] for values in course.T.tolist()]
    return {"checks": checks, "losses": dict(zip(METRICS, losses, strict=True))}


def step_inputs(run: Run, step: int = 0) -> StepInputs:
    """Return what a step on the whole global batch takes, in fp32, the same at every call."""
    recipe, num_images, device = run.recipe, run.global_batch_size, run.accelerator.device
    assert isinstance(run.dataset, InMemoryImages)
    source = torch.Generator().manual_seed(derive_seed(run.options.seed, "stability", step))
    updates = recipe.discriminator_steps
    rows = torch.randperm(len(run.dataset), generator=source)[: updates * num_images].to(device)

    def draw(numbers: Any, *shape: int) -> Tensor:
        drawn: Tensor = numbers(shape, generator=source).to(device)
        return drawn

    return StepInputs(
        real=to_unit_range(run.dataset.train[rows]),
        latents=draw(torch.randn, recipe.latents_per_step, num_images, recipe.latent_dim),
        share=1 / num_images,
        mix=draw(torch.rand, updates, num_images) if recipe.penalty and recipe.penalty.mixes else None,
        labels=run.dataset.labels[rows] if recipe.conditional and run.dataset.labels is not None else None,
        warps=draw(torch.rand, updates + 1, 2, num_images, recipe.warp_dim) if recipe.augmentation else None,
    )


def _doubled(inputs: StepInputs) -> StepInputs:
    doubled: dict[str, Any] = {
        name: value.double()
        for name, value in inputs._asdict().items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }
    return inputs._replace(**doubled)


def _part(inputs: StepInputs, run: Run) -> StepInputs:
    """Return this process's part of a global batch."""
    rank, num_processes = run.accelerator.process_index, run.accelerator.num_processes
    rows = shard(torch.arange(len(inputs.real)), rank, num_processes, run.recipe.discriminator_steps)

    def own(values: Tensor | None, dim: int) -> Any:
        return None if values is None else values.tensor_split(num_processes, dim)[rank]

    return StepInputs(
        real=inputs.real[rows],
        latents=own(inputs.latents, 1),
        share=num_processes * inputs.share,
        mix=own(inputs.mix, 1),
        labels=None if inputs.labels is None else inputs.labels[rows],
        warps=own(inputs.warps, 2),
    )


@contextmanager
def still(*networks: nn.Module) -> Iterator[None]:
    """Switch off what differs from pass to pass: dropout, and the iterations of spectral norm."""
    modules = [module for network in networks for module in network.modules()]
    dropouts = [(module, module.p) for module in modules if isinstance(module, nn.Dropout)]
    norms = [(module, module.training) for module in modules if isinstance(module, _SpectralNorm)]
    for dropout, _ in dropouts:
        dropout.p = 0.0
    for norm, _ in norms:
        norm.eval()
    try:
        yield
    finally:
        for dropout, p in dropouts:
            dropout.p = p
        for norm, training in norms:
            norm.train(training)


def _copies(run: Run, state: TrainState, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Build both networks anew, as plain PyTorch, with a state's weights and buffers."""
    recipe, shape = run.recipe, state.image_shape
    built = {
        "discriminator": build_discriminator(recipe.discriminator, shape, state.num_classes),
        "generator": build_generator(recipe.generator, recipe.latent_dim, shape, state.num_classes),
    }
    for name, network in built.items():
        network.load_state_dict(state.players[name].network.state_dict())
        network.to(run.accelerator.device, dtype)
    return built


def relative_error(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> float:
    """Return the largest difference between tensors of a list, by norm, relative to the second's.

    Norms below LEAST_NORM of the largest count as that: a bias before BatchNorm has rounding for a gradient. A
    missing gradient counts as 0.
    """
    pairs = [
        (torch.zeros_like(b) if a is None else a.double(), b.double())
        for a, b in zip(ours, theirs, strict=True)
        if b is not None
    ]
    floor = LEAST_NORM * max(float(b.norm()) for _, b in pairs)
    return _largest(float((a - b).norm()) / max(float(b.norm()), floor, 1e-300) for a, b in pairs)


def _largest(values: Iterable[float]) -> float:
    """Return the largest, or nan where one is."""
    return float(torch.tensor(list(values), dtype=torch.float64).max())


def _weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def _gradients(network: nn.Module) -> list[Tensor | None]:
    return [None if p.grad is None else p.grad.detach().clone() for p in network.parameters()]


def semantics(run: Run) -> list[Check]:
    """T1: one step in float64, under the configuration's compiler and processes, against the plain loop in one."""
    accelerator, recipe = run.accelerator, run.recipe
    state = _built(run, 1, torch.float64)
    plain = _copies(run, state, torch.float64)
    before = {name: _weights(network) for name, network in plain.items()}
    inputs = _doubled(step_inputs(run))
    updates = recipe.discriminator_steps
    labels = (None,) if inputs.labels is None else inputs.labels.tensor_split(updates)
    optimizers = dict(zip(plain, plain_optimizers(recipe, *plain.values()), strict=True))
    applied: dict[str, list[Tensor | None]] = {}  # later, D's would have G's turn added to them
    for name, optimizer in optimizers.items():
        optimizer.register_step_pre_hook(lambda *_, name=name: applied.__setitem__(name, _gradients(plain[name])))
    networks = {name: player.network for name, player in state.players.items()}
    with still(*plain.values(), *networks.values()):
        expected = plain_step(
            recipe,
            plain["generator"],
            plain["discriminator"],
            optimizers["generator"],
            optimizers["discriminator"],
            inputs.real.tensor_split(updates),
            inputs.latents,
            inputs.mix,
            labels,
        )
        metrics = train_step(state, _part(inputs, run)).clone()
    metrics = accelerator.reduce(metrics, "mean")
    checks = [
        Check(
            "T1",
            "losses",
            _largest(
                abs(a - b) / max(abs(b), LEAST_LOSS) for a, b in zip(metrics.tolist(), expected, strict=True)
            ),
            FLOAT64_LIMIT,
            "the losses are not the recipe's: labels swapped, a sign, a factor, or a mean over the wrong batch",
        )
    ]
    for name in PLAYERS:
        ours, theirs = networks[name], plain[name]
        checks += [
            Check(
                "T1",
                f"{name}'s gradients",
                relative_error(_gradients(ours), applied[name]),
                FLOAT64_LIMIT,
                "gradients are not those of one eager process: not averaged over processes, averaged wrongly, "
                "batch statistics of a part of the batch, or a compiler that changed the computation",
            ),
            Check(
                "T1",
                f"{name}'s update",
                relative_error(_moves(_weights(ours), before[name]), _moves(_weights(theirs), before[name])),
                UPDATE_LIMIT,
                "the optimizer does not do what the recipe says, or the network is frozen",
            ),
        ]
    return checks


def _moves(after: Sequence[Tensor], before: Sequence[Tensor]) -> list[Tensor | None]:
    return [a - b for a, b in zip(after, before, strict=True)]


def train_steps(run: Run, state: TrainState, num_steps: int, on_step: Callable[[], None] = lambda: None) -> Tensor:
    """Train so many steps as `gan/train.py` does, and return their METRICS (num_steps, 4)."""
    rows = []
    while num_steps:
        first = state.progress.position
        end = min(run.steps_per_epoch, first + num_steps)
        for inputs, num_images in epoch_inputs(run, state, end):
            take_step(state, inputs, num_images)
            on_step()
        rows.append(state.history[first:end].clone())
        num_steps -= end - first
        if end == run.steps_per_epoch:
            state.end_epoch()
    return torch.cat(rows)


def repetition(
    run: Run, state: TrainState, folder: Path, on_step: Callable[[], None] = lambda: None
) -> list[Check]:
    """T0 and T1: the same steps three times, straight on, and twice from a checkpoint on disk."""
    train_steps(run, state, 3, on_step)
    path = folder / "stability"
    images_seen = state.progress.images_seen
    save_checkpoint(path, state.tensors(), state.counters(), recipe=run.options.recipe, images_seen=images_seen)
    outcomes = []
    for resume in (False, True, True):
        if resume:
            saved = load_checkpoint(newest_first(path)[0])
            state.load(saved.tensors, saved.counters, 0)
        losses = train_steps(run, state, REPEATED_STEPS, on_step)
        tensors = {name: value.clone() for name, value in state.tensors().items() if name != "history"}
        outcomes.append({"losses": losses, **tensors})
    straight, once, again = outcomes
    return [
        Check(
            "T0",
            "tensors that differ when repeated",
            _num_different(once, again),
            0,
            "something random is not seeded, or an operator is not deterministic on this device",
        ),
        Check(
            "T1",
            "tensors that differ after a resume",
            _num_different(straight, once),
            0,
            "a checkpoint does not hold all of the state: the optimizer's, averages, or where the run stands",
        ),
    ]


def _num_different(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return sum(not torch.equal(a[name], b[name]) for name in a) if a.keys() == b.keys() else math.inf


def precision_errors(run: Run, state: TrainState, precision: str) -> list[Check]:
    """T2: one update of each network from the state's weights against float64; the weights do move.

    Where a check fails another batch decides: a gradient jumps where an activation is 0, and rounding takes one
    across now and then. What is wrong is so on both.
    """
    first = _precision_errors(run, state, precision, step_inputs(run, 1))
    if all(check.passed for check in first):
        return first
    second = _precision_errors(run, state, precision, step_inputs(run, 2))
    return [a if a.passed else b for a, b in zip(first, second, strict=True)]


def _precision_errors(run: Run, state: TrainState, precision: str, inputs: StepInputs) -> list[Check]:
    networks = {name: player.network for name, player in state.players.items()}
    exact, single = (_Update(run, _copies(run, state, dtype), dtype) for dtype in (torch.float64, torch.float32))
    checks: list[Check] = []
    with still(*networks.values(), *exact.networks.values(), *single.networks.values()):
        fake = exact.fakes(inputs).float()
        for name in reversed(PLAYERS):  # D's update would change what G is trained against
            with products_in_fp32(cudnn_tf32=False):
                expected, usual = exact.update(name, inputs, fake), single.update(name, inputs, fake)
            checks += _loss_from_logits(run, state, name, inputs, fake)
            if run.recipe.penalty and name == "discriminator":
                checks.append(_penalty_gradients(run, state, run.recipe.penalty, exact, inputs, fake))
            found = _own_update(run, state.players[name], name, inputs, fake)
            checks += _errors(name, found, usual, expected, UNIT_ROUNDOFF[precision] / UNIT_ROUNDOFF["fp32"])
            checks += _optimizer_errors(run, state.players[name], name, found)
    return checks


@dataclass(frozen=True)
class _Found:
    """An update's loss and gradients, and what the optimizer started from."""

    loss: float
    gradients: list[Tensor | None]
    weights: list[Tensor]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class _Update:
    """The objectives in one eager process without autocast, in some dtype."""

    run: Run
    networks: dict[str, nn.Module]
    dtype: torch.dtype

    def fakes(self, inputs: StepInputs) -> Tensor:
        with torch.no_grad():
            return apply(
                self.networks["generator"], inputs.latents[0].to(self.dtype), _first_labels(inputs, self.run)
            )

    def update(self, name: str, inputs: StepInputs, fake: Tensor) -> _Found:
        recipe, (generator, discriminator) = (
            self.run.recipe,
            (self.networks["generator"], self.networks["discriminator"]),
        )
        objective: nn.Module
        if name == "generator":
            objective = GeneratorObjective(generator, discriminator, recipe.loss, recipe.augmentation)
        else:
            objective = DiscriminatorObjective(discriminator, recipe.loss, recipe.penalty, recipe.augmentation)
        loss = _loss(
            objective,
            name,
            _doubled(inputs) if self.dtype == torch.float64 else inputs,
            fake.to(self.dtype),
            self.run,
        )
        gradients = torch.autograd.grad(loss, list(self.networks[name].parameters()))
        return _Found(loss.item(), list(gradients), [], {})


def _first_labels(inputs: StepInputs, run: Run) -> Tensor | None:
    return None if inputs.labels is None else inputs.labels.tensor_split(run.recipe.discriminator_steps)[0]


def _loss(objective: Any, name: str, inputs: StepInputs, fake: Tensor, run: Run) -> Tensor:
    """Return the loss of a network's first update."""
    real = inputs.real.tensor_split(run.recipe.discriminator_steps)[0]
    labels = _first_labels(inputs, run)
    warps = None if inputs.warps is None else inputs.warps[0]
    loss: Tensor
    if name == "generator":
        loss = objective(inputs.latents[0], inputs.share, labels, real, warps).loss
    else:
        loss = objective(
            real, fake, inputs.share, None if inputs.mix is None else inputs.mix[0], labels, warps
        ).loss
    return loss


def _own_update(run: Run, player: Player, name: str, inputs: StepInputs, fake: Tensor) -> _Found:
    """Update a network of the state, and return the gradients and what came before."""
    weights, before = _weights(player.network), copy.deepcopy(player.optimizer.state_dict())
    scale = player.scaler.get_scale() if player.scaler.is_enabled() else 1.0
    for _ in range(MOST_HALVINGS):
        loss = _loss(player.objective, name, inputs, fake, run)
        player.optimizer.zero_grad()
        (scale * loss).backward()
        gradients = [None if value is None else value / scale for value in _gradients(player.network)]
        if not player.scaler.is_enabled() or all(value is None or value.isfinite().all() for value in gradients):
            break
        scale /= 2  # as the scaler does after a step that it skips
    for parameter, gradient in zip(player.network.parameters(), gradients, strict=True):
        parameter.grad = gradient
    player.optimizer.step()
    return _Found(loss.item(), gradients, weights, before)


def _errors(name: str, found: _Found, usual: _Found, expected: _Found, coarser: float) -> list[Check]:
    """Compare with float64, in multiples of what fp32 gets; `coarser` is the ratio of unit roundoffs."""

    def of_loss(update: _Found) -> float:
        return abs(update.loss - expected.loss) / max(abs(expected.loss), LEAST_LOSS)

    def flat(update: _Found) -> Tensor:
        parts = zip(update.gradients, expected.gradients, strict=True)
        return torch.cat(
            [(torch.zeros_like(b) if a is None else a.double()).flatten() for a, b in parts if b is not None]
        )

    exact = flat(expected)
    own, theirs = (float((flat(update) - exact).norm() / exact.norm()) for update in (found, usual))
    smallest = UNIT_ROUNDOFF["fp32"]
    cosine = float(nn.functional.cosine_similarity(flat(found), exact, dim=0))
    return [
        Check(
            "T2",
            f"{name}'s loss",
            of_loss(found),
            LOSS_TIMES * coarser * max(of_loss(usual), smallest),
            "the loss is less exact than its precision explains: computed in half precision, or on unstable terms",
            of_loss(usual),
        ),
        Check(
            "T2",
            f"{name}'s gradients",
            own,
            GRADIENT_TIMES * coarser * max(theirs, smallest),
            "gradients are less exact than their precision explains: a sum or a norm in half precision",
            theirs,
        ),
        Check(
            "T2",
            f"{name}'s direction (1 - cosine)",
            1 - cosine,
            COSINE_LIMIT,
            "the update points elsewhere than in float64: this precision is too coarse for the recipe",
        ),
    ]


def _loss_from_logits(run: Run, state: TrainState, name: str, inputs: StepInputs, fake: Tensor) -> list[Check]:
    """Check that the loss of given logits is in fp32 whatever the networks' precision, in eager mode."""
    recipe, discriminator = run.recipe, state.discriminator.network
    if name == "generator":
        objective: nn.Module = GeneratorObjective(
            state.generator.network, discriminator, recipe.loss, recipe.augmentation
        )
    else:
        objective = DiscriminatorObjective(discriminator, recipe.loss, None, recipe.augmentation)
    logits: list[Tensor] = []
    hook = discriminator.register_forward_hook(lambda _module, _inputs, output: logits.append(output.double()))
    try:
        with torch.no_grad(), _unchanged(state), run.accelerator.autocast():
            found = _loss(objective, name, inputs, fake, run).item()
    finally:
        hook.remove()
    if name == "generator":
        losses = recipe.loss.generator(*logits)
    else:
        losses = recipe.loss.discriminator(*(logits[0].tensor_split(2) if len(logits) == 1 else logits))
    expected = losses.sum().item() * inputs.share
    return [
        Check(
            "T2",
            f"{name}'s loss, from its logits",
            abs(found - expected) / max(abs(expected), LEAST_LOSS),
            FULL_PRECISION_LIMIT,
            "the loss is computed in half precision: lift the logits to fp32 first",
        )
    ]


@contextmanager
def _unchanged(state: TrainState) -> Iterator[None]:
    """Put the networks' buffers back afterwards."""
    buffers = [buffer for player in state.players.values() for buffer in player.network.buffers()]
    before = [buffer.clone() for buffer in buffers]
    try:
        yield
    finally:
        for buffer, value in zip(buffers, before, strict=True):
            buffer.data.copy_(value)


def _penalty_gradients(
    run: Run, state: TrainState, penalty: Penalty, exact: _Update, inputs: StepInputs, fake: Tensor
) -> Check:
    """Check that the penalty is computed in fp32 whatever the networks' precision."""
    recipe, network = run.recipe, state.discriminator.network
    real = inputs.real.tensor_split(recipe.discriminator_steps)[0]
    labels, mix = _first_labels(inputs, run), None if inputs.mix is None else inputs.mix[0]
    warps = (None, None) if inputs.warps is None else inputs.warps[0]
    real, fake = (
        augment(images, recipe.augmentation, warp) for images, warp in zip((real, fake), warps, strict=True)
    )

    def gradients(discriminator: nn.Module, dtype: torch.dtype) -> tuple[Tensor, ...]:
        values = penalty(
            lambda images: apply(discriminator, images, labels),
            real.to(dtype),
            fake.to(dtype),
            None if mix is None else mix.to(dtype),
        )
        return torch.autograd.grad(values.sum(), list(discriminator.parameters()), materialize_grads=True)

    with _unchanged(state), run.accelerator.autocast():
        own = gradients(network, torch.float32)
    in_tf32 = torch.get_float32_matmul_precision() != "highest"
    return Check(
        "T2",
        "penalty's gradients",
        relative_error(own, gradients(exact.networks["discriminator"], torch.float64)),
        PENALTY_LIMIT * (100 if in_tf32 else 1),
        "the penalty is computed in half precision",
    )


def _optimizer_errors(run: Run, player: Player, name: str, found: _Found) -> list[Check]:
    """Repeat an optimizer's step in float64 from the same state, gradients and settings of the recipe."""
    settings = run.recipe.optimizer
    kind = torch.optim.Adam if isinstance(settings, Adam) else torch.optim.RMSprop
    weights = [value.double().requires_grad_() for value in found.weights]
    optimizer: torch.optim.Optimizer = kind(weights, **settings.after(0))
    arguments = optimizer.state_dict()["param_groups"]
    before = found.optimizer["state"]
    optimizer.load_state_dict({"state": copy.deepcopy(before), "param_groups": arguments})
    for group in optimizer.param_groups:
        group |= {key: player.optimizer.param_groups[0][key] for key in ("lr", "betas", "alpha") if key in group}
    for parameter, gradient in zip(weights, found.gradients, strict=True):
        parameter.grad = None if gradient is None else gradient.double()
    optimizer.step()
    after = player.optimizer.state_dict()["state"]
    averages = [
        (after.get(index, {}).get(key, torch.zeros_like(value)), value)
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
        if key != "step"
    ]
    moves = _moves([value.detach() for value in weights], [value.double() for value in found.weights])
    own = _moves(
        [value.double() for value in _weights(player.network)], [value.double() for value in found.weights]
    )
    return [
        Check(
            "T2",
            f"{name}'s optimizer",
            relative_error(*(list(each) for each in zip(*averages, strict=True))),
            OPTIMIZER_LIMIT,
            "the optimizer's averages are kept in half precision, or were lost",
        ),
        Check(
            "T2",
            f"{name}'s step",
            relative_error(own, moves),
            STEP_LIMIT,
            "the weights do not move as the optimizer's settings say: another learning rate, or frozen",
        ),
    ]


def health(run: Run, state: TrainState, on_step: Callable[[], None] = lambda: None) -> tuple[list[Alarm], Tensor]:
    """T4: train on and watch; return alarms, and METRICS as means of 10 steps each (n, 4)."""
    alarms: list[Alarm] = []
    rows = []
    for _ in range(HEALTH_STEPS // WATCHED_STEPS):
        rows.append(train_steps(run, state, WATCHED_STEPS, on_step).cpu())
        finite = rows[-1].isfinite().all(1)
        ranks = run.accelerator.reduce(finite.to(run.accelerator.device, torch.float32), "mean") == 1
        if not ranks.all():
            first = state.progress.step - WATCHED_STEPS + 1 + int(ranks.long().argmin())
            alarms.append(Alarm("spike", "both networks", first, "a loss is not finite"))
            break
        alarms += state.health.watch(rows[-1], state.progress.step)
    if not alarms:
        alarms += state.health.watch_diversity(diversity_ratio(run, state), state.progress.step)
    course = torch.cat(rows).double()
    return alarms, course.unfold(0, 10, 10).mean(-1)
