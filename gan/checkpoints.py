"""Checkpoints and generators: safetensors files, written whole, checked on load. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor, nn

from gan.architectures import architecture, build_generator, describe
from gan.errors import UsageError
from gan.networks import ImageShape
from gan.records import read_json, whole_file, write_json
from gan.state import TrainState

FORMAT = "gan-checkpoint/1"
PATTERN = "images_*.safetensors"


class DamagedCheckpointError(Exception):
    """A checkpoint file that is not what was written; the message says how."""


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
    header = {"format": FORMAT, "recipe": recipe, "counters": json.dumps(counters)}
    header["sha256"] = _digest(on_cpu, header)
    path = directory / f"images_{images_seen:012d}.safetensors"
    with whole_file(path) as file:
        file.write(save(on_cpu, metadata=header))
    return path


def load_checkpoint(path: Path, recipe: str | None = None) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        DamagedCheckpointError: It is truncated, altered, of another format, or not of `recipe`, if given.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError) as error:
        raise DamagedCheckpointError(f"{path}: not readable ({error})") from error
    if header.get("format") != FORMAT:
        raise DamagedCheckpointError(f"{path}: format {header.get('format')!r} instead of {FORMAT!r}")
    if recipe is not None and header.get("recipe") != recipe:
        raise DamagedCheckpointError(f"{path}: of recipe {header.get('recipe')!r}, not {recipe!r}")
    expected = header.pop("sha256", None)
    if _digest(tensors, header) != expected:
        raise DamagedCheckpointError(f"{path}: its contents do not match its SHA-256")
    return Checkpoint(tensors, json.loads(header["counters"]))


def newest_first(directory: Path) -> list[Path]:
    """Return the checkpoints of a run, the one with the most images seen first."""
    return sorted(directory.glob(PATTERN), reverse=True)


def keep_newest(directory: Path, count: int) -> None:
    """Delete all but the `count` newest checkpoints."""
    for path in newest_first(directory)[count:]:
        path.unlink(missing_ok=True)


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


@dataclass(frozen=True)
class TrainedGenerator:
    """A generator on the CPU, in evaluation mode.

    Attributes:
        network: Latents, and classes if conditional, to images.
        latent_dim: Width of its latents.
        image_shape: Of its images.
        num_classes: 0 if unconditional.
    """

    network: nn.Module
    latent_dim: int
    image_shape: ImageShape
    num_classes: int


def save_generator_config(path: Path, state: TrainState) -> None:
    """Write what rebuilds the generator that `save_generator` saves."""
    config = {
        "generator": describe(state.recipe.generator),
        "latent_dim": state.recipe.latent_dim,
        "image_shape": state.image_shape,
        "num_classes": state.num_classes,
    }
    write_json(path, config)


def save_generator(path: Path, network: nn.Module) -> None:
    """Write a generator's weights and buffers."""
    with whole_file(path) as file:
        file.write(save({name: value.cpu().contiguous() for name, value in network.state_dict().items()}))


def load_generator(weights: Path, config: Path) -> TrainedGenerator:
    """Rebuild a generator from its two files.

    Raises:
        UsageError: One of them is missing or damaged.
    """
    try:
        data = read_json(config)
        channels, height, width = data["image_shape"]
        num_classes = data.get("num_classes", 0)
        spec = architecture(data["generator"])
        network = build_generator(spec, data["latent_dim"], (channels, height, width), num_classes)
        network.load_state_dict(load(weights.read_bytes()))
    except FileNotFoundError as error:
        raise UsageError(f"{error.filename}: not found; train for at least one checkpoint first") from error
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise UsageError(f"{weights}: damaged, or not of {config} ({str(error).splitlines()[0]})") from error
    return TrainedGenerator(network.eval(), data["latent_dim"], (channels, height, width), num_classes)
