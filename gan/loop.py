"""train(options): the only place that builds an Accelerator, and the order in which everything happens."""

import json
import os
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, filter_trackers, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list
from torch import Tensor

from gan.checkpoints import (
    DamagedCheckpointError,
    keep_newest,
    load_checkpoint,
    newest_first,
    save_checkpoint,
    save_generator,
    save_generator_config,
)
from gan.display import Display
from gan.errors import DivergedError, Interrupted, UsageError
from gan.figures import image_grid, save_animation, save_curves, save_image
from gan.images import (
    DATASETS,
    DEFAULT_IMAGE_SHAPE,
    DatasetRequest,
    ImageSource,
    batches_per_epoch,
    epoch_batches,
    shard,
    to_unit_range,
)
from gan.networks import evaluating, num_parameters
from gan.options import TrainOptions
from gan.quality import mean_probabilities
from gan.recipes import Recipe
from gan.records import (
    RunFolder,
    append_json_line,
    default_output,
    environment,
    num_available_cores,
    read_json_lines,
    write_json,
    write_json_lines,
)
from gan.seeds import derive_seed
from gan.state import METRICS, NEVER, PLAYERS, TrainState, build_state
from gan.step import draw_latents, train_step

NUM_SAMPLES = 64
SUPPORTED_STRATEGIES = {
    DistributedType.NO,
    DistributedType.MULTI_CPU,
    DistributedType.MULTI_GPU,
    DistributedType.MULTI_XPU,
}


@dataclass(frozen=True)
class Run:
    """What stays the same from a run's first step to its last."""

    options: TrainOptions
    recipe: Recipe
    accelerator: Accelerator
    folder: RunFolder
    dataset: ImageSource
    display: Display
    stop_signals: list[int]
    global_batch_size: int
    steps_per_epoch: int
    total_steps: int

    @property
    def num_epochs(self) -> int:
        """Epochs, the last of which `--steps` may cut short."""
        return -(-self.total_steps // self.steps_per_epoch)


def train(options: TrainOptions) -> RunFolder:
    """Train a GAN as `options` say and return where its record is.

    Raises:
        UsageError: Bad input.
        DivergedError: A loss or weight is not finite.
        Interrupted: SIGINT or SIGTERM came; the run has saved itself.
        OSError: A file could not be written; the last checkpoint is untouched.
    """
    torch.set_flush_denormal(True)  # before the first parallel region: worker threads inherit it
    accelerator = build_accelerator(options)
    configure_backends(options)
    recipe = options.row
    dataset = _load_dataset(options, recipe, accelerator)
    global_batch_size = recipe.batch_size * accelerator.num_processes
    if global_batch_size > len(dataset):
        raise UsageError(
            f"--batch-size {recipe.batch_size} × {accelerator.num_processes} processes: more than the "
            f"{len(dataset)} images of {recipe.dataset}; at most {len(dataset) // accelerator.num_processes}"
        )
    steps_per_epoch = batches_per_epoch(len(dataset), global_batch_size, recipe.sampling)
    total_steps = options.steps or recipe.epochs * steps_per_epoch
    state = build_state(recipe, dataset.image_shape, accelerator, seed=options.seed)
    display = Display(enabled=accelerator.is_main_process, total_steps=total_steps)
    folder = _open_folder(options, accelerator)

    with _stop_signals() as stop_signals, display:
        run = Run(
            options,
            recipe,
            accelerator,
            folder,
            dataset,
            display,
            stop_signals,
            global_batch_size,
            steps_per_epoch,
            total_steps,
        )
        _begin_or_resume(run, state)
        _train_to_end(run, state)
    _finish(run, state)
    return folder


def build_accelerator(options: TrainOptions) -> Accelerator:
    """Build the Accelerator that the launcher's flags and files ask for; refuse what would not train alike."""
    if options.tracker is not None and options.tracker not in map(str, get_available_trackers()):
        known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
        advice = "install its package" if options.tracker in known else f"choose one of {', '.join(known)}"
        raise UsageError(f"--tracker {options.tracker}: not available; {advice}")
    # Accelerate's launcher starts one process on a CPU, whatever --num_processes says, but leaves this trace.
    if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "--num_processes: Accelerate started only one; for several on CPUs add "
            "--config_file accelerate_configs/cpu_ddp.yaml, on GPUs --multi_gpu"
        )
    try:
        accelerator = Accelerator(
            cpu=not torch.accelerator.is_available(),  # or several processes on CPUs would not find each other
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)],
        )
    except ValueError as error:
        raise UsageError(f"accelerate: {' '.join(str(error).split())}") from error
    if accelerator.mixed_precision not in ("no", "bf16", "fp16"):
        raise UsageError(f"--mixed_precision {accelerator.mixed_precision}: choose no, bf16 or fp16")
    if accelerator.mixed_precision == "fp16" and accelerator.device.type == "cpu":
        raise UsageError("--mixed_precision fp16: needs a GPU, and this is a CPU; use bf16 or no")
    if accelerator.distributed_type not in SUPPORTED_STRATEGIES:
        raise UsageError(
            f"accelerate: {accelerator.distributed_type} is not supported; use DDP (MULTI_GPU or MULTI_CPU)"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise UsageError(
            f"--gradient_accumulation_steps {accelerator.gradient_accumulation_steps}: every batch is a step "
            "here; leave it out, and raise --batch-size instead"
        )
    return accelerator


def configure_backends(options: TrainOptions) -> None:
    """Set what would otherwise differ silently between machines: threads and numerical flags."""
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(options.num_threads or max(1, num_available_cores() // processes_here))
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = False


def _load_dataset(options: TrainOptions, recipe: Recipe, accelerator: Accelerator) -> ImageSource:
    request = DatasetRequest(
        options.data_root, options.image_shape or DEFAULT_IMAGE_SHAPE, options.num_workers, accelerator.device
    )
    with accelerator.local_main_process_first():
        return DATASETS[recipe.dataset](request)


def _open_folder(options: TrainOptions, accelerator: Accelerator) -> RunFolder:
    """Return the run's folder, chosen by the main process; refuse one that holds a run, unless resuming it."""
    choice = [options.output or default_output(options.recipe)]
    broadcast_object_list(choice)
    folder = RunFolder(choice[0])
    if not options.resume and folder.config.exists():
        raise UsageError(
            f"--output {folder.root}: already holds a run; continue it with --resume, or choose another directory"
        )
    accelerator.wait_for_everyone()
    return folder


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them."""
    received: list[int] = []
    handlers = {
        number: signal.signal(number, lambda number, _frame: received.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _begin_or_resume(run: Run, state: TrainState) -> None:
    identity = {
        "recipe": run.options.recipe,
        **run.recipe.to_json(),
        "num_images": len(run.dataset),
        "image_shape": list(run.dataset.image_shape),
        "seed": run.options.seed,
        "global_batch_size": run.global_batch_size,
    }
    strategy = _strategy(run.accelerator)
    if run.options.resume:
        _resume(run, state, identity, strategy)
    elif run.accelerator.is_main_process:
        save_generator_config(run.folder.generator_config, state)
        config = {"options": run.options.to_json(), "identity": identity, "strategy": strategy}
        write_json(run.folder.config, {"schema": "gan-run/1", **config, "environment": environment()})
    if run.options.tracker:
        run.accelerator.project_configuration.set_directories(str(run.folder.root))
        run.accelerator.log_with = filter_trackers(run.options.tracker, run.folder.root)
        run.accelerator.init_trackers("gan", {"recipe": run.options.recipe, "seed": run.options.seed})
    run.display.say(
        f"{run.options.recipe} on {run.recipe.dataset}: {len(run.dataset):,} images, batch {run.global_batch_size}"
        f" · G {num_parameters(state.generator.network):,} and D {num_parameters(state.discriminator.network):,}"
        f" parameters · {strategy['device']}, {strategy['processes']} process(es),"
        f" {strategy['precision']}, {strategy['compile']}, {torch.get_num_threads()} thread(s) each"
    )


def _strategy(accelerator: Accelerator) -> dict[str, Any]:
    backend = accelerator.state.dynamo_plugin.backend.value.lower()
    return {
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "precision": "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision,
        "compile": "eager" if backend == "no" else backend,
    }


def _train_to_end(run: Run, state: TrainState) -> None:
    """Train from where `state` stands to the last step."""
    clock = time.perf_counter() - state.progress.seconds
    while state.progress.step < run.total_steps:
        epoch, position = divmod(state.progress.step, run.steps_per_epoch)
        end = min(run.steps_per_epoch, position + run.total_steps - state.progress.step)
        images_per_second = _train_epoch(run, state, epoch, position, end, clock)
        stop_signal = _poll(run, state)
        state.progress.seconds = time.perf_counter() - clock
        _record_epoch(run, state, epoch + 1, images_per_second)
        due = _checkpoint_due(run, state)
        if end == run.steps_per_epoch:
            state.begin_epoch()
        if due or stop_signal or state.progress.step == run.total_steps:
            _save(run, state, clock)
        if stop_signal and state.progress.step < run.total_steps:
            raise _interrupted(run, state, stop_signal)


def _train_epoch(run: Run, state: TrainState, epoch: int, position: int, end: int, clock: float) -> float:
    """Train batches `position` to `end` of an epoch and return images per second over all processes."""
    accelerator, seed = run.accelerator, run.options.seed
    rank, num_processes, device = accelerator.process_index, accelerator.num_processes, accelerator.device
    batches = epoch_batches(len(run.dataset), run.global_batch_size, run.recipe.sampling, seed=seed, epoch=epoch)[
        position:end
    ]
    images = run.dataset.stream([shard(batch, rank, num_processes) for batch in batches])
    images_before, began = state.progress.images_seen, time.perf_counter()

    for batch, real in zip(batches, images, strict=True):
        latents = draw_latents(state, len(batch), seed=seed, rank=rank, num_processes=num_processes, device=device)
        metrics = train_step(state, to_unit_range(real), latents, num_processes / len(batch))
        state.record(metrics, len(batch))

        position += 1
        if position == end:
            break
        if state.progress.step % run.options.log_every == 0 or (run.stop_signals and num_processes == 1):
            if stop_signal := _poll(run, state):
                _save(run, state, clock)
                raise _interrupted(run, state, stop_signal)
            rate = (state.progress.images_seen - images_before) / (time.perf_counter() - began)
            means = dict(zip(METRICS, (state.totals / state.progress.epoch_images).tolist(), strict=True))
            title = f"epoch {epoch + 1}/{run.num_epochs}"
            run.display.step(state.progress.step, title, {"images_per_second": rate, **means})
        if _checkpoint_due(run, state):
            _save(run, state, clock)

    _wait_for_device(state)
    return (state.progress.images_seen - images_before) / (time.perf_counter() - began)


def _checkpoint_due(run: Run, state: TrainState) -> bool:
    """Say whether the last step passed a multiple of `--checkpoint-every` images."""
    seen, every = state.progress.images_seen, run.options.checkpoint_every
    last_batch = min(run.global_batch_size, state.progress.epoch_images)
    return seen // every > (seen - last_batch) // every


def _wait_for_device(state: TrainState) -> None:
    state.totals.tolist()


def _poll(run: Run, state: TrainState) -> int:
    """Return the signal that asks to stop, or 0, the same on all processes; raise where a loss is not finite."""
    stop = state.first_nonfinite.new_tensor([-run.stop_signals[0] if run.stop_signals else 0])
    flags = torch.cat([state.first_nonfinite, stop]).unsqueeze(0)
    *first_nonfinite, stop_signal = run.accelerator.gather(flags).amin(0).tolist()
    for player, step in zip(PLAYERS, first_nonfinite, strict=True):
        if step == min(first_nonfinite) != NEVER:
            raise DivergedError(_not_finite(run, step, f"{player}'s loss is"))
    return -int(stop_signal)


def _interrupted(run: Run, state: TrainState, stop_signal: int) -> Interrupted:
    advice = f"continue with --resume --output {run.folder.root}"
    return Interrupted(f"interrupted after step {state.progress.step} and saved; {advice}", 128 + stop_signal)


def _not_finite(run: Run, step: int, what: str) -> str:
    good = newest_first(run.folder.checkpoints)
    return (
        f"step {step}: the {what} not finite; the last good checkpoint: {good[0] if good else 'none yet'}; "
        "lower the learning rate, or train in bf16 or fp32 if this was fp16"
    )


def _record_epoch(run: Run, state: TrainState, epoch: int, images_per_second: float) -> None:
    """Write an epoch's line, samples, curves and generator."""
    accelerator, folder = run.accelerator, run.folder
    sums = state.totals.clone()
    test: list[float | None] = [None, None]
    if run.dataset.test is not None:
        parts = mean_probabilities(
            state,
            run.dataset.test,
            seed=run.options.seed,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
        )
        test = accelerator.reduce(parts, "sum").tolist()
    means = (accelerator.reduce(sums, "mean") / state.progress.epoch_images).tolist()
    metrics = dict(zip(METRICS, means, strict=True))
    skipped = {
        f"skipped_steps_{player}": int(
            state.progress.step - next(iter(getattr(state, player).optimizer.state.values()))["step"]
        )
        for player in PLAYERS
        if getattr(state, player).scaler.is_enabled()
    }
    line = {
        "epoch": epoch,
        "images_seen": state.progress.images_seen,
        **metrics,
        "test_p_real": test[0],
        "test_p_fake": test[1],
        "images_per_second": images_per_second,
        "seconds": state.progress.seconds,
        **skipped,
    }
    if run.options.tracker:
        accelerator.log({name: value for name, value in line.items() if value is not None}, step=epoch)
    if accelerator.is_main_process:
        append_json_line(folder.metrics, line)
        _draw_samples(run, state, epoch)
        if run.recipe.keep_generators:
            save_generator(folder.generator_of(epoch), state.generator.network)
    run.display.epoch(epoch, run.num_epochs, line)


@torch.no_grad()
def _draw_samples(run: Run, state: TrainState, epoch: int) -> None:
    save_image(run.folder.sample(epoch), image_grid(sample_fixed(state, run.options.seed)))


def sample_fixed(state: TrainState, seed: int) -> Tensor:
    """Return images (64, C, H, W) in [-1, 1] of latents that are the same at every call."""
    source = torch.Generator().manual_seed(derive_seed(seed, "samples"))
    latents = torch.randn(NUM_SAMPLES, state.recipe.latent_dim, generator=source)
    network = state.generator.network
    with evaluating(network):
        images: Tensor = network(latents.to(state.totals.device))
    return images


def _save(run: Run, state: TrainState, clock: float) -> None:
    """Write a checkpoint and the generator; refuse weights that are not finite."""
    _poll(run, state)
    state.progress.seconds = time.perf_counter() - clock
    for player in PLAYERS:
        parameters = getattr(state, player).network.parameters()
        if not all(parameter.isfinite().all() for parameter in parameters):
            raise DivergedError(_not_finite(run, state.progress.step, f"{player}'s weights are"))
    tensors = state.tensors()
    tensors["totals"] = run.accelerator.gather(tensors["totals"])
    if run.accelerator.is_main_process:
        save_checkpoint(
            run.folder.checkpoints,
            tensors,
            state.counters(),
            recipe=run.options.recipe,
            images_seen=state.progress.images_seen,
        )
        keep_newest(run.folder.checkpoints, run.options.keep_checkpoints)
        save_generator(run.folder.generator, state.generator.network)
    run.accelerator.wait_for_everyone()


def _resume(run: Run, state: TrainState, identity: dict[str, Any], strategy: dict[str, Any]) -> None:
    """Take over the newest good checkpoint and cut the record back to it."""
    config = json.loads(run.folder.config.read_text(encoding="utf-8"))
    for name, value in identity.items():
        begun = config["identity"].get(name)
        if begun != value:
            raise UsageError(
                f"--resume: {name.replace('_', ' ')} is {value} now, but the run in {run.folder.root} was begun "
                f"with {begun}; give the same, or begin a new run"
            )
    if config["strategy"] != strategy:
        run.display.say(
            f"note: begun with {config['strategy']}; results will differ in rounding from a run without a stop"
        )
    for path in newest_first(run.folder.checkpoints):
        try:
            checkpoint = load_checkpoint(path)
            same_processes = len(checkpoint.tensors["totals"]) == run.accelerator.num_processes
            row = run.accelerator.process_index if same_processes else None
            state.load(checkpoint.tensors, checkpoint.counters, row)
        except (DamagedCheckpointError, KeyError, RuntimeError) as error:
            run.display.say(f"warning: {error}; falling back to the checkpoint before it")
            continue
        run.display.say(f"resuming from {path}, step {state.progress.step}")
        break
    else:
        run.display.say(f"no checkpoint in {run.folder.root} yet: starting from the beginning")
    run.accelerator.wait_for_everyone()
    if run.accelerator.is_main_process:
        is_complete = state.progress.step >= run.total_steps
        epochs = run.num_epochs if is_complete else state.progress.step // run.steps_per_epoch
        kept = [line for line in read_json_lines(run.folder.metrics) if line["epoch"] <= epochs]
        write_json_lines(run.folder.metrics, kept)


def _finish(run: Run, state: TrainState) -> None:
    """Draw the curves and the animation, write the summary, and say where the pictures are."""
    if run.options.tracker:
        run.accelerator.end_training()
    if not run.accelerator.is_main_process:
        return
    folder = run.folder
    epochs = read_json_lines(folder.metrics)
    save_curves(folder.curves, epochs)
    save_animation(folder.animation, folder.samples())
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
        "strategy": _strategy(run.accelerator),
        "global_batch_size": run.global_batch_size,
        "environment": environment(),
    }
    write_json(folder.summary, summary)
    say = run.display.say
    say(f"done: {state.progress.images_seen:,} images in {state.progress.seconds:.1f} s")
    say(f"  samples, last epoch  {folder.sample(epochs[-1]['epoch'])}")
    say(f"  how they formed      {folder.animation}")
    say(f"  losses               {folder.curves}")
    say(f"more pictures: python gan/sample.py {folder.root}")
