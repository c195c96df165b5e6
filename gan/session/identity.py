"""What makes a run the same run when it is resumed: recipe, data, seed and global batch."""

from typing import Any

from gan.data.datasets import ImageSource, split_name
from gan.errors import UsageError
from gan.files.run_folder import RunFolder
from gan.files.text import printable
from gan.options import TrainOptions
from gan.quality.judge import EXTRACTOR_OF
from gan.recipe_files import code_of, full_name
from gan.recipes import OFF

LEFT_OUT: dict[str, Any] = {**OFF, "accumulate": 1}
"""What an identity says by leaving it out."""
MOST_NAMES = 5
"""Most names of classes in a message."""
MOST_LETTERS = 200
"""Most letters of a value in a message."""


def identity_of(options: TrainOptions, dataset: ImageSource, global_batch_size: int) -> dict[str, Any]:
    """Return what identifies a run, JSON-ready, for its config.json."""
    return {
        "recipe": full_name(options.recipe),
        **options.row.to_json(),
        **{f"code of {name}": code for name, code in code_of(options.row).items()},
        "num_images": len(dataset),
        "image_shape": list(dataset.image_shape),
        "classes": dataset.class_names and list(dataset.class_names),
        "files": dataset.files_sha256,
        "seed": options.seed,
        "global_batch_size": global_batch_size,
        **({"accumulate": options.accumulate} if options.accumulate > 1 else {}),
    }


def require_same(folder: RunFolder, begun: dict[str, Any], now: dict[str, Any], options: TrainOptions) -> None:
    """Raise UsageError if a run is not what it was at its beginning.

    Args:
        folder: The run's.
        begun: Its identity in config.json, which a user may have changed.
        now: Its identity by `identity_of`.
        options: Of this session.
    """
    begun_with = f"the run in {folder.root} was begun with"
    if begun.get("classes") != now["classes"]:
        classes_before = _names(begun.get("classes"))
        classes_now = _names(now["classes"])
        changes = [f"new: {_some(classes_now - classes_before)}"] if classes_now - classes_before else []
        changes += [f"missing: {_some(classes_before - classes_now)}"] if classes_before - classes_now else []
        changes = changes or ["in another order"]
        raise UsageError(
            f"--resume: {begun_with} other classes than are in {_data_of(options)} now "
            f"({'; '.join(changes)}); give the same, or begin a new run"
        )
    for name in {**begun, **now}:
        value_before = begun.get(name, LEFT_OUT.get(name))
        value_now = now.get(name, LEFT_OUT.get(name))
        if value_before != value_now and name not in ("classes", "files"):
            raise UsageError(
                f"--resume: {name.replace('_', ' ')} is {printable(value_now)[:MOST_LETTERS]} now, but "
                f"{begun_with} {printable(value_before)[:MOST_LETTERS]}; "
                f"{_to_the_same(name, value_before, value_now, options)}, or begin a new run"
            )
    if begun.get("files") != now["files"]:
        is_folder = options.row.dataset == "folder"
        changed = (
            f"image files below --data-root {options.data_root} have other names than"
            if is_folder
            else f"the images or labels of {_data_of(options)} are others than"
        )
        raise UsageError(f"--resume: {changed} at the beginning of the run; give the same, or begin a new run")


def require_same_extractor(folder: RunFolder, begun: dict[str, Any], options: TrainOptions) -> None:
    """Raise UsageError if epochs are to be scored by another extractor than those before them.

    Their scores could not be compared, and one of them would be called the best.

    Args:
        folder: The run's.
        begun: The options of the session before in config.json, which a user may have changed.
        options: Of this session.
    """
    default = EXTRACTOR_OF.get(options.row.dataset)
    before, now = (chosen or default for chosen in (begun.get("extractor"), options.extractor))
    if begun.get("evaluate_every") and options.evaluate_every and before != now:
        raise UsageError(
            f"--resume: --extractor is {now} now, but the run in {folder.root} has scored epochs by "
            f"{printable(before)}, whose scores do not compare; give the same, or begin a new run"
        )


def _to_the_same(name: str, before: Any, now: Any, options: TrainOptions) -> str:
    """Return how to go on with what a run was begun with; for a global batch, which --batch-size that takes."""
    if name == "global_batch_size" and isinstance(before, int) and before > 0:
        num_processes = now // options.images_per_update
        batch_size, rest = divmod(before, num_processes * options.accumulate)
        if batch_size and not rest:
            return f"give --batch-size {batch_size}, which keeps it with {num_processes} process(es)"
    return "give the same"


def _data_of(options: TrainOptions) -> str:
    _, hub_name = split_name(options.row.dataset)
    return f"--dataset {options.row.dataset}" if hub_name else f"--data-root {options.data_root}"


def _names(classes: Any) -> set[str]:
    return {str(name) for name in classes} if isinstance(classes, list) else set()


def _some(names: set[str]) -> str:
    shown = [*map(repr, sorted(names)[:MOST_NAMES])]
    return ", ".join([*shown, "..."] if len(names) > MOST_NAMES else shown)
