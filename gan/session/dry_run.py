"""What a run would be, printed without training: `python gan/train.py --dry-run`."""

import errno
import os
from dataclasses import fields
from pathlib import Path

from gan.data.preview import DatasetPreview, preview
from gan.errors import UsageError
from gan.files.run_folder import RunFolder, default_output, read_config
from gan.files.text import printable
from gan.options import TrainOptions
from gan.process.place import place_of
from gan.quality.judge import require_extractor
from gan.quality.real_images import require_enough_images
from gan.recipe_rules import drawn_anew, ignored_probability
from gan.recipes import Recipe
from gan.session.batch_size import with_batch_size
from gan.session.identity import identity_of, require_same, require_same_extractor
from gan.session.run import RunLength, dataset_request, num_classes_of, run_length
from gan.session.strategy import build_accelerator, configure_backends, strategy_in_words
from gan.training.checkpoints import newest_first
from gan.training.footprint import FLOAT_BYTES, Footprint, footprint, require_memory_of_networks
from gan.training.metrics import metrics_of
from gan.training.rehearsal import rehearse

MIB = 2**20


def dry_run(options: TrainOptions) -> None:
    """Print what `gan.loop.train` would do with these options, on the main process.

    Nothing is written or downloaded. Networks are built without contents, and no images are loaded but the bundled
    digits; image files are listed and their headers are checked, as in training.

    Raises:
        UsageError: What training would refuse before its first step, other than another session's lock.
        OSError: The run's folder could not be made or written to.
    """
    options = with_batch_size(options)
    accelerator = build_accelerator(options)
    place = place_of(accelerator)
    configure_backends(options)
    recipe = options.row
    data = preview(recipe.dataset, dataset_request(options, place))
    num_classes = num_classes_of(recipe, data.num_classes, data.images.description)
    length = run_length(options, len(data.images), place.world_size, data.images.image_shape, num_classes)
    folder = RunFolder(options.output or default_output(options.label))
    if options.resume:
        identity = identity_of(options, data.images, length.global_batch_size)
        config = read_config(folder.config)
        require_same(folder, config["identity"], identity, options)
        require_same_extractor(folder, config["options"], options)
    else:
        folder.require_new()
    _require_room_for(folder.root)
    if options.evaluate_every:
        require_extractor(recipe.dataset, options.extractor, data.images.image_shape)
        require_enough_images(recipe.dataset, len(data.images))
    require_memory_of_networks(recipe, data.images.image_shape, num_classes, place.device)
    if options.is_custom:
        rehearse(recipe, data.images.image_shape, num_classes, options.recipe_flags)
    networks = footprint(recipe, data.images.image_shape, num_classes)
    execution = options.execution.settled(recipe, accelerator)  # which all processes have to ask
    strategy = strategy_in_words(accelerator, options, execution)
    if place.is_main:
        lines = [
            *_recipe(options),
            "",
            *_training(options, data, length, networks, place.world_size),
            f"{'strategy':<14}{strategy}",
            *(f"{'note':<14}{told}" for told in (drawn_anew(recipe), ignored_probability(recipe)) if told),
            "",
            *_memory(recipe, data, length, networks),
            "",
            *_files(options, folder, length, networks),
        ]
        print(*map(printable, lines), sep="\n")


def _require_room_for(root: Path) -> None:
    """Raise what training would raise when it makes the folder of a run, or writes to it."""
    existing = next(path for path in (root, *root.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise UsageError(f"--output {root}: not a directory; choose another")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(root))


def _recipe(options: TrainOptions) -> list[str]:
    """Return the recipe's row, with what the options override."""
    recipe = options.row
    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    summary = values.pop("summary")
    width = max(map(len, values)) + 2
    texts = {name: value if isinstance(value, str) else repr(value) for name, value in values.items()}
    return [
        f"recipe {options.label}: {summary}",
        *(f"  {name:<{width}}{text}" for name, text in texts.items()),
    ]


def _training(
    options: TrainOptions, data: DatasetPreview, length: RunLength, networks: Footprint, world_size: int
) -> list[str]:
    recipe = options.row
    shape = "×".join(map(str, data.images.image_shape))
    classes = f", {data.num_classes:,} classes" if data.num_classes else ""
    num_updates = recipe.discriminator_steps
    images_per_step = length.global_batch_size * num_updates
    num_epochs = length.total_steps / length.steps_per_epoch
    updates = f" = {length.global_batch_size:,} × {num_updates} updates of D" if num_updates > 1 else ""
    parts = f" × {options.accumulate} micro-batches" if options.accumulate > 1 else ""
    return [
        f"dataset       {recipe.dataset}: {len(data.images):,} images of {shape}{classes}; {data.origin}",
        f"parameters    G {networks.generator_parameters:,}, D {networks.discriminator_parameters:,}",
        f"steps         {length.total_steps:,} = {num_epochs:g} epochs of {length.steps_per_epoch:,}",
        f"global batch  {length.global_batch_size:,} = {recipe.batch_size:,}{parts} × {world_size} process(es)",
        f"a step        {images_per_step:,} real images{updates}",
        *_lazy(recipe),
        f"seed          {options.seed}",
    ]


def _lazy(recipe: Recipe) -> list[str]:
    """Return how often a step has an update for a penalty alone, and takes longer for that."""
    letters = {"discriminator": "D", "generator": "G"}
    often = [f"of {letters[name]} after every {every}" for name, every in recipe.lazy.items()]
    return [f"{'penalties':<14}one more update {', and '.join(often)}"] if often else []


def _memory(recipe: Recipe, data: DatasetPreview, length: RunLength, networks: Footprint) -> list[str]:
    sizes = {
        "weights and buffers of G and D": networks.weight_bytes,
        "gradients": networks.gradient_bytes,
        "optimizers": networks.optimizer_bytes,
        "average of G": networks.average_bytes,
        "dataset": data.num_bytes,
        "losses of an epoch": length.steps_per_epoch * len(metrics_of(recipe)) * FLOAT_BYTES,
    }
    sizes["sum"] = sum(sizes.values())
    width = max(map(len, sizes)) + 2
    return [
        "memory on the device of each process",
        *(f"  {name:<{width}}{size / MIB:>10,.2f} MiB" for name, size in sizes.items()),
        "  not counted: activations, which grow with the batch size; batches; copies in half precision; PyTorch",
    ]


def _files(options: TrainOptions, folder: RunFolder, length: RunLength, networks: Footprint) -> list[str]:
    """Return where a run would write what."""
    recipe = options.row
    checkpoints = newest_first(folder.checkpoints)
    if not options.resume:
        head = f"{folder.root}: a new run would write"
    elif checkpoints:
        head = f"{folder.root}: the run would go on from {checkpoints[0].name} and write"
    else:
        head = f"{folder.root}: the run has no checkpoint yet, would begin anew and write"
    num_epochs = -(-length.total_steps // length.steps_per_epoch)
    checkpoint_mib = networks.checkpoint_bytes / MIB
    best: dict[Path, str] = {}
    if options.keep_best not in (None, "none"):
        best = {folder.best_generator: f"G at its best {options.keep_best}; that checkpoint stays, too"}
    contents = {
        folder.config: "options, recipe, strategy, environment",
        folder.metrics: f"a line per epoch, {num_epochs:,} in all",
        folder.real: "real images",
        folder.sample(1): "generated images, and so for each epoch",
        folder.checkpoints: f"the newest {options.keep_checkpoints}, {checkpoint_mib:,.2f} MiB each",
        folder.generator: "G as it is sampled",
        **best,
        folder.generator_config: "what rebuilds G",
        **({folder.generator_of(1): "G, and so for each epoch"} if recipe.keep_generators else {}),
        folder.curves: "losses and probabilities, at the end",
        folder.animation: "the generated images, at the end",
        folder.summary: "totals, at the end",
    }
    names = {str(path.relative_to(folder.root)): text for path, text in contents.items()}
    if options.tracker:
        names["gan"] = f"the metrics, as {options.tracker} keeps them"
    width = max(map(len, names)) + 2
    return [head, *(f"  {name:<{width}}{text}" for name, text in names.items())]
