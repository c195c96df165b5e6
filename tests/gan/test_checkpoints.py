import errno
import json
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from gan.errors import UsageError
from gan.files.atomic import whole_file
from gan.files.json_files import read_json_lines, write_json
from gan.files.run_folder import RunFolder
from gan.files.tensor_files import DamagedCheckpointError
from gan.training.checkpoints import (
    keep_newest,
    load_checkpoint,
    load_generator,
    newest_first,
    save_checkpoint,
)

TENSORS = {
    "weights": torch.randn(3, 4),
    "half": torch.randn(5).bfloat16(),
    "double": torch.tensor(0.1, dtype=torch.float64),
    "count": torch.tensor(7),
    "empty": torch.empty(0, 2),
}
COUNTERS = {"progress": {"step": 3, "seconds": 0.1 + 0.2}}


def save(folder: Path, images_seen: int = 5) -> Path:
    return save_checkpoint(folder, TENSORS, COUNTERS, recipe="mlp", images_seen=images_seen)


def test_a_checkpoint_gives_back_every_bit(tmp_path: Path) -> None:
    loaded = load_checkpoint(save(tmp_path))
    assert loaded.tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded.tensors[name].dtype == tensor.dtype
        assert torch.equal(loaded.tensors[name], tensor)
    assert loaded.counters == COUNTERS
    load_checkpoint(tmp_path / "images_000000000005.safetensors", recipe="mlp")
    with pytest.raises(DamagedCheckpointError, match="of recipe 'mlp', not 'mlp-dropout'"):
        load_checkpoint(tmp_path / "images_000000000005.safetensors", recipe="mlp-dropout")


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path)
    content = path.read_bytes()
    for position in range(0, len(content), 7):
        path.write_bytes(content[:position] + bytes([content[position] ^ 32]) + content[position + 1 :])
        try:
            loaded = load_checkpoint(path)
        except DamagedCheckpointError:
            continue
        # JSON may be written in more than one way: what was read is then still what was saved
        assert loaded.counters == COUNTERS
        assert all(torch.equal(loaded.tensors[name], tensor) for name, tensor in TENSORS.items())


def test_a_changed_counter_is_noticed(tmp_path: Path) -> None:
    path = save(tmp_path)
    content = path.read_bytes()
    assert content.count(b'\\"step\\": 3') == 1
    path.write_bytes(content.replace(b'\\"step\\": 3', b'\\"step\\": 4'))
    with pytest.raises(DamagedCheckpointError, match="SHA-256"):
        load_checkpoint(path)


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    save_file({"weights": torch.zeros(1)}, tmp_path / "images_1.safetensors")
    with pytest.raises(DamagedCheckpointError, match="format"):
        load_checkpoint(tmp_path / "images_1.safetensors")
    (tmp_path / "images_2.safetensors").write_bytes(b"\x80\x04 a pickle")
    with pytest.raises(DamagedCheckpointError, match="not readable"):
        load_checkpoint(tmp_path / "images_2.safetensors")


def test_only_the_newest_stay(tmp_path: Path) -> None:
    paths = [save(tmp_path, images) for images in (5, 1_000_000, 70)]
    assert newest_first(tmp_path) == [paths[1], paths[2], paths[0]]
    keep_newest(tmp_path, 2)
    assert newest_first(tmp_path) == [paths[1], paths[2]]


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path)
    before = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before


def test_nothing_appears_before_it_is_complete(tmp_path: Path) -> None:
    with whole_file(tmp_path / "file") as file:
        file.write(b"half")
        assert not (tmp_path / "file").exists()
    assert (tmp_path / "file").read_bytes() == b"half"
    with suppress(RuntimeError), whole_file(tmp_path / "file") as file:
        file.write(b"other")
        raise RuntimeError
    assert (tmp_path / "file").read_bytes() == b"half"


@pytest.mark.parametrize("has_links", [True, False])
def test_a_new_file_replaces_none_also_without_hard_links(
    has_links: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on many USB disks: the zip of hours of preparation was lost there."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    if not has_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    path = tmp_path / "file"
    with whole_file(path, overwrite=False) as file:
        file.write(b"first")
    with pytest.raises(FileExistsError), whole_file(path, overwrite=False) as file:
        file.write(b"second")
    assert [*tmp_path.iterdir()] == [path]
    assert path.read_bytes() == b"first"


def test_a_line_cut_short_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"epoch": 1}\n{"epoch": 2}\n{"epo')
    assert read_json_lines(path) == [{"epoch": 1}, {"epoch": 2}]
    assert read_json_lines(tmp_path / "absent") == []


def test_a_generator_comes_back_from_its_two_files(run_training) -> None:
    folder = RunFolder(run_training(recipe="mlp-batchnorm", dataset="digits", steps=3))
    generator = load_generator(folder.generator, folder.generator_config)
    assert (generator.latent_dim, generator.image_shape) == (64, (1, 28, 28))
    assert not generator.network.training
    saved = load_checkpoint(newest_first(folder.checkpoints)[0]).tensors
    for name, value in generator.network.state_dict().items():
        assert torch.equal(value, saved[f"generator.network.{name}"])


def test_a_damaged_generator_is_named(run_training) -> None:
    folder = RunFolder(run_training(recipe="mlp-compact", dataset="digits", steps=1))
    weights = load_file(folder.generator)
    config = json.loads(folder.generator_config.read_text())
    config["latent_dim"] = 99
    write_json(folder.generator_config, config)
    with pytest.raises(UsageError, match=r"generator\.json: damaged \(its contents do not match its SHA-256\)"):
        load_generator(folder.generator, folder.generator_config)
    config["latent_dim"] = 100
    write_json(folder.generator_config, config)
    save_file({name: value for name, value in weights.items() if name != "0.bias"}, folder.generator)
    with pytest.raises(UsageError, match=r"generator\.safetensors: format None .* damaged"):
        load_generator(folder.generator, folder.generator_config)
    folder.generator.unlink()
    with pytest.raises(UsageError, match="not found"):
        load_generator(folder.generator, folder.generator_config)
