"""Saves go on in the background: of the state of their step, one at a time, and never silently lost."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import gan.loop
import gan.session.saving
from gan.errors import NotSavedError
from gan.files.background import BackgroundWriter, is_writing
from gan.files.run_folder import RunFolder
from gan.process.script import exit_code_of
from gan.training.checkpoints import load_checkpoint, load_generator, newest_first
from gan.training.host_copy import HostCopy
from tests.conftest import ROOT, NodesMaker, launch_two_processes
from tests.gan.small_run import TRAIN
from tests.namespaces import end

SETTINGS = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 100, "num_threads": 1}


def slowed(monkeypatch: pytest.MonkeyPatch, before_writing: Callable[[], object]) -> None:
    """Do something in the writer's thread before a checkpoint is written."""
    save = gan.session.saving.save_checkpoint

    def later(*arguments: object, **settings: object) -> Path:
        before_writing()
        return save(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(gan.session.saving, "save_checkpoint", later)


def test_training_goes_on_while_the_state_of_an_earlier_step_is_written(
    run_training, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The save of step 5 is not written before step 9: what training does meanwhile does not reach it."""
    stopped = run_training("stopped", steps=5, **SETTINGS)
    step_9 = threading.Event()
    step = gan.loop.run_step

    def watched_step(state, inputs):
        if state.progress.step == 9:
            step_9.set()
        return step(state, inputs)

    monkeypatch.setattr(gan.loop, "run_step", watched_step)
    slowed(monkeypatch, lambda: step_9.wait(60) or pytest.fail("training waits for its save"))
    whole = run_training("whole", steps=12, checkpoint_every=500, keep_checkpoints=3, **SETTINGS)
    (ours,) = (path for path in newest_first(whole / "checkpoints") if path.name.endswith("0500.safetensors"))
    expected = load_checkpoint(newest_first(stopped / "checkpoints")[0])
    saved = load_checkpoint(ours)
    assert saved.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert torch.equal(saved.tensors[name], tensor), name
    assert saved.counters["progress"]["step"] == 5


def test_one_save_at_a_time_and_the_last_before_the_end(
    run_training, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """Saves that take longer than the steps between them hold training up, and the run says for how long."""
    now_writing = []
    most = []

    def write_slowly() -> None:
        now_writing.append(1)
        most.append(len(now_writing))
        time.sleep(0.1)
        now_writing.pop()

    slowed(monkeypatch, write_slowly)
    run = run_training(steps=6, checkpoint_every=100, **SETTINGS)
    assert most == [1] * 6
    assert load_checkpoint(newest_first(run / "checkpoints")[0]).counters["progress"]["step"] == 6
    saves = json.loads(RunFolder(run).summary.read_text())["saves"]
    assert saves["number"] == 6
    assert saves["writing_seconds"] > 0.6
    assert saves["held_up_seconds"] > 0.1, "the last save of all is waited for"
    assert saves["held_up_seconds"] < saves["writing_seconds"] + 0.5
    said = f"  saves                6, held up training for {saves['held_up_seconds']:.2f} s; writing took "
    assert said in capsys.readouterr().out


def test_the_wait_for_a_slow_save_is_what_all_ranks_do_then(run_training, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks that wait for rank 0's disk are not ahead of it, and do not end it for being late."""
    begun: list[str] = []
    waited_in: list[str] = []
    wait = BackgroundWriter.wait

    def noted_wait(writer: BackgroundWriter) -> None:
        waited_in.append(begun[-1])
        wait(writer)

    monkeypatch.setattr(gan.loop, "doing", lambda what, *_: begun.append(what))
    monkeypatch.setattr(BackgroundWriter, "wait", noted_wait)
    run_training(steps=2, checkpoint_every=100, **SETTINGS)
    assert waited_in[0] == "the wait for the save before step"
    assert begun.index("the wait for the save before step") < begun.index("saving after step")


def test_a_save_that_fails_in_the_background_ends_the_run_soon(
    run_training, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    """Not only at the next save, which is five steps later."""
    steps = []
    failing = threading.Event()
    step = gan.loop.run_step

    def counted_step(state, inputs):
        steps.append(state.progress.step)
        if len(steps) > 6:  # the save is of step 5
            failing.wait(60)
            while is_writing():
                time.sleep(0.001)
        return step(state, inputs)

    def fail() -> None:
        failing.set()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "run"))

    monkeypatch.setattr(gan.loop, "run_step", counted_step)
    slowed(monkeypatch, fail)
    code = exit_code_of(lambda: run_training(steps=40, checkpoint_every=500, **SETTINGS))
    assert code == 1
    assert capsys.readouterr().err.startswith(
        f"error: {tmp_path / 'run'}: No space left on device; what was saved"
    )
    assert len(steps) < 9


def test_the_other_ranks_are_told_why_a_save_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    run = type("Run", (), {"writer": BackgroundWriter()})
    monkeypatch.setattr(
        gan.session.saving, "broadcast_object_list", lambda reason: reason.__setitem__(0, "run: disk full")
    )
    with pytest.raises(NotSavedError, match="rank 0 could not save the run: run: disk full; what was saved"):
        gan.session.saving.raise_not_saved(run)  # type: ignore[arg-type]


def test_a_writer_keeps_the_first_failure_and_still_ends() -> None:
    with BackgroundWriter() as writer:
        writer.begin(lambda: time.sleep(0.01))
        writer.wait()
        assert (writer.num_writes, writer.failure_so_far()) == (1, None)
        writer.begin(lambda: 1 // 0)
    assert isinstance(writer.failure_so_far(), ZeroDivisionError)
    assert writer.num_writes == 1


def test_copies_on_the_host_are_apart_and_contiguous() -> None:
    weights = torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last)
    expected = weights.clone()
    copy = HostCopy({"weights": weights, "step": torch.tensor(3.0)})
    weights.zero_()
    copies = copy.tensors()
    assert torch.equal(copies["weights"], expected)
    assert copies["weights"].is_contiguous()


def test_a_copy_waits_for_the_device_of_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ACCELERATE_TORCH_DEVICE=cuda:1 they are not on the current device, which is cuda:0."""
    events = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            self.done: list[str] = []
            events.append(self.done)

        def record(self, stream: str = "the stream of cuda:0") -> None:
            self.done.append(stream)

        def synchronize(self) -> None:
            self.done.append("waited for")

    class OnGpu(torch.Tensor):
        is_cuda = True
        device = torch.device("cuda:1")

        def to(self, *_: object, **__: object) -> torch.Tensor:
            return torch.ones(2)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"the stream of {device}")
    weights = torch.zeros(2).as_subclass(OnGpu)
    copy = HostCopy({"weights": weights, "more": weights, "step": torch.tensor(3.0)})
    assert events == [["the stream of cuda:1"]]
    assert torch.equal(copy.tensors()["weights"], torch.ones(2))
    assert events == [["the stream of cuda:1", "waited for"]]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB, which a root user can make."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(disk)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount a tmpfs: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


WORKER = """
import os, sys
from pathlib import Path
from gan.loop import train
from gan.options import parse_train_options
from gan.process.script import exit_code_of

def main():
    try:
        train(parse_train_options())
    except Exception as error:
        Path(f"rank{os.environ['RANK']}").write_text(f"{type(error).__name__}: {error}")
        raise

sys.exit(exit_code_of(main))
"""


OPTIONS = (
    *("--recipe", "mlp-compact", "--dataset", "digits", "--batch-size", 50, "--epochs", 30, "--num-threads", 1),
    *("--checkpoint-every", 500, "--keep-checkpoints", 9, "--log-every", 5),
)


def errors_of(output: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith("error: ")]


def assert_whole(run: RunFolder) -> None:
    """There are checkpoints, all of which can be read, and nothing half-written."""
    checkpoints = newest_first(run.checkpoints)
    assert checkpoints
    for path in checkpoints:
        load_checkpoint(path)
    load_generator(run.generator, run.generator_config)
    assert not list(run.root.rglob("*.tmp"))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_full_disk_of_rank_0_ends_both_processes_with_one_line(tmp_path: Path, small_disk: Path) -> None:
    run = RunFolder(small_disk / "run")
    (tmp_path / "worker.py").write_text(WORKER)
    done = launch_two_processes(tmp_path / "worker.py", *OPTIONS, "--output", run.root, cwd=tmp_path)
    assert done.returncode == 1
    (line,) = errors_of(done.stderr)
    assert line.startswith(f"error: {run.root}")
    assert ": No space left on device; what was saved before is whole" in line
    assert "No space left on device" in (tmp_path / "rank0").read_text()
    of_other = (tmp_path / "rank1").read_text()
    assert of_other.startswith(f"NotSavedError: rank 0 could not save the run: {run.root}"), of_other
    assert_whole(run)


@pytest.mark.slow
@pytest.mark.nightly
@pytest.mark.multiprocess
def test_a_full_disk_of_rank_0_ends_both_nodes_with_a_line(small_disk: Path, nodes: NodesMaker) -> None:
    run = RunFolder(small_disk / "run")
    both = nodes(2)
    launch = (sys.executable, "-m", "accelerate.commands.launch", "--main_process_ip", both[0].address)
    launch = (*launch, "--config_file", ROOT / "accelerate_configs" / "multi_node_cpu.yaml", "--machine_rank")
    env = {"PYTHONPATH": str(ROOT)}
    launchers = [
        node.start([*launch, rank, TRAIN, *OPTIONS, "--output", run.root], env=env)
        for rank, node in enumerate(both)
    ]
    of_first, of_second = end(*launchers, seconds=120)
    assert [launcher.returncode for launcher in launchers] == [1, 1]
    (line,) = errors_of(of_first)
    assert line.startswith(f"error: {run.root}")
    assert ": No space left on device; what was saved before is whole" in line
    (line,) = errors_of(of_second)
    assert line.startswith(f"error: rank 0 could not save the run: {run.root}")
    assert_whole(run)
