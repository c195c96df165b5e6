"""The race itself: launches are measured until there are enough, or the budget is over."""

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

from bench.race.contenders import shared_settings
from bench.race.launch import Launches
from bench.race.options import RaceSettings
from bench.race.places import Place
from bench.race.record import RaceRecord, RecordedContender, complaint_of
from bench.regress.progress import Say, below
from bench.regress.summary import clock
from bench.results.environment import session_environment
from bench.turns.ranks import NoAnswerError, PairError
from gan.errors import UsageError

MOST_LETTERS = 500
"""Of a reason: some errors of compilers have pages."""


class ContenderError(Exception):
    """A contender failed, and why, in one line."""


def measure_race(
    settings: RaceSettings,
    places: Mapping[str, Place],
    say: Say,
    is_over: Callable[[RaceRecord], bool] = lambda _: False,
) -> RaceRecord:
    """Measure the launches of a race.

    Args:
        settings: Who takes part, and how long it may take.
        places: Where the contenders are, by letter.
        say: Told what is going on.
        is_over: Says before each launch whether the others are not needed.

    Raises:
        ContenderError: A contender failed the first launch.
        UsageError: What cannot be compared.
    """
    began = time.monotonic()
    record = RaceRecord(
        contenders={letter: RecordedContender.of(one) for letter, one in settings.contenders.items()},
        settings=shared_settings(settings.contenders),
        num_pairs=settings.num_pairs,
        budget_seconds=settings.budget_seconds,
        environment=session_environment(),
    )
    launches = Launches(settings, places, random.Random(settings.seed))
    while len(record.launches) < settings.num_pairs and not record.has_failed and not is_over(record):
        seconds_left = settings.budget_seconds - (time.monotonic() - began)
        if record.launches and record.launches[-1].seconds > seconds_left:
            break
        launches.say = below(_heading(record, seconds_left), say)
        record = _with_another_launch(record, launches)
    return replace(record, seconds=round(time.monotonic() - began, 1))


def _heading(record: RaceRecord, seconds_left: float) -> str:
    """Say how many launch pairs there are, and how long the others take."""
    num_done = len(record.launches)
    heading = f"pair {num_done + 1} of {record.num_pairs}"
    if not record.launches:
        return heading
    pair_seconds = sum(launch.seconds for launch in record.launches) / num_done
    seconds = min(seconds_left, pair_seconds * (record.num_pairs - num_done))
    return f"{heading}, about {clock(seconds)} to the end"


def _with_another_launch(record: RaceRecord, launches: Launches) -> RaceRecord:
    """Return the record with one more launch, or with the reason why it failed; raise ContenderError."""
    try:
        record = replace(record, launches=(*record.launches, launches.measure()))
    except PairError as error:
        contender = record.contenders[error.side]
        why = error.reason.removeprefix(f"{contender.subject}: ")[:MOST_LETTERS]
        if isinstance(error, NoAnswerError) and error.seconds == launches.settings.stall_seconds:
            why += "; if it is only slow, raise --stall-timeout"
        reason = f"{contender.name}: {why}"
        record = replace(record, failed_launches=(*record.failed_launches, reason))
        if not record.launches:
            raise ContenderError(reason) from error
    if record.launches and (complaint := complaint_of(record)):
        raise UsageError(complaint)
    return record
