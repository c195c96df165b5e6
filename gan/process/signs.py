"""Conclusions from the beats of other ranks: which of them is the one that all others wait for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gan.process.peers import Beat, Failure

LIMIT_FLAG = "--distributed-timeout"


@dataclass
class Signs:
    """Beats of the other ranks, since this rank began to listen.

    Attributes:
        others: The other ranks.
        silence_seconds: A rank that was not heard of for so long is silent.
        began: When listening began; None while nobody listens. All times are in seconds, by this rank's clock.
        beats: The last one of each rank.
        moved_at: When a rank was last seen to begin another activity.
    """

    others: Iterable[int]
    silence_seconds: float = 0.0
    began: float | None = None
    beats: dict[int, Beat] = field(default_factory=dict)
    moved_at: dict[int, float] = field(default_factory=dict)
    _heard_at: dict[int, float] = field(default_factory=dict)

    def note(self, beats: dict[int, Beat], now: float) -> None:
        """Take over what was heard."""
        if self.began is None:
            self.began = now
            self.beats = {}
            self._heard_at = {}
            self.moved_at = {}
        for rank, beat in beats.items():
            before = self.beats.get(rank)
            if before is None or before.number != beat.number:
                self._heard_at[rank] = now
            if before is not None and before.num_activities != beat.num_activities:
                self.moved_at[rank] = now
        self.beats = beats

    def stop_listening(self) -> None:
        """Forget for how long ranks were silent."""
        self.began = None

    def silent(self, now: float) -> list[int]:
        """Return the ranks that were listened for, and not heard of."""
        if self.began is None:
            return []
        began = self.began
        return [rank for rank in self.others if now - self._heard_at.get(rank, began) > self.silence_seconds]

    def behind(self, rank: int, here: Beat) -> dict[int, Beat]:
        """Return the ranks that have begun the fewest activities, this one included; empty if all have as many."""
        beats = {**self.beats, rank: here}
        least = min(beat.num_activities for beat in beats.values())
        behind = {rank: beat for rank, beat in sorted(beats.items()) if beat.num_activities == least}
        return {} if len(behind) == len(beats) else behind


def of_silent(silent: list[int], signs: Signs, name: Callable[[int], str]) -> Failure:
    """Return what is said of ranks that are silent."""
    last = signs.beats.get(silent[0])
    was = f", last heard of in {last.activity}" if last else ""
    return Failure(silent, f"{', '.join(map(name, silent))}: ended, stopped or cannot be reached{was}")


def of_behind(behind: dict[int, Beat], name: Callable[[int], str], limit_seconds: float) -> Failure:
    """Return what is said of ranks that others wait for."""
    activity = next(iter(behind.values())).activity
    names = ", ".join(map(name, behind))
    return Failure([*behind], f"{names}: not done with {activity} in {limit_seconds:g} s ({LIMIT_FLAG})")
