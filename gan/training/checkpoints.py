"""Checkpoints and generators, as `write_tensors` writes them."""

import hashlib
import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gan.errors import UsageError
from gan.files.json_files import read_json, write_json
from gan.files.tensor_files import DamagedCheckpointError, read_tensors, write_tensors
from gan.files.text import printable
from gan.images import ImageShape
from gan.models.architectures import architecture, build_generator, describe, is_built_in, with_values
from gan.process.memory import is_out_of_memory
from gan.recipe_files import code_of, file_of, recipe_named, told
from gan.training.progress import Best
from gan.training.state import TrainState

CHECKPOINT_FORMAT = "gan-checkpoint/1"
GENERATOR_FORMAT = "gan-generator/1"
NAME = re.compile(r"images_(\d{12,})\.safetensors")
MEND = "--resume of its run writes it anew"


@dataclass(frozen=True)
class Checkpoint:
    """What was saved.

    Attributes:
        tensors: By name, on the CPU.
        counters: The JSON-ready rest of the state.
    """

    tensors: dict[str, Tensor]
    counters: dict[str, Any]


def save_checkpoint(
    directory: Path,
    tensors: Mapping[str, Tensor],
    counters: Mapping[str, Any],
    *,
    recipe: str,
    images_seen: int,
) -> Path:
    """Write `directory/images_<images seen>.safetensors` and return its path.

    Raises:
        OSError: It could not be written; an earlier file of that name is untouched.
    """
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {"format": CHECKPOINT_FORMAT, "recipe": recipe, "counters": json.dumps(counters)}
    path = checkpoint_of(directory, images_seen)
    directory.mkdir(exist_ok=True)
    write_tensors(path, on_cpu, header)
    return path


def load_checkpoint(path: Path, recipe: str | None = None) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        DamagedCheckpointError: It is truncated, altered, of another format, or of another recipe than `recipe`.
    """
    try:
        tensors, header = read_tensors(path, CHECKPOINT_FORMAT)
    except OSError as error:
        if is_out_of_memory(error):
            raise
        raise DamagedCheckpointError(f"{path}: not readable ({error.strerror})") from error
    if recipe is not None and header.get("recipe") != recipe:
        raise DamagedCheckpointError(f"{path}: of recipe {header.get('recipe')!r}, not {recipe!r}")
    return Checkpoint(tensors, json.loads(header["counters"]))


def newest_first(directory: Path) -> list[Path]:
    """Return the checkpoints of a run, the one with the most images seen first."""
    images_seen = {path: NAME.fullmatch(path.name) for path in directory.glob("images_*.safetensors")}
    return sorted(
        (path for path, match in images_seen.items() if match),
        key=lambda path: int(path.stem.removeprefix("images_")),
        reverse=True,
    )


def checkpoint_of(directory: Path, images_seen: int) -> Path:
    """Return the path of the checkpoint that is written after so many images."""
    return directory / f"images_{images_seen:012d}.safetensors"


def keep_newest(directory: Path, count: int, best: Path | None = None) -> None:
    """Delete all but the `count` newest checkpoints and the best one."""
    for path in newest_first(directory)[count:]:
        if path != best:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator on the CPU, in evaluation mode.

    Attributes:
        network: Latents, and classes if conditional, to images.
        latent_dim: Width of its latents.
        image_shape: Of its images.
        num_classes: 0 if unconditional.
        classes: Those that it was trained on, sorted.
        note: What to say about it; empty if there is nothing.
        best: Which epoch it is of, if it was kept as the best.
    """

    network: nn.Module
    latent_dim: int
    image_shape: ImageShape
    num_classes: int
    classes: Sequence[int] = ()
    note: str = ""
    best: Best | None = None


def save_generator_config(path: Path, state: TrainState, classes: Sequence[int]) -> None:
    """Write what rebuilds the generator that `save_generator` saves, and its `classes`, if some have no images."""
    config = _generator_config(state)
    some = {"classes": list(classes)} if len(classes) < state.num_classes else {}
    write_json(path, {**config, "sha256": _digest_of_config(config), **some}, parents=False)


def _generator_config(state: TrainState) -> dict[str, Any]:
    config = {
        "format": GENERATOR_FORMAT,
        "generator": describe(state.recipe.generator),
        "latent_dim": state.recipe.latent_dim,
        "image_shape": list(state.image_shape),
        "num_classes": state.num_classes,
    }
    return (
        config if is_built_in(state.recipe.generator) else {**config, "code": code_of(state.recipe)["generator"]}
    )


def _digest_of_config(config: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def save_generator(
    path: Path, state: TrainState, best: Best | None = None, copies: Mapping[str, Tensor] | None = None
) -> None:
    """Write a run's generator.

    Args:
        path: The file.
        state: Of the run: which configuration rebuilds the generator.
        best: Why it is kept, if it is the best.
        copies: Its weights and buffers, if training has gone on since; None for those that it has now.

    Raises:
        OSError: It could not be written; an earlier file of that name is untouched.
    """
    tensors = state.sampler.state_dict() if copies is None else copies
    header = {"format": GENERATOR_FORMAT, "config": _digest_of_config(_generator_config(state))}
    if best is not None:
        header["best"] = json.dumps(best.to_json())
    write_tensors(path, {name: value.detach().cpu().contiguous() for name, value in tensors.items()}, header)


def best_of(weights: Path) -> Best | None:
    """Return which epoch a generator was kept for as the best; None if its file is not there or does not say."""
    with suppress(OSError, DamagedCheckpointError, KeyError, TypeError, ValueError):
        _, header = read_tensors(weights, GENERATOR_FORMAT)
        return Best.of(json.loads(header["best"]))
    return None


def load_generator(weights: Path, config: Path, recipe: str | None = None) -> TrainedGenerator:
    """Rebuild a generator from its two files. It takes memory only for weights that fit its configuration.

    Args:
        weights: Its weights and buffers.
        config: What rebuilds it.
        recipe: The file with its architecture, if that is one of the user's: no file of a run makes code run.

    Raises:
        UsageError: One of them is missing or damaged, or they are not of one run, or the architecture is not of
            this package and not in the recipe; the message says which.
    """
    missing = "train for at least one checkpoint first"
    data = read_json(config, missing=missing)
    if not isinstance(data, dict) or data.get("format") != GENERATOR_FORMAT:
        raise UsageError(f"{config}: not written as {GENERATOR_FORMAT!r}; {MEND}")
    digest = data.pop("sha256", None)
    classes = data.pop("classes", None)  # not in the digest, by which earlier files of weights name their config
    if digest != _digest_of_config(data):
        raise UsageError(f"{config}: damaged (its contents do not match its SHA-256); {MEND}")
    try:
        tensors, header = read_tensors(weights, GENERATOR_FORMAT)
    except FileNotFoundError as error:
        raise UsageError(f"{weights}: not found; {missing}") from error
    except OSError as error:
        raise UsageError(f"{weights}: {error.strerror}") from error
    except DamagedCheckpointError as error:
        raise UsageError(f"{error}; it is damaged, or of an earlier version: {MEND}") from error
    if header.get("config") != digest:
        raise UsageError(f"{weights}: not of {config}, but of another run")
    try:
        best = Best.of(json.loads(header["best"])) if "best" in header else None
        is_of_user = "code" in data
        generator = (
            _generator_of_file(data, tensors, config, recipe) if is_of_user else _empty_generator(data, tensors)
        )
        generator = replace(generator, best=best, classes=_classes_of(classes, generator.num_classes))
    except UsageError:
        raise
    except (KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise UsageError(f"{config}: damaged, or not of {weights} ({printable(error)[:200]})") from error
    if not is_of_user:
        generator.network.to_empty(device="cpu").load_state_dict(tensors)
    return generator


def _classes_of(classes: Any, num_classes: int) -> Sequence[int]:
    """Return the classes that a configuration names; all where it names none."""
    if classes is None:
        return range(num_classes)
    if not classes or not all(type(number) is int and 0 <= number < num_classes for number in classes):
        raise ValueError(f"classes {reprlib.repr(classes)} are not of {num_classes}")
    return tuple(classes)


def _generator_of_file(
    config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: Path, recipe: str | None
) -> TrainedGenerator:
    """Build a generator of the user's architecture with its weights."""
    if recipe is None or file_of(recipe) is None:
        kind = config["generator"]["kind"]
        raise UsageError(
            f"{path.parent}: its generator ({kind}) is of a recipe file, which is not run unless you name it; add "
            "--recipe FILE.py"
        )
    row = recipe_named(recipe)
    settings = {**config["generator"]}
    kind = settings.pop("kind")
    spec: Any = row.generator
    if type(spec).__name__ != kind:
        raise UsageError(
            f"--recipe {recipe}: its generator is {type(spec).__name__}, and that of the run is {kind}"
        )
    channels, height, width = (_whole(size, 1) for size in config["image_shape"])
    latent_dim = _whole(config["latent_dim"], 1)
    num_classes = _whole(config["num_classes"], 0)
    changed = code_of(row).get("generator") != config["code"]
    note = f"{kind} in {recipe} has changed since the run was begun" if changed else ""
    try:
        spec = with_values(spec, settings)  # the run may have had other ones, by --set
        network = build_generator(spec, latent_dim, (channels, height, width), num_classes)
        network.load_state_dict(tensors)
    except Exception as error:  # whatever the user's code raises
        raise UsageError(
            f"--recipe {recipe}: {kind} is not that of {path.parent} ({note or told(error)})"
        ) from error
    return TrainedGenerator(network.eval(), latent_dim, (channels, height, width), num_classes, note=note)


def _empty_generator(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> TrainedGenerator:
    """Build a generator without memory for its weights; raise ValueError where it is not one for `tensors`."""
    spec = architecture(config["generator"])
    latent_dim = _whole(config["latent_dim"], 1)
    num_classes = _whole(config["num_classes"], 0)
    channels, height, width = (_whole(size, 1) for size in config["image_shape"])
    if spec.min_generator_tensors > len(tensors):
        raise ValueError(f"{reprlib.repr(spec)} has more than {len(tensors)} tensors")
    with torch.device("meta"):
        network = build_generator(spec, latent_dim, (channels, height, width), num_classes)
    built = {name: (value.dtype, value.shape) for name, value in network.state_dict().items()}
    saved = {name: (value.dtype, value.shape) for name, value in tensors.items()}
    for name in {**built, **saved}:
        if built.get(name) != saved.get(name):
            raise ValueError(f"{name} is {saved.get(name)}, not {built.get(name)}")
    return TrainedGenerator(network.eval(), latent_dim, (channels, height, width), num_classes)


def _whole(number: Any, least: int) -> int:
    if type(number) is not int or number < least:
        raise ValueError(f"{reprlib.repr(number)} instead of a whole number of at least {least}")
    return number
