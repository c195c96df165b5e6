"""What processes did with their gradients stands in the case's name, and in its record."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from bench.report.settings import times_default
from bench.results.case_result import CaseResult
from bench.results.file import read
from bench.results.records import parse_case
from bench.suite.cases import Case
from bench.suite.machine import Machine, impossible
from bench.suite.suites import SUITES
from tests.bench.records import arm, doubt_lines, scaling_record
from tests.conftest import ROOT

TWO = Case(workload="scaling", num_processes=2)
SHARING_NONE = [
    replace(TWO, num_hosts=2),
    replace(TWO, device="cuda"),
    replace(TWO, comm_hook="bf16"),
    replace(TWO, subject="plain"),
    Case(),
]


def test_a_file_of_before_says_that_its_processes_shared_no_memory(tmp_path: Path) -> None:
    stored = (ROOT / "results/Linux-CPython-3.11-64bit/0014_smoke.json").read_text(encoding="utf-8")
    path = tmp_path / "before.json"
    before, num_fields = re.subn(r',\s*"shared_memory": (true|false)', "", stored)
    assert num_fields
    path.write_text(before, encoding="utf-8")
    names = [result.name for result in read(path).cases if result.case.num_processes > 1]
    assert names == [
        "scaling mlp-cpu-fp32-eager-b64-p2-gloo",
        "scaling mlp-cpu-fp32-eager-b64-p2-strong-gloo",
    ]


@pytest.mark.parametrize("case", [TWO, replace(TWO, shared_memory=False), *SHARING_NONE])
def test_a_record_holds_the_exchange_where_there_is_a_choice(case: Case) -> None:
    data = json.loads(json.dumps(case.to_json()))
    assert parse_case(data) == case
    assert data.get("shared_memory") == (case.shared_memory if case.may_share_memory else None)
    without = {name: value for name, value in data.items() if name != "shared_memory"}
    assert parse_case(without).shared_memory == (not case.may_share_memory)


@pytest.mark.parametrize("case", [case for case in SHARING_NONE if case.is_core])
def test_a_case_that_shares_no_memory_is_not_measured_twice(case: Case) -> None:
    machine = Machine(num_cores=4, num_gpus=4, processes_at_once=8, num_hosts=2)
    assert impossible(case, machine) is None
    assert "shared" in (impossible(replace(case, shared_memory=False), machine) or "")
    assert impossible(replace(TWO, shared_memory=False), machine) is None


def test_over_hosts_no_memory_is_shared_though_they_be_one_machine() -> None:
    """The rest of a case's options are the recipe's and the defaults."""
    assert replace(TWO, num_hosts=2).train_options() == {**TWO.train_options(), "shared_memory": False}
    assert "shared_memory" not in TWO.train_options()


def test_a_session_without_shared_memory_measures_what_could_not_share_any() -> None:
    machine = Machine(num_cores=4, num_gpus=0, processes_at_once=4, num_hosts=2)
    chosen = {"num_processes": (2,), "num_hosts": (1, 2), "shared_memory": (True, False), "scaling": ("weak",)}
    plain = {"recipe": ("mlp",), "precision": ("fp32",), "compile": ("no",)}
    cases = SUITES["smoke"].cases(machine, {**chosen, **plain})
    assert sorted(case.id for case in cases if case.workload == "scaling") == [
        "mlp-cpu-fp32-eager-b64-p2",
        "mlp-cpu-fp32-eager-b64-p2-gloo",
        "mlp-cpu-fp32-eager-b64-p2-h2",
    ]
    assert not [case for case in cases if case.workload == "scaling" and impossible(case, machine)]


def doubts_of_exchange(*, asked: bool, happened: bool) -> list[str]:
    data = scaling_record()
    data["case"]["shared_memory"] = asked
    for rank in data["launches"][0]["ranks"]:
        rank["strategy"] |= {"shared_memory": True} if happened else {}
    return [line for line in doubt_lines(CaseResult.of(data)) if "memory" in line]


def test_another_exchange_than_the_case_names_is_doubtful() -> None:
    assert doubts_of_exchange(asked=True, happened=True) == doubts_of_exchange(asked=False, happened=False) == []
    assert "measure with --shared-memory no" in doubts_of_exchange(asked=True, happened=False)[0]
    assert "its processes shared memory" in doubts_of_exchange(asked=False, happened=True)[0]


@pytest.mark.parametrize("setting", [{"precision": "bf16"}, {"comm_hook": "bf16"}])
def test_settings_without_shared_memory_are_compared_with_fp32_without_it(setting: dict[str, str]) -> None:
    full = scaling_record()
    half = scaling_record()
    half["case"] |= setting
    for data in (full, half):
        data["launches"][0]["ranks"][0]["arms"]["plain"] = arm([0.05] * 4, 64)
        data["launches"][0]["ranks"][1]["arms"]["plain"] = arm([0.0] * 4, 64)
    times = times_default([CaseResult.of(full), CaseResult.of(half)])
    assert list(times) == [CaseResult.of(half).name]
