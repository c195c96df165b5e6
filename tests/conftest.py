"""Shared fixtures. Tests need no network and no GPU; what needs absent data or devices is skipped and says so."""

import atexit
import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from gan.data.datasets import DATASETS, DatasetRequest
from gan.data.in_memory import InMemoryImages
from gan.files import environment
from gan.files.repository import local_variables
from gan.loop import train
from gan.options import TrainOptions
from gan.process.script import exit_code_of
from tests import namespaces
from tests.forks import Forks
from tests.gan.reference import narrow_convolutions

ROOT = Path(__file__).resolve().parent.parent


def quick_or_slow(values: Iterable[Any], *, quick: Sequence[Any], slow: Sequence[Any] | None = None) -> list[Any]:
    """Return the parameters of a test; those that are not `quick` are left to the slow tests.

    If `slow` is not None, those that are in neither are left to the nightly tests.
    """
    nightly = [pytest.mark.slow, pytest.mark.nightly]
    return [
        value
        if value in quick
        else pytest.param(value, marks=pytest.mark.slow if slow is None or value in slow else nightly)
        for value in values
    ]


def slow_or_nightly(values: Iterable[Any], *, slow: Sequence[Any]) -> list[Any]:
    """Return the parameters of a slow test; those that are not `slow` are left to the nightly tests."""
    return [value if value in slow else pytest.param(value, marks=pytest.mark.nightly) for value in values]


narrow_convolutions()

_read_digits = DATASETS["digits"]
_git_state = environment._git_state


@cache
def _digits_on_cpu() -> InMemoryImages:
    return _read_digits(DatasetRequest(ROOT / "data", (1, 28, 28), 0, torch.device("cpu")))


def _digits(request: DatasetRequest) -> InMemoryImages:
    """Read the bundled digits once: to read their text takes longer than to train some steps on them."""
    digits = _digits_on_cpu()
    assert digits.labels is not None
    images, labels = (tensor.clone().to(request.device) for tensor in (digits.train, digits.labels))
    return replace(digits, train=images, labels=labels)


@cache
def _git_state_here() -> dict[str, Any] | None:
    return _git_state()


def _git_state_once() -> dict[str, Any] | None:
    """Ask git once for the state of this checkout: each run would ask it twice, by three processes each time."""
    here = Path(environment.__file__) == ROOT / "gan" / "files" / "environment.py"
    return _git_state_here() if here else _git_state()


DATASETS["digits"] = _digits
environment._git_state = _git_state_once

# In a shell's background Ctrl-C is ignored, and children would ignore it too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The tests' git would work on the user's repository where pytest runs in a hook, or in `git rebase --exec`.
with contextlib.suppress(FileNotFoundError):  # no git
    for name in local_variables():
        os.environ.pop(name, None)

# torch compiles nothing here unless a test asks for it, and two threads are enough for every test.
torch.set_num_threads(2)

# What `datasets` converts goes to a cache, which is the tests' alone; and nothing is asked of the network.
_cache = tempfile.TemporaryDirectory(prefix="gan-tests-hf-")
os.environ["HF_HOME"] = _cache.name
os.environ["HF_HUB_OFFLINE"] = "1"

_forks = Forks()
atexit.register(_forks.end)

_started: list[str] = []


def _note_processes(event: str, arguments: tuple[Any, ...]) -> None:
    """Note Python processes that this one starts. Others, as git, take milliseconds."""
    if event == "subprocess.Popen" and "python" in Path(os.fsdecode(arguments[0])).name:
        _started.append(str(arguments[1]))
    elif event == "os.fork":
        _started.append("a fork")


sys.addaudithook(_note_processes)


def pytest_collection_finish() -> None:
    """Keep the collector from what stays to the end: thousands of tests, torch, and all modules.

    A full collection would look at them for a third of a second, and some tests take ten collections: each
    measurement does one, and each pytest that runs inside of this one ends with five.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Fail a test that starts processes without saying so: `-m "not multiprocess"` is the quick round."""
    _started.clear()
    yield
    if _started and not item.get_closest_marker("multiprocess"):
        pytest.fail(f"mark it multiprocess: it starts {_started[0][:200]}", pytrace=False)


@pytest.fixture(autouse=True)
def _fresh_accelerate_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let each test build its own Accelerator, whatever the tests before it or the shell have set."""
    for name in list(os.environ):
        if name.startswith(("ACCELERATE_", "FSDP_")) or name in (
            "RANK",
            "WORLD_SIZE",
            "MASTER_PORT",
            "LOCAL_RANK",
        ):
            monkeypatch.delenv(name)
    yield
    for state in (AcceleratorState, GradientState, PartialState):
        state._shared_state.clear()


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train without matplotlib's curves, which take longer than most runs here. Launched training draws them."""
    monkeypatch.setattr("gan.session.pictures.save_curves", lambda path, _epochs: path.touch())


@pytest.fixture
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def run_training(tmp_path: Path) -> Callable[..., Path]:
    """Train in this process and return the run's directory."""

    def run(name: str = "run", **options: object) -> Path:
        settings = {"num_threads": 2, "output": tmp_path / name, **options}
        return train(TrainOptions(**settings)).root  # type: ignore[arg-type]

    return run


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Run a script's `main` with arguments in this process; return exit code, output and errors."""

    def run(main: Callable[[], object], *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])
        return exit_code_of(main), *capsys.readouterr()

    return run


@pytest.fixture
def command(script: Callable[..., tuple[int, str, str]]) -> Callable[..., tuple[int, str, str]]:
    """Run `python -m bench ARGUMENTS` as `script` does."""
    from bench.__main__ import main  # only here: most tests do without the benchmarks

    return partial(script, main)


NodesMaker = Callable[[int], list[namespaces.Node]]


@pytest.fixture
def nodes() -> Iterator[NodesMaker]:
    """Make nodes by their number: `first, second = nodes(2)`. They are removed after the test, however it ends."""
    if why := namespaces.obstacle():
        pytest.skip(why)
    with contextlib.ExitStack() as stack:
        yield lambda num_nodes: stack.enter_context(namespaces.make_nodes(num_nodes))


def run_script(
    *arguments: object, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run `python ARGUMENTS` as a user would, without the launcher."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def launch_two_processes(script: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in two gloo processes, through Accelerate's launcher and our own configuration file."""
    command = [
        *(sys.executable, "-m", "accelerate.commands.launch"),
        *("--config_file", str(ROOT / "accelerate_configs" / "cpu_ddp.yaml")),
        *("--main_process_port", "0", str(script), *map(str, arguments)),
    ]
    return subprocess.run(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


def run_two_processes(worker: str, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script below tests/ in two gloo processes, which no launcher starts; they must end well."""
    return _run_forks(ROOT / "tests" / worker, *arguments, cwd=cwd)


def run_imported(script: Path, *arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script in a process that has imported torch and the core; it must end well."""
    return _run_forks(script, *arguments, cwd=cwd, world_size=1)


def _run_forks(script: Path, *arguments: object, **how: Any) -> subprocess.CompletedProcess[str]:
    _started.append("forks")  # of a process that an earlier test may have started
    done = _forks.run(script, *arguments, **how)
    assert done.returncode == 0, done.stderr
    return done
