"""The tiers that subjects are asked: each finds its fault, and a healthy subject passes."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.harness.exchange import no_report
from bench.harness.windows import Collectives
from bench.results.checks import Check
from bench.stability.health import alarms_of
from bench.stability.subjects import exactness, judged_subject, repetition_of_subject
from bench.subjects.load import measured_subject
from bench.subjects.measured import MeasuredSubject
from bench.subjects.subject import OPTIONAL, Setup, SubjectError, missing_offers
from tests.bench.tiny_gan import Faults, StepAlone, TinyGan, builder
from tests.conftest import ROOT

SETUP = Setup(batch_size=16, seed=3)
BF16 = replace(SETUP, precision="bf16")


def failed(checks: list[Check]) -> set[tuple[str, str]]:
    return {(check.tier, check.name) for check in checks if check.failed}


def repeated(faults: Faults | None = None) -> list[Check]:
    build = builder(faults)
    return repetition_of_subject(build(SETUP), build, no_report)


def exact(setup: Setup, faults: Faults | None = None, left_out: dict[str, str] | None = None) -> list[Check]:
    return exactness(builder(faults), setup, {} if left_out is None else left_out, no_report)


def test_a_subject_repeats_itself() -> None:
    (check,) = repeated()
    assert check.value == 0


def test_t0_finds_what_does_not_follow_from_the_seed() -> None:
    numbers = itertools.count()
    assert failed(repeated(Faults(seed=lambda _: next(numbers)))) == {("T0", "tensors that differ when repeated")}


def test_t0_finds_weights_that_differ_behind_the_same_losses() -> None:
    numbers = itertools.count()
    always = torch.zeros((), requires_grad=True)
    (check,) = repeated(Faults(seed=lambda _: next(numbers), loss=lambda loss, _: 0 * loss + always))
    assert check.failed


@pytest.mark.parametrize("setup", [SETUP, BF16], ids=["fp32", "bf16"])
def test_a_step_is_as_exact_as_its_precision(setup: Setup) -> None:
    left_out: dict[str, str] = {}
    checks = exact(setup, left_out=left_out)
    assert not failed(checks)
    assert [check.tier for check in checks] == ["T1"] * 3 + (["T2"] * 5 if setup == BF16 else [])
    assert left_out == ({} if setup == BF16 else {"T2": "fp32, eager is what it compares with"})
    assert all(check.value > 1e-4 for check in checks if check.tier == "T2" and "gradients" in check.name)


@pytest.mark.slow
def test_a_compiled_step_is_compared_with_float64() -> None:
    compiled = replace(SETUP, compile="aot_eager")
    checks = exact(compiled)
    assert not failed(checks)
    assert [check.tier for check in checks].count("T2") == 5
    build = builder()
    assert not failed(repetition_of_subject(build(compiled), build, no_report))


def test_t1_finds_gradients_that_are_not_those_of_the_step_in_float64() -> None:
    assert failed(exact(SETUP, Faults(factor=2.0))) == {("T1", "discriminator's gradients in fp32")}


def test_t1_finds_another_loss() -> None:
    def other(loss: Tensor, _: int) -> Tensor:
        return loss if loss.dtype == torch.float64 else 1.01 * loss

    assert ("T1", "losses") in failed(exact(SETUP, Faults(loss=other)))


def test_t2_finds_a_loss_in_half_precision() -> None:
    assert ("T2", "losses") in failed(exact(BF16, Faults(coarse=True)))


def test_t2_finds_an_update_that_points_elsewhere_in_bf16() -> None:
    def turned(loss: Tensor, _: int) -> Tensor:
        return -loss if torch.is_autocast_enabled("cpu") else loss

    assert ("T2", "discriminator's direction (1 - cosine)") in failed(exact(BF16, Faults(loss=turned)))


def test_losses_of_other_names_are_said_in_one_line() -> None:
    class Other(TinyGan):
        def float64_step(self, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            return {"D": torch.zeros(())}

    def build(setup: Setup) -> MeasuredSubject:
        return MeasuredSubject(Other(setup), setup, "tiny")

    with pytest.raises(
        SubjectError, match=r"tiny: float64_step.. returned the losses D, and losses.. loss_d, loss_g"
    ):
        exactness(build, SETUP, {}, no_report)


def test_losses_of_no_name_are_said_in_one_line() -> None:
    class Silent(TinyGan):
        def losses(self) -> dict[str, Tensor]:
            return {}

    def build(setup: Setup) -> MeasuredSubject:
        return MeasuredSubject(Silent(setup), setup, "tiny")

    with pytest.raises(SubjectError, match=r"returned the losses none, and losses.. none"):
        exactness(build, SETUP, {}, no_report)


def test_an_optimizer_of_which_float64_knows_nothing_is_said_in_one_line() -> None:
    class Frozen(TinyGan):
        def float64_step(self, inputs: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            return self.losses_of(*inputs)

        def losses_of(self, real: Tensor, latents: Tensor) -> dict[str, Tensor]:
            return {"loss_d": torch.zeros(()), "loss_g": torch.zeros(())}

    def build(setup: Setup) -> MeasuredSubject:
        return MeasuredSubject(Frozen(setup), setup, "tiny")

    with pytest.raises(SubjectError, match=r"0 optimizers stepped in float64_step.., and 2 in step"):
        exactness(build, SETUP, {}, no_report)


def judge(faults: Faults) -> tuple[list[Check], dict[str, list[float | None]]]:
    build = builder(faults)
    return judged_subject(build(SETUP), build, Collectives(), {}, no_report)


def test_t4_finds_a_loss_that_is_not_finite() -> None:
    checks, course = judge(Faults(loss=lambda loss, step: loss * (math.nan if step > 60 else 1.0)))
    (alarm,) = (check for check in checks if check.tier == "T4")
    assert alarm.failed
    assert "step 41: loss_d is not finite" in alarm.cause  # it goes on after the 20 steps of T0
    assert course["loss_d"][3] is not None
    assert course["loss_d"][4] is None


def test_a_healthy_subject_passes_all_tiers() -> None:
    checks, course = judge(Faults())
    assert not failed(checks)
    assert [check.tier for check in checks] == ["T0", "T1", "T1", "T1", "T4"]
    assert {name: len(values) for name, values in course.items()} == {"loss_d": 40, "loss_g": 40}


def test_a_loss_that_is_shown_in_few_steps_has_no_course() -> None:
    """As a penalty that is taken in every hundredth step; its mean over ten of them is none."""

    class Lazy(TinyGan):
        shown = 0

        def losses(self) -> dict[str, Any]:
            self.shown += 1
            return {**super().losses(), **({"penalty": 1.0} if self.shown % 100 == 0 else {})}

    def build(setup: Setup) -> MeasuredSubject:
        return MeasuredSubject(Lazy(setup), setup, "tiny")

    checks, course = judged_subject(build(SETUP), build, Collectives(), {}, no_report)
    assert not failed(checks)
    assert course["penalty"] == []
    assert len(course["loss_d"]) == 40


@pytest.mark.parametrize(
    ("name", "values", "finding"),
    [
        ("loss_d", [1.4] * 400, ""),
        ("loss_d", [1.4] * 350 + [20.0] * 50, "loss_d stayed at 14 times its usual size"),
        ("loss_d", [1.4] * 395 + [20.0] * 5, ""),
        ("loss_d", [1.4] * 10 + [1e-4] * 390, "loss_d is saturated, below 0.1% of what it was"),
        ("loss_g", [1.4] * 10 + [1e-4] * 390, ""),
        ("critic", [-1.0] * 350 + [-100.0] * 50, ""),
        ("any", [1.0] * 20 + [math.inf] + [1.0] * 379, "step 21: any is not finite"),
        ("short", [1.0] * 3, ""),
    ],
)
def test_alarms_of_a_course(name: str, values: list[float], finding: str) -> None:
    alarms = alarms_of({name: values})
    assert (not alarms) if not finding else (len(alarms) == 1 and finding in alarms[0])


def test_what_a_subject_does_not_offer_is_left_out_with_a_reason() -> None:
    subject = MeasuredSubject(StepAlone(), SETUP)
    left_out: dict[str, str] = {}
    checks, course = judged_subject(subject, lambda _: subject, Collectives(), left_out, no_report)
    assert (checks, course) == ([], {})
    assert left_out == {
        "T0": "it has neither losses() nor networks()",
        "T1, T2": "it has no float64_step()",
        "T4": "it has no losses()",
    }


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow)])
def test_the_example_of_the_documents_offers_all_and_is_sound(precision: str) -> None:
    setup = Setup(batch_size=16, precision=precision)

    def build(asked: Setup) -> MeasuredSubject:
        return measured_subject("docs/examples/my_gan.py:make", asked, ROOT)

    subject = build(setup)
    assert missing_offers(subject.subject).keys() <= OPTIONAL.keys()
    assert not missing_offers(subject.subject)
    checks = repetition_of_subject(subject, build, no_report) + exactness(build, setup, {}, no_report)
    assert not failed(checks)
    assert Path(ROOT / "docs" / "examples" / "my_gan.py").read_text(encoding="utf-8").count("\n") < 80
