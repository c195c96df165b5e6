"""The two processes of the tests themselves: what they print and how they fail."""

import time
from pathlib import Path

import pytest

from tests.forks import Forks

pytestmark = [pytest.mark.slow, pytest.mark.multiprocess]


def test_a_process_that_fails_ends_the_other_and_its_error_is_told(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("import os, time\ntime.sleep(60 * (os.environ['RANK'] == '0')) or 1 / 0\n")
    (tmp_path / "prints.py").write_text("import os, sys\nprint(os.environ['RANK'], sys.argv[1])\n")
    forks = Forks()
    try:
        began = time.monotonic()
        failed = forks.run(tmp_path / "fails.py", cwd=tmp_path)
        assert time.monotonic() - began < 50
        assert failed.returncode == 1
        assert "ZeroDivisionError" in failed.stderr
        ended = forks.run(tmp_path / "prints.py", "word", cwd=tmp_path)
        assert ended.returncode == 0
        assert sorted(ended.stdout.splitlines()) == ["0 word", "1 word"]
        assert forks.run(tmp_path / "fails.py", cwd=tmp_path, seconds=0).returncode < 0
    finally:
        forks.end()
