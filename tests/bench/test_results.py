"""From raw windows to figures, on records whose figures are known."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from bench.harness.windows import PROBE
from bench.results.case_result import CaseResult
from bench.results.damage import schema_error
from bench.results.environment import session_environment, typed
from bench.results.figures import (
    communication_share,
    floor_seconds,
    flops_per_second,
    peak,
    peak_bytes,
    rank_seconds,
    reached,
    relative_iqr,
    roofline_fraction,
    sequence_seconds,
    speedup,
    startup_medians,
)
from bench.results.file import read
from bench.results.folder import find
from bench.results.statistics import bootstrap_midmeans, difference_interval, midmean_interval
from bench.suite.cases import Case
from gan.errors import UsageError
from tests.bench.records import arm, doubt_lines, rank, record, results_file, step_record
from tests.conftest import ROOT


def test_step_time_is_the_median_over_the_windows_of_all_launches() -> None:
    launches = [[rank(step=arm([0.010, 0.030, 0.011], 64, 5))], [rank(step=arm([0.012, 0.013, 0.014], 64, 4))]]
    result = CaseResult.of(record(Case(), *launches))
    assert result.median() == pytest.approx(0.0125)
    assert result.images_per_second() == pytest.approx(64 / 0.0125)
    low, high = np.quantile([0.010, 0.030, 0.011, 0.012, 0.013, 0.014], (0.25, 0.75))
    assert relative_iqr(result) == pytest.approx((high - low) / 0.0125)


def test_a_window_of_several_ranks_is_that_of_the_slowest_in_it() -> None:
    ranks = [rank(0, step=arm([0.010, 0.030], 128)), rank(1, step=arm([0.020, 0.010], 128))]
    result = CaseResult.of(record(Case(num_processes=2), ranks))
    assert result.seconds_per_step["step"][0] == pytest.approx([0.020, 0.030])
    assert result.images_per_second() == pytest.approx(128 / 0.025)


def test_the_ratio_to_the_plain_loop_is_per_image_and_round_by_round() -> None:
    step = arm([0.010, 0.020, 0.040, 0.010], 64, 2)
    plain = arm([0.050, 0.100, 0.200, 0.050], 128)  # a drift of the machine hits both
    ratio = CaseResult.of(record(Case(), [rank(step=step, plain=plain)])).times_plain
    assert ratio is not None
    assert ratio.estimate == pytest.approx(2.5)
    assert (ratio.low, ratio.high) == pytest.approx((2.5, 2.5))


def test_disturbed_rounds_are_left_out_where_enough_others_are_left() -> None:
    step = [0.010] * 10 + [0.020] * 10  # a neighbour slows the step to half its speed, the plain loop less
    plain = [0.025] * 10 + [0.030] * 10
    process = rank(
        step=arm(step, 64), plain=arm(plain, 64), peak_copy=arm([0.02, 0.02, 0.02, 0.09, 0.09], every=4)
    )
    process["arms"][PROBE] = arm([0.002] * 10 + [0.003] * 10)
    result = CaseResult.of(record(Case(), [process]))
    assert result.median() == pytest.approx(0.010)
    ratio = result.times_plain
    assert ratio is not None
    assert ratio.estimate == pytest.approx((2.5 * 1.5) ** 0.5)  # of all rounds
    assert result.seconds_per_step["peak_copy"][0] == pytest.approx([0.02] * 3)
    process["arms"][PROBE] = arm([0.002] * 9 + [0.003] * 11)
    assert CaseResult.of(record(Case(), [process])).median() == pytest.approx(0.015)


def test_a_machine_that_never_came_to_rest_is_told_by_what_was_known_before() -> None:
    data = record(Case(), [rank(step=arm([0.010] * 12, 64), plain=arm([0.025] * 12, 64))])
    assert not any("undisturbed" in said for said in doubt_lines(CaseResult.of(data)))
    data["quickest_probe"] = 0.0015
    assert any("0 of 12 rounds undisturbed" in said for said in doubt_lines(CaseResult.of(data)))


def test_a_ratio_without_images_is_per_step() -> None:
    result = CaseResult.of(record(Case(workload="checkpoint"), [rank(checkpoint=arm([0.08]), plain=arm([0.02]))]))
    ratio = result.times_plain
    assert ratio is not None
    assert ratio.estimate == pytest.approx(0.25)


def test_the_floor_is_the_longer_of_products_and_copies() -> None:
    result = CaseResult.of(step_record())
    assert peak(result, "peak_product") == pytest.approx(200e9)
    assert peak(result, "peak_copy") == pytest.approx(10e9)
    assert floor_seconds(result) == pytest.approx(max(400e6 / 200e9, 10e6 / 10e9))
    assert roofline_fraction(result) == pytest.approx(0.2)
    assert flops_per_second(result) == pytest.approx(40e9)
    launches = step_record()
    launches["launches"][0]["ranks"][0]["facts"]["least_bytes_per_step"] = 50_000_000
    assert floor_seconds(CaseResult.of(launches)) == pytest.approx(0.005)


def test_the_floor_in_sequence_is_a_sum_and_an_older_file_has_none() -> None:
    older = CaseResult.of(step_record())
    assert (sequence_seconds(older), reached(older)) == (None, None)
    record = step_record()
    record["launches"][0]["ranks"][0]["facts"]["sequence"] = {
        "flops": 400_000_000,
        "optimizer_traffic_bytes": 20_000_000,
        "elementwise_traffic_bytes": 10_000_000,
    }
    result = CaseResult.of(record)
    assert sequence_seconds(result) == pytest.approx(400e6 / 200e9 + 20e6 / 10e9 + 10e6 / 10e9)
    assert reached(result) == pytest.approx(0.5)
    assert roofline_fraction(result) == pytest.approx(0.2)


@pytest.mark.parametrize(("scaling", "solo_seconds", "expected"), [("weak", 0.020, 1.6), ("strong", 0.020, 0.8)])
def test_speedup_is_of_images_per_second(scaling: str, solo_seconds: float, expected: float) -> None:
    case = Case(batch_size=64, num_processes=2, scaling=scaling)
    step = arm([0.025] * 4, case.global_batch_size)
    alone = [arm([seconds] * 4, 64) for seconds in (solo_seconds, 0.0)]  # rank 1 has no part in it
    ranks = [rank(number, step=step, solo=solo) for number, solo in enumerate(alone)]
    assert speedup(CaseResult.of(record(case, ranks))) == pytest.approx(expected)


def test_communication_is_what_goes_without_the_all_reduce_and_ranks_are_told_apart_without_it() -> None:
    ranks = [
        rank(number, step=arm([0.050] * 4, 128), no_sync=arm([seconds] * 4, 128, 2))
        for number, seconds in enumerate((0.030, 0.040))
    ]
    result = CaseResult.of(record(Case(num_processes=2), ranks))
    assert communication_share(result) == pytest.approx(1 - 0.040 / 0.050)
    assert rank_seconds(result) == pytest.approx([0.030, 0.040])


def test_a_start_up_is_the_sum_of_its_parts_once_a_launch() -> None:
    launches = [[rank(step=arm([], 64))], [rank(step=arm([], 64))]]
    launches[1][0]["startup_seconds"] = {"launcher": 2.0, "imports": 3.0, "prepare": 0.25, "first step": 0.5}
    result = CaseResult.of(record(Case(workload="startup"), *launches))
    assert result.median() == pytest.approx((3.75 + 5.75) / 2)
    assert startup_medians(result)["imports"] == pytest.approx(2.5)


def test_the_gpus_memory_counts_where_there_is_one() -> None:
    result = step_record()
    assert peak_bytes(CaseResult.of(result)) == 700 * 2**20
    result["launches"][0]["ranks"][0]["memory"]["peak_device_bytes"] = 123
    assert peak_bytes(CaseResult.of(result)) == 123


def test_a_few_quiet_rounds_are_not_disturbed_ones() -> None:
    few = rank(step=arm([0.010] * 4, 64), plain=arm([0.025] * 4, 64))
    assert doubt_lines(CaseResult.of(record(Case(), [few]))) == []


def test_a_quiet_case_has_no_warnings() -> None:
    assert doubt_lines(CaseResult.of(step_record())) == []


def noisy(**changes: object) -> dict:
    base = rank(step=arm([0.010] * 12, 64), plain=arm([0.025] * 12, 64))
    return record(Case(), [{**base, **changes}])


def arms(**changes: object) -> dict:
    return {
        "arms": {"step": {**arm([0.010] * 12, 64), **changes}, "empty": arm([1e-6] * 12), PROBE: arm([0.002] * 12)}
    }


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (arms(windows=[0.010, 0.014] * 6), "of the median): close other programs"),
        (arms(windows=[0.010 + 0.0002 * index for index in range(12)]), "drifted (by +16%)"),
        (arms(settled=False), "no steady state"),
        (
            {"load": {"busy_cores": 3.0, "own_cores": 2.0, "stolen_cores": 0.0}},
            "other processes were busy (on 1.0 cores)",
        ),
        ({"load": {"busy_cores": 2.0, "own_cores": 2.0, "stolen_cores": 0.5}}, "the host took cores away (0.5)"),
        (
            {"arms": {"step": arm([0.010] * 12, 64), "empty": arm([1e-4] * 12), PROBE: arm([0.002] * 12)}},
            "an empty window takes long (1.0% of",
        ),
        (
            {
                "arms": {
                    "step": arm([0.010] * 12, 64),
                    "empty": arm([1e-6] * 12),
                    PROBE: arm([0.002] * 4 + [0.003] * 8),
                }
            },
            "4 of 12 rounds undisturbed",
        ),
    ],
    ids=["spread", "drift", "unsettled", "load", "steal", "overhead", "disturbed"],
)
def test_instability_is_said_with_what_to_do(changes: dict, said: str) -> None:
    warnings = doubt_lines(CaseResult.of(noisy(**changes)))
    assert any(said in warning for warning in warnings), warnings
    assert all(":" in warning for warning in warnings)


@pytest.mark.slow
def test_intervals_cover_the_true_value_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    covered = differ = 0
    for _ in range(200):
        launches = [rng.normal(0.3, 0.1, 60), rng.normal(0.3, 0.1, 60)]
        interval = midmean_interval(launches)
        covered += interval.low <= 0.3 <= interval.high
        difference = difference_interval(launches, [values + 0.05 for values in launches[::-1]])
        differ += difference.low <= 0.05 <= difference.high
        assert difference.estimate == pytest.approx(0.05)
    assert 0.86 <= covered / 200 <= 1.0
    assert differ == 200  # the same numbers, shifted


def test_intervals_know_that_neighbouring_windows_are_alike() -> None:
    rng = np.random.default_rng(1)
    steps = rng.normal(0, 1, 400)
    slow = np.array([0.9 ** np.arange(50) @ steps[index : index + 50] for index in range(300)])
    shuffled = rng.permutation(slow)
    assert bootstrap_midmeans([slow]).std() > 1.5 * bootstrap_midmeans([shuffled]).std()


def test_intervals_span_launches_that_differ() -> None:
    rng = np.random.default_rng(2)
    alike = midmean_interval([rng.normal(1.0, 0.01, 50) for _ in range(3)])
    apart = midmean_interval([rng.normal(mean, 0.01, 50) for mean in (0.9, 1.0, 1.1)])
    assert apart.high - apart.low > 10 * (alike.high - alike.low)
    starts = midmean_interval([np.array([seconds]) for seconds in (3.0, 4.0, 5.0)])
    assert (starts.low, starts.estimate, starts.high) == (3.0, 4.0, 5.0)


def test_intervals_of_few_rounds_are_wide_or_none() -> None:
    """As after an interruption: eight rounds are no single block, and of one round nothing is known."""
    rounds = np.random.default_rng(3).normal(1.0, 0.1, 8)
    few = midmean_interval([rounds])
    assert few.high - few.low > 0.02
    assert np.isnan(midmean_interval([rounds[:1]]).low)


def test_the_schema_takes_our_files_and_names_what_is_wrong_with_others() -> None:
    data = results_file(step_record())
    assert schema_error(data) is None
    del data["benchmarks"][0]["extra_info"]["gan_bench"]["launches"][0]["ranks"][0]["threads"]
    complaint = schema_error(data)
    assert complaint is not None
    assert "ranks[0]" in complaint
    assert "'threads' is a required property" in complaint
    negative = results_file(step_record())
    negative["benchmarks"][0]["extra_info"]["gan_bench"]["launches"][0]["ranks"][0]["arms"]["step"]["windows"][
        2
    ] = -1
    assert "windows[2]" in (schema_error(negative) or "")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged"),
        ('{"benchmarks": [', "damaged"),
        ("[]", "not written by this suite"),
        ('{"benchmarks": []}', "not written by this suite"),
        (
            '{"gan_bench": {"schema": "gan-bench/1"}}',
            "written as 'gan-bench/1'; this version reads gan-bench/2: measure again",
        ),
        ('{"gan_bench": {"schema": "gan-bench/2"}}', "damaged ($"),
        ("\udcff", "damaged"),
    ],
)
def test_files_that_cannot_be_read_are_named_in_one_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "0001_smoke.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_whose_parts_do_not_fit_is_named_too(tmp_path: Path) -> None:
    data = results_file(step_record())
    del data["benchmarks"][0]["extra_info"]["gan_bench"]["launches"][0]["ranks"][0]["arms"]["probe"]
    path = tmp_path / "0001_smoke.json"
    path.write_text(json.dumps(data))
    with pytest.raises(UsageError, match=r"damaged \(.*ranks\[0\]: its arm probe is missing\)"):
        read(path)


def test_an_axis_that_an_old_file_lacks_has_its_default(tmp_path: Path) -> None:
    data = results_file(step_record())
    case = data["benchmarks"][0]["extra_info"]["gan_bench"]["case"]
    del case["scaling"]
    case["an_axis_of_the_future"] = 3
    path = tmp_path / "0001_old.json"
    path.write_text(json.dumps(data))
    (result,) = read(path).cases
    assert result.case == Case()


def test_files_are_found_by_path_by_directory_and_by_the_beginning_of_their_names(tmp_path: Path) -> None:
    machine = tmp_path / "Linux-CPython-3.11-64bit"
    machine.mkdir()
    for index, name in enumerate(("0001_smoke", "0002_smoke", "0010_full")):
        (machine / f"{name}.json").write_text("{}")
        os.utime(machine / f"{name}.json", (index, index))
    (machine / "mine.json").write_text(json.dumps(results_file(step_record())))
    (machine / "race-1.json").write_text(json.dumps({"schema": "gan-race/1"}))
    assert [path.stem for path in find([], tmp_path)] == ["0010_full"]
    assert [path.stem for path in find(["0002"], tmp_path)] == ["0002_smoke"]
    in_folder = ["0001_smoke", "0002_smoke", "0010_full", "mine"]
    assert [path.stem for path in find([str(machine)], tmp_path)] == in_folder
    with pytest.raises(UsageError, match="0003: no such results"):
        find(["0003"], tmp_path)
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "step.json").touch()
    with pytest.raises(UsageError, match="others: has no results; name another directory"):
        find([str(tmp_path / "others")], tmp_path)
    with pytest.raises(UsageError, match="holds no results; make some with: python -m bench measure"):
        find([], tmp_path / "empty")


def test_the_newest_session_is_found_among_folders_with_numbers_of_their_own(tmp_path: Path) -> None:
    """The first session of a new version of Python is number 1, beside those that the repository stores."""
    sessions = {"3.11-64bit/0013": "2026-01-04", "3.11-64bit/0014": "2026-01-02", "3.13-64bit/0001": "2026-01-03"}
    for name, day in sessions.items():
        path = tmp_path / f"Linux-CPython-{name}_smoke.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(results_file(step_record(), time=f"{day}T00:00:00+00:00")))
    assert [path.name for path in find([], tmp_path)] == ["0001_smoke.json"]
    path.write_text("damaged")
    assert {path.name for path in find([], tmp_path)} == {"0014_smoke.json", "0001_smoke.json"}, (
        "said, and left out"
    )


def test_times_are_not_negative_zero_or_missing_in_ratios() -> None:
    assert CaseResult.of(noisy()).log_ratios("solo") is None
    ratios = CaseResult.of(noisy()).log_ratios()
    assert ratios is not None
    assert math.isclose(float(ratios[0][0]), math.log(2.5))


@pytest.mark.parametrize(
    ("argv", "recorded"),
    [
        (["/venv/bin/pytest", "bench", "-q"], ["pytest", "bench", "-q"]),
        (["/venv/lib/pytest/__main__.py", "bench"], ["pytest", "bench"]),
        ([str(ROOT / "bench" / "__main__.py"), "pairs", "--pairs", "2"], ["pairs", "--pairs", "2"]),
        (["/venv/bin/gan-bench", "measure", "-k", "step"], ["measure", "-k", "step"]),
    ],
)
def test_a_record_has_the_command_that_was_given(
    argv: list[str], recorded: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.results.environment.describe_environment", lambda: {"gpus": []})
    monkeypatch.setattr("sys.argv", argv)
    assert session_environment()["command"] == recorded


def test_a_recorded_command_is_shown_as_a_shell_takes_it() -> None:
    assert typed(["pytest", "bench", "-k", "step and mlp"]) == "pytest bench -k 'step and mlp'"
    assert typed(("measure", "-q")) == "python -m bench measure -q"
    assert typed(()) == ""
