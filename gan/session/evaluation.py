"""What is scored, against which real images, and by whose features."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from gan.data.datasets import (
    DEFAULT_IMAGE_SHAPE,
    DatasetRequest,
    ImageSource,
    load_dataset,
    require_dataset,
)
from gan.display.figures import image_grid
from gan.errors import UsageError
from gan.files.run_folder import RunFolder, read_config
from gan.images import to_uint8, to_unit_range
from gan.options import TrainOptions
from gan.process.place import Place
from gan.quality.feature_cache import NO_CACHE, FeatureCache, cached_features, contents_of, default_cache, key_of
from gan.quality.inception import NUM_FEATURES, PUBLISHED, Inception, require_channels, require_library
from gan.quality.judge import (
    EVALUATION_BATCH_SIZE,
    LEAST_EVALUATION_IMAGES,
    GeneratedImages,
    Judge,
    judge_of,
    label_frequencies_of,
    order_of_real,
)
from gan.quality.paper import PaperJudge, features_of_rows, real_rows
from gan.quality.path_length import (
    Paths,
    StyleBased,
    path_lengths,
    perceptual_path_length,
    require_style_based,
    stamp_of,
)
from gan.quality.perceptual import LPIPS, VGG16, PerceptualDistance
from gan.quality.scored import ReadImages, ScoredImages, nearest_neighbours
from gan.quality.scores import Features
from gan.quality.weights import checked_weights
from gan.run_options import EvaluateOptions
from gan.session.generator import generator_of_run, which_generator
from gan.training.checkpoints import TrainedGenerator

NUM_NEIGHBOURS = 7
"""Real images beside each scored one in a picture."""


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
    begun = replace(begun, data_root=options.data_root or begun.data_root)
    return Subject(label, dataset, begun, generator, config, tuple(notes))


def output_of(options: EvaluateOptions) -> Path:
    """Return the file that the scores go to."""
    if options.output is not None:
        return options.output
    if options.images is not None:
        return Path(f"{options.images}-evaluation.json")
    assert options.run is not None
    folder = RunFolder(options.run)
    return folder.best_evaluation if options.best else folder.evaluation


def picture_path_of(options: EvaluateOptions) -> Path:
    """Return the file of the picture with nearest real images."""
    output = output_of(options)
    return output.with_name(f"{output.stem}_neighbours.png")


def require_output(options: EvaluateOptions) -> None:
    """Raise UsageError where the scores cannot be written; they may take hours."""
    path = options.output
    if path is not None and (path.is_dir() or not path.parent.is_dir()):
        raise UsageError(f"--output {path}: a directory, or in none; name a file in a directory that exists")


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


def inception_of(options: EvaluateOptions, device: torch.device) -> Inception:
    """Return Inception-v3 with the weights that the options name.

    Raises:
        UsageError: The extra or the weights are missing.
    """
    require_library()
    weights = checked_weights(
        PUBLISHED,
        options.inception_weights,
        "--backbone inception",
        options.inception_sha256,
        "--inception-sha256",
    )
    return Inception(weights, options.resize, device)


def paper_judge_of(
    inception: Inception,
    options: EvaluateOptions,
    name: str,
    dataset: ImageSource,
    num_images: int,
    place: Place,
    say: Callable[[str], object],
) -> PaperJudge:
    """Return the judge of `num_images` images by Inception-v3 features; all ranks call this together.

    Args:
        inception: Extracts the features.
        options: What was asked.
        name: The name of the dataset.
        dataset: The real images.
        num_images: Number of images that are scored.
        place: Says which real images this process takes.
        say: Prints a line, on rank 0.

    Raises:
        UsageError: The dataset has too few images, or they have other than 1 or 3 channels.
    """
    require_channels(dataset.image_shape[0])
    rows = real_rows(name, len(dataset), options.num_real)
    directory = options.cache or default_cache()
    cache = FeatureCache(None if options.cache == Path(NO_CACHE) else directory, say)
    compute = partial(features_of_rows, inception, dataset, rows, options.batch_size, place, say)
    if cache.directory is None:
        real = compute()
    else:
        conditions = {
            "image_shape": dataset.image_shape,
            "batch_size": options.batch_size,
            "device": place.device.type,
            "torch": torch.__version__,
            **inception.stamp(),
        }
        key = key_of(contents_of(dataset, rows, options.batch_size, place), conditions)
        real = cached_features(cache, key, compute, place, NUM_FEATURES)
    frequencies = label_frequencies_of(dataset)
    return PaperJudge(inception, real, rows, frequencies, num_images, options.batch_size, place.device)


def classifier_judge_of(
    options: EvaluateOptions, subject: Subject, dataset: ImageSource, num_images: int
) -> Judge:
    """Return the judge of images by the features of a small classifier."""
    return judge_of(subject.dataset, dataset, num_images, options.extractor or subject.begun.extractor)


def read_images_of(options: EvaluateOptions, dataset: ImageSource, place: Place) -> ImageSource:
    """Return the image files that are scored, in the shape of the real ones.

    Raises:
        UsageError: There are too few.
    """
    assert options.images is not None
    kind = "folder" if options.images.is_dir() else "zip"
    request = DatasetRequest(options.images, dataset.image_shape, 0, place.device, check=place.is_main)
    images = load_dataset(kind, request)
    if len(images) < LEAST_EVALUATION_IMAGES:
        raise UsageError(
            f"--images {options.images}: has {len(images):,} images; to be scored they must be "
            f"{LEAST_EVALUATION_IMAGES} or more"
        )
    return images


def scored_images(
    options: EvaluateOptions, subject: Subject, images: ImageSource | None, judge: Judge | PaperJudge, place: Place
) -> ScoredImages:
    """Return the images that are scored.

    Args:
        options: What was asked.
        subject: What is scored.
        images: The image files that are scored; None for a generator.
        judge: Who scores them.
        place: Says which of them this process makes or reads.
    """
    is_paper = isinstance(judge, PaperJudge)
    num_images = judge.num_images if isinstance(judge, PaperJudge) else len(judge.real.features)
    batch_size = options.batch_size if is_paper else EVALUATION_BATCH_SIZE
    if images is not None:
        return ReadImages(images, num_images, batch_size, place, options.seed)
    generator = subject.generator
    assert generator is not None
    label_frequencies = judge.label_frequencies if generator.num_classes else None
    return GeneratedImages(
        generator.network,
        generator.latent_dim,
        num_images,
        batch_size,
        place.device,
        label_frequencies,
        options.seed,
    )


@dataclass(frozen=True)
class PathMeasure:
    """What measures a perceptual path length."""

    generator: StyleBased
    distance: PerceptualDistance


def path_measure_of(subject: Subject, options: EvaluateOptions, device: torch.device) -> PathMeasure:
    """Return what measures the perceptual path length of a run's generator.

    Raises:
        UsageError: The generator is not style-based, or weights are missing.
    """
    assert subject.generator is not None
    generator = require_style_based(subject.generator.network, subject.label)
    vgg16 = checked_weights(VGG16, options.vgg16_weights, "--ppl")
    lpips = checked_weights(LPIPS, options.lpips_weights, "--ppl")
    return PathMeasure(generator, PerceptualDistance(vgg16, lpips).to(device))


def measured_path_length(
    measure: PathMeasure, subject: Subject, options: EvaluateOptions, dataset: ImageSource, place: Place
) -> dict[str, Any]:
    """Return the perceptual path length with its conditions, JSON-ready; all ranks call this together."""
    generator = subject.generator
    assert generator is not None
    label_frequencies = label_frequencies_of(dataset) if generator.num_classes else None
    paths = Paths(generator.latent_dim, options.num_images, options.batch_size, label_frequencies, options.seed)
    lengths = path_lengths(measure.generator, measure.distance, paths, place)
    return {"mean": perceptual_path_length(lengths), **stamp_of(paths), **measure.distance.stamp()}


def picture_of_neighbours(
    num_images: int, dataset: ImageSource, judge: Judge | PaperJudge, images: ScoredImages, features: Features
) -> Image.Image:
    """Return a picture with a scored image in each row, the one nearest to a real one first, then the real ones.

    Args:
        num_images: Rows, at most.
        dataset: The real images.
        judge: It has their features.
        images: The images that are scored.
        features: Of these.
    """
    neighbours = nearest_neighbours(judge.real.features, features.features, num_images, NUM_NEIGHBOURS)
    order = judge.rows if isinstance(judge, PaperJudge) else order_of_real(len(dataset))
    (real,) = dataset.stream([order[neighbours.real.flatten()]])
    scored = images.images(neighbours.scored)
    rows = to_uint8(real).cpu().view(len(scored), -1, *scored.shape[1:])
    cells = torch.cat([scored.unsqueeze(1), rows], 1)
    return image_grid(to_unit_range(cells.flatten(0, 1)), columns=cells.shape[1])
