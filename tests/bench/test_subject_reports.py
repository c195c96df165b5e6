"""What tables and notes say of subjects; and files from before there were any."""

from pathlib import Path
from typing import Any

from bench.report.notes import notes
from bench.report.page import page
from bench.report.tables import tables
from bench.results.case_result import CaseResult
from bench.results.damage import schema_error
from bench.results.file import Results
from bench.results.records import parse_case
from bench.suite.cases import Case
from tests.bench.records import arm, doubt_lines, rank, record, results_file, scaling_record, step_record

MINE = Case(subject="models/my_gan.py:make", recipe="")


def of_subject(case: Case = MINE, **facts: Any) -> dict[str, Any]:
    """A step of a subject beside nothing."""
    one = rank(step=arm([0.010] * 12, 64))
    one["facts"] = facts
    return record(case, [one])


def test_a_subject_is_shown_by_its_short_name_in_a_column_of_its_own() -> None:
    (table,) = tables([CaseResult.of(of_subject()), CaseResult.of(step_record())])
    assert list(table.columns[:2]) == ["subject", "recipe"]
    assert [row[:2] for row in table.rows] == [["my_gan:make", "–"], ["core", "mlp"]]
    (alone,) = tables([CaseResult.of(of_subject())])
    assert alone.columns[0] == "subject"
    assert alone.title == "Training step: cpu, fp32, eager, b64, p1"


def test_notes_say_what_a_subject_holds_and_what_is_left_out() -> None:
    facts = {
        "weights_bytes": {"generator": 3 * 2**20, "discriminator": 2**19},
        "left_out": {"memory of optimizers": "it has no optimizers()"},
    }
    several = [of_subject(**facts), of_subject(Case(subject=MINE.subject, recipe="", precision="bf16"), **facts)]
    shown = notes([CaseResult.of(item) for item in several])
    held = "holds weights of 3.5 MiB (generator 3.0, discriminator 0.5)"
    assert shown[0] == f"step my_gan:make-cpu-fp32-eager-b64-p1: {held}"
    assert shown.count("step my_gan:make: no memory of optimizers: it has no optimizers()") == 1


def test_a_step_that_is_no_training_is_doubtful() -> None:
    lost = CaseResult.of(of_subject(last_losses={"loss_d": None, "loss_g": 1.0}))
    assert "not finite after the last step (loss_d): this is the time of no training" in doubt_lines(lost)
    apart = CaseResult.of(of_subject(same_weights=False))
    assert any("the weights of its processes differ" in warning for warning in doubt_lines(apart))
    sound = CaseResult.of(of_subject(last_losses={"loss_d": 1.0}, same_weights=True))
    assert not any("loss_d" in warning or "weights" in warning for warning in doubt_lines(sound))


def test_subjects_of_which_little_is_known_have_a_page() -> None:
    scaling = scaling_record()
    scaling["case"]["subject"] = MINE.subject
    for of_rank in scaling["launches"][0]["ranks"]:
        for name in ("solo", "no_sync"):
            del of_rank["arms"][name]
    data = results_file(of_subject(left_out={"× plain": "no recipe"}), scaling)
    assert schema_error(data) is None
    text = page([Results.of(Path("results.json"), data)])
    assert "my_gan:make" in text
    assert "× plain: no recipe" in text


def test_a_case_of_an_older_file_is_the_cores() -> None:
    older = {name: value for name, value in Case().to_json().items() if name not in ("subject", "image_shape")}
    assert parse_case(older) == Case()
