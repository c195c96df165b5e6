"""Nodes that differ are refused before the first step, by name, and nothing is written."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ROOT
from tests.gan.node_runs import BEGINNING_SECONDS, LONG, NUM_NODES, TRAINING, NodeRun, note
from tests.gan.stored_images import write_pictures

pytestmark = [pytest.mark.slow, pytest.mark.nightly, pytest.mark.multiprocess]


def other_code(folder: Path) -> dict[str, Any]:
    shutil.copytree(ROOT / "gan", folder / "gan", ignore=shutil.ignore_patterns("__pycache__"))
    with (folder / "gan" / "seeds.py").open("a") as module:
        module.write("# changed\n")
    return {"mounts": {ROOT / "gan": folder / "gan"}, "env": {"PYTHONDONTWRITEBYTECODE": "1"}}


def other_torch(folder: Path) -> dict[str, Any]:
    version = Path(torch.__file__).with_name("version.py")
    text = version.read_text(encoding="utf-8")
    (folder / "version.py").write_text(text.replace(str(torch.__version__), "2.13.0+other"), encoding="utf-8")
    return {"mounts": {version: folder / "version.py"}, "env": {"PYTHONDONTWRITEBYTECODE": "1"}}


def fewer_images(folder: Path) -> dict[str, Any]:
    pictures = write_pictures(folder / "pictures")
    (pictures / "cats" / "10.png").unlink()
    return {"mounts": {folder.parent / "pictures": pictures}}


def other_images(folder: Path) -> dict[str, Any]:
    pictures = write_pictures(folder / "pictures")
    (pictures / "cats" / "10.png").write_bytes((pictures / "cats" / "9.png").read_bytes())
    return {"mounts": {folder.parent / "pictures": pictures}}


PICTURES = "--recipe mlp-compact --dataset folder --data-root ../pictures --image-shape 3 8 8 --batch-size 4"
PICTURES = f"{PICTURES} --num-threads 1 --num-workers 0 --distributed-timeout 60"
ADVICE = "give all nodes the same command, configuration and versions"
DATA_ADVICE = "all nodes need the same data: see --dataset and --data-root"
DIFFERENCES: dict[str, tuple[Callable[[Path], dict[str, Any]], str]] = {
    "recipe": (lambda _: {"options": "--recipe mlp"}, f'--recipe: "mlp" on .*"mlp-compact" on .*; {ADVICE}'),
    "seed": (lambda _: {"options": "--seed 1"}, f"--seed: 1 on .*, but 0 on .*; {ADVICE}"),
    "batch": (lambda _: {"options": "--batch-size 40"}, f"--batch-size: 40 on .*, but 50 on .*; {ADVICE}"),
    "number of images": (fewer_images, f"number of images: 32 on .*, but 33 on .*; {DATA_ADVICE}"),
    "contents of images": (other_images, rf"images \(SHA-256\): .*; {DATA_ADVICE}"),
    "version of the code": (other_code, rf"the code of gan \(SHA-256\): .*; {ADVICE}"),
    "torch": (other_torch, f'torch: "2.13.0\\+other" on .*; {ADVICE}'),
    "precision": (lambda _: {"launcher": "--mixed_precision bf16"}, f'precision: "bf16" on .*; {ADVICE}'),
    "compiler": (lambda _: {"launcher": "--dynamo_backend inductor"}, f'compiler: "inductor .*; {ADVICE}'),
    "device": (lambda _: {"env": {"DEVICE": "cuda"}}, f'device: "cuda" on .*, but "cpu" on .*; {ADVICE}'),
    "file system of --output": (
        lambda folder: {"mounts": {folder.parent / "shared": None}},
        "--output .*: rank 1 .* does not see this directory of rank 0; name one on a file system that all",
    ),
}


@pytest.mark.parametrize("num_nodes", NUM_NODES)
@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_node_that_differs_is_refused(
    difference: str, num_nodes: int, node_run: Callable[..., NodeRun], tmp_path: Path
) -> None:
    of_other, line = DIFFERENCES[difference]
    differing = node_run(num_nodes, training=PICTURES if "images" in difference else f"{TRAINING} {LONG}")
    write_pictures(tmp_path / "pictures")
    (tmp_path / "other").mkdir()
    differing.fail_now()
    for number in range(num_nodes):
        differing.start(number, **(of_other(tmp_path / "other") if number == 1 else {}))
    ended = differing.outcomes(*range(num_nodes), seconds=BEGINNING_SECONDS)
    note(f"another {difference}", ended, num_nodes)
    assert [one.exit_code for one in ended] == [1] * num_nodes, [one.output for one in ended]
    (said,) = [said for one in ended for said in one.lines]
    assert re.match(line, said), said
    assert "output" in difference or "rank 1 (node1)" in said, said
    assert 2 in {one.rank_exit_code for one in ended}
    differing.require_no_process_left()
    assert not (differing.folder / "run").exists()
