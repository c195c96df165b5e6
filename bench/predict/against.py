"""Predicted steps against measured ones: by how much they differ, and in which part of the step."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.predict.prediction import Prediction
from bench.report.cells import milliseconds_or_zero
from bench.results.case_result import CaseResult
from bench.results.exposure import exposure
from gan.display.tables import Table

STEP = "step"


@dataclass(frozen=True)
class Comparison:
    """A part of a step, as it was predicted and as it was measured.

    Attributes:
        num_processes: Of the step.
        part: STEP for all of it.
        predicted_seconds: By the model.
        measured_seconds: In the file, on average over the processes.
        step_seconds: Of the whole step, measured.
    """

    num_processes: int
    part: str
    predicted_seconds: float
    measured_seconds: float
    step_seconds: float

    @property
    def error(self) -> float:
        """The difference as a fraction of the measured step; those of all parts add up to that of the step."""
        return (self.predicted_seconds - self.measured_seconds) / self.step_seconds


def compared(outcomes: Sequence[Prediction], measured: Sequence[CaseResult]) -> list[Comparison]:
    """Compare predictions with measured steps: the whole step, and its parts where the file tells them apart."""
    comparisons = []
    for outcome, result in zip(outcomes, measured, strict=True):
        step_seconds = result.median()
        parts = [(STEP, outcome.step.seconds, step_seconds)]
        if divided := exposure(result):
            mean = divided.mean
            parts += [
                ("compute", outcome.step.compute_seconds, mean.compute_seconds),
                ("exposed", outcome.step.exposed_seconds, mean.exposed_seconds),
                ("waiting", 0.0, mean.waiting_seconds),
            ]
        comparisons += [Comparison(outcome.num_processes, *part, step_seconds) for part in parts]
    return comparisons


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return a row for each step and each of its parts."""
    rows = [
        [
            f"{one.num_processes:,}" if one.part == STEP else "",
            one.part,
            milliseconds_or_zero(one.predicted_seconds),
            milliseconds_or_zero(one.measured_seconds),
            f"{one.error:+.1%}",
        ]
        for one in comparisons
    ]
    columns = ["processes", "part", "predicted", "measured", "off by, of the step"]
    return Table("PREDICTION against what the file has measured, times in ms", columns, 2, rows)


def comparisons_json(comparisons: Sequence[Comparison]) -> list[dict[str, object]]:
    """Return comparisons JSON-ready."""
    return [{**asdict(one), "error": one.error} for one in comparisons]
