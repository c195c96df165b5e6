"""Tables of steps in several processes: where the time of each rank goes, and what each message takes."""

from collections.abc import Iterator, Sequence

import numpy as np

from bench.report.cells import NONE, milliseconds, milliseconds_or_zero
from bench.results.case_result import CaseResult
from bench.results.exposure import Exposure, StepParts, exposure
from bench.results.figures import rank_seconds
from gan.display.tables import Table

ALL = "all"
MOST_RANKS = 8
"""Ranks that have a row: those that compute longest."""
EXPOSURE_COLUMNS = ("rank", "ms/step", "compute", "by itself", "exposed", "waiting")
MESSAGE_COLUMNS = ("message", "bytes", "ready at", "takes", "exposed", "waiting")


def exposure_tables(results: Sequence[CaseResult]) -> Iterator[Table]:
    """Yield two tables for each case in several processes: its ranks, and its messages."""
    for result in results:
        if divided := exposure(result):
            title = f"Where the step goes: {result.name}, times in ms"
            yield Table(title, EXPOSURE_COLUMNS, 1, list(_rows_of_ranks(result, divided)), ("by itself",))
            if divided.messages:
                where = " in shared memory" if result.first_rank.shares_memory else ""
                title = f"Messages of a step{where}: {result.name}, times in ms"
                yield Table(title, MESSAGE_COLUMNS, 1, list(_rows_of_messages(divided)), ("bytes",))


def _rows_of_ranks(result: CaseResult, divided: Exposure) -> Iterator[list[str]]:
    alone = rank_seconds(result)

    def row(name: str, parts: StepParts, alone_seconds: float | None) -> list[str]:
        return [
            name,
            milliseconds(result.median()),
            milliseconds(parts.compute_seconds),
            NONE if alone_seconds is None else milliseconds(alone_seconds),
            milliseconds_or_zero(parts.exposed_seconds),
            milliseconds_or_zero(parts.waiting_seconds),
        ]

    yield row(ALL, divided.mean, None if alone is None else float(np.mean(alone)))
    longest = sorted(enumerate(divided.ranks), key=lambda numbered: -numbered[1].compute_seconds)[:MOST_RANKS]
    for number, parts in sorted(longest, key=lambda numbered: numbered[0]):
        yield row(str(number), parts, None if alone is None else alone[number])


def _rows_of_messages(divided: Exposure) -> Iterator[list[str]]:
    for one in divided.messages:
        message = one.message
        yield [
            message.name if message.count == 1 else f"{message.name} × {message.count}",
            f"{message.num_bytes:,}",
            *map(
                milliseconds_or_zero,
                (message.ready_seconds, message.seconds, one.exposed_seconds, one.waiting_seconds),
            ),
        ]
