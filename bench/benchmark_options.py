"""pytest-benchmark's options under `pytest bench`: each does what its documentation says, or is refused.

Windows are measured in processes of their own and replayed to pytest-benchmark afterwards. So options that would
change how it measures are refused. docs/benchmarks.md has the table.
"""

import itertools
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pytest

from bench.report.compare import differences
from bench.results.file import read_content
from bench.results.folder import RESULTS, try_writing
from bench.runner.hosts import Hosts, parse_hosts
from bench.runner.limits import Limits
from bench.subjects.load import short_name
from bench.suite.cases import AXES, parse_axis
from bench.suite.settings import swept_settings
from bench.suite.suites import SUITES, Suite
from gan.errors import UsageError, require_known
from gan.recipe_files import label_of, recipe_named
from gan.recipes import RECIPES

if TYPE_CHECKING:
    from pytest_benchmark.storage.file import FileStorage

ALWAYS_MEASURED = "every test here measures; --collect-only lists them, and leaving bench/ out runs none"
_LENGTH = "windows are measured in processes of their own; --suite, --rounds and --launches say how long"
_PROFILE = "steps are taken in processes of their own, where cProfile sees nothing; --profile says where time goes"
REFUSED = {
    **dict.fromkeys(
        (
            "--benchmark-min-time",
            "--benchmark-max-time",
            "--benchmark-min-rounds",
            "--benchmark-precision",
            "--benchmark-confidence",
            "--benchmark-calibration-precision",
            "--benchmark-warmup",
            "--benchmark-warmup-iterations",
            "--benchmark-timer",
        ),
        _LENGTH,
    ),
    **dict.fromkeys(
        (
            "--benchmark-cprofile",
            "--benchmark-cprofile-loops",
            "--benchmark-cprofile-top",
            "--benchmark-cprofile-dump",
        ),
        _PROFILE,
    ),
    "--benchmark-netrc": "results are files, for which nobody logs in",
}
OF_ITS_TABLE = {
    "--benchmark-columns",
    "--benchmark-compare",
    "--benchmark-compare-fail",
    "--benchmark-group-by",
    "--benchmark-histogram",
    "--benchmark-name",
    "--benchmark-sort",
    "--benchmark-time-unit",
    "--benchmark-verbose",
}
"""Options that ask for pytest-benchmark's table besides ours."""
GROUPS = ("group", "name", "func", "fullname", "fullfunc", "param", "param:case")
STATISTICS = (
    *("min", "ld15iqr", "q1", "median", "q3", "hd15iqr", "max"),
    *("mean", "stddev", "iqr", "ops", "rounds", "iterations", "outliers"),
)
"""The statistics that its table and its plot show."""
STORAGE = "file://./.benchmarks"
"""Where pytest-benchmark stores by default."""


Option = Callable[[str], Any]
"""`config.getoption`: the value of an option, by its destination."""


def chosen_suite(option: Option) -> Suite:
    """Return the suite of --suite, with --launches and --rounds; raise UsageError if one cannot be."""
    require_known("--suite", option("suite"), SUITES)
    suite = SUITES[option("suite")]
    for name in ("launches", "rounds"):
        number = option(name)
        if number is None:
            continue
        if number < 1:
            raise UsageError(f"--{name} {number}: must be at least 1")
        suite = replace(suite, effort=replace(suite.effort, **{name: number}))
    return replace(suite, launches=option("launches"))


def chosen_axes(option: Option) -> dict[str, list[Any]]:
    """Return the values of each axis that has an option; raise UsageError if one is not allowed."""
    texts = {name: values for name in AXES if (values := option(f"axis_{name}"))}
    settings = texts.pop("set", [])
    chosen = {name: parse_axis(name, values) for name, values in texts.items()}
    recipes = chosen.get("recipe", list(RECIPES))
    for one, other in itertools.combinations(dict.fromkeys(recipes), 2):
        if label_of(one) == label_of(other):
            raise UsageError(f"--recipe {one} and {other}: both are called {label_of(one)}; rename a file")
    if settings:
        chosen["set"] = list(swept_settings(settings, map(recipe_named, recipes)))
    shown: dict[str, str] = {}
    for spec in chosen.get("subject", ()):
        if shown.setdefault(short_name(spec), spec) != spec:
            raise UsageError(
                f"--subject {spec}: is shown as {short_name(spec)}, as {shown[short_name(spec)]} is; rename one"
            )
    return chosen


def chosen_limits(option: Option) -> Limits:
    """Return when to give a launch up; raise UsageError if a limit is not above 0."""
    for name in ("case", "stall"):
        seconds = option(f"{name}_timeout")
        if seconds is not None and not seconds > 0:
            raise UsageError(f"--{name}-timeout {seconds:g}: must be above 0 seconds")
    return Limits(option("case_timeout"), option("stall_timeout"))


def chosen_hosts(option: Option, axes: Mapping[str, Sequence[Any]]) -> Hosts | None:
    """Return the hosts of --hosts; raise UsageError if they cannot be, or an axis needs more of them."""
    hosts = parse_hosts(option("hosts"), option("launch_template"))
    most = len(hosts.names) if hosts else 1
    for num_hosts in axes.get("num_hosts", ()):
        if num_hosts > most:
            there_are = f"--hosts names {most}" if hosts else "add --hosts HERE,OTHER"
            raise UsageError(f"--num-hosts {num_hosts}: {there_are}")
    return hosts


def typed(config: pytest.Config) -> set[str]:
    """Return the options in use: from the command line, from PYTEST_ADDOPTS and from addopts."""
    words = [*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *config.getini("addopts")]
    return {str(word).partition("=")[0] for word in (*words, *config.invocation_params.args)}


def settle(config: pytest.Config, suite: str) -> None:
    """Refuse what cannot be done before anything is measured, and set our defaults.

    Args:
        config: The configuration, whose options are changed.
        suite: The name of the results file if no option names it.

    Raises:
        UsageError: An option cannot do here what it says; in one line.
    """
    option = config.option
    asked = typed(config)
    _refuse_what_cannot_work(config, asked)
    folder = _folder(config)
    option.benchmark_storage = f"file://{folder}"
    _require_writable(folder, "--benchmark-storage file://DIRECTORY")
    if option.benchmark_json:
        option.benchmark_json = path_of(option.benchmark_json)
        if option.benchmark_json.is_dir():
            raise UsageError(f"--benchmark-json {option.benchmark_json}: is a directory; name a file")
        _require_writable(option.benchmark_json.absolute().parent, "another --benchmark-json")
    if option.benchmark_histogram:
        plot = Path(f"{option.benchmark_histogram[0]}-")
        _require_writable(plot.absolute().parent, "another --benchmark-histogram")
    if not option.benchmark_save and not option.benchmark_autosave:
        option.benchmark_save = suite
    option.benchmark_quiet = option.benchmark_quiet or not asked & OF_ITS_TABLE


def path_of(file: Path | IO[bytes]) -> Path:
    """Return the path of --benchmark-json, which pytest-benchmark 5.2 opens, and later versions do not."""
    if isinstance(file, Path):
        return file
    file.close()
    return Path(file.name)


def _refuse_what_cannot_work(config: pytest.Config, asked: set[str]) -> None:
    option = config.option
    for name in sorted(asked & REFUSED.keys()):
        raise UsageError(f"{name}: {REFUSED[name]}")
    if option.benchmark_disable and not option.benchmark_enable:
        raise UsageError(f"--benchmark-disable: {ALWAYS_MEASURED}")
    if config.getoption("dist", "no") != "no" or "PYTEST_XDIST_WORKER" in os.environ:
        raise UsageError("-n: benchmarks beside one another would measure one another; leave it out, or give -n 0")
    for group in option.benchmark_group_by.split(","):
        if group not in GROUPS:
            raise UsageError(f"--benchmark-group-by {option.benchmark_group_by}: must be of {', '.join(GROUPS)}")
    if option.benchmark_compare_fail and not option.benchmark_compare:
        raise UsageError("--benchmark-compare-fail: needs --benchmark-compare")
    if option.benchmark_histogram and not find_spec("pygal"):
        raise UsageError("--benchmark-histogram: needs pygal; install it with: pip install pygal")


def _folder(config: pytest.Config) -> Path:
    storage: str = config.option.benchmark_storage
    if storage == STORAGE:
        return config.rootpath / RESULTS
    kind, separator, place = storage.rpartition("://")
    if separator and kind != "file":
        raise UsageError(f"--benchmark-storage {storage}: results are files; give file://DIRECTORY")
    return Path(place)


def _require_writable(folder: Path, other: str) -> None:
    """Raise UsageError now, not after minutes of measuring, if nothing can be written to a folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try_writing(folder)
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written to ({error.strerror}); mend it, or give {other}") from None


def load_compared(benchmarks: Any, compare: str | bool) -> list[str]:
    """Let a session compare with stored results; return a note for each file of another machine or other versions.

    Args:
        benchmarks: pytest-benchmark's session, with its storage.
        compare: The value of --benchmark-compare: True for the newest results.

    Raises:
        UsageError: There are no such results, or they cannot be compared with; in one line.
    """
    storage: FileStorage = benchmarks.storage
    flag = "--benchmark-compare" if compare is True else f"--benchmark-compare {compare}"
    machine = json.loads(json.dumps(benchmarks.get_machine_info()))
    notes = []
    for path in _compared_paths(storage, compare, flag):
        content = read_content(path)
        compared = {benchmark["fullname"]: benchmark for benchmark in content["benchmarks"]}
        for benchmark in compared.values():
            if lacks := [name for name in STATISTICS if name not in benchmark["stats"]]:
                raise UsageError(f"{flag}: {path} cannot be compared with; its statistics lack {', '.join(lacks)}")
        if unlike := [name for name, _ in differences(machine, content["machine_info"])]:
            notes.append(f"{path.name} is of another machine, or other versions: {', '.join(unlike)} differ")
        name = path.relative_to(storage.path) if path.is_relative_to(storage.path) else path
        benchmarks.compared_mapping[name] = compared
    return notes


def _compared_paths(storage: "FileStorage", compare: str | bool, flag: str) -> list[Path]:
    try:
        paths = storage.query("[0-9][0-9][0-9][0-9]_")[-1:] if compare is True else storage.query(compare)
    except ValueError:  # a path of several folders
        paths = []
    if not paths:
        raise UsageError(f"{flag}: no such results in {storage.path}; give a number, or a file")
    return list(paths)
