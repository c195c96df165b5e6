"""Subject: whose images are scored, and which dataset they are compared with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gan.data.datasets import DEFAULT_IMAGE_SHAPE, DatasetRequest, ImageSource, require_columns, require_dataset
from gan.errors import UsageError
from gan.files.run_folder import RunFolder, read_config
from gan.options import TrainOptions
from gan.process.place import Place
from gan.run_options import EvaluateOptions
from gan.session.generator import generator_of_run, which_generator
from gan.training.checkpoints import TrainedGenerator


@dataclass(frozen=True)
class Subject:
    """What is scored.

    Attributes:
        label: The run, or the files of the images.
        dataset: The name of the dataset that it is compared with.
        begun: Says where and how the dataset is read.
        generator: The generator of the run; None for images of files.
        config: The record of the run; None without one.
        notes: What to say about it.
    """

    label: Path
    dataset: str
    begun: TrainOptions
    generator: TrainedGenerator | None
    config: dict[str, Any] | None
    notes: tuple[str, ...]


def subject_of(options: EvaluateOptions) -> Subject:
    """Return what the options name.

    Raises:
        UsageError: The run lacks what is needed, or the images are not there.
    """
    config = None
    generator = None
    notes: list[str] = []
    if options.run is None:
        assert options.dataset is not None
        dataset, begun = options.dataset, TrainOptions(image_shape=options.image_shape)
    else:
        folder = RunFolder(options.run)
        config = read_config(folder.config)
        dataset, begun = _data_of(folder, config)
    if options.images is not None:
        if not options.images.exists():
            raise UsageError(f"--images {options.images}: not found; name a folder of images or a zip")
        label = options.images
    else:
        generator = generator_of_run(folder, options.recipe, best=options.best)
        label = folder.root
        notes = [note for note in (generator.note, which_generator(folder, generator)) if note]
    require_columns(dataset, options.image_column, options.label_column)
    begun = replace(
        begun,
        data_root=options.data_root or begun.data_root,
        image_column=options.image_column or begun.image_column,
        label_column=options.label_column or begun.label_column,
    )
    return Subject(label, dataset, begun, generator, config, tuple(notes))


def _data_of(folder: RunFolder, config: dict[str, Any]) -> tuple[str, TrainOptions]:
    """Return the dataset that a run was trained on, and the options that say where and how it was read."""
    dataset = config["identity"].get("dataset")
    try:
        if not isinstance(dataset, str) or "data_root" not in config["options"]:
            raise UsageError("it has no dataset or data root")
        require_dataset(dataset)
        return dataset, TrainOptions.from_json(config["options"])
    except UsageError as error:
        raise UsageError(f"{folder.config}: damaged; it must be as training wrote it") from error


def request_of(subject: Subject, options: EvaluateOptions, place: Place) -> DatasetRequest:
    """Return what is asked of the dataset that a subject is compared with."""
    begun = subject.begun
    # on a CPU the features take so long that reading in this process hardly counts
    num_workers = begun.num_workers if options.backbone == "inception" and place.device.type == "cuda" else 0
    shape = begun.image_shape or DEFAULT_IMAGE_SHAPE
    if subject.generator is not None:
        shape = subject.generator.image_shape
    request = DatasetRequest(begun.data_root, shape, num_workers, place.device)
    return replace(request, image_column=begun.image_column, label_column=begun.label_column)


def require_classes(subject: Subject, dataset: ImageSource) -> None:
    """Raise UsageError if a conditional generator has other classes than the data that it is compared with."""
    if subject.generator is None or not subject.generator.num_classes:
        return
    num_classes = 0 if dataset.labels is None else int(dataset.labels.max()) + 1
    if num_classes != subject.generator.num_classes:
        raise UsageError(
            f"{subject.label}: its generator has {subject.generator.num_classes} classes, and --dataset "
            f"{subject.dataset} with --data-root {subject.begun.data_root} has {num_classes}; "
            "give the data of its training"
        )
