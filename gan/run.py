"""A run before its first step: the accelerator, the data and the state."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
from accelerate.utils import DistributedDataParallelKwargs, broadcast_object_list, gather_object

from gan.data.datasets import DATASETS, DEFAULT_IMAGE_SHAPE, DatasetRequest, ImageSource
from gan.data.order import Sampling, batches_per_epoch
from gan.display.progress import Display
from gan.errors import UsageError
from gan.files.environment import num_available_cores
from gan.files.locks import DirectoryLock, LockedError
from gan.files.run_folder import RunFolder, default_output
from gan.images import ImageShape
from gan.models.architectures import build_discriminator, build_generator
from gan.models.networks import num_parameters
from gan.options import TrainOptions
from gan.process.launcher import launch_request, num_threads_asked, refuse_without_effect
from gan.process.memory import require_memory
from gan.quality.judge import Judge, judge_of
from gan.recipes import Recipe
from gan.training.state import TrainState, build_state

LARGE_IMAGE = 2**17
"""Numbers in an image from which on it is asked whether the networks fit; to count them takes up to a second."""
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
    global_batch_size: int
    steps_per_epoch: int
    total_steps: int
    judge: Judge | None = None
    stop_signals: list[int] = field(default_factory=list)
    lock: DirectoryLock | None = None

    @property
    def images_per_step(self) -> int:
        """Real images of a step, over all processes; fewer in the last one of an epoch, if it is smaller."""
        return self.global_batch_size * self.recipe.discriminator_steps

    @property
    def last_batch_size(self) -> int:
        """Images of the last step of an epoch."""
        if self.recipe.sampling is not Sampling.SHUFFLE:
            return self.images_per_step
        return len(self.dataset) - (self.steps_per_epoch - 1) * self.images_per_step

    def require_folder(self) -> None:
        """Raise OSError where the folder was removed, moved or replaced since this process took it."""
        if self.lock is not None:
            self.lock.require_directory()
            self.folder.config.stat()
            self.folder.metrics.stat()

    @property
    def num_epochs(self) -> int:
        """Epochs, the last of which `--steps` may cut short."""
        return -(-self.total_steps // self.steps_per_epoch)


def prepare(options: TrainOptions) -> tuple[Run, TrainState]:
    """Build everything a run needs, and write nothing.

    Raises:
        UsageError: Bad input.
    """
    torch.set_flush_denormal(True)  # before the first parallel region: worker threads inherit it
    accelerator = build_accelerator(options)
    configure_backends(options)
    recipe = options.row
    if recipe.penalty and accelerator.state.dynamo_plugin.fullgraph:
        raise UsageError(
            f"--dynamo_use_fullgraph: the penalty of {options.recipe} is not compiled, because compilers do not "
            "differentiate twice; leave it out"
        )
    dataset = _load_dataset(options, recipe, accelerator)
    global_batch_size = recipe.batch_size * accelerator.num_processes
    updates = recipe.discriminator_steps
    if global_batch_size * updates > len(dataset):
        each = f" × {updates} updates of D a step" if updates > 1 else ""
        raise UsageError(
            f"--batch-size {recipe.batch_size} × {accelerator.num_processes} processes{each}: more than the "
            f"{len(dataset)} images of {recipe.dataset}; at most "
            f"{len(dataset) // accelerator.num_processes // updates}"
        )
    steps_per_epoch = batches_per_epoch(len(dataset), global_batch_size * updates, recipe.sampling)
    if global_batch_size == 1 and recipe.batchnorm:
        raise UsageError(
            f"--batch-size 1: {options.recipe} has BatchNorm; a batch must have at least 2 images in all"
        )
    total_steps = options.steps or recipe.epochs * steps_per_epoch
    run = Run(
        options=options,
        recipe=recipe,
        accelerator=accelerator,
        folder=_open_folder(options, accelerator),
        dataset=dataset,
        display=Display(enabled=accelerator.is_main_process, total_steps=total_steps),
        global_batch_size=global_batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        judge=judge_of(recipe.dataset, dataset) if options.evaluate_every else None,
    )
    num_classes = _num_classes(recipe, dataset)
    _require_memory_of_networks(recipe, dataset.image_shape, num_classes, accelerator.device)
    state = build_state(
        recipe,
        dataset.image_shape,
        accelerator,
        seed=options.seed,
        steps_per_epoch=steps_per_epoch,
        num_classes=num_classes,
    )
    return run, state


def _require_memory_of_networks(
    recipe: Recipe, image_shape: ImageShape, num_classes: int, device: torch.device
) -> None:
    """Raise UsageError where weights, gradients and the two averages that an optimizer keeps do not fit."""
    if math.prod(image_shape) < LARGE_IMAGE:
        return
    with torch.device("meta"):
        networks = (
            build_generator(recipe.generator, recipe.latent_dim, image_shape, num_classes),
            build_discriminator(recipe.discriminator, image_shape, num_classes),
        )
    count = sum(map(num_parameters, networks))
    shape = "×".join(map(str, image_shape))
    require_memory(f"--image-shape: networks of {count:,} parameters for images of {shape}", 16 * count, device)


def _num_classes(recipe: Recipe, dataset: ImageSource) -> int:
    """Return how many classes a conditional recipe is told; 0 for others."""
    if not recipe.conditional:
        return 0
    if dataset.labels is None:
        described = f" ({dataset.description})" if dataset.description else ""
        raise UsageError(
            f"--dataset {recipe.dataset}: has no labels, and the recipe is conditional; use mnist, or a folder "
            f"with a subdirectory for each class{described}"
        )
    return int(dataset.labels.max()) + 1


def build_accelerator(options: TrainOptions) -> Accelerator:
    """Build the Accelerator that the launcher's flags and files ask for; refuse what would not train alike."""
    if options.tracker is not None and options.tracker not in map(str, get_available_trackers()):
        known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
        advice = "install its package" if options.tracker in known else f"choose one of {', '.join(known)}"
        raise UsageError(f"--tracker {options.tracker}: not available; {advice}")
    refuse_without_effect()
    # Accelerate's launcher starts one process on a CPU, whatever --num_processes says, but leaves this trace.
    trace = {"ACCELERATE_MIXED_PRECISION", "MASTER_ADDR", "MASTER_PORT"}
    if trace <= os.environ.keys() and "WORLD_SIZE" not in os.environ:
        raise UsageError(
            "--num_processes: Accelerate started only one; for several on CPUs add --config_file "
            "accelerate_configs/cpu_ddp.yaml, on GPUs --multi_gpu; for one unset MASTER_ADDR and MASTER_PORT"
        )
    processes_here, num_gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), torch.accelerator.device_count()
    if processes_here > max(num_gpus, 1) and torch.accelerator.is_available():
        raise UsageError(
            f"--num_processes: {processes_here} on this machine, which has {num_gpus} GPU(s); give at most that, "
            "or hide them with --config_file accelerate_configs/cpu_ddp.yaml"
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
    """Set what would otherwise differ silently between machines: threads and numerical flags.

    To be called with an Accelerator at hand, which sets some of them too.
    """
    torch.set_num_threads(num_threads_of(options)[0])
    torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = False


def num_threads_of(options: TrainOptions) -> tuple[int, str]:
    """Return the number of CPU threads of this process, and what asks for it if it is not one of our options."""
    if options.num_threads:
        return options.num_threads, ""
    processes_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return num_threads_asked() or (max(1, num_available_cores() // processes_here), "")


def say_what_differs(accelerator: Accelerator, say: Callable[[str], object]) -> None:
    """Say what of a launcher's request is not as it was asked for."""
    started_by = launch_request()
    if started_by is not None and started_by.gpu_request and accelerator.device.type == "cpu":
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "PyTorch sees none" if hidden is None else f"CUDA_VISIBLE_DEVICES={hidden} leaves none"
        precision = strategy_of(accelerator)["precision"]
        say(f"warning: {started_by.gpu_request} asks for a GPU, but {why}: this runs on the CPU, in {precision}")
    if accelerator.state.dynamo_plugin.dynamic:
        say("note: --dynamo_use_dynamic has no effect: each shape is compiled by itself, and there are few")


def _load_dataset(options: TrainOptions, recipe: Recipe, accelerator: Accelerator) -> ImageSource:
    request = DatasetRequest(
        options.data_root,
        options.image_shape or DEFAULT_IMAGE_SHAPE,
        options.num_workers,
        accelerator.device,
        images_per_step=recipe.batch_size * accelerator.num_processes * recipe.discriminator_steps,
        check=accelerator.is_local_main_process,
    )
    with accelerator.local_main_process_first(), complaints() as complaint:
        dataset = DATASETS[recipe.dataset](request)
    raise_everywhere(complaint)
    return dataset


@contextmanager
def complaints() -> Iterator[list[str]]:
    """Collect a complaint about bad input, for `raise_everywhere`."""
    collected: list[str] = []
    try:
        yield collected
    except UsageError as error:
        collected.append(str(error))


def raise_everywhere(own: list[str]) -> None:
    """Raise UsageError on all processes where any of them has a complaint: the others would wait for it."""
    everybody: list[str] = gather_object(own)
    if everybody:
        error = UsageError(everybody[0])
        error.everywhere = True
        raise error


def _open_folder(options: TrainOptions, accelerator: Accelerator) -> RunFolder:
    """Return the run's folder, chosen by the main process; refuse one that holds a run, unless resuming it."""
    choice = [options.output or default_output(options.recipe)]
    broadcast_object_list(choice)
    folder = RunFolder(choice[0])
    if not options.resume:
        folder.require_new()
    accelerator.wait_for_everyone()
    return folder


@contextmanager
def holding_folder(run: Run) -> Iterator[Run]:
    """Give the run's folder to this session alone; the main process holds the lock.

    Where the folder has no name of the user's and another session was quicker, the run gets the next one.

    Raises:
        UsageError: Another session holds it, or it has come to hold a run; the same on all processes.
    """
    lock: DirectoryLock | None = None
    answer: list[Any] = [None]
    if run.accelerator.is_main_process:
        try:
            lock = _take_folder(run.options, run.folder.root)
            answer = [lock.directory]
        except (UsageError, OSError) as error:
            answer = [error]
    broadcast_object_list(answer)
    if isinstance(answer[0], UsageError):
        answer[0].everywhere = True
    if isinstance(answer[0], Exception):
        raise answer[0]
    try:
        yield replace(run, folder=RunFolder(answer[0]), lock=lock)
    finally:
        if lock is not None and lock.release():
            with suppress(OSError):
                lock.directory.rmdir()  # if nothing was written


def _take_folder(options: TrainOptions, root: Path) -> DirectoryLock:
    """Lock the folder of a run, which is made unless the run is resumed."""
    is_new = not options.resume
    while is_new and options.output is None:
        try:
            root.mkdir(parents=True)
            break
        except FileExistsError:
            root = default_output(options.recipe)
    if is_new:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except FileExistsError as error:
            raise UsageError(f"--output {root}: not a directory; choose another") from error
    try:
        lock = DirectoryLock(root)
    except LockedError as error:
        raise UsageError(f"--output {error}; wait until it ends, or choose another directory") from error
    try:
        if is_new:
            RunFolder(root).require_new()
    except UsageError:
        lock.release()
        raise
    return lock


def strategy_of(accelerator: Accelerator) -> dict[str, Any]:
    """Return what Accelerate was asked for, JSON-ready."""
    backend = accelerator.state.dynamo_plugin.backend.value.lower()
    return {
        "device": accelerator.device.type,
        "processes": accelerator.num_processes,
        "precision": "fp32" if accelerator.mixed_precision == "no" else accelerator.mixed_precision,
        "compile": "eager" if backend == "no" else backend,
    }
