"""How scripts end, and what becomes of what they print."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest
import torch

import gan.process.script
from bench.__main__ import main as bench_main
from gan.errors import Interrupted
from gan.files.run_folder import RunFolder
from gan.files.text import in_markdown, in_page, in_plot, printable
from gan.options import parse_train_options
from gan.process.script import exit_code_of
from tests.bench.regress_records import record_json
from tests.conftest import ROOT


def test_other_ranks_let_the_main_process_speak_first(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    waited = []
    monkeypatch.setattr(gan.process.script.time, "sleep", waited.append)
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert exit_code_of(lambda: parse_train_options(["--seed", "-1"])) == 2
    assert waited == [gan.process.script.SECONDS_FOR_MAIN]
    assert capsys.readouterr().err == "error: --seed -1: must be at least 0\n" * 2


def test_an_error_that_quotes_a_long_value_stays_short(capsys) -> None:
    assert exit_code_of(lambda: parse_train_options(["--set", f"{'x' * 50_000}=1"])) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: --set xxx")
    assert len(line) < 2100


def test_an_interruption_is_reported_once(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    def interrupted() -> None:
        raise Interrupted("saved", 130)

    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        assert exit_code_of(interrupted) == 130
    assert capsys.readouterr().err == "saved\n"


@pytest.mark.parametrize(
    ("program", "error", "said"),
    [
        ("gan.sample", KeyboardInterrupt(), "interrupted; pictures that were complete are kept\n"),
        ("gan.evaluate", KeyboardInterrupt(), "interrupted; scores that were complete are kept\n"),
        (
            "gan.evaluate",
            MemoryError(),
            "error: out of memory: lower --num-images, --standing-statistics or, with --backbone inception, "
            "--batch-size\n",
        ),
    ],
)
def test_each_script_says_what_is_its_own(
    program: str, error: BaseException, said: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    def fail() -> None:
        raise error

    monkeypatch.setattr(f"{program}.main", fail)
    monkeypatch.setattr(gan.process.script, "_traceback_file", lambda _: "")
    assert import_module(program).run() == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert capsys.readouterr().err == said


def forever() -> int:
    return forever() + 1


def panic() -> None:
    """As safetensors does where there is no memory to save in."""

    class PanicException(BaseException):
        pass

    raise PanicException("PyObject pointer is null")


def no_memory_on_a_gpu() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1.5 GiB free.\nMore.")


def peer_gone() -> None:
    raise torch.distributed.DistBackendError("NCCL error\nremote process exited")


@pytest.mark.parametrize(
    ("free", "reserved", "said"),
    [
        (1, 10, ", or end other processes, which hold 69.0 GiB of the GPU's 80.0 GiB"),
        (1, 75, ""),
        (None, 0, ""),
    ],
)
def test_other_processes_on_a_gpu_without_memory_are_mentioned(
    free: int | None, reserved: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    def memory() -> tuple[int, int]:
        if free is None:
            raise torch.OutOfMemoryError("CUDA error: out of memory")
        return free * 2**30, 80 * 2**30

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: reserved * 2**30)
    assert exit_code_of(no_memory_on_a_gpu) == 1
    line = "error: out of memory (20.00 GiB asked for at once): lower --batch-size or --image-shape"
    assert capsys.readouterr().err.startswith(f"{line}{said}; the traceback is in ")


@pytest.mark.parametrize(
    ("main", "line"),
    [
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: int("\n"), r"ValueError: invalid literal for int\(\) with base 10: '\\n'"),
        (forever, "RecursionError: maximum recursion depth exceeded.*"),
        (
            lambda: torch.empty(2**45),
            r"out of memory \(131,072.0 GiB asked for at once\): lower --batch-size or .*",
        ),
        (lambda: torch.empty(2**62), "out of memory: lower --batch-size or --image-shape"),
        (lambda: __import__("numpy").empty(2**50), r"out of memory \(8.00 PiB asked for at once\): .*"),
        (panic, "out of memory: lower --batch-size or --image-shape"),
        (no_memory_on_a_gpu, r"out of memory \(20.00 GiB asked for at once\): lower .*"),
        (peer_gone, "another process of this run is gone, or cannot be reached"),
    ],
)
def test_every_exception_takes_one_line_that_names_a_file_with_its_traceback(
    main: Callable[[], object], line: str, monkeypatch: pytest.MonkeyPatch, capsys, tmp_path: Path
) -> None:
    monkeypatch.setattr(gan.process.script.time, "sleep", lambda _: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert exit_code_of(main) == 1
    said = capsys.readouterr().err
    assert (match := re.fullmatch(rf"error: {line}; the traceback is in (.*)\n", said)), said
    assert "Traceback (most recent call last)" in Path(match[1]).read_text()


def test_a_traceback_that_cannot_be_written_is_no_further_error(monkeypatch, capsys, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    assert exit_code_of(lambda: 1 / 0) == 1
    assert capsys.readouterr().err == "error: ZeroDivisionError: division by zero\n"


def test_who_lost_a_peer_lets_it_speak_first(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    waited = []
    monkeypatch.setattr(gan.process.script.time, "sleep", waited.append)
    exit_code_of(peer_gone)
    exit_code_of(lambda: 1 / 0)
    assert waited == [gan.process.script.SECONDS_FOR_MAIN]


@pytest.fixture
def output(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Put a stream in the place of standard output."""

    def put(descriptor: int | str, encoding: str = "utf-8") -> None:
        raw = io.FileIO(descriptor, "w")
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(raw), encoding))

    return put


def test_a_closed_pipe_is_no_error(output: Callable[..., None]) -> None:
    reader, writer = os.pipe()
    output(writer)
    os.close(reader)
    went_on = []

    def main() -> None:
        for _ in range(2):
            print("x" * 100_000, flush=True)
        went_on.append(True)

    assert exit_code_of(main) == 0
    assert went_on


def test_a_training_whose_output_is_closed_goes_on_to_its_end(
    output: Callable[..., None], run_training: Callable[..., Path], tmp_path: Path
) -> None:
    reader, writer = os.pipe()
    output(writer)
    os.close(reader)
    assert exit_code_of(lambda: run_training(recipe="mlp-compact", dataset="digits", steps=2)) == 0
    assert RunFolder(tmp_path / "run").summary.exists()


def test_a_pass_is_a_pass_whoever_reads_it(
    output: Callable[..., None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "check.json"
    path.write_text(json.dumps(record_json([0.0001 * (-1) ** index for index in range(14)])))
    monkeypatch.setattr("sys.argv", ["bench", "regress", "--replay", str(path)])
    reader, writer = os.pipe()
    output(writer)
    os.close(reader)
    assert exit_code_of(bench_main) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_behind_the_output_is_said_at_the_end(output: Callable[..., None], capsys) -> None:
    output("/dev/full")
    assert exit_code_of(lambda: print("x")) == 2
    assert capsys.readouterr().err == (
        "error: standard output: No space left on device; what was printed is not whole\n"
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("ascii", rb"2 x, \xe9, *, \udce9"),
        ("latin-1", b"2 \xd7, \xe9, *, \\udce9"),
        ("utf-8", "2 ×, é, •, \\udce9".encode()),
    ],
)
def test_no_encoding_lacks_a_character(
    encoding: str, shown: bytes, output: Callable[..., None], tmp_path: Path
) -> None:
    output(str(tmp_path / "printed"), encoding)
    assert exit_code_of(lambda: print("2 ×, é, •, \udce9")) == 0
    assert (tmp_path / "printed").read_bytes().strip() == shown


@pytest.mark.multiprocess
def test_a_script_whose_streams_are_closed_ends_well(tmp_path: Path) -> None:
    """From the beginning, and at the interpreter's last flush; no file is opened in their place."""
    source = (
        "import sys; from gan.process.script import exit_code_of\n"
        "def main():\n"
        f"    file = open({str(tmp_path / 'file')!r}, 'w'); print('\\udce9'); file.write(str(file.fileno()))\n"
        "code = exit_code_of(main); print('later'); sys.exit(code)"
    )
    shell = '"$@" >&- 2>&- && "$@" | true; exit ${PIPESTATUS[0]}'
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", source]
    assert subprocess.run(command, cwd=ROOT, check=False).returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


def test_text_from_files_is_shown_and_not_obeyed() -> None:
    assert printable("a\x1b[31m\x07 \u202eb\n\tc\udce9 é\u20ac") == r"a\x1b[31m\x07 \u202eb c\udce9 é€"
    assert in_plot("$\\frac{$") == r"\$\frac{\$"
    assert in_page("<b>&\x1b") == r"&lt;b&gt;&amp;\x1b"
    assert in_markdown("a|b\n[c](d)<e>`") == r"a\|b \[c](d)\<e>\`"
