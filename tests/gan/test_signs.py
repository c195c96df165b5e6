"""Which rank is named as the one that all others wait for, from what was heard of them."""

from gan.process.peers import Beat
from gan.process.signs import Signs, of_behind, of_silent


def name(rank: int) -> str:
    return f"rank {rank} on node{rank}"


def beat(number: int, num_activities: int, activity: str = "step 12") -> Beat:
    return Beat(number, num_activities, activity)


def test_a_rank_is_silent_once_its_beats_were_listened_for_and_stayed_away() -> None:
    signs = Signs([1, 2])
    assert signs.silent(100, seconds=2) == [], "nobody has listened yet"
    signs.note({1: beat(5, 7), 2: beat(5, 7)}, now=100)
    signs.note({1: beat(6, 7), 2: beat(5, 7)}, now=101.5)
    assert signs.silent(101.9, seconds=2) == []
    assert signs.silent(102.1, seconds=2) == [2], "rank 1 was heard at 101.5"
    assert of_silent([2], signs, name).ranks == [2]
    assert "rank 2 on node2" in of_silent([2], signs, name).reason
    assert "last heard of in step 12" in of_silent([2], signs, name).reason


def test_a_rank_that_never_sent_a_beat_is_silent_too() -> None:
    signs = Signs([1, 2])
    signs.note({1: beat(1, 1)}, now=100)
    signs.note({1: beat(2, 1)}, now=103)
    assert signs.silent(103, seconds=2) == [2]


def test_silence_counts_from_when_listening_began_again() -> None:
    signs = Signs([1])
    signs.note({1: beat(1, 1)}, now=100)
    signs.stop_listening()
    signs.note({1: beat(1, 1)}, now=200)
    assert signs.silent(201, seconds=2) == []
    assert signs.silent(203, seconds=2) == [1]


def test_the_rank_with_the_fewest_activities_is_behind() -> None:
    signs = Signs([1, 2])
    signs.note({1: beat(1, 23, "reading the images of step 12"), 2: beat(1, 24)}, now=100)
    behind = signs.behind(24)
    assert [*behind] == [1]
    line = of_behind(behind, name, 300).reason
    assert line == (
        "rank 1 on node1: not done with reading the images of step 12 in 300 s (--distributed-timeout)"
    )


def test_a_rank_does_not_say_of_itself_that_it_is_behind() -> None:
    """It does not know for how long the others have waited for it."""
    signs = Signs([1, 2])
    signs.note({1: beat(1, 23), 2: beat(1, 24)}, now=100)
    assert signs.behind(22) == {}
    assert signs.behind(23) == {}


def test_no_rank_is_behind_if_all_have_begun_as_many() -> None:
    signs = Signs([1, 2])
    signs.note({1: beat(1, 24), 2: beat(9, 24)}, now=100)
    assert signs.behind(24) == {}


def test_what_was_heard_some_time_ago_says_nothing_of_who_is_behind() -> None:
    signs = Signs([1])
    signs.note({1: beat(1, 3)}, now=100)
    signs.stop_listening()
    assert signs.behind(24) == {}


def test_it_is_noted_when_a_rank_was_seen_to_go_on() -> None:
    signs = Signs([1, 2])
    signs.note({1: beat(1, 5), 2: beat(1, 5)}, now=100)
    signs.note({1: beat(2, 6), 2: beat(2, 5)}, now=101)
    assert signs.moved_at == {1: 101}
    signs.stop_listening()
    signs.note({1: beat(2, 6), 2: beat(2, 5)}, now=200)
    assert signs.moved_at == {1: 101}, "the limit counts from there, also for a rank that is behind"
