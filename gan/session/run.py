"""A run before its first step: its length, its data, its folder and its state."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from gan.data.datasets import (
    DEFAULT_IMAGE_SHAPE,
    STORED_DATASETS,
    DatasetRequest,
    ImageSource,
    held,
    load_dataset,
    split_name,
)
from gan.data.order import Sampling, batches_per_epoch
from gan.display.progress import Display
from gan.errors import UsageError
from gan.files.background import BackgroundWriter
from gan.files.locks import DirectoryLock, LockedError
from gan.files.run_folder import RunFolder, default_output
from gan.images import ImageShape
from gan.options import TrainOptions
from gan.process.place import Place, launched_here, place_of
from gan.process.watch import doing
from gan.quality.judge import Judge, judge_of
from gan.recipes import RECIPES, Recipe
from gan.session.alike import require_same_data, require_same_settings, require_shared
from gan.session.strategy import build_accelerator, complaints, configure_backends, raise_everywhere
from gan.training.footprint import require_memory_of_networks
from gan.training.rehearsal import rehearse, takes_one_image
from gan.training.state import TrainState, build_state


@dataclass(frozen=True)
class Run:
    """What stays the same from a run's first step to its last.

    `partly_used` names the networks with parameters that get no gradient, as far as the rehearsal has looked.
    """

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
    writer: BackgroundWriter = field(default_factory=BackgroundWriter)
    lock: DirectoryLock | None = None
    partly_used: Collection[str] = ()

    @property
    def place(self) -> Place:
        """Where this process stands among those that train together."""
        return place_of(self.accelerator)

    @property
    def images_per_step(self) -> int:
        """Real images of a step, over all ranks; fewer in the last step of an epoch, if its batch is smaller."""
        return self.global_batch_size * self.recipe.discriminator_steps

    def num_micro_batches(self, num_images: int) -> int:
        """Return into how many micro-batches an update of `num_images` images, over all ranks, is divided.

        None of them has more images than `--batch-size` allows; the last update of an epoch may take fewer.
        """
        return -(-num_images * self.options.accumulate // self.global_batch_size)

    def images_in_epoch(self, num_steps: int) -> int:
        """Return the real images, over all ranks, of an epoch's first `num_steps` steps."""
        return min(num_steps * self.images_per_step, len(self.dataset))

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
    place = place_of(accelerator)
    configure_backends(options)
    require_same_settings(options, accelerator)
    recipe = options.row
    doing("loading the data")
    dataset = _load_dataset(options, accelerator)
    require_same_data(dataset, accelerator)
    dataset_classes = 0 if dataset.labels is None else int(dataset.labels.max()) + 1
    num_classes = num_classes_of(recipe, dataset_classes, dataset.description)
    length = run_length(options, len(dataset), place.world_size, dataset.image_shape, num_classes)
    run = Run(
        options=options,
        recipe=recipe,
        accelerator=accelerator,
        folder=_open_folder(options, accelerator),
        dataset=dataset,
        display=Display(enabled=place.is_main, total_steps=length.total_steps),
        global_batch_size=length.global_batch_size,
        steps_per_epoch=length.steps_per_epoch,
        total_steps=length.total_steps,
        judge=judge_of(recipe.dataset, dataset, chosen=options.extractor) if options.evaluate_every else None,
    )
    doing("building the networks")
    require_memory_of_networks(recipe, dataset.image_shape, num_classes, place.device)
    if options.is_custom:
        partly_used = rehearse(recipe, dataset.image_shape, num_classes, options.recipe_flags, place.world_size)
        run = replace(run, partly_used=set(gather_object(sorted(partly_used))))  # DDP has to be alike on all ranks
    state = build_state(
        recipe,
        dataset.image_shape,
        accelerator,
        seed=options.seed,
        steps_per_epoch=length.steps_per_epoch,
        num_classes=num_classes,
        execution=options.execution,
        partly_used=run.partly_used,
    )
    return run, state


@dataclass(frozen=True)
class RunLength:
    """How much a run trains.

    Attributes:
        global_batch_size: Real images of one update of D, over all ranks and micro-batches.
        steps_per_epoch: Steps of a whole epoch.
        total_steps: Steps of the run.
    """

    global_batch_size: int
    steps_per_epoch: int
    total_steps: int


def run_length(
    options: TrainOptions, num_images: int, world_size: int, image_shape: ImageShape, num_classes: int
) -> RunLength:
    """Return how much a run of these options trains on `num_images` images.

    Args:
        options: Of the run.
        num_images: Of its dataset.
        world_size: How many processes train.
        image_shape: Channels, height, width.
        num_classes: As `num_classes_of` returns it.

    Raises:
        UsageError: The batch is larger than the dataset, or too small for BatchNorm, also the last of an epoch.
    """
    recipe = options.row
    num_updates = recipe.discriminator_steps
    global_batch_size = options.images_per_update * world_size
    images_per_step = global_batch_size * num_updates
    if images_per_step > num_images:
        parts = f" × --accumulate {options.accumulate}" if options.accumulate > 1 else ""
        updates = f" × {num_updates} updates of D a step" if num_updates > 1 else ""
        most = num_images * recipe.batch_size // images_per_step
        advice = f"at most {most}" if most else "lower --accumulate" if options.accumulate > 1 else "too few"
        raise UsageError(
            f"--batch-size {recipe.batch_size}{parts} × {world_size} processes{updates}: more than the "
            f"{num_images} images of {recipe.dataset}; {advice}"
        )
    steps_per_epoch = batches_per_epoch(num_images, images_per_step, recipe.sampling)
    total_steps = options.steps or recipe.epochs * steps_per_epoch
    length = RunLength(global_batch_size, steps_per_epoch, total_steps)
    single = _single_image(options, num_images, length) if recipe.batchnorm else ""
    if single and not takes_one_image(recipe, image_shape, num_classes):
        raise UsageError(f"--batch-size {recipe.batch_size}: {options.label} has BatchNorm, and {single}")
    return length


def _single_image(options: TrainOptions, num_images: int, length: RunLength) -> str:
    """Say which batch of a run, or micro-batch, would be one image over all processes; empty if none would."""
    batch = "micro-batch" if options.accumulate > 1 else "batch"
    if length.global_batch_size == options.accumulate:
        return f"a {batch} must have at least 2 images in all"
    ends_epoch = options.row.sampling is Sampling.SHUFFLE and length.total_steps >= length.steps_per_epoch
    rest = num_images % length.global_batch_size
    parts = -(-rest * options.accumulate // length.global_batch_size)  # as `Run.num_micro_batches` has it
    if options.resume or not ends_epoch or not parts or rest // parts > 1:  # several processes have taken it
        return ""
    return (
        f"the last {batch} of an epoch of {num_images:,} images would have 1; give another size, or "
        "--set sampling=shuffle-drop-last"
    )


def num_classes_of(recipe: Recipe, num_classes: int, description: str | None) -> int:
    """Return how many classes the networks are conditioned on; 0 for an unconditional recipe.

    Args:
        recipe: The recipe.
        num_classes: Of its dataset; 0 without labels.
        description: Of what was read, for the error.

    Raises:
        UsageError: The recipe is conditional, and the dataset has no labels.
    """
    if not recipe.conditional:
        return 0
    if not num_classes:
        described = f" ({description})" if description else ""
        raise UsageError(
            f"--dataset {recipe.dataset}: has no labels, and the recipe is conditional; use mnist, a folder with "
            f"a subdirectory for each class, or a zip or a dataset of hf with labels{described}"
        )
    return num_classes


def _load_dataset(options: TrainOptions, accelerator: Accelerator) -> ImageSource:
    place = place_of(accelerator)
    request = dataset_request(options, place, check=accelerator.is_local_main_process)
    with accelerator.local_main_process_first(), complaints() as complaint:
        dataset = load_dataset(options.row.dataset, request)
    doing("reading the data into memory")
    raise_everywhere(complaint)
    with complaints() as complaint:  # by all processes at once: the others would wait too long for the first
        dataset = held(dataset, Display(enabled=place.is_main, total_steps=0).say)
    doing("comparing the data")
    raise_everywhere(complaint)
    return dataset


def dataset_request(options: TrainOptions, place: Place, *, check: bool = True) -> DatasetRequest:
    """Return what the options ask of their dataset; `check` as in `DatasetRequest`.

    Raises:
        UsageError: The recipe is for images of the user's, whose size is not said.
    """
    recipe = options.row
    if options.image_shape is None and _is_for_own_images(options):
        example = f", as in {' '.join(map(str, recipe.published_shape))}" if recipe.published_shape else ""
        raise UsageError(
            f"--recipe {options.recipe}: trains on images of your own; add --data-root PATH and --image-shape "
            f"C H W{example}, or another --dataset"
        )
    return DatasetRequest(
        options.data_root,
        options.image_shape or DEFAULT_IMAGE_SHAPE,
        options.num_workers,
        place.device,
        images_per_step=options.images_per_update * place.world_size * recipe.discriminator_steps,
        check=check,
        image_column=options.image_column,
        label_column=options.label_column,
        memory_budget=options.memory_budget,
        processes_here=launched_here(),
    )


def _is_for_own_images(options: TrainOptions) -> bool:
    """Say whether a row has no dataset but stored images, and gets such."""
    row = RECIPES.get(options.recipe)
    datasets = (row.dataset if row else "", options.row.dataset)
    return all(split_name(name)[0] in STORED_DATASETS for name in datasets)


def _open_folder(options: TrainOptions, accelerator: Accelerator) -> RunFolder:
    """Return the run's folder, chosen by the main process; refuse one that holds a run, unless resuming it."""
    choice = [options.output or default_output(options.label)]
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
    doing("agreeing on the folder of the run")
    answer: list[Any] = [None]
    if run.place.is_main:
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
        require_shared(answer[0], run.accelerator, run.options.distributed_timeout)
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
            root = default_output(options.label)
    if is_new:
        try:
            root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(f"--output {root}: not a directory; choose another") from error
    try:
        lock = DirectoryLock(root)
    except LockedError as error:
        raise LockedError(f"--output {error}; wait until it ends, or choose another directory") from error
    try:
        if is_new:
            RunFolder(root).require_new()
    except UsageError:
        lock.release()
        raise
    return lock
