"""A launcher starts a run again. It is played in this process, the only rank, which serves its store as well."""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

import gan.loop
from gan.errors import DivergedError, Interrupted, UnhealthyError, UsageError
from gan.files.json_files import read_json
from gan.files.locks import DirectoryLock
from gan.files.run_folder import RunFolder
from gan.loop import train
from gan.options import TrainOptions
from gan.process.script import exit_code_of
from gan.session.restart import BEGUN, End, going_on, is_later
from gan.training.checkpoints import load_checkpoint, newest_first
from gan.training.health import Alarm
from gan.training.state import TrainState
from tests.conftest import quick_or_slow

SETTINGS: dict[str, Any] = {"recipe": "mlp-compact", "dataset": "digits", "batch_size": 100, "num_threads": 1}
SETTINGS |= {"checkpoint_every": 100, "log_every": 1, "steps": 6}


@dataclass
class Launcher:
    """One launch. `renew_store` is what a lost rank 0 means to the others: its store is gone with it."""

    logs: Path
    patch: pytest.MonkeyPatch
    store: Any = field(init=False)

    def __post_init__(self) -> None:
        self.renew_store()

    def renew_store(self) -> None:
        self.store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)

    def start(self, num_restarts: int, **options: Any) -> int:
        """Start the training as `accelerate launch --max_restarts 3` does; return its exit code."""
        place = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
        elastic = {"USE_AGENT_STORE": True, "MAX_RESTARTS": 3, "RESTART_COUNT": num_restarts}
        elastic["ERROR_FILE"] = self.logs / f"attempt_{num_restarts}" / "0" / "error.json"
        environment = {**place, "MASTER_PORT": self.store.port, "OMP_NUM_THREADS": 1}
        environment |= {f"TORCHELASTIC_{name}": value for name, value in elastic.items()}
        with self.patch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, str(value))
            code = exit_code_of(lambda: train(TrainOptions(**{**SETTINGS, **options})))
        for state in (AcceleratorState, GradientState, PartialState):
            state._shared_state.clear()
        return code


@pytest.fixture
def launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Launcher]]:
    """Make launches, with a directory of logs of their own as torchrun makes one."""
    if not torch.distributed.is_gloo_available():
        pytest.skip("this PyTorch has no gloo")
    before = signal.getsignal(signal.SIGTERM)
    launches: list[Launcher] = []

    def make() -> Launcher:
        launches.append(Launcher(tmp_path / "logs" / f"none_{len(launches)}", monkeypatch))
        return launches[-1]

    yield make
    signal.signal(signal.SIGTERM, before)


@contextmanager
def failing(fail: Callable[[], object], step: int = 3) -> Iterator[None]:
    """Let something happen before a step."""
    take_step = gan.loop.take_step

    def failing_step(state: TrainState, *arguments: Any) -> None:
        if state.progress.step == step - 1:
            fail()
        take_step(state, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gan.loop, "take_step", failing_step)
        yield


def throwing(error: BaseException) -> Callable[[], object]:
    def throw() -> None:
        raise error

    return throw


def fault() -> None:
    raise OSError(errno.EIO, os.strerror(errno.EIO), "a file")


def steps_saved(run: Path) -> int:
    return int(load_checkpoint(newest_first(run / "checkpoints")[0]).counters["progress"]["step"])


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("lasting", quick_or_slow([True, False], quick=[False]))
def test_a_restart_goes_on_with_the_run_that_its_launch_began(
    lasting: bool, launch: Callable[[], Launcher], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    ours = launch()
    with failing(fault):
        assert ours.start(0, output=run) == 1
    assert steps_saved(run) == 2
    if not lasting:
        ours.renew_store()
    assert ours.start(1, output=run) == 0
    assert "resuming from" in capsys.readouterr().out
    assert read_json(RunFolder(run).summary)["steps"] == 6


@pytest.mark.slow
def test_a_restart_finds_its_run_among_those_without_a_name(
    launch: Callable[[], Launcher], run_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its store is gone, and another session has begun a run meanwhile."""
    monkeypatch.chdir(tmp_path)
    ours = launch()
    with failing(fault):
        assert ours.start(0) == 1
    run_training(output=Path("runs/mlp-compact-2"), **SETTINGS)
    before = contents(Path("runs/mlp-compact-2"))
    ours.renew_store()
    assert ours.start(1) == 0
    assert RunFolder(Path("runs/mlp-compact")).summary.exists()
    assert contents(Path("runs/mlp-compact-2")) == before
    assert not Path("runs/mlp-compact-3").exists()


def test_a_restart_leaves_a_run_of_another_launch_alone(
    launch: Callable[[], Launcher], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is refused like a first start: without --resume."""
    run = tmp_path / "run"
    with failing(fault):
        assert launch().start(0, output=run) == 1
    before = contents(run)
    capsys.readouterr()
    ours = launch()
    for num_restarts in range(3):
        assert ours.start(num_restarts, output=run) == 2
        assert "already holds a run; continue it with --resume" in capsys.readouterr().err
    assert contents(run) == before
    other = launch()
    assert other.start(0, output=run, resume=True) == 0, "which its user asks for"


def test_a_restart_before_its_run_began_leaves_other_runs_alone(
    launch: Callable[[], Launcher], run_training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start has failed while it read the data."""
    monkeypatch.chdir(tmp_path)
    before = contents(run_training(output=Path("runs/mlp-compact"), **SETTINGS))
    ours = launch()
    with monkeypatch.context() as patch:
        patch.setattr("gan.session.run.load_dataset", lambda *_: throwing(MemoryError())())
        assert ours.start(0) == 1
    assert ours.start(1) == 0
    assert contents(Path("runs/mlp-compact")) == before
    assert RunFolder(Path("runs/mlp-compact-2")).summary.exists()


@pytest.mark.slow
def test_a_second_run_of_the_same_start_is_no_restart(
    launch: Callable[[], Launcher], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = launch()
    assert ours.start(1, output=tmp_path / "run", steps=2) == 0
    assert ours.start(1, output=tmp_path / "run", steps=4) == 2
    assert "already holds a run" in capsys.readouterr().err
    assert ours.start(1, output=tmp_path / "another", steps=2) == 0


@pytest.mark.slow
def test_a_restart_of_a_finished_run_ends_as_well(launch: Callable[[], Launcher], tmp_path: Path) -> None:
    """Another rank may have failed at its very end."""
    ours = launch()
    assert ours.start(0, output=tmp_path / "run") == 0
    with failing(throwing(AssertionError("it trains again")), step=7):
        assert ours.start(1, output=tmp_path / "run") == 0


def stop_this_process() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def raise_an_alarm(patch: pytest.MonkeyPatch) -> None:
    alarm = Alarm("unsteady", "discriminator", 3, "its loss swings")
    patch.setattr(TrainState, "watch", lambda state: [alarm] if state.progress.step == 3 else [])


ENDS = {
    "bad input": (throwing(UsageError("--flag: no")), 2),
    "diverged": (throwing(DivergedError("step 3: diverged")), 1),
    "stopped": (stop_this_process, 128 + signal.SIGTERM),
    "unhealthy": (None, 1),
}


@pytest.mark.parametrize("lasting", quick_or_slow([True, False], quick=[False], slow=[]))
@pytest.mark.parametrize("kind", quick_or_slow(ENDS, quick=["unhealthy"]))
def test_what_ends_for_good_is_not_gone_on_with(
    kind: str, lasting: bool, launch: Callable[[], Launcher], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not by this launch. Its user can resume the run with another one."""
    run = tmp_path / "run"
    ours = launch()
    fail, expected = ENDS[kind]
    with pytest.MonkeyPatch.context() as patch, failing(fail) if fail else nullcontext():
        if fail is None:
            raise_an_alarm(patch)
        assert ours.start(0, output=run, on_unhealthy="stop") == expected
    said = capsys.readouterr().err.splitlines()[-1]
    before = contents(run)
    for num_restarts in (1, 2):
        if not lasting:
            ours.renew_store()
        assert ours.start(num_restarts, output=run, on_unhealthy="stop") == expected
        assert capsys.readouterr().err.splitlines() == [said]
    assert contents(run) == before
    later = launch()
    with failing(fault, step=6):
        assert later.start(0, output=run, resume=True) == 1
    assert later.start(1, output=run, resume=True) == 0, "a restart of the launch that resumed it"
    assert steps_saved(run) == 6


def test_bad_input_ends_for_good_before_there_is_a_run(
    launch: Callable[[], Launcher], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = launch()
    assert ours.start(0, output=tmp_path / "run", batch_size=10**6) == 2
    monkeypatch.setattr("gan.session.run.load_dataset", lambda *_: pytest.fail("it begins again"))
    assert ours.start(1, output=tmp_path / "run", batch_size=10**6) == 2


def test_a_folder_in_use_does_not_end_for_good(launch: Callable[[], Launcher], tmp_path: Path) -> None:
    """A process of the start before may still be there, on a node that cannot be reached."""
    ours = launch()
    with DirectoryLock(tmp_path):
        assert ours.start(0, output=tmp_path) == 2
    assert ours.start(1, output=tmp_path) == 0


def test_only_a_later_start_of_the_same_launch_goes_on() -> None:
    begun = {"a": 0, "b": 2}
    assert not is_later(begun, begun), "the same start"
    assert is_later({"a": 1, "b": 2}, begun)
    assert is_later({"a": 1, "new": 0}, begun), "the second node was lost, and came back with another launcher"
    assert is_later({**begun, "new": 0}, begun), "a node was added"
    assert not is_later({"new": 1}, begun)
    assert not is_later({}, {}), "nothing tells the launch from others"
    assert not is_later({"a": 1}, None), "a run of before"


@pytest.mark.parametrize("error", [UsageError("no"), UnhealthyError("ill"), Interrupted("stopped", 143)])
def test_an_end_is_raised_again_as_it_was(error: Exception) -> None:
    again = End.by(error, {"a": 0}).error()
    assert (type(again), str(again)) == (type(error), str(error))
    assert getattr(again, "exit_code", None) == getattr(error, "exit_code", None)
    assert getattr(again, "everywhere", True), "the main process speaks for all"


def test_a_launcher_that_takes_a_node_in_does_not_end_the_run() -> None:
    """It stops all processes with SIGTERM, and counts no failure. Of a user's SIGTERM it does."""
    stopped = End.by(Interrupted("stopped", 143), {"a": 0})
    assert not stopped.is_final_for({"a": 0, "new": 0})
    assert stopped.is_final_for({"a": 1})
    assert End.by(DivergedError("step 3"), {"a": 0}).is_final_for({"a": 0, "new": 0})


def test_a_node_that_was_taken_away_and_came_back_does_not_end_the_run() -> None:
    """Its launcher was stopped as well, and another one has come in its place. The others count a failure."""
    stopped = End.by(Interrupted("stopped", 143), {"a": 0, "b": 0})
    assert not stopped.is_final_for({"a": 1, "new": 0})
    assert stopped.is_final_for({"a": 1, "b": 1}), "the processes were stopped, and no launcher"
    assert End.by(DivergedError("step 3"), {"a": 0, "b": 0}).is_final_for({"a": 1, "new": 0})


def test_a_run_without_a_name_that_was_not_written_begins_in_the_same_folder(tmp_path: Path) -> None:
    store = torch.distributed.HashStore()
    store.set(BEGUN, f'{{"folder": "{tmp_path.as_posix()}/run", "launch": {{"a": 0}}}}')
    peers = SimpleNamespace(
        launch={"a": 1}, lasting=store, place=SimpleNamespace(rank=0), agreed=lambda _key, value: value
    )
    watch: Any = SimpleNamespace(peers=peers)
    options = TrainOptions(recipe="mlp-compact", find_batch_size=True)
    again = going_on(options, watch)
    assert (again.output, again.resume, again.find_batch_size) == (tmp_path / "run", False, True)
    peers.launch = {"other": 1}
    assert going_on(options, watch) == options
    assert going_on(options, None) == options
