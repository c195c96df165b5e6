"""Results of cases whose processes were spread over hosts: what tables, notes and comparisons make of them."""

from typing import Any

import pytest

from bench.harness.host import machine_identity
from bench.report.best import best_settings
from bench.report.compare import comparison
from bench.report.notes import doubt_notes, notes
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.damage import damage
from bench.suite.cases import Case
from gan.errors import UsageError
from tests.bench.records import results_file, scaling_record, step_record
from tests.bench.test_report import results


def on_hosts(*cpus: str, **changes: Any) -> dict[str, Any]:
    """A scaling record of two processes, each on a host of its own, with the processor of its name."""
    record = scaling_record()
    record["case"] |= {"num_hosts": 2}
    for rank, (name, model) in zip(record["launches"][0]["ranks"], zip("ab", cpus, strict=True), strict=True):
        machine = {"python": "3.12.1", "platform": "Linux", "packages": {"torch": "2.14.1"}, "gpus": []}
        rank["host"] = {"name": name, "hostname": name, **machine, "cpu": {"model": model, "cores": 4}}
        rank["load"] = {"busy_cores": 2.1, "own_cores": 2.0, "stolen_cores": 0.0, "load_average": 1.0}
        rank |= changes
    return record


def test_a_table_and_a_note_say_on_which_hosts_a_case_ran() -> None:
    spread = on_hosts("Xeon", "Xeon")
    assert damage(results_file(spread, scaling_record())) is None
    shown = [CaseResult.of(record) for record in (spread, scaling_record())]
    (table,) = tables(shown)
    assert [dict(zip(table.columns, row, strict=True))["hosts"] for row in table.rows] == ["2", "1"]
    (note,) = (line for line in notes(shown) if " hosts, " in line)
    machine = "Xeon, 4 cores; Python 3.12.1, torch 2.14.1"
    assert note == f"on 2 hosts, a, b, all alike: {machine}: scaling mlp-cpu-fp32-eager-b64-p2-h2"
    assert not doubt_notes(shown[:1])


def test_hosts_that_differ_are_a_doubt_and_the_note_tells_them_apart() -> None:
    result = CaseResult.of(on_hosts("Xeon", "EPYC"))
    (doubt,) = doubt_notes([result])
    assert doubt.startswith("its hosts differ: scaling mlp-cpu-fp32-eager-b64-p2-h2: a step waits for the slowest")
    (note,) = (line for line in notes([result]) if " hosts, " in line)
    assert "a (Xeon, 4 cores; " in note
    assert "b (EPYC, 4 cores; " in note


def test_the_load_of_a_host_is_not_that_of_ranks_on_another() -> None:
    """Ranks on two hosts keep two cores busy on each. On one host that would be four, and two of somebody else."""
    assert not doubt_notes([CaseResult.of(on_hosts("Xeon", "Xeon"))])
    busy = on_hosts("Xeon", "Xeon")
    busy["launches"][0]["ranks"][1]["load"] |= {"busy_cores": 3.0}
    (doubt,) = doubt_notes([CaseResult.of(busy)])
    assert doubt.startswith("other processes were busy: scaling mlp-cpu-fp32-eager-b64-p2-h2 (on 1.0 cores)")


def test_two_names_of_one_machine_are_a_doubt_and_have_one_load() -> None:
    same = on_hosts("Xeon", "Xeon")
    ranks = same["launches"][0]["ranks"]
    for rank in ranks:
        rank["host"] |= {"machine": "m", "network": "n"}
        rank["load"] |= {"busy_cores": 4.1}
    assert damage(results_file(same)) is None
    (doubt,) = doubt_notes([CaseResult.of(same)])
    assert doubt.startswith("some of its hosts are the same machine: scaling mlp-cpu-fp32-eager-b64-p2-h2: ")
    ranks[1]["host"] |= {"network": "of a container"}
    assert not doubt_notes([CaseResult.of(same)])
    identity = machine_identity()
    assert identity == machine_identity()
    assert identity.keys() in (set(), {"machine", "network"})


def test_libraries_that_are_set_differently_on_a_host_are_a_doubt() -> None:
    record = on_hosts("Xeon", "Xeon", flags={"variables": {"MKL_CBWR": "AVX2"}})
    assert not doubt_notes([CaseResult.of(record)])
    record["launches"][0]["ranks"][1]["flags"] = {"variables": {"MKL_CBWR": "AVX2", "KMP_AFFINITY": "compact"}}
    (doubt,) = doubt_notes([CaseResult.of(record)])
    assert doubt.startswith("libraries of its hosts are set differently: scaling ")
    assert "(KMP_AFFINITY)" in doubt


def test_one_host_is_never_compared_with_two() -> None:
    with pytest.raises(UsageError, match="no case is in both"):
        comparison(results(on_hosts("Xeon", "Xeon")), results(scaling_record()))
    assert comparison(results(on_hosts("Xeon", "Xeon")), results(on_hosts("Xeon", "Xeon"))).tables
    with pytest.raises(UsageError, match=r"hosts\.1\.cpu\.model is 'Xeon' in A and 'EPYC' in B"):
        comparison(results(on_hosts("Xeon", "Xeon")), results(on_hosts("Xeon", "EPYC")))


@pytest.mark.parametrize(
    ("name", "value", "is_judged"),
    [("cpu", {"model": "EPYC", "cores": 4}, False), ("gpus", ["A GPU"], False), ("python", "3.13.0", True)],
)
def test_a_case_is_not_judged_whose_second_host_is_another_machine(
    name: str, value: object, is_judged: bool
) -> None:
    before, after = (on_hosts("Xeon", "Xeon") for _ in range(2))
    for record in (before, after):
        for rank in record["launches"][0]["ranks"]:
            rank["arms"]["plain"] = rank["arms"]["no_sync"]  # what a case is judged by
    after["launches"][0]["ranks"][1]["host"][name] = value
    setting = "hosts.1.cpu.model" if name == "cpu" else f"hosts.1.{name}"
    compared = comparison(results(before), results(after), across=[setting])
    assert (compared.tables[0].rows[0][-1] == "–") != is_judged
    assert any("of different hardware" in note for note in compared.notes) != is_judged


def step_on(num_hosts: int, precision: str, scale: float) -> CaseResult:
    """Return steps over hosts, one process on each."""
    record = step_record(Case(precision=precision, num_processes=2, num_hosts=num_hosts), scale)
    (first,) = record["launches"][0]["ranks"]
    record["launches"][0]["ranks"] = [{**first, "rank": number} for number in range(2)]
    return CaseResult.of(record)


def test_the_fastest_setting_on_one_host_is_not_that_on_two() -> None:
    one_host = [step_on(1, "fp32", 1.0), step_on(1, "bf16", 0.5)]
    two_hosts = [step_on(2, "fp32", 2.0), step_on(2, "bf16", 3.0)]
    one, two = best_settings([*one_host, *two_hosts])
    assert one.startswith("mlp: fastest setting: bf16 eager")
    assert two.startswith("mlp h2: fastest setting: fp32 eager")
