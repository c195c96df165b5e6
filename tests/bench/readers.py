"""What two services make of a file of --benchmark-json.

Each function follows its tool: `extractPytestResult` of github-action-benchmark (src/extract.ts), and
`AdapterPythonPytest` of Bencher (lib/bencher_adapter/src/adapters/python/pytest.rs).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Point(NamedTuple):
    """A row of github-action-benchmark; larger is better."""

    value: float
    unit: str
    range: str
    extra: str


class Latency(NamedTuple):
    """A metric of Bencher, in nanoseconds."""

    value: float
    lower: float
    upper: float


def github_action_benchmark(data: Mapping[str, Any]) -> dict[str, Point]:
    points = {}
    for benchmark in data["benchmarks"]:
        stats = benchmark["stats"]
        mean = next(
            f"{stats['mean'] * scale} {unit}"
            for scale, unit, below in ((1e9, "nsec", 1e-6), (1e6, "usec", 1e-3), (1e3, "msec", 1), (1, "sec", 1e9))
            if stats["mean"] < below
        )
        extra = f"mean: {mean}\nrounds: {stats['rounds']}"
        points[benchmark["fullname"]] = Point(stats["ops"], "iter/sec", f"stddev: {stats['stddev']}", extra)
    return points


def bencher(data: Mapping[str, Any]) -> dict[str, Latency]:
    assert isinstance(data["machine_info"], dict)
    assert isinstance(data["commit_info"], dict)
    metrics = {}
    for benchmark in data["benchmarks"]:
        median, iqr = (1e9 * benchmark["stats"][name] for name in ("median", "iqr"))
        metrics[benchmark["fullname"]] = Latency(median, median - iqr, median + iqr)
    return metrics
