"""train(options): the order in which everything happens."""

import signal
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from gan.begin import begin_or_resume, read_epochs
from gan.data.order import epoch_batches, shard
from gan.display.figures import cells_by_class, evenly, image_grid, save_animation, save_curves, save_image
from gan.errors import DivergedError, Interrupted, UnhealthyError, UsageError
from gan.files.environment import describe_environment
from gan.files.json_files import append_json_line, write_json
from gan.files.run_folder import RunFolder
from gan.models.networks import apply, evaluating
from gan.options import TrainOptions
from gan.process.signals import ending_signals
from gan.quality.judge import features_of_state
from gan.quality.probabilities import mean_probabilities
from gan.run import (
    Run,
    complaints,
    holding_folder,
    prepare,
    raise_everywhere,
    strategy_of,
)
from gan.seeds import derive_seed, derive_seeds, seed_default_generator
from gan.training.checkpoints import keep_newest, newest_first, save_checkpoint, save_generator
from gan.training.health import LEAST_REAL_DIVERSITY, PLAYERS, Alarm, diversity
from gan.training.state import METRICS, TrainState
from gan.training.step import Place, StepInputs, draw_latents, draw_mix, draw_warps, train_step

SAMPLE_ROWS = SAMPLE_COLUMNS = 8
MOST_CLASSES = 10
"""Of a sample grid, in which a conditional recipe has a column for each of its first classes."""
DIVERSITY_IMAGES = 64


def train(options: TrainOptions) -> RunFolder:
    """Train a GAN as `options` say and return where its record is.

    Raises:
        UsageError: Bad input.
        DivergedError: A loss or weight is not finite.
        Interrupted: SIGINT or SIGTERM came; the run has saved itself.
        OSError: A file could not be written; the last checkpoint is untouched.
    """
    run, state = prepare(options)
    with _stop_signals_into(run.stop_signals), holding_folder(run) as run, run.display:
        begin_or_resume(run, state)
        with complaints() as complaint:
            if run.accelerator.is_main_process:
                _draw_real(run)
        raise_everywhere(complaint)
        _train_to_end(run, state)
        _finish(run, state)
    return run.folder


@contextmanager
def _stop_signals_into(received: list[int]) -> Iterator[None]:
    """Collect SIGINT, SIGTERM and SIGHUP instead of dying of them."""
    handlers = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, *ending_signals())
    }
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _train_to_end(run: Run, state: TrainState) -> None:
    """Train from where `state` stands to the last step."""
    clock = time.perf_counter() - state.progress.seconds
    while state.progress.step < run.total_steps:
        end = min(run.steps_per_epoch, state.progress.position + run.total_steps - state.progress.step)
        images_per_second = train_epoch(run, state, end, clock)
        stop_signal = _poll(run, state)
        state.progress.seconds = time.perf_counter() - clock
        alarms = _watch(state) + _record_epoch(run, state, images_per_second)
        due = _checkpoint_due(run, state)
        if end == run.steps_per_epoch:
            state.end_epoch()
        _sound(run, state, alarms, clock)
        if due or stop_signal or state.progress.step == run.total_steps:
            _save(run, state, clock)
        if stop_signal and state.progress.step < run.total_steps:
            raise _interrupted(run, state, stop_signal)


def take_step(state: TrainState, inputs: StepInputs, num_images: int) -> None:
    """Take a step over `num_images` real images of all processes, and record it."""
    state.record(train_step(state, inputs), num_images)


def epoch_inputs(run: Run, state: TrainState, end: int) -> Iterator[tuple[StepInputs, int]]:
    """Yield what each step takes, from where `state` stands in its epoch to step `end`, and seed its dropout.

    With it comes the number of real images over all processes.
    """
    accelerator, seed, epoch = run.accelerator, run.options.seed, state.progress.epoch
    place = Place(accelerator.process_index, accelerator.num_processes, accelerator.device)
    recipe, rest = run.recipe, slice(state.progress.position, end)
    updates = recipe.discriminator_steps
    order: Any = {"seed": seed, "epoch": epoch}
    batches = epoch_batches(len(run.dataset), run.images_per_step, recipe.sampling, **order)[rest]
    shards = [shard(batch, place.rank, place.num_processes, updates) for batch in batches]
    images = run.dataset.stream(shards)
    classes: Sequence[Tensor | None] = [None] * len(shards)
    if recipe.conditional:
        assert run.dataset.labels is not None
        classes = run.dataset.labels[torch.cat(shards).to(place.device)].split([len(own) for own in shards])
    latent_seeds = derive_seeds(end, seed, "latents", epoch)[rest]
    mix_seeds = derive_seeds(end, seed, "mix", epoch)[rest] if recipe.penalty else latent_seeds
    warp_seeds = derive_seeds(end, seed, "warps", epoch)[rest] if recipe.augmentation else latent_seeds
    dropout_seeds = derive_seeds(end, seed, "dropout", epoch, place.rank)[rest]
    seeds = zip(latent_seeds, mix_seeds, warp_seeds, dropout_seeds, strict=True)
    for batch, real, labels, (latent_seed, mix_seed, warp_seed, dropout_seed) in zip(
        batches, images, classes, seeds, strict=True
    ):
        num_images = len(batch) // updates
        inputs = StepInputs(
            real=real,
            latents=draw_latents(recipe, num_images, latent_seed, place),
            share=place.num_processes / num_images,
            mix=draw_mix(recipe, num_images, mix_seed, place),
            labels=labels,
            warps=draw_warps(recipe, num_images, warp_seed, place),
        )
        seed_default_generator(place.device, dropout_seed)
        yield inputs, len(batch)


def train_epoch(run: Run, state: TrainState, end: int, clock: float) -> float:
    """Train from where `state` stands in its epoch to batch `end`, which is not trained.

    Args:
        run: What stays the same.
        state: Updated in place.
        end: At most the number of batches of an epoch.
        clock: The value of `time.perf_counter` at which the run had trained for 0 seconds.

    Returns:
        Images per second over all processes.
    """
    progress, num_processes = state.progress, run.accelerator.num_processes
    images_before, began = progress.images_seen, time.perf_counter()

    for inputs, num_images in epoch_inputs(run, state, end):
        take_step(state, inputs, num_images)

        if progress.position == end:
            break
        if progress.step % run.options.log_every == 0 or (run.stop_signals and num_processes == 1):
            if stop_signal := _poll(run, state):
                _save(run, state, clock)
                raise _interrupted(run, state, stop_signal)
            _sound(run, state, _watch(state), clock)
        if progress.step % run.options.log_every == 0 or run.display.due():  # each process by its own clock
            means = dict(zip(METRICS, _epoch_means(run, state).tolist(), strict=True))  # waits for the device
            rate = (progress.images_seen - images_before) / (time.perf_counter() - began)
            run.display.step(
                progress.step,
                f"epoch {progress.epoch + 1}/{run.num_epochs}",
                {"images_per_second": rate, **means},
                seconds_left=(run.total_steps - progress.step) * run.images_per_step / rate,
            )
        if _checkpoint_due(run, state):
            _save(run, state, clock)

    state.history[0].tolist()  # wait for the device
    return (progress.images_seen - images_before) / (time.perf_counter() - began)


def _epoch_means(run: Run, state: TrainState) -> Tensor:
    """Return the means over the epoch's images so far of METRICS, this process's part of them; shape (4,)."""
    position = state.progress.position
    sizes = torch.full((position, 1), run.images_per_step, dtype=torch.float64)
    if position == run.steps_per_epoch:
        sizes[-1] = run.last_batch_size
    return (state.history[:position].cpu() * sizes).sum(0) / sizes.sum()


def _checkpoint_due(run: Run, state: TrainState) -> bool:
    """Say whether the last step passed a multiple of `--checkpoint-every` images."""
    return _passed(state, run.options.checkpoint_every, _images_of_last_step(run, state))


def _images_of_last_step(run: Run, state: TrainState) -> int:
    return run.last_batch_size if state.progress.position == run.steps_per_epoch else run.images_per_step


def _evaluation_due(run: Run, state: TrainState) -> bool:
    """Say whether the epoch passed a multiple of `--evaluate-every` images, or was the last."""
    if run.options.evaluate_every is None:
        return False
    last = state.progress.step == run.total_steps
    num_images = (state.progress.position - 1) * run.images_per_step + _images_of_last_step(run, state)
    return last or _passed(state, run.options.evaluate_every, num_images)


def _passed(state: TrainState, every: int, num_images: int) -> bool:
    """Say whether the last `num_images` images passed a multiple of `every`."""
    seen = state.progress.images_seen
    return seen // every > (seen - num_images) // every


def _poll(run: Run, state: TrainState) -> int:
    """Return the signal that asks to stop, or 0, the same on all processes; raise where a loss is not finite."""
    position, never = state.progress.position, state.progress.step + 1
    steps = torch.arange(never - position, never).unsqueeze(1)
    finite = state.history[:position, : len(PLAYERS)].cpu().isfinite()
    first_nonfinite = torch.where(finite, never, steps).amin(0).tolist() if position else [never] * len(PLAYERS)
    flags = [*first_nonfinite, -run.stop_signals[0] if run.stop_signals else 0]
    if run.accelerator.num_processes > 1:
        own = torch.tensor([flags], device=run.accelerator.device)
        flags = run.accelerator.gather(own).amin(0).tolist()
    *first_nonfinite, stop_signal = flags
    for player, step in zip(PLAYERS, first_nonfinite, strict=True):
        if step == min(first_nonfinite) < never:
            raise DivergedError(_not_finite(run, step, f"{player}'s loss is"))
    return -int(stop_signal)


def _watch(state: TrainState) -> list[Alarm]:
    """Return alarms about the steps since the last call."""
    return state.health.watch(state.history[: state.progress.position].cpu(), state.progress.step)


def _sound(run: Run, state: TrainState, alarms: list[Alarm], clock: float) -> None:
    """Say what the main process found wrong and, where the run is to stop for it, save and stop everywhere."""
    for alarm in alarms:
        run.display.say(f"warning: {alarm}")
    if run.options.on_unhealthy == "warn":
        return
    found = [", ".join(map(str, alarms))]
    broadcast_object_list(found)
    if found[0]:
        _save(run, state, clock)
        raise UnhealthyError(
            f"{found[0]}; stopped and saved; go on regardless with --resume --output {run.folder.root}"
        )


def _interrupted(run: Run, state: TrainState, stop_signal: int) -> Interrupted:
    if run.accelerator.is_main_process:
        with suppress(UsageError):  # said when the run is continued
            _draw_course(run)
    advice = f"continue with --resume --output {run.folder.root}"
    return Interrupted(f"interrupted after step {state.progress.step} and saved; {advice}", 128 + stop_signal)


def _not_finite(run: Run, step: int, what: str) -> str:
    good = newest_first(run.folder.checkpoints)
    return (
        f"step {step}: the {what} not finite; the last good checkpoint: {good[0] if good else 'none yet'}; "
        "lower the learning rate, or train in bf16 or fp32 if this was fp16"
    )


def _record_epoch(run: Run, state: TrainState, images_per_second: float) -> list[Alarm]:
    """Write an epoch's line, its samples and, where generators are kept, its generator; return alarms about it."""
    accelerator, folder, epoch = run.accelerator, run.folder, state.progress.epoch + 1
    test: list[float | None] = [None, None]
    if run.dataset.test is not None:
        parts = mean_probabilities(
            state,
            run.dataset.test,
            run.dataset.test_labels if run.recipe.conditional else None,
            seed=run.options.seed,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        test = accelerator.reduce(parts, "sum").tolist()
    means = _epoch_means(run, state)
    if accelerator.num_processes > 1:
        means = accelerator.reduce(means.to(accelerator.device), "mean")
    metrics: dict[str, float | None] = dict(zip(METRICS, means.tolist(), strict=True))
    skipped = {
        f"skipped_steps_{name}": count
        for (name, player), count in zip(state.players.items(), skipped_updates(state), strict=True)
        if player.scaler.is_enabled()
    }
    quality = None
    if run.judge is not None and _evaluation_due(run, state):
        generated = features_of_state(run.judge, state, accelerator, run.options.seed)
        quality = run.judge.scores(generated) if accelerator.is_main_process else None
    alarms = []
    if accelerator.is_main_process:
        ratio = diversity_ratio(run, state)
        alarms = state.health.watch_diversity(ratio, state.progress.step)
        metrics["diversity"] = ratio
    line = {
        "epoch": epoch,
        "images_seen": state.progress.images_seen,
        **metrics,
        "test_p_real": test[0],
        "test_p_fake": test[1],
        "images_per_second": images_per_second,
        "seconds": state.progress.seconds,
        **skipped,
        **(quality or {}),
        "unhealthy": sorted(f"{kind} {network}" for kind, network in state.health.raised),
    }
    if run.options.tracker:
        logged = {name: value for name, value in line.items() if isinstance(value, int | float)}
        accelerator.log(logged, step=epoch)
    if accelerator.is_main_process:
        run.require_folder()
        append_json_line(folder.metrics, line)
        _draw_samples(run, state, epoch)
        if run.recipe.keep_generators:
            folder.generator_of(epoch).parent.mkdir(exist_ok=True)
            save_generator(folder.generator_of(epoch), state)
    run.display.epoch(epoch, run.num_epochs, line)
    return alarms


def skipped_updates(state: TrainState) -> list[int]:
    """Return how many updates of each network, in the order of PLAYERS, its scaler has skipped so far."""
    of_discriminator = state.recipe.discriminator_steps
    return [
        state.progress.step * updates - int(next(iter(player.optimizer.state.values()))["step"])
        for player, updates in zip(state.players.values(), (of_discriminator, 1), strict=True)
    ]


@torch.no_grad()
def diversity_ratio(run: Run, state: TrainState) -> float | None:
    """Return how much images of latents like those of training differ, over how much real ones do.

    None where the real ones are all alike.
    """
    accelerator, network, num_images = (
        run.accelerator,
        state.generator.network,
        min(DIVERSITY_IMAGES, len(run.dataset)),
    )
    place = Place(accelerator.process_index, accelerator.num_processes, accelerator.device)
    seed = derive_seed(run.options.seed, "diversity", state.progress.epoch)
    latents = draw_latents(run.recipe, num_images * accelerator.num_processes, seed, place)[0]
    labels = (
        torch.arange(len(latents), device=accelerator.device) % state.num_classes if state.num_classes else None
    )
    with evaluating(network):
        generated = diversity(apply(network, latents, labels))
    if state.health.real_diversity is None:
        (real,) = run.dataset.stream([torch.linspace(0, len(run.dataset) - 1, num_images).long()])
        state.health.real_diversity = diversity(real)
        if state.health.real_diversity < LEAST_REAL_DIVERSITY:
            run.display.say(f"note: {num_images} real images are all alike, and what G's differ by is not defined")
    if state.health.real_diversity < LEAST_REAL_DIVERSITY:
        return None
    return generated / state.health.real_diversity


def _draw_real(run: Run) -> None:
    """Write a grid of real images as the networks get them, by class like the samples, or where there are few."""
    labels, columns = run.dataset.labels, SAMPLE_COLUMNS
    cells: list[int | None] = [*evenly(range(len(run.dataset)), SAMPLE_ROWS * SAMPLE_COLUMNS)]
    if labels is not None and (run.recipe.conditional or int(labels.max()) < MOST_CLASSES):
        columns = min(MOST_CLASSES, int(labels.max()) + 1)
        cells = cells_by_class(labels.cpu(), columns, SAMPLE_ROWS)
    (images,) = run.dataset.stream([torch.tensor([cell for cell in cells if cell is not None])])
    grid = torch.full((len(cells), *run.dataset.image_shape), -1.0)
    grid[[cell is not None for cell in cells]] = images.cpu()
    run.require_folder()
    run.folder.real.parent.mkdir(exist_ok=True)
    save_image(run.folder.real, image_grid(grid, columns), parents=False)


@torch.no_grad()
def _draw_samples(run: Run, state: TrainState, epoch: int) -> None:
    """Write a grid of images of latents that are the same at every call."""
    source = torch.Generator().manual_seed(derive_seed(run.options.seed, "samples"))
    columns, labels = min(MOST_CLASSES, state.num_classes) or SAMPLE_COLUMNS, None
    latents = torch.randn(SAMPLE_ROWS * columns, run.recipe.latent_dim, generator=source)
    device, network = run.accelerator.device, state.sampler
    if state.num_classes:
        labels = torch.arange(columns, device=device).repeat(SAMPLE_ROWS)
    with evaluating(network):
        images = apply(network, latents.to(device), labels)
    run.require_folder()
    run.folder.sample(epoch).parent.mkdir(exist_ok=True)
    save_image(run.folder.sample(epoch), image_grid(images, columns), parents=False)


def _save(run: Run, state: TrainState, clock: float) -> None:
    """Write a checkpoint and the generator; refuse weights that are not finite."""
    _poll(run, state)
    state.progress.seconds = time.perf_counter() - clock
    for name, player in state.players.items():
        if not all(parameter.isfinite().all() for parameter in player.network.parameters()):
            raise DivergedError(_not_finite(run, state.progress.step, f"{name}'s weights are"))
    tensors = state.tensors()
    if run.accelerator.num_processes > 1 and state.progress.position:
        tensors["history"] = run.accelerator.gather(tensors["history"])
    if run.accelerator.is_main_process:
        run.require_folder()
        save_checkpoint(
            run.folder.checkpoints,
            tensors,
            state.counters(),
            recipe=run.options.recipe,
            images_seen=state.progress.images_seen,
        )
        save_generator(run.folder.generator, state)
        keep_newest(run.folder.checkpoints, run.options.keep_checkpoints)
    run.accelerator.wait_for_everyone()


def _draw_course(run: Run) -> list[dict[str, Any]]:
    """Draw the curves and the animation of the epochs so far and return the epochs' lines."""
    run.require_folder()
    epochs = read_epochs(run.folder.metrics)
    if epochs:
        save_curves(run.folder.curves, epochs)
        try:
            save_animation(run.folder.animation, run.folder.samples(), parents=False)
        except UsageError as error:
            run.display.say(f"warning: {error}; {run.folder.animation.name} was not drawn")
    return epochs


def _finish(run: Run, state: TrainState) -> None:
    """Draw the curves and the animation, write the summary, and say where the pictures are."""
    if run.options.tracker:
        run.accelerator.end_training()
    if not run.accelerator.is_main_process:
        return
    folder = run.folder
    epochs = _draw_course(run)
    if not epochs:
        raise UsageError(f"{folder.metrics}: emptied during training; what was saved before is whole")
    rates = [line["images_per_second"] for line in epochs[1:] or epochs]
    summary = {
        "schema": "gan-summary/1",
        "recipe": run.options.recipe,
        "dataset": run.recipe.dataset,
        "steps": state.progress.step,
        "images_seen": state.progress.images_seen,
        "seconds": state.progress.seconds,
        "median_images_per_second": statistics.median(rates),
        "last_epoch": epochs[-1],
        "strategy": strategy_of(run.accelerator),
        "global_batch_size": run.global_batch_size,
        "environment": describe_environment(),
    }
    write_json(folder.summary, summary, parents=False)
    say = run.display.say
    say(f"done: {state.progress.images_seen:,} images in {state.progress.seconds:.1f} s")
    say(f"  real images          {folder.real}")
    say(f"  samples, last epoch  {folder.sample(epochs[-1]['epoch'])}")
    say(f"  how they formed      {folder.animation}")
    say(f"  losses               {folder.curves}")
    say(f"more pictures: python gan/sample.py {folder.root}")
