"""WORKLOADS: what each kind of case measures, as arms. The first arm is the case's own."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from bench.baseline import plain_loop
from bench.cases import Case
from bench.roofline import StepCost, roofline_arms, step_cost
from bench.timing import Arm
from gan.checkpoints import keep_newest, load_checkpoint, newest_first, save_checkpoint
from gan.images import InMemoryImages
from gan.loop import epoch_inputs, train_epoch
from gan.networks import num_parameters
from gan.run import Run
from gan.state import Player, Progress, TrainState, build_state
from gan.step import train_step


@dataclass(frozen=True)
class Setup:
    """What the arms of a case are made of.

    Attributes:
        case: The case.
        run: The core's run over random images, whole batches only.
        state: Of the run.
        folder: For files that the measurement writes.
        facts: What else goes into the record.
    """

    case: Case
    run: Run
    state: TrainState
    folder: Path
    facts: dict[str, Any]

    @property
    def device(self) -> torch.device:
        """Where the state is."""
        return torch.device(self.run.accelerator.device)

    @property
    def images(self) -> Tensor:
        """The dataset, uint8 (N, C, H, W)."""
        assert isinstance(self.run.dataset, InMemoryImages)
        return self.run.dataset.train

    def plain(self) -> Arm:
        """Return the plain tutorial loop at the batch that the case names, in one process."""
        loop = plain_loop(self.run.recipe, self.images, self.case.batch_size, self.device)
        return Arm("plain", _under(plain_defaults, loop), self.case.batch_size, alone=True)

    def inputs(self) -> tuple[Tensor, Tensor, float]:
        """Return real images, latents and share of one step."""
        state = replace(self.state, progress=Progress())
        real, latents, num_images = next(epoch_inputs(self.run, state, 1))
        return real, latents, self.run.accelerator.num_processes / num_images


@contextmanager
def plain_defaults() -> Iterator[None]:
    """PyTorch's own settings of TF32 for the plain loop, whatever the case asks for."""
    precision, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.allow_tf32 = cudnn


def _under(context: Callable[[], Any], steps: Iterator[object]) -> Iterator[None]:
    """Take each step inside a context."""
    while True:
        with context():
            next(steps)
        yield


def whole_batches(run: Run) -> Run:
    """Cut the dataset to whole batches, so that every step is alike."""
    assert isinstance(run.dataset, InMemoryImages)
    steps = len(run.dataset) // run.global_batch_size
    images = run.dataset.train[: steps * run.global_batch_size]
    return replace(run, dataset=InMemoryImages(images), steps_per_epoch=steps)


def training_steps(run: Run, state: TrainState) -> Iterator[None]:
    """Train forever as `gan/train.py` does between two log points: order, images, latents, both updates."""
    num_processes = run.accelerator.num_processes
    while True:
        for real, latents, num_images in epoch_inputs(run, state, run.steps_per_epoch):
            state.record(train_step(state, real, latents, num_processes / num_images), num_images)
            yield
        state.end_epoch()


def step(setup: Setup) -> Iterator[Arm]:
    """The training step with its data; beside it the plain loop and, in one process, the machine's peaks.

    With several processes also `no_sync`, the step without the all-reduce of gradients, and `solo`, the step of
    one process alone at the batch that the case names.
    """
    num_processes = setup.case.num_processes
    steps = training_steps(setup.run, setup.state)
    yield Arm("step", steps, setup.case.global_batch_size)
    if num_processes > 1:
        yield Arm("no_sync", _under(lambda: _no_sync(setup), steps), setup.case.global_batch_size)
        yield _solo(setup)
    yield setup.plain()
    cost = _count(setup)
    if num_processes == 1:
        for arm, work in roofline_arms(cost, setup.case.precision, setup.device):
            setup.facts.setdefault("work", {})[arm.name] = work
            yield arm


def _count(setup: Setup) -> StepCost:
    cost = step_cost(setup.state, *setup.inputs())
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
        run.recipe, run.dataset.image_shape, alone, seed=run.options.seed, steps_per_epoch=run.steps_per_epoch
    )
    return Arm("solo", training_steps(run, state), batch_size, alone=True)


def phases(setup: Setup) -> Iterator[Arm]:
    """The step and its parts, each repeated by itself.

    `data` is order, images and latents; `fakes` the generation for D's turn, where D comes first; `discriminator`
    and `generator` are forward and backward; `optimizer` is both optimizers' steps.
    """
    state = setup.state
    real, latents, share = setup.inputs()
    batch_size = setup.case.global_batch_size
    yield Arm("step", training_steps(setup.run, state), batch_size)
    yield Arm("data", _data(setup), batch_size)
    with torch.no_grad():
        fake = state.generate(latents[0]).clone()
    if not state.recipe.generator_first:
        yield Arm("fakes", _calls(lambda: _no_grad(state.generate, latents[0])), batch_size)
    discriminator, generator = state.discriminator, state.generator
    yield Arm(
        "discriminator",
        _calls(lambda: _backward(discriminator, discriminator.objective(real, fake, share).loss)),
        batch_size,
    )
    yield Arm(
        "generator",
        _calls(lambda: _backward(generator, generator.objective(latents[-1], share).loss)),
        batch_size,
    )
    yield Arm(
        "optimizer", _calls(lambda: [player.optimizer.step() for player in state.players.values()]), batch_size
    )
    yield setup.plain()


def _calls(call: Callable[[], object]) -> Iterator[None]:
    while True:
        call()
        yield


@torch.no_grad()
def _no_grad(call: Callable[[Tensor], Tensor], latents: Tensor) -> Tensor:
    return call(latents)


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
    run, state = setup.run, setup.state

    def one_epoch() -> None:
        train_epoch(run, state, run.steps_per_epoch, 0.0)
        state.end_epoch()

    yield Arm("epoch", _calls(one_epoch), len(run.dataset), steps_per_window=1)
    yield replace(setup.plain(), steps_per_window=run.steps_per_epoch)


def sampling(setup: Setup) -> Iterator[Arm]:
    """Images from fresh latents, in evaluation mode, beside the same network as the tutorial would run it."""
    recipe, state, batch_size = setup.run.recipe, setup.state, setup.case.batch_size
    state.generator.network.eval()

    def draw() -> Tensor:
        return torch.randn(batch_size, recipe.latent_dim, device=setup.device)

    yield Arm("sampling", _calls(lambda: _no_grad(state.generate, draw())), batch_size)
    plain = recipe.generator.generator(recipe.latent_dim, state.image_shape).to(setup.device).eval()
    plain_steps = _under(plain_defaults, _calls(lambda: _no_grad(plain, draw())))
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
    yield Arm("step", training_steps(setup.run, setup.state), setup.case.global_batch_size)


WORKLOADS: dict[str, Callable[[Setup], Iterator[Arm]]] = {
    "step": step,
    "scaling": step,
    "phases": phases,
    "epoch": epoch,
    "sampling": sampling,
    "checkpoint": checkpoint,
    "startup": startup,
}


def describe_networks(state: TrainState) -> dict[str, int]:
    """Return both networks' numbers of parameters."""
    return {name: num_parameters(player.network) for name, player in state.players.items()}


NOWHERE = Path(os.devnull)
"""Output of runs that write nothing."""
