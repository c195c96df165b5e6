"""The line of a session that says which setting of a recipe is fastest and may be used."""

from typing import Any

import pytest

from bench.report.best import best_settings
from bench.report.settings import times_default
from bench.results.case_result import CaseResult
from bench.suite.cases import Case
from tests.bench.records import rank, record, step_record

BF16 = Case(precision="bf16")
INDUCTOR = Case(compile="inductor")
NOT_JUDGED = "; T1 and T2 not judged, -k stability does so"


def stability(case: Case, **values: float) -> CaseResult:
    """Return a verdict of stability; 1 is the limit of each tier's check."""
    one = rank()
    one["arms"] = {}
    members = {"name": "gradients", "limit": 1.0, "cause": "", "reference": None}
    one["facts"] |= {
        "seconds": 1.0,
        "checks": [
            {"tier": tier, "value": value, "passed": value <= 1, **members} for tier, value in values.items()
        ],
    }
    judged = Case(workload="stability", batch_size=8, precision=case.precision, compile=case.compile)
    return CaseResult.of(record(judged, [one]))


def step(case: Case, scale: float) -> CaseResult:
    return CaseResult.of(step_record(case, scale))


STEPS = (step(Case(), 1.0), step(BF16, 0.5), step(INDUCTOR, 0.8))


@pytest.mark.parametrize(
    ("verdicts", "lines"),
    [
        (
            (),
            [f"mlp: fastest setting: bf16 eager, 2.00 ± 0.00 × fp32 eager{NOT_JUDGED}"],
        ),
        (
            (stability(BF16, T1=0.5, T2=0.5), stability(INDUCTOR, T1=0.5, T2=0.5)),
            ["mlp: fastest setting that passed T1 and T2: bf16 eager, 2.00 ± 0.00 × fp32 eager"],
        ),
        (
            (stability(BF16, T1=0.5, T2=2.0), stability(INDUCTOR, T1=0.5, T2=0.5)),
            ["mlp: fastest setting that passed T1 and T2: fp32 inductor, 1.25 ± 0.00 × fp32 eager"],
        ),
        (
            (stability(INDUCTOR, T1=0.5, T2=0.5),),
            [
                "mlp: fastest setting that passed T1 and T2: fp32 inductor, 1.25 ± 0.00 × fp32 eager",
                f"mlp: fastest setting: bf16 eager, 2.00 ± 0.00 × fp32 eager{NOT_JUDGED}",
            ],
        ),
        (
            [stability(case, T1=2.0, T2=0.5) for case in (Case(), BF16, INDUCTOR)],
            ["mlp: no setting passed T1 and T2"],
        ),
        (
            (stability(BF16, T0=0.5, T1=0.5),),
            [f"mlp: fastest setting: bf16 eager, 2.00 ± 0.00 × fp32 eager{NOT_JUDGED}"],
        ),
    ],
    ids=["not judged", "passed", "fastest fails", "fastest not judged", "none", "T2 not asked"],
)
def test_the_fastest_setting_that_trains_the_same_gan_is_named(verdicts: Any, lines: list[str]) -> None:
    assert best_settings([*STEPS, *verdicts]) == lines


def test_one_setting_is_no_choice_and_recipes_are_told_apart() -> None:
    assert best_settings(STEPS[:1]) == []
    others = [step(Case(recipe="dcgan", precision=precision), 1.0) for precision in ("fp32", "bf16")]
    lines = best_settings([*STEPS, *others])
    assert [line.partition(":")[0] for line in lines] == ["mlp", "dcgan"]


def test_the_gain_has_the_interval_of_the_ratios_to_the_plain_loop() -> None:
    def noisy(case: Case, scale: float) -> CaseResult:
        measured = step_record(case, scale)
        windows = measured["launches"][0]["ranks"][0]["arms"]["step"]["windows"]
        windows[:] = [seconds * (1 + 0.02 * (number * 5 % 12)) for number, seconds in enumerate(windows)]
        return CaseResult.of(measured)

    results = [noisy(Case(), 1.0), noisy(BF16, 0.5)]
    (line,) = best_settings(results)
    interval = times_default(results)[results[1].name]
    assert interval.high > interval.low
    half_width = (interval.high - interval.low) / 2
    assert f"bf16 eager, {interval.estimate:.2f} ± {half_width:.2f} × fp32 eager" in line
    assert half_width > 0.005, "it is seen"


def test_without_a_plain_loop_the_gain_is_that_of_the_images_and_has_no_interval() -> None:
    alone = [step_record(Case(), 1.0), step_record(BF16, 0.5)]
    for measured in alone:
        del measured["launches"][0]["ranks"][0]["arms"]["plain"]
    (line,) = best_settings([CaseResult.of(measured) for measured in alone])
    assert "bf16 eager, 2.00 × fp32 eager;" in line


def test_settings_of_several_processes_are_judged_by_tune() -> None:
    """Stability asks several processes for T2 only with a hook, and judges none of them in bf16."""
    (line,) = best_settings([step(Case(precision=name, num_processes=2), 1.0) for name in ("fp32", "bf16")])
    assert line.endswith("; T1 and T2 not judged, tune does so")
