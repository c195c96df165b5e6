"""What help and advice call the programs, and where the launcher's configurations are."""

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from gan.process.configs import config_shown
from gan.process.program import CONSOLE_SCRIPTS, command_of
from gan.process.signals import end_at_interrupts
from tests.conftest import ROOT, run_script


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this process look as if it was started by a path, and by a module if one is named."""

    def start(path: str, module: str = "") -> None:
        monkeypatch.setattr(sys, "argv", [path, "--steps", "3"])
        monkeypatch.setattr(sys.modules["__main__"], "__spec__", ModuleSpec(module, None) if module else None)

    return start


@pytest.mark.parametrize(
    ("path", "module", "sample", "bench"),
    [
        ("gan/train.py", "", "python gan/sample.py", "python -m bench"),
        (str(ROOT / "gan" / "train.py"), "", f"python {ROOT}/gan/sample.py", "python -m bench"),
        (str(ROOT / "gan" / "train.py"), "gan.train", "python -m gan.sample", "python -m bench"),
        ("gan/train.py", "cProfile", "python gan/sample.py", "python -m bench"),
        ("/somewhere/bin/gan-train", "", "gan-sample", "gan-bench"),
        ("/somewhere/Scripts/gan-bench.exe", "", "gan-sample", "gan-bench"),
        (str(ROOT / "bench" / "__main__.py"), "bench.__main__", "python -m gan.sample", "python -m bench"),
        ("other/gan/train.py", "", "python -m gan.sample", "python -m bench"),  # of another project
        ("notebook.py", "", "python -m gan.sample", "python -m bench"),
        ("-c", "", "python -m gan.sample", "python -m bench"),
    ],
)
def test_a_program_names_the_others_as_it_was_started(
    path: str,
    module: str,
    sample: str,
    bench: str,
    started: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    started(path, module)
    assert command_of("gan.sample") == sample
    assert command_of("bench") == bench


def test_a_command_with_a_space_in_its_path_can_be_pasted(
    started: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a clone").symlink_to(ROOT)
    started(str(tmp_path / "a clone" / "gan" / "train.py"))
    assert shlex.split(command_of("gan.sample")) == ["python", str(tmp_path / "a clone" / "gan" / "sample.py")]


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.multiprocess
def test_the_advice_of_a_run_works_where_it_was_started(tmp_path: Path) -> None:
    output = tmp_path / "a run"
    flags = ("--recipe", "mlp-compact", "--dataset", "digits", "--steps", 3, "--output", output)
    done = run_script(ROOT / "gan" / "train.py", *flags, cwd=tmp_path)
    (advice,) = [line for line in done.stdout.splitlines() if line.startswith("more pictures: ")]
    program, *words = shlex.split(advice.removeprefix("more pictures: "))
    assert program == "python"
    drawn = run_script(*words, "grid", cwd=tmp_path)
    assert drawn.stdout == f"{output}/pictures/grid.png\n"


def test_a_configuration_is_named_so_that_it_can_be_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert config_shown("cpu_ddp") == "accelerate_configs/cpu_ddp.yaml"
    monkeypatch.chdir(tmp_path)
    assert config_shown("cpu_ddp") == str(ROOT / "accelerate_configs" / "cpu_ddp.yaml")


@pytest.mark.parametrize("begun", [signal.SIG_IGN, signal.default_int_handler])
def test_ctrl_c_ends_a_console_script_that_imports_unless_it_is_ignored(begun: object) -> None:
    before = signal.signal(signal.SIGINT, begun)  # type: ignore[arg-type]
    try:
        end_at_interrupts()
        expected = signal.SIG_DFL if begun is signal.default_int_handler else begun
        assert signal.getsignal(signal.SIGINT) == expected
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.multiprocess
def test_a_console_script_imports_nothing_that_takes_long() -> None:
    code = "import sys, gan.console, bench.console; print({'torch', 'numpy', 'accelerate'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_program_is_a_console_script() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    for name in CONSOLE_SCRIPTS.values():
        assert f'\n{name} = "' in text
