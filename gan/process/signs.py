"""Conclusions from the beats of other ranks: which of them is the one that all others wait for."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from gan.process.peers import LIMIT_FLAG, Beat, Failure


@dataclass
class Signs:
    """Beats of the other ranks, since this rank began to listen.

    Attributes:
        others: The other ranks.
        began: When listening began; None while nobody listens. All times are in seconds, by this rank's clock.
        beats: The last one of each rank.
        moved_at: When a rank was last seen to begin another activity, now or in an earlier time of listening.
    """

    others: Iterable[int]
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
        for rank, beat in beats.items():
            before = self.beats.get(rank)
            if before is None or before.number != beat.number:
                self._heard_at[rank] = now
            if before is not None and before.num_activities != beat.num_activities:
                self.moved_at[rank] = now
        self.beats = beats  # last: who sees that a rank has moved shall see when it has

    def stop_listening(self) -> None:
        """Forget for how long ranks were silent."""
        self.began = None

    def silent(self, now: float, seconds: float) -> list[int]:
        """Return the ranks that were listened for, and not heard of for so many seconds."""
        if self.began is None:
            return []
        began = self.began
        return [rank for rank in self.others if now - self._heard_at.get(rank, began) > seconds]

    def behind(self, num_activities: int) -> dict[int, Beat]:
        """Return the ranks that are the furthest behind this one, which has begun so many activities.

        It is empty if none is behind. A rank that is behind itself learns that from those that wait for it: they
        know since when they wait.
        """
        beats = self.beats if self.began is not None else {}
        least = min([num_activities, *(beat.num_activities for beat in beats.values())])
        behind = {rank: beat for rank, beat in sorted(beats.items()) if beat.num_activities == least}
        return {} if least == num_activities else behind


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
