"""What an evaluation reads, makes and measures, and where it writes."""

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
from PIL import Image

from gan.data.datasets import DatasetRequest, ImageSource, load_dataset
from gan.display.figures import image_grid
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.run_folder import RunFolder
from gan.images import to_uint8, to_unit_range
from gan.process.place import Place, launched_as_main
from gan.quality.generated import EVALUATION_BATCH_SIZE, GeneratedImages
from gan.quality.judge import Judge
from gan.quality.paper import PaperJudge
from gan.quality.path_length import (
    Paths,
    StyleBased,
    path_lengths,
    perceptual_path_length,
    require_style_based,
    stamp_of,
)
from gan.quality.perceptual import LPIPS, VGG16, PerceptualDistance, require_large_enough
from gan.quality.real_images import LEAST_EVALUATION_IMAGES, label_frequencies_of, order_of_real
from gan.quality.scored import ReadImages, ScoredImages, nearest_neighbours
from gan.quality.scores import Features
from gan.quality.weights import checked_weights
from gan.recipe_files import files_named
from gan.run_options import EvaluateOptions
from gan.session.sampling import latent_threshold, stamp_of_sampling
from gan.session.subject import Subject

NUM_NEIGHBOURS = 7
"""Real images beside each scored one in a picture."""


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
    require_other_files({"--output": path}, _files_read(options))
    if path is not None and options.run is not None:
        _require_not_of_training(path, RunFolder(options.run))
    output = output_of(options)
    is_file = output.is_file() or not output.exists()  # a device may be in a directory that takes no files
    if launched_as_main() and is_file and output.parent.is_dir():
        try:
            with TemporaryFile(dir=output.parent):
                pass
        except OSError as error:
            raise UsageError(f"{output}: {error.strerror or error}; name another file with --output") from error


def _files_read(options: EvaluateOptions) -> list[Path]:
    """Return the files that an evaluation reads besides its data, which no scores may replace."""
    weights = (options.inception_weights, options.vgg16_weights, options.lpips_weights)
    files = [path for path in (options.images, *weights) if path is not None]
    files += files_named([options.recipe or ""])
    return files


def _require_not_of_training(output: Path, folder: RunFolder) -> None:
    """Raise UsageError where the scores would replace a file of the run that training wrote."""
    path = output.resolve()
    for written in (folder.config, *folder.of_training):
        if written.resolve() in (path, *path.parents):
            raise UsageError(f"--output {output}: training writes {written}; name another file")


def read_images_of(options: EvaluateOptions, dataset: ImageSource, place: Place) -> ImageSource:
    """Return the image files that are scored, in the shape of the real ones.

    Raises:
        UsageError: There are too few, or they cannot be read.
    """
    assert options.images is not None
    kind = "folder" if options.images.is_dir() else "zip"
    request = DatasetRequest(options.images, dataset.image_shape, 0, place.device, check=place.is_main)
    try:
        images = load_dataset(kind, request)
    except UsageError as error:  # it names the option by which training reads such files
        of_training, ours = (f"{flag} {options.images}:" for flag in ("--data-root", "--images"))
        raise UsageError(str(error).replace(of_training, ours)) from error
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
        latent_threshold(generator, options),
    )


@dataclass(frozen=True)
class PathMeasure:
    """What measures a perceptual path length."""

    generator: StyleBased
    distance: PerceptualDistance


def path_measure_of(subject: Subject, options: EvaluateOptions, device: torch.device) -> PathMeasure:
    """Return what measures the perceptual path length of a run's generator.

    Raises:
        UsageError: The generator is not style-based, its images are too small, or weights are missing.
    """
    assert subject.generator is not None
    generator = require_style_based(subject.generator.network, subject.label)
    require_large_enough(subject.generator.image_shape, subject.label)
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
    return {
        "mean": perceptual_path_length(lengths),
        **stamp_of(paths),
        "truncation": stamp_of_sampling(generator, options)["truncation"],
        **measure.distance.stamp(),
    }


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
