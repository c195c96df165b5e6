"""What was measured is kept, and is said to be, when a summary of it cannot be written any more."""

import errno
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.race.record import read_race
from bench.regress.record import read_record
from bench.tune.record import read_tuning
from tests.bench.race_records import NOISE, race_of
from tests.bench.regress_records import record_of
from tests.bench.test_tune import record_of as tuning_of

Command = Callable[..., tuple[int, str, str]]
COMMANDS: dict[str, tuple[list[str], str, Any, Callable[[Path], Any]]] = {
    "race": (["core", "plain"], "measure_race", race_of(NOISE), read_race),
    "tune": (["--recipe", "quickstart"], "tune_recipe", tuning_of(*NOISE), read_tuning),
    "regress": (["--inject", "0%"], "measure_check", record_of(NOISE), read_record),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk_after_the_record_says_where_that_is(
    name: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments, measure, record, read = COMMANDS[name]
    monkeypatch.setattr(f"bench.{name}.command.{measure}", lambda *_: record)
    if name == "regress":
        trees = nullcontext(SimpleNamespace(has_gan=True))
        monkeypatch.setattr("bench.regress.command.two_trees", lambda *_, **__: trees)

    @contextmanager
    def full(path: Path, **_: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))
        yield

    monkeypatch.setattr(f"bench.{name}.summary.whole_file", full)
    paths = {"--output": tmp_path / "record.json", "--markdown": tmp_path / "summary.md"}
    flags = [str(word) for item in paths.items() for word in item]
    code, _, errors = command(name, *arguments, *flags)
    told = f"error: {paths['--markdown']}: No space left on device; what was measured is in {paths['--output']}"
    assert (code, errors.splitlines()[-1]) == (2, told)
    assert read(paths["--output"])
