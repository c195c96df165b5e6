"""Facts of a GPU: what is read, what is absent, and which cases are marked."""

import builtins
import io
import itertools
import json
import os
import sys
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from bench.harness.exchange import Grant
from bench.harness.gpu import GPU_EXTRA, Gpu, GpuAbsentError, GpuWatch
from bench.harness.rank import Rank
from bench.harness.windows import Arm, Effort, Engine
from bench.report.notes import notes
from bench.report.tables import tables
from bench.report.terminal import show_session
from bench.results.case_result import CaseResult
from bench.results.damage import damage
from bench.results.figures import joules_per_image
from bench.results.file import Results
from bench.results.gpu import GpuFacts, marks_of
from bench.runner import worker
from bench.runner.targets import Target
from bench.suite.cases import Case
from gan.display.tables import Printer
from tests.bench.fake_nvml import UUID, NotSupportedError, NVMLError, install, processes
from tests.bench.records import results_file, step_record

ON_GPU = Case(device="cuda")


def watched(monkeypatch: pytest.MonkeyPatch, *, num_turns: int = 3, **values: Any) -> dict[str, Any]:
    """Return the facts that a process records of a case with so many turns."""
    install(monkeypatch, **values)
    watch = GpuWatch.of(UUID, os.getpid())
    watch.before()
    for _ in range(num_turns):
        watch.during()

    def steps(half_way: Any) -> int:
        half_way()
        return 10

    watch.count_energy(steps, 64)
    watch.after()
    return json.loads(json.dumps(watch.facts))


def result_of(facts: dict[str, Any]) -> CaseResult:
    record = step_record(ON_GPU, gpu=facts)
    assert damage(results_file(record)) is None
    return CaseResult.of(record)


def marks(facts: dict[str, Any]) -> str:
    (table,) = tables([result_of(facts)])
    return table.rows[0][table.columns.index("GPU")] if "GPU" in table.columns else ""


def test_a_quiet_gpu_is_read_and_not_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = watched(monkeypatch, ComputeRunningProcesses=processes(os.getpid()))
    assert facts["limits"] == {
        "most_sm_mhz": 1980,
        "most_memory_mhz": 1980,
        "power_limit_watts": 700.0,
        "ecc": True,
    }
    assert len(facts["during"]) == 3
    assert facts["before"]["power_watts"] == 300.0
    assert facts["before"]["other_processes"] == 0
    assert facts["energy"]["joules"] == 450.0
    assert facts["energy"]["images"] == 640
    assert facts["energy"]["source"] == "energy counter"
    assert marks(facts) == ""
    assert joules_per_image(result_of(facts)) == pytest.approx(450 / 640)
    (table,) = tables([result_of(facts)])
    assert table.rows[0][table.columns.index("mJ/image")] == "703"


def test_clocks_that_fell_mark_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [1200, 1980]
    turns = [1980, 1980, 1965, 1980, 1700, 1980]
    facts = watched(monkeypatch, ClockInfo=[*before, *turns, 1980])
    assert marks(facts) == "clocks fell"
    line = next(line for line in notes([result_of(facts)]) if "clock fell" in line)
    assert "SM clock fell from 1,980 to 1,700 MHz" in line


@pytest.mark.parametrize(
    ("sm_mhz", "mark", "read"),
    [
        ([1700, 1700, 1980], "clocks rose", "the SM clock rose from 1,700 to 1,980 MHz"),
        ([1700, 1980, 1900], "clocks fell", "the SM clock fell from 1,980 to 1,900 MHz"),
        ([1935, 1980, 1935], "", ""),
    ],
)
def test_a_clock_that_rose_did_not_fall(
    sm_mhz: list[int], mark: str, read: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = [mhz for value in sm_mhz for mhz in (value, 1593)]
    facts = watched(monkeypatch, ClockInfo=[345, 1593, *turns, 1980])
    assert marks(facts) == mark
    assert any(read in line for line in notes([result_of(facts)]))


def test_gpus_whose_clocks_differ_are_no_gpu_that_slows_down(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = [watched(monkeypatch, ClockInfo=mhz) for mhz in (1980, 1700)]
    (mark,) = marks_of([GpuFacts.parse(one) for one in facts])
    assert mark.read == "the SM clock was 1,980 MHz in one process and 1,700 in another"


def test_nobody_looks_for_other_processes_while_energy_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes tens of milliseconds, in which no step is started."""
    fake = install(monkeypatch)
    watch = GpuWatch.of(UUID, os.getpid())
    done: list[str] = []

    def looked(_: object) -> list[SimpleNamespace]:
        done.append("looked")
        return processes(os.getpid(), 2**22 + 1)

    def steps(half_way: Any) -> int:
        done.append("began")
        half_way()
        done.append("ended")
        return 10

    fake.nvmlDeviceGetComputeRunningProcesses = looked
    watch.count_energy(steps, 64)
    assert done == ["began", "ended", "looked"]
    assert watch.facts["busy"]["other_processes"] == 1


def test_small_changes_and_a_rest_before_are_no_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    before = [345, 1980]
    turns = [1980, 1980, 1965, 1980, 1935, 1980]
    assert marks(watched(monkeypatch, ClockInfo=[*before, *turns, 1980])) == ""


@pytest.mark.parametrize(("bits", "mark"), [(0x4, ""), (0x40, "throttled"), (0x8 | 0x1, "throttled"), (0x1, "")])
def test_a_gpu_that_slows_down_is_marked_and_one_at_its_power_cap_is_not(
    monkeypatch: pytest.MonkeyPatch, bits: int, mark: str
) -> None:
    assert marks(watched(monkeypatch, CurrentClocksEventReasons=bits)) == mark


def test_an_older_library_names_the_reasons_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = install(monkeypatch, CurrentClocksThrottleReasons=0x4)
    del fake.values["CurrentClocksEventReasons"]
    assert Gpu(UUID).read([]).throttling == ("power cap",)


def test_another_process_on_the_gpu_marks_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = watched(monkeypatch, ComputeRunningProcesses=processes(os.getpid(), 2**22 + 1))
    assert facts["during"][0]["other_processes"] == 1
    assert marks(facts) == "shared"


def test_processes_of_the_session_are_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = watched(monkeypatch, ComputeRunningProcesses=processes(os.getpid()))
    parent = os.getppid()
    install(monkeypatch, ComputeRunningProcesses=processes(os.getpid(), parent))
    watch = GpuWatch.of(UUID, parent)
    watch.before()
    assert facts["before"]["other_processes"] == watch.facts["before"]["other_processes"] == 0


def test_in_a_container_processes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are those of the host there. Without any, nothing is known."""
    install(monkeypatch, ComputeRunningProcesses=processes(71_000, 72_000))
    monkeypatch.setattr("bench.harness.gpu._uses_cuda", lambda pid: pid == os.getpid())
    assert Gpu(UUID).read([os.getpid(), 1]).other_processes == 1
    install(monkeypatch, ComputeRunningProcesses=processes())
    assert Gpu(UUID).read([os.getpid()]).other_processes is None


def test_errors_that_ecc_could_not_correct_mark_a_case(monkeypatch: pytest.MonkeyPatch) -> None:
    assert marks(watched(monkeypatch, TotalEccErrors=[5, 3, *[5, 3] * 4, 5, 4])) == "memory errors"
    assert marks(watched(monkeypatch, TotalEccErrors=[5, 3, *[6, 3] * 5])) == ""


def test_what_a_gpu_does_not_say_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    error = NotSupportedError("not supported")
    names = ("ClockInfo", "MaxClockInfo", "PowerUsage", "EnforcedPowerLimit", "Temperature", "MemoryInfo")
    more = ("ComputeRunningProcesses", "EccMode", "TotalEccErrors", "TotalEnergyConsumption", "MigMode")
    facts = watched(monkeypatch, **dict.fromkeys((*names, *more), error), CurrentClocksEventReasons=error)
    assert set(facts["limits"].values()) == {None}
    assert set(facts["before"].values()) == {None}
    assert "energy" not in facts
    assert marks(facts) == ""
    assert joules_per_image(result_of(facts)) is None


def test_without_a_counter_energy_is_power_times_time_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = watched(monkeypatch, TotalEnergyConsumption=NotSupportedError(""))
    energy = facts["energy"]
    assert energy["source"] == "power × time"
    assert energy["joules"] == pytest.approx(300 * energy["seconds"], abs=1e-3)
    facts["energy"]["joules"] = 64.0
    (table,) = tables([result_of(facts)])
    assert table.rows[0][table.columns.index("mJ/image")] == "~100"


def test_absent_facts_are_one_note(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert builtins.__import__ is real
    facts = GpuWatch.of(UUID, os.getpid()).facts
    assert facts == {"absent": GPU_EXTRA}
    records = [step_record(Case(device="cuda", recipe=name), gpu=facts) for name in ("mlp", "dcgan")]
    said = notes([CaseResult.of(record) for record in records])
    assert [line for line in said if "nvidia-ml-py" in line] == [
        f"no clocks, power or energy of the GPU: {GPU_EXTRA}"
    ]


@pytest.mark.parametrize(
    ("uuid", "values", "reason"),
    [
        ("another", {}, "does not answer: not found"),
        (UUID, {"Init": NVMLError("driver not loaded")}, "does not answer: driver not loaded"),
        (UUID, {"MigMode": [1, 1]}, "split by MIG"),
    ],
)
def test_a_gpu_that_cannot_be_read_is_absent(
    monkeypatch: pytest.MonkeyPatch, uuid: str, values: dict[str, Any], reason: str
) -> None:
    install(monkeypatch, **values)
    with pytest.raises(GpuAbsentError, match=reason):
        Gpu(uuid)


def test_steps_are_taken_without_a_wait_until_half_of_them_were_read() -> None:
    done: list[str] = []

    def steps() -> Any:
        while True:
            done.append("step")
            yield

    now = iter(range(10**6))
    engine = Engine(Effort(1, 10), lambda: done.append("wait"), timer=lambda: 0.01 * next(now))
    engine.add(Arm("step", steps(), 8))
    engine.measure(take_turn=lambda quickest, _: Grant(quickest))
    done.clear()
    count = engine.keep_busy("step", 0.1, lambda: done.append("read"))
    assert count == done.count("step") >= 10
    assert done == [*["step"] * (count // 2), "read", *["step"] * (count // 2), "wait"]


@pytest.mark.parametrize("beside_others", [False, True])
def test_energy_is_not_counted_while_other_cases_end_at_the_same_time(
    monkeypatch: pytest.MonkeyPatch, *, beside_others: bool
) -> None:
    """A counter is of the whole GPU, and an interruption ends all cases at once."""
    install(monkeypatch)
    monkeypatch.setattr(worker, "_probe", lambda _: None)
    monkeypatch.setattr(worker, "ENERGY_SECONDS", 0.01)
    rank = SimpleNamespace(
        take_turn=lambda *_: Grant(finish=True, beside_others=beside_others), report=lambda *_: None
    )
    target = SimpleNamespace(device=None, end=lambda: None)
    engine = Engine(Effort(1, 10), lambda: None)
    engine.add(Arm("step", itertools.repeat(None), 8))
    watch = GpuWatch.of(UUID, os.getpid())
    worker._measure_windows(engine, cast("Rank", rank), cast("Target", target), watch)
    assert ("energy" in watch.facts) is not beside_others


def test_the_probe_runs_on_the_device_that_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.device] = []
    probes: list[Arm] = []
    monkeypatch.setattr(worker, "_gpu_work", lambda device: asked.append(device) or iter(()))
    monkeypatch.setattr(Engine, "measure", lambda _, probe, *others: probes.append(probe))
    rank = cast("Rank", SimpleNamespace(report=lambda *_: None))
    for name in ("cuda:1", "cpu"):
        target = cast("Target", SimpleNamespace(device=torch.device(name), end=lambda: None))
        worker._measure_windows(Engine(Effort(1, 10), lambda: None), rank, target, None)
    assert asked == [torch.device("cuda:1")]
    assert cast("torch.Tensor", next(probes[1].steps)).device.type == "cpu"


def test_memory_beside_what_is_allocated_is_a_column(monkeypatch: pytest.MonkeyPatch) -> None:
    record = step_record(ON_GPU)
    record["launches"][0]["ranks"][0]["memory"]["device"] = {
        "peak_reserved_bytes": 900 * 2**20,
        "used_bytes": 1400 * 2**20,
        "total_bytes": 2**36,
    }
    assert damage(results_file(record)) is None
    (table,) = tables([CaseResult.of(record)])
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert (row["reserved MiB"], row["device MiB"]) == ("900", "1,400")
    (table,) = tables([CaseResult.of(step_record())])
    assert not {"GPU", "mJ/image", "reserved MiB", "device MiB"} & set(table.columns)


def test_a_damaged_energy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = watched(monkeypatch)
    facts["energy"]["images"] = 0
    assert "gpu.energy" in (damage(results_file(step_record(ON_GPU, gpu=facts))) or "")
    facts["energy"]["source"] = "a guess"
    assert "'a guess' is not one of" in (damage(results_file(step_record(ON_GPU, gpu=facts))) or "")


def test_a_terminal_says_what_the_gpus_did(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    facts = watched(monkeypatch, CurrentClocksEventReasons=0x4, PowerUsage=[250_000, 690_000])
    data = results_file(step_record(ON_GPU, gpu=facts))
    file = Results.of(tmp_path, data)
    output = io.StringIO()
    show_session(Printer(output, wide=True, advice=""), file.cases, file.session, file.environment)
    text = " ".join(output.getvalue().split())
    assert "SM clock 1,980 to 1,980 of 1,980 MHz; power 690 to 690 of 700 W; temperature 40 to 40 °C" in text
    assert "power cap in 4 of 4 readings" in text
    del facts["busy"], facts["energy"]  # an interrupted session counts none
    assert "power cap in 3 of 3 readings" in "\n".join(notes([result_of(facts)]))
