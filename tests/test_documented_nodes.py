"""The commands that train on several machines, run as documents show them, on nodes."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import namespaces
from tests.conftest import ROOT, NodesMaker
from tests.documents import blocks_of

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]

DOCUMENT = ROOT / "docs" / "distributed.md"
SLURM = ROOT / "docs" / "examples" / "train.slurm"
SRUN = """#!/bin/sh
SLURM_NODEID=0 ip netns exec {0.name} "$@" &
SLURM_NODEID=1 ip netns exec {1.name} "$@" && wait $!
"""


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory that nodes share, in which the commands of the documents work."""
    for name in ("gan", "accelerate_configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def documented(*parts: str) -> list[list[str]]:
    """Return the words of the commands that have all of the parts."""
    lines = [line for line in blocks_of(DOCUMENT) if all(part in line for part in parts)]
    return [shlex.split(line, comments=True) for line in lines]


def train(nodes: Sequence[namespaces.Node], commands: Sequence[Sequence[object]], cwd: Path) -> str:
    """Run a command on each node; return what the main process wrote."""
    processes = [node.start(words, cwd=cwd) for node, words in zip(nodes, commands, strict=True)]
    written = namespaces.end(*processes, seconds=240)
    assert [process.returncode for process in processes] == [0] * len(nodes), "\n".join(written)
    (of_main,) = (text for text in written if "done: " in text)
    assert "--output" not in commands[0] or (cwd / "runs" / "first" / "generator.safetensors").is_file()
    return of_main


@pytest.mark.nightly
def test_two_nodes_step_by_step(nodes: NodesMaker, shared: Path) -> None:
    commands = documented("multi_node_cpu.yaml", "--machine_rank")
    assert len(commands) == 2
    assert "2 process(es), fp32" in train(nodes(2), commands, shared)


@pytest.mark.nightly
@pytest.mark.parametrize("num_nodes", [2, 3])
def test_an_elastic_launch(num_nodes: int, nodes: NodesMaker, shared: Path) -> None:
    ((_, variable),) = documented("export ")
    (command,) = documented("--max_restarts")
    more = [] if num_nodes == 2 else ["--num_machines", "3", "--num_processes", "3"]
    script = command.index("gan/train.py")
    commands = [["env", variable, *command[:script], *more, *command[script:]]] * num_nodes
    assert f"{num_nodes} process(es), fp32" in train(nodes(num_nodes), commands, shared)


@pytest.mark.nightly
@pytest.mark.parametrize("num_nodes", [2, 3])
def test_the_file_for_gpus_starts_a_process_per_node(num_nodes: int, nodes: NodesMaker, shared: Path) -> None:
    """Without a GPU they train on CPUs, in bf16, and say so."""
    numbers = ("--num_machines", num_nodes, "--num_processes", num_nodes, "--main_process_ip", "192.0.2.10")
    launch = ("accelerate", "launch", "--config_file", "accelerate_configs/multi_node.yaml", *numbers)
    commands = [
        [*launch, "--machine_rank", rank, "gan/train.py", "--steps", 5, "--output", "runs/first"]
        for rank in range(num_nodes)
    ]
    hidden = [["env", "CUDA_VISIBLE_DEVICES=", *command] for command in commands]
    said = train(nodes(num_nodes), hidden, shared)
    assert f"{num_nodes} process(es), bf16" in said
    assert "asks for a GPU" in said


@pytest.mark.nightly
def test_a_job_of_slurm(nodes: NodesMaker, shared: Path) -> None:
    """With a stand-in for its programs, which start the command on every node."""
    made = nodes(2)
    programs = shared / "bin"
    programs.mkdir()
    addresses = " ".join(node.address for node in made)
    for name, text in {"scontrol": f"#!/bin/sh\nprintf '%s\\n' {addresses}\n", "srun": SRUN.format(*made)}.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    job = {"SLURM_NNODES": "2", "SLURM_JOB_NODELIST": "node[0-1]", "SLURM_GPUS_ON_NODE": "1"}
    config = {"CONFIG": "accelerate_configs/multi_node_cpu.yaml", "PATH": f"{programs}:{os.environ['PATH']}"}
    words = ["env", *(f"{name}={value}" for name, value in {**job, **config}.items())]
    host = made[:1]
    assert "2 process(es), fp32" in train(
        host, [[*words, "bash", SLURM, "--steps", 5, "--output", "runs/first"]], shared
    )
