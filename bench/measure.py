"""`python -m bench measure`: `pytest bench --benchmark-only`, from any directory and with an installed `bench`."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from bench.results.folder import results_folder
from gan.errors import UsageError

SUMMARY = "Measure the cases of a suite: pytest bench --benchmark-only, with the options of pytest."
BENCH = Path(__file__).resolve().parent
NEEDED = {"pytest": "pytest", "pytest_benchmark": "pytest-benchmark"}


def measure(arguments: Sequence[str]) -> int:
    """Run pytest on `bench` and return its exit code.

    Tests have the names that they have in a checkout, so that results of both can be compared. No configuration of
    pytest that lies above an installed `bench` takes part. Results go where `report` looks for them.

    Args:
        arguments: Options of pytest, pytest-benchmark and `bench`.

    Raises:
        UsageError: pytest or pytest-benchmark is not installed.
    """
    if missing := [name for module, name in NEEDED.items() if find_spec(module) is None]:
        raise UsageError(f"measure: needs {' and '.join(missing)}; install with: pip install 'gan-bench[test]'")
    import pytest

    results = results_folder().absolute()
    return int(
        pytest.main(
            [
                *(str(BENCH), "--benchmark-only", f"--rootdir={BENCH.parent}", f"--confcutdir={BENCH}"),
                # `gan` and `bench` were imported before their plugin; no assert of theirs has to be rewritten
                *("-W", "ignore:Module already imported:pytest.PytestAssertRewriteWarning"),
                *("-c", os.devnull, "-o", f"cache_dir={results.parent / '.pytest_cache'}"),
                *(f"--benchmark-storage=file://{results}", *arguments),
            ]
        )
    )
