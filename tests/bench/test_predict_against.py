"""Which steps of a file `python -m bench predict --against` compares with its prediction."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench.predict.against import Comparison, comparison_table
from bench.suite.cases import Case
from gan.errors import UsageError
from tests.bench.records import arm, rank, record, results_file
from tests.bench.test_predict import settings


def step_of(num_processes: int, num_hosts: int = 1, **axes: Any) -> dict[str, Any]:
    case = Case(workload="scaling", num_processes=num_processes, num_hosts=num_hosts, **axes)
    alone = arm([0.020] * 4, 64)
    arms = {"step": arm([0.025] * 4, case.global_batch_size), "no_sync": alone, "solo": alone}
    ranks = [rank(number, **arms) for number in range(num_processes)]
    for of_rank in ranks:
        of_rank["strategy"]["shared_memory"] = case.shared_memory and num_hosts == 1
    return record(case, ranks)


LAYOUTS = (
    *(step_of(2), step_of(2, shared_memory=False), step_of(2, shared_memory=False, compile="inductor")),
    *(step_of(2, 2), step_of(4, 2), step_of(4, 4)),
)
IN_NODES = ("--link", "1Gb/s", "--node-link", "9GB/s", "--gpus-per-node")


@pytest.mark.parametrize(
    ("arguments", "compared"),
    [
        (("--link", "here"), ["p2-gloo"]),
        (("--link", "1Gb/s"), ["p2-h2", "p4-h4"]),
        ((*IN_NODES, "2"), ["p2-gloo", "p4-h2"]),
    ],
)
def test_processes_are_compared_that_are_spread_as_the_prediction_spreads_them(
    arguments: tuple[str, ...], compared: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(results_file(*LAYOUTS)), encoding="utf-8")
    chosen = settings("--against", path, *arguments)
    assert [result.case.id.partition("b64-")[2] for result in chosen.measured] == compared
    assert (chosen.case.num_processes, chosen.case.num_hosts) == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--link", "here"), "b64-p4-h2 is of several hosts; give --link their bandwidth, as in 1Gb/s"),
        (("--link", "1Gb/s"), "b64-p4-h2 has 2 processes on each host; give that number"),
        ((*IN_NODES, "8"), "b64-p4-h2 has 2 processes on each host; give that number"),
    ],
)
def test_processes_that_are_spread_otherwise_are_refused(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "measured.json"
    path.write_text(json.dumps(results_file(step_of(4, 2))), encoding="utf-8")
    with pytest.raises(UsageError, match=re.escape(said)):
        settings("--against", path, *arguments)


def test_a_part_of_no_time_is_0_predicted_and_measured() -> None:
    """A file has 1 ns for it: no time is none that a file may hold."""
    rows = comparison_table([Comparison(2, "waiting", 0.0, seconds, 0.025) for seconds in (0.0, 1e-9)]).rows
    assert rows == [["", "waiting", "0", "0", "+0.0%"], ["", "waiting", "0", "0", "-0.0%"]]
