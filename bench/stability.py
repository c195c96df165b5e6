"""Does a configuration train the same GAN? Checks with limits, from bitwise repetition to the health of a run.

T0, determinism: the same steps twice, bit for bit. T1, semantics: one step in float64 against the plain tutorial
loop in one process, and against a resumed run. T2, precision: losses, gradients, penalties and optimizers against
float64, from the same states. T3, convergence: what several seeds come to. T4, health: some hundred steps without
an alarm. All on the bundled digits. docs/stability.md says how the limits came about.
"""

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm

from bench.baseline import plain_optimizers, plain_step
from bench.equivalence import read_reference, reference_path, samples_of, verdicts
from gan.architectures import build_discriminator, build_generator
from gan.augmentations import augment
from gan.checkpoints import load_checkpoint, newest_first, save_checkpoint
from gan.health import Alarm
from gan.images import InMemoryImages, shard, to_unit_range
from gan.loop import diversity_ratio, epoch_inputs, take_step
from gan.networks import apply
from gan.objectives import DiscriminatorObjective, GeneratorObjective
from gan.quality import Judge, generated_features, judge_of
from gan.recipes import Adam
from gan.run import Run
from gan.seeds import derive_seed
from gan.state import METRICS, PLAYERS, Player, TrainState, build_state
from gan.step import StepInputs, train_step

UNIT_ROUNDOFF = {"fp32": 2.0**-24, "tf32": 2.0**-11, "bf16": 2.0**-9, "fp16": 2.0**-12}
REPEATED_STEPS = 20
HEALTH_STEPS = 400
WATCHED_STEPS = 50
FLOAT64_LIMIT = 1e-9
UPDATE_LIMIT = 1e-6
GRADIENT_TIMES = 4.0
LOSS_TIMES = 16.0
COSINE_LIMIT = 0.01
FULL_PRECISION_LIMIT = 1e-4
PENALTY_LIMIT = 1e-3
OPTIMIZER_LIMIT = 1e-5
LEAST_NORM = 1e-5
LEAST_LOSS = 0.1


@dataclass(frozen=True)
class Check:
    """Something measured that has a limit.

    Attributes:
        tier: T0, T1, T2 or T4.
        name: What was measured.
        value: Of it; at most `limit` where all is well.
        limit: Derived in docs/stability.md.
        cause: What it is if it is not well, most likely.
        reference: What fp32 in one eager process gets, where that is the measure.
    """

    tier: str
    name: str
    value: float
    limit: float
    cause: str
    reference: float | None = None

    @property
    def passed(self) -> bool:
        """Whether the value is within its limit; nan is not."""
        return self.value <= self.limit

    def to_json(self) -> dict[str, Any]:
        """Return all of it; a value that is not finite is None."""
        value = self.value if math.isfinite(self.value) else None
        return {**asdict(self), "value": value, "passed": self.passed}


def tiers(run: Run, state: TrainState, precision: str, folder: Path) -> dict[str, Any]:
    """Return the `checks` of all tiers and the course of the `losses`, and leave the state trained.

    Args:
        run: Over labelled images in memory, whole batches only.
        state: Of the run, as it was built.
        precision: Of the configuration.
        folder: For a checkpoint.
    """
    checks = semantics(run)
    if run.accelerator.num_processes == 1:
        checks += precision_errors(run, state, precision)
    checks += repetition(run, state, folder)
    if run.accelerator.num_processes == 1:
        checks += [
            replace(check, name=f"{check.name}, trained") for check in precision_errors(run, state, precision)
        ]
    alarms, course = health(run, state)
    checks.append(Check("T4", "alarms", len(alarms), 0, "; ".join(map(str, alarms)) or "a sick run"))
    return {"checks": checks, "losses": dict(zip(METRICS, course.T.tolist(), strict=True))}


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
    assert isinstance(run.dataset, InMemoryImages)
    num_classes = int(run.dataset.labels.max()) + 1 if recipe.conditional and run.dataset.labels is not None else 0
    state = build_state(
        recipe,
        run.dataset.image_shape,
        accelerator,
        seed=run.options.seed,
        steps_per_epoch=1,
        num_classes=num_classes,
        dtype=torch.float64,
    )
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


def train_steps(run: Run, state: TrainState, num_steps: int) -> Tensor:
    """Train so many steps as `gan/train.py` does, and return their METRICS (num_steps, 4)."""
    rows = []
    while num_steps:
        first = state.progress.position
        end = min(run.steps_per_epoch, first + num_steps)
        for inputs, num_images in epoch_inputs(run, state, end):
            take_step(state, inputs, num_images)
        rows.append(state.history[first:end].clone())
        num_steps -= end - first
        if end == run.steps_per_epoch:
            state.end_epoch()
    return torch.cat(rows)


def repetition(run: Run, state: TrainState, folder: Path) -> list[Check]:
    """T0 and T1: the same steps three times, straight on, and twice from a checkpoint on disk."""
    train_steps(run, state, 3)
    path = folder / "stability"
    images_seen = state.progress.images_seen
    save_checkpoint(path, state.tensors(), state.counters(), recipe=run.options.recipe, images_seen=images_seen)
    outcomes = []
    for resume in (False, True, True):
        if resume:
            saved = load_checkpoint(newest_first(path)[0])
            state.load(saved.tensors, saved.counters, 0)
        losses = train_steps(run, state, REPEATED_STEPS)
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
    """T2: one update of each network from the state's weights against float64; the weights do move."""
    inputs = step_inputs(run, 1)
    networks = {name: player.network for name, player in state.players.items()}
    exact, single = (_Update(run, _copies(run, state, dtype), dtype) for dtype in (torch.float64, torch.float32))
    checks: list[Check] = []
    with still(*networks.values(), *exact.networks.values(), *single.networks.values()):
        fake = exact.fakes(inputs).float()
        for name in reversed(PLAYERS):  # D's update would change what G is trained against
            expected, usual = exact.update(name, inputs, fake), single.update(name, inputs, fake)
            if not state.compiled and name == "discriminator":
                checks += _full_precision(run, state, exact, inputs, fake)
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
    loss = _loss(player.objective, name, inputs, fake, run)
    scale = player.scaler.get_scale() if player.scaler.is_enabled() else 1.0
    player.optimizer.zero_grad()
    (scale * loss).backward()
    gradients = [None if value is None else value / scale for value in _gradients(player.network)]
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


def _full_precision(run: Run, state: TrainState, exact: _Update, inputs: StepInputs, fake: Tensor) -> list[Check]:
    """Check what is computed in fp32 whatever the networks' precision: the loss of given logits, the penalty."""
    recipe, network, device = run.recipe, state.discriminator.network, run.accelerator.device
    real = inputs.real.tensor_split(recipe.discriminator_steps)[0]
    labels, share = _first_labels(inputs, run), inputs.share
    mix = None if inputs.mix is None else inputs.mix[0]
    warps = (None, None) if inputs.warps is None else inputs.warps[0]
    real, fake = (
        augment(images, recipe.augmentation, warp) for images, warp in zip((real, fake), warps, strict=True)
    )
    buffers = copy.deepcopy(dict(network.named_buffers()))

    def score(images: Tensor) -> Tensor:
        return apply(network, images, labels)

    with run.accelerator.autocast():
        if DiscriminatorObjective(network, recipe.loss).one_pass:
            twice = None if labels is None else torch.cat([labels, labels])
            logits = apply(network, torch.cat([real, fake]), twice).tensor_split(2)
        else:
            logits = (score(real), score(fake))
        penalty = (
            recipe.penalty(score, real, fake, mix).double() if recipe.penalty else torch.zeros((), device=device)
        )
    found = _loss(state.discriminator.objective, "discriminator", inputs, fake, run).item()
    with torch.no_grad():
        for name, value in network.named_buffers():
            value.copy_(buffers[name])
    weighted = (state.penalty_weight.double() * penalty).sum().item() * (share if recipe.penalty else 1.0)
    expected = recipe.loss.discriminator(*(values.double() for values in logits)).sum().item() * share + weighted
    checks = [
        Check(
            "T2",
            "loss, from its logits",
            abs(found - expected) / max(abs(expected), LEAST_LOSS),
            FULL_PRECISION_LIMIT,
            "the loss is computed in half precision: lift the logits to fp32 first",
        )
    ]
    if recipe.penalty:
        twin = exact.networks["discriminator"]
        reference = recipe.penalty(
            lambda images: apply(twin, images, labels),
            real.double(),
            fake.double(),
            None if mix is None else mix.double(),
        )
        own, theirs = (
            torch.autograd.grad(value.sum(), list(each.parameters()), retain_graph=True, materialize_grads=True)
            for value, each in ((penalty, network), (reference, twin))
        )
        limit = PENALTY_LIMIT if torch.get_float32_matmul_precision() == "highest" else 100 * PENALTY_LIMIT
        checks.append(
            Check(
                "T2",
                "penalty's gradients",
                relative_error(own, theirs),
                limit,
                "the penalty is computed in half precision",
            )
        )
    return checks


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
            COSINE_LIMIT,
            "the weights do not move as the optimizer's settings say: another learning rate, or frozen",
        ),
    ]


def health(run: Run, state: TrainState) -> tuple[list[Alarm], Tensor]:
    """T4: train on and watch; return alarms, and METRICS as means of 10 steps each (n, 4)."""
    alarms: list[Alarm] = []
    rows = []
    for _ in range(HEALTH_STEPS // WATCHED_STEPS):
        rows.append(train_steps(run, state, WATCHED_STEPS).cpu())
        finite = rows[-1].isfinite().all(1)
        if not finite.all():
            first = state.progress.step - WATCHED_STEPS + 1 + int(finite.long().argmin())
            alarms.append(Alarm("spike", "both networks", first, "a loss is not finite"))
            break
        alarms += state.health.watch(rows[-1], state.progress.step)
    if not alarms:
        alarms += state.health.watch_diversity(diversity_ratio(run, state), state.progress.step)
    course = torch.cat(rows).double()
    return alarms, course.unfold(0, 10, 10).mean(-1)


CONVERGENCE_IMAGES = 30_000
LAST_STEPS = 50
QUALITY_TIMES = 20.0
QUALITY_EVERY = 5_000
QUALITY_MOST_IMAGES = 300_000


def _fresh(run: Run, seed: int) -> tuple[Run, TrainState]:
    run = replace(run, options=replace(run.options, seed=seed))
    assert run.dataset.labels is not None
    state = build_state(
        run.recipe,
        run.dataset.image_shape,
        run.accelerator,
        seed=seed,
        steps_per_epoch=run.steps_per_epoch,
        num_classes=int(run.dataset.labels.max()) + 1 if run.recipe.conditional else 0,
    )
    return run, state


def _scores(run: Run, state: TrainState, judge: Judge) -> dict[str, float]:
    generated = generated_features(
        judge,
        state.sampler,
        run.recipe.latent_dim,
        len(judge.real.features),
        run.accelerator,
        conditional=run.recipe.conditional,
        seed=run.options.seed,
    )
    return judge.scores(generated)


def outcome_of_seed(run: Run, seed: int) -> dict[str, float]:
    """T3: train a seed on CONVERGENCE_IMAGES and return what it came to.

    Losses and probabilities are means over the last LAST_STEPS steps; so are the gradients' norms, of which the
    logarithm is returned.
    """
    run, state = _fresh(run, seed)
    train_steps(run, state, max(0, CONVERGENCE_IMAGES // run.images_per_step - LAST_STEPS))
    rows, norms = [], []
    for _ in range(LAST_STEPS):
        rows.append(train_steps(run, state, 1))
        norms.append([_norm(state.players[name].network) for name in PLAYERS])
    means = torch.cat(rows).double().mean(0).tolist()
    of_gradients = torch.tensor(norms, dtype=torch.float64).mean(0).log().tolist()
    quality = _scores(run, state, judge_of("digits", run.dataset))
    return {
        **dict(zip(METRICS, means, strict=True)),
        **{f"log_gradient_{name}": value for name, value in zip(PLAYERS, of_gradients, strict=True)},
        "fid": quality["fid"],
        "coverage": quality["coverage"],
    }


def _norm(network: nn.Module) -> float:
    squares = [gradient.square().sum() for gradient in _gradients(network) if gradient is not None]
    return float(torch.stack(squares).sum().sqrt())


def reach_quality(run: Run) -> dict[str, Any]:
    """Train from scratch until the Fréchet distance is QUALITY_TIMES its floor; return seconds and images.

    It is looked at every QUALITY_EVERY images up to QUALITY_MOST_IMAGES, and the time of that left out.
    """
    run, state = _fresh(run, run.options.seed)
    judge = judge_of("digits", run.dataset)
    target, seconds = QUALITY_TIMES * judge.floor()["fid"], 0.0
    course = []
    while state.progress.images_seen < QUALITY_MOST_IMAGES:
        began = time.perf_counter()
        float(train_steps(run, state, -(-QUALITY_EVERY // run.images_per_step))[-1, 0])  # waits for the device
        seconds += time.perf_counter() - began
        fid = _scores(run, state, judge)["fid"]
        course.append({"images": state.progress.images_seen, "seconds": seconds, "fid": fid})
        if fid <= target:
            break
    return {"target_fid": target, **course[-1], "course": course}


def quality_checks(quality: Mapping[str, Any]) -> list[Check]:
    """Return whether `reach_quality` did."""
    cause = f"quality is not reached within {QUALITY_MOST_IMAGES:,} images"
    return [Check("T3", "Fréchet distance", quality["fid"], quality["target_fid"], cause)]


def convergence_checks(run: Run, seeds: Sequence[Mapping[str, float]]) -> list[Check]:
    """Compare with the recipe's reference, if there is one; only what differs fails, not what is undecided."""
    path = reference_path(run.options.recipe, run.global_batch_size)
    if not path.exists():
        return []
    return [
        Check(
            "T3",
            f"{verdict.metric}, {verdict.word}",
            float(verdict.word == "different"),
            0.0,
            f"{verdict.difference:+.1f} standard deviations between seeds from the reference, whose seeds scatter "
            f"{1 / verdict.sd_ratio:.1f} times as much",
        )
        for verdict in verdicts(samples_of(seeds), read_reference(path).metrics)
    ]
