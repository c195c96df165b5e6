"""MEASUREMENTS: what each kind of case measures, as arms. The first arm is the case's own."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from bench.harness.windows import Arm, Effort
from bench.results.checks import Check
from bench.stability.convergence import (
    convergence_checks,
    outcome_of_seed,
    protocol,
    quality_checks,
    reach_quality,
)
from bench.stability.tiers import tiers
from bench.subjects.plain import plain_loop, products_in_fp32
from bench.suite.cases import Case
from bench.workloads.roofline import StepCost, roofline_arms, step_cost
from gan.data.datasets import DATASETS, DEFAULT_IMAGE_SHAPE, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.display.progress import Display
from gan.loop import epoch_inputs, take_step, train_epoch
from gan.models.architectures import build_generator
from gan.models.networks import apply, num_parameters
from gan.quality.judge import judge_of
from gan.run import Run
from gan.training.checkpoints import keep_newest, load_checkpoint, newest_first, save_checkpoint
from gan.training.state import Player, Progress, TrainState, build_state
from gan.training.step import StepInputs


@dataclass(frozen=True)
class Setup:
    """What the arms of a case are made of.

    Attributes:
        case: The case.
        run: The core's run over random images, whole batches only.
        state: Of the run.
        folder: For files that the measurement writes.
        facts: What else goes into the record.
        effort: How long to measure.
        report: Told what is done. A process that does not call it is taken to hang.
    """

    case: Case
    run: Run
    state: TrainState
    folder: Path
    facts: dict[str, Any]
    effort: Effort
    report: Callable[[str], None] = lambda _: None

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return torch.device(self.run.accelerator.device)

    @property
    def images(self) -> Tensor:
        """The dataset, uint8 (N, C, H, W)."""
        assert isinstance(self.run.dataset, InMemoryImages)
        return self.run.dataset.train

    def images_per_step(self, batch_size: int | None = None) -> int:
        """Return the real images of a step, over all processes or at the batch that one takes alone."""
        return (batch_size or self.case.global_batch_size) * self.run.recipe.discriminator_steps

    def plain(self) -> Arm:
        """Return the plain tutorial loop at the batch that the case names, in one process."""
        loop = plain_loop(self.run.recipe, self.images, self.run.dataset.labels, self.case.batch_size, self.device)
        return Arm("plain", _under(products_in_fp32, loop), self.images_per_step(self.case.batch_size), alone=True)

    def inputs(self) -> StepInputs:
        """Return what one step takes."""
        inputs, _ = next(epoch_inputs(self.run, replace(self.state, progress=Progress()), 1))
        return inputs


def _under(context: Callable[[], Any], steps: Iterator[object]) -> Iterator[None]:
    """Take each step inside a context."""
    while True:
        with context():
            next(steps)
        yield


def whole_batches(run: Run) -> Run:
    """Cut the dataset to whole batches, so that every step is alike."""
    assert isinstance(run.dataset, InMemoryImages)
    steps = len(run.dataset) // run.images_per_step
    images = run.dataset.train[: steps * run.images_per_step]
    labels = None if run.dataset.labels is None else run.dataset.labels[: len(images)]
    return replace(run, dataset=InMemoryImages(images, labels=labels), steps_per_epoch=steps)


def training_steps(run: Run, state: TrainState) -> Iterator[None]:
    """Train forever as `gan/train.py` does between two log points: order, images, latents, both updates."""
    while True:
        for inputs, num_images in epoch_inputs(run, state, run.steps_per_epoch):
            take_step(state, inputs, num_images)
            yield
        state.end_epoch()


def step(setup: Setup) -> Iterator[Arm]:
    """The training step with its data; beside it the plain loop and, in one process, the machine's peaks.

    With several processes also `no_sync`, the step without the all-reduce of gradients, and `solo`, the step of
    one process alone at the batch that the case names.
    """
    num_processes = setup.case.num_processes
    steps = training_steps(setup.run, setup.state)
    yield Arm("step", steps, setup.images_per_step())
    if num_processes > 1:
        yield Arm("no_sync", _under(lambda: _no_sync(setup), steps), setup.images_per_step())
        yield _solo(setup)
    yield setup.plain()
    cost = _count(setup)
    if num_processes == 1:
        for arm, work in roofline_arms(cost, setup.case.precision, setup.device):
            setup.facts.setdefault("work", {})[arm.name] = work
            yield arm


def _count(setup: Setup) -> StepCost:
    cost = step_cost(setup.state, setup.inputs())
    setup.facts["flops_per_step"] = cost.flops * setup.case.num_processes
    setup.facts["least_bytes_per_step"] = cost.least_bytes * setup.case.num_processes
    return cost


def _no_sync(setup: Setup) -> ExitStack:
    stack = ExitStack()
    for player in setup.state.players.values():
        stack.enter_context(setup.run.accelerator.no_sync(player.objective))
    return stack


class _Alone:
    """An Accelerator as it would be in a single process: the same device, precision and compiler, no DDP."""

    num_processes = 1
    process_index = 0

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator

    def __getattr__(self, name: str) -> Any:
        return getattr(self._accelerator, name)

    def prepare_model(self, model: torch.nn.Module, **_: Any) -> Any:
        return self._accelerator.prepare_model(model, evaluation_mode=True)


def _solo(setup: Setup) -> Arm:
    run, batch_size = setup.run, setup.case.batch_size
    alone: Any = _Alone(run.accelerator)
    run = whole_batches(replace(run, accelerator=alone, global_batch_size=batch_size))
    state = build_state(
        run.recipe,
        run.dataset.image_shape,
        alone,
        seed=run.options.seed,
        steps_per_epoch=run.steps_per_epoch,
        num_classes=setup.state.num_classes,
    )
    return Arm("solo", training_steps(run, state), setup.images_per_step(batch_size), alone=True)


def phases(setup: Setup) -> Iterator[Arm]:
    """The step and its parts, each repeated by itself.

    `data` is order, images and latents; `fakes` the generation for D's turns, where D comes first; `discriminator`
    and `generator` are forward and backward; `optimizer` is both optimizers' steps. What a step does several times
    for D is done as often here.
    """
    state = setup.state
    inputs, images_per_step = setup.inputs(), setup.images_per_step()
    updates = state.recipe.discriminator_steps
    real = inputs.real.tensor_split(updates)
    mix = [None] * updates if inputs.mix is None else inputs.mix
    classes = [None] * updates if inputs.labels is None else inputs.labels.tensor_split(updates)
    discriminator, generator = state.discriminator, state.generator
    yield Arm("step", training_steps(setup.run, state), images_per_step)
    yield Arm("data", _data(setup), images_per_step)
    with torch.no_grad():
        fake = state.generate(inputs.latents[0], classes[0]).clone()

    def fakes() -> None:
        for index in range(updates):
            _no_grad(state.generate, inputs.latents[index], classes[index])

    def of_discriminator() -> None:
        for index in range(updates):
            out = discriminator.objective(real[index], fake, inputs.share, mix[index], classes[index])
            _backward(discriminator, out.loss)

    def of_generator() -> None:
        out = generator.objective(inputs.latents[-1], inputs.share, classes[-1], real[-1])
        _backward(generator, out.loss)

    def of_optimizers() -> None:
        for _ in range(updates):
            discriminator.optimizer.step()
        generator.optimizer.step()

    if not state.recipe.generator_first:
        yield Arm("fakes", _calls(fakes), images_per_step)
    yield Arm("discriminator", _calls(of_discriminator), images_per_step)
    yield Arm("generator", _calls(of_generator), images_per_step)
    yield Arm("optimizer", _calls(of_optimizers), images_per_step)
    yield setup.plain()


def _calls(call: Callable[[], object]) -> Iterator[None]:
    while True:
        call()
        yield


@torch.no_grad()
def _no_grad(network: Callable[..., Tensor], latents: Tensor, labels: Tensor | None) -> Tensor:
    return apply(network, latents, labels)


def _backward(player: Player, loss: Tensor) -> None:
    player.optimizer.zero_grad()
    player.scaler.scale(loss).backward()


def _data(setup: Setup) -> Iterator[None]:
    state = replace(setup.state, progress=Progress())
    while True:
        for _ in epoch_inputs(setup.run, state, setup.run.steps_per_epoch):
            yield
        state.end_epoch()


def epoch(setup: Setup) -> Iterator[Arm]:
    """A whole epoch of `gan/train.py`, log points included, against as many images of the plain loop."""
    run, state = replace(setup.run, display=_Reporting(setup.report)), setup.state

    def one_epoch() -> None:
        train_epoch(run, state, run.steps_per_epoch, 0.0)
        state.end_epoch()

    yield Arm("epoch", _calls(one_epoch), len(run.dataset), steps_per_window=1)
    plain = setup.plain()
    yield replace(plain, steps=_reported(plain.steps, setup.report), steps_per_window=run.steps_per_epoch)


class _Reporting(Display):
    """What an epoch shows at its log points, as reports of a process that measures."""

    def __init__(self, report: Callable[[str], None]) -> None:
        super().__init__(enabled=False, total_steps=0)
        self._report = report

    def step(self, step: int, description: str, metrics: Mapping[str, Any], seconds_left: float) -> None:
        super().step(step, description, metrics, seconds_left)
        self._report(f"{description}, step {step}")


def _reported(steps: Iterator[object], report: Callable[[str], None]) -> Iterator[None]:
    """Report a step every second."""
    last = time.monotonic()
    for number, _ in enumerate(steps, 1):
        if time.monotonic() - last > 1:
            last = time.monotonic()
            report(f"plain, step {number}")
        yield


def sampling(setup: Setup) -> Iterator[Arm]:
    """Images from fresh latents, in evaluation mode, beside the same network as the tutorial would run it."""
    recipe, state, batch_size = setup.run.recipe, setup.state, setup.case.batch_size
    state.generator.network.eval()

    def draw() -> Tensor:
        return torch.randn(batch_size, recipe.latent_dim, device=setup.device)

    labels = torch.arange(batch_size, device=setup.device) % state.num_classes if state.num_classes else None
    yield Arm("sampling", _calls(lambda: _no_grad(state.generate, draw(), labels)), batch_size)
    plain = build_generator(recipe.generator, recipe.latent_dim, state.image_shape, state.num_classes)
    plain.to(setup.device).eval()
    plain_steps = _under(products_in_fp32, _calls(lambda: _no_grad(plain, draw(), labels)))
    yield Arm("plain", plain_steps, batch_size)


def checkpoint(setup: Setup) -> Iterator[Arm]:
    """Saving a checkpoint, verified and on disk; beside it loading one, and `torch.save` of the same tensors."""
    run, state, folder = setup.run, setup.state, setup.folder / "checkpoints"
    next(training_steps(run, state))

    def save() -> None:
        images_seen = state.progress.images_seen = state.progress.images_seen + 1
        tensors, counters = state.tensors(), state.counters()
        save_checkpoint(folder, tensors, counters, recipe=run.options.recipe, images_seen=images_seen)
        keep_newest(folder, 2)

    def load() -> None:
        loaded = load_checkpoint(newest_first(folder)[0])
        state.load(loaded.tensors, loaded.counters, 0)

    yield Arm("checkpoint", _calls(save))
    setup.facts["checkpoint_bytes"] = newest_first(folder)[0].stat().st_size
    yield Arm("load", _calls(load))
    plain = setup.folder / "plain.pt"
    yield Arm("plain", _calls(lambda: torch.save(state.tensors(), plain)))


def startup(setup: Setup) -> Iterator[Arm]:
    """Nothing but the start: its times are taken before the first window."""
    yield Arm("step", training_steps(setup.run, setup.state), setup.images_per_step())


def on_digits(run: Run) -> Run:
    """Return a run over the bundled digits, whole batches only."""
    request = DatasetRequest(run.options.data_root, DEFAULT_IMAGE_SHAPE, 0, run.accelerator.device)
    return whole_batches(replace(run, dataset=DATASETS["digits"](request)))


def stability(setup: Setup) -> Iterator[Arm]:
    """The step on digits, and what the tiers of `bench.stability.tiers` find."""
    run = on_digits(setup.run)
    yield Arm("step", training_steps(run, setup.state), setup.images_per_step())
    _note(setup, **tiers(run, setup.case.precision, setup.folder, setup.report))


def convergence(setup: Setup) -> Iterator[Arm]:
    """The step on digits, and what several seeds come to."""
    run = on_digits(setup.run)
    yield Arm("step", training_steps(run, setup.state), setup.images_per_step())
    judge = judge_of("digits", run.dataset)
    seeds = [
        outcome_of_seed(run, seed, judge, partial(_report_seed, setup, seed)) for seed in range(setup.effort.seeds)
    ]
    _note(setup, checks=convergence_checks(run, seeds), protocol=protocol(), seeds=seeds)


def _report_seed(setup: Setup, seed: int, doing: str) -> None:
    setup.report(f"seed {seed + 1} of {setup.effort.seeds}, {doing}")


def time_to_quality(setup: Setup) -> Iterator[Arm]:
    """Training on digits until the Fréchet distance is a multiple of its floor, the time of scoring left out."""
    run = on_digits(setup.run)
    yield Arm("step", training_steps(run, setup.state), setup.images_per_step())
    quality = reach_quality(run, setup.report)
    _note(setup, checks=quality_checks(quality), quality=quality)


def _note(setup: Setup, checks: Sequence[Check], **facts: Any) -> None:
    """Keep what was found, and what each check says of it."""
    setup.facts.update(facts, checks=[check.to_json() for check in checks])


MEASUREMENTS: dict[str, Callable[[Setup], Iterator[Arm]]] = {
    "step": step,
    "scaling": step,
    "phases": phases,
    "epoch": epoch,
    "sampling": sampling,
    "checkpoint": checkpoint,
    "startup": startup,
    "stability": stability,
    "convergence": convergence,
    "time_to_quality": time_to_quality,
}


def describe_networks(state: TrainState) -> dict[str, int]:
    """Return both networks' numbers of parameters."""
    return {name: num_parameters(player.network) for name, player in state.players.items()}


NOWHERE = Path(os.devnull, "run")
"""Output of runs that write nothing."""
