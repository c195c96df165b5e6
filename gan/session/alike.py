"""What the ranks of a run must have in common. Ranks that differ are refused before the first step, by name."""

import hashlib
import json
import math
import socket
import time
from dataclasses import fields
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from gan.data.datasets import ImageSource
from gan.data.in_memory import InMemoryImages
from gan.errors import UsageError
from gan.files.locks import DEFAULT_LOCK_NAME
from gan.files.sources import digest_of_modules
from gan.files.text import printable, shortened
from gan.images import to_uint8
from gan.options import TrainOptions
from gan.recipe_files import code_of, full_name
from gan.session.strategy import complaints, precision_of, raise_everywhere

OF_A_NODE = ("data_root", "output", "memory_budget", "num_workers", "num_threads", "dry_run")
"""Options that may differ between nodes: they are of the machine, and do not change what is trained."""
PACKAGE = Path(__file__).resolve().parent.parent
MOST_LETTERS = 100
"""Of a value in a message."""
HASHED_BYTES = 2**28
"""Of larger datasets in memory, so many are compared, of images evenly spaced."""
SECONDS_TO_APPEAR = 65.0
"""A new file may be seen late by other nodes: an NFS client believes for up to 60 s that there is none."""
STREAMED_IMAGES = 64
"""Images that are compared, evenly spaced, where not all ranks have them in memory."""
SAME_DATA = "all nodes need the same data: see --dataset and --data-root"


def require_same_settings(options: TrainOptions, accelerator: Accelerator) -> None:
    """Raise UsageError on all ranks if they were asked for different things, or run different code."""
    if accelerator.num_processes == 1:
        return
    compiler = accelerator.state.dynamo_plugin
    flags = {
        f"--{field.name.replace('_', '-')}": getattr(options, field.name)
        for field in fields(options)
        if field.name not in (*OF_A_NODE, "recipe")
    }
    row = {
        f"{name} of the recipe": value for name, value in {**options.row.to_json(), **code_of(options.row)}.items()
    }
    _require_same(
        {
            "torch": torch.__version__,
            "accelerate": version("accelerate"),
            "the code of gan (SHA-256)": _digest_of_code(),
            "--recipe": full_name(options.recipe),
            **flags,
            **row,
            "device": accelerator.device.type,
            "precision": precision_of(accelerator),
            "compiler": f"{compiler.backend.value.lower()} {compiler.mode}",
        },
        "give all nodes the same command, configuration and versions",
    )


def require_same_data(dataset: ImageSource, accelerator: Accelerator) -> None:
    """Raise UsageError on all ranks if they have different images or labels.

    Some may stream what others have in memory: as much of it is free there, or `--memory-budget` says so.
    """
    if accelerator.num_processes == 1:
        return
    with complaints() as complaint:
        labels = None if dataset.labels is None else _digest(dataset.labels)
        (images,) = dataset.stream([_spaced(len(dataset), min(STREAMED_IMAGES, len(dataset)))])
    raise_everywhere(complaint)
    _require_same(
        {
            "number of images": len(dataset),
            "shape of images": list(dataset.image_shape),
            "names of classes": dataset.class_names and list(dataset.class_names),
            "names or contents of files (SHA-256)": dataset.files_sha256,
            "images (SHA-256)": _digest(to_uint8(images)),
            "labels (SHA-256)": labels,
        },
        SAME_DATA,
    )
    if all(gather_object([isinstance(dataset, InMemoryImages)])):
        assert isinstance(dataset, InMemoryImages)
        _require_same({"images (SHA-256)": _digest_of_memory(dataset)}, SAME_DATA)


def require_shared(output: Path, accelerator: Accelerator, limit_seconds: float) -> None:
    """Raise UsageError on all ranks if one does not see the folder that the main process has locked.

    They compare the lock's file, which names its holder. A rank that does not see it looks again for a while, but
    for less than `limit_seconds`: the other ranks wait no longer.
    """
    if accelerator.num_processes == 1:
        return
    holder = [_lock_of(output)]
    broadcast_object_list(holder)
    until = time.monotonic() + min(SECONDS_TO_APPEAR, limit_seconds / 2)
    while (seen := _lock_of(output)) != holder[0] and time.monotonic() < until:
        time.sleep(0.1)
    with complaints() as complaint:
        if seen != holder[0]:
            where = f"rank {accelerator.process_index} ({socket.gethostname()})"
            raise UsageError(
                f"--output {output}: {where} does not see this directory of rank 0; name one on a "
                "file system that all nodes share"
            )
    raise_everywhere(complaint)


def _lock_of(directory: Path) -> str | None:
    try:
        return (directory / DEFAULT_LOCK_NAME).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def _require_same(facts: dict[str, Any], advice: str) -> None:
    """Compare facts of all ranks, and name the first that differs, with the rank and both values."""
    texts = {name: json.dumps(value, default=str, sort_keys=True) for name, value in facts.items()}
    ranks: list[tuple[str, dict[str, str]]] = gather_object([(socket.gethostname(), texts)])
    main_host, of_main = ranks[0]
    for rank, (host, here) in enumerate(ranks[1:], 1):
        for name in {**of_main, **here}:
            if here.get(name) != of_main.get(name):
                value = _value(here.get(name))
                value_of_main = _value(of_main.get(name))
                error = UsageError(
                    f"{name}: {value} on rank {rank} ({host}), but {value_of_main} on "
                    f"rank 0 ({main_host}); {advice}"
                )
                error.everywhere = True
                raise error


def _value(text: str | None) -> str:
    return "nothing" if text in (None, "null") else shortened(printable(text), MOST_LETTERS)


@cache
def _digest_of_code() -> str:
    """Return the digest of the modules of this package."""
    return digest_of_modules(PACKAGE)


def _digest_of_memory(dataset: InMemoryImages) -> str:
    num_images = min(len(dataset), max(1, HASHED_BYTES // math.prod(dataset.image_shape)))
    images = dataset.train if num_images == len(dataset) else dataset.train[_spaced(len(dataset), num_images)]
    return _digest(images)


def _spaced(num_images: int, num_chosen: int) -> torch.Tensor:
    return torch.linspace(0, num_images - 1, num_chosen, dtype=torch.float64).long()


def _digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.contiguous().cpu().numpy().data).hexdigest()[:16]
