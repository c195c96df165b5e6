"""Files of tensors: safetensors with a digest, written whole, checked on load. Nothing is unpickled."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from gan.errors import UsageError
from gan.files.atomic import require_regular, whole_file


class DamagedCheckpointError(Exception):
    """A checkpoint file that is not what was written; the message says how."""


def write_tensors(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file with a header and its digest; the same contents give the same bytes.

    The tensors go into the file one by one. `safetensors.torch.save` would copy all of them first, and keep other
    threads from running meanwhile.
    """
    ordered = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that all are aligned
    dtypes = _names_of_dtypes(tensors)
    entries: dict[str, Any] = {"__metadata__": {**header, "sha256": _digest(tensors, header)}}
    offset = 0
    for name in ordered:
        end = offset + tensors[name].nbytes
        shape = list(tensors[name].shape)
        entries[name] = {"dtype": dtypes[name], "shape": shape, "data_offsets": [offset, end]}
        offset = end
    encoded = json.dumps(entries).encode()
    encoded += b" " * (-len(encoded) % 8)
    with whole_file(path, parents=False) as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for name in ordered:
            file.write(_bytes_of(tensors[name]))


def _names_of_dtypes(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return what safetensors calls the dtype of each tensor."""
    entries = json.loads(save({name: tensor.new_empty(0) for name, tensor in tensors.items()})[8:])
    return {name: entries[name]["dtype"] for name in tensors}


def _bytes_of(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def read_tensors(path: Path, expected: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read and verify a file of a format and return its tensors and its header.

    The file is read, not mapped: what happens to it later does not reach the tensors.

    Raises:
        DamagedCheckpointError: It is truncated, altered, or of another format.
        OSError: It cannot be read.
    """
    try:
        require_regular(path)
    except UsageError as error:
        raise DamagedCheckpointError(str(error)) from error
    data = path.read_bytes()
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
    except (SafetensorError, ValueError, KeyError) as error:
        raise DamagedCheckpointError(f"{path}: not readable ({error})") from error
    if header.get("format") != expected:
        raise DamagedCheckpointError(f"{path}: format {header.get('format')!r} instead of {expected!r}")
    if header.pop("sha256", None) != _digest(tensors, header):
        raise DamagedCheckpointError(f"{path}: its contents do not match its SHA-256")
    return tensors, header


def _digest(tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()
