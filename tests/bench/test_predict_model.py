"""The α–β model and the schedule of a step against closed forms, and fitted links against links that are known."""

import math
from dataclasses import replace

import pytest

from bench.predict.fit import Sample, crowding, fitted, held_out, shared
from bench.predict.model import (
    Algorithm,
    Cluster,
    Link,
    all_reduce_seconds,
    gather_seconds,
    ring_seconds,
    tree_seconds,
)
from bench.predict.prediction import Prediction
from bench.predict.schedule import Event, Kind, as_on_gpus, compute_seconds, scaled, step_time, with_bytes_of
from bench.predict.summary import transfers_of
from gan.models.batch_statistics import BATCHNORM
from gan.models.minibatch_deviation import DEVIATION

LINK = Link(bytes_per_second=50e9, latency_seconds=10e-6)
FLAT = Cluster(LINK)
MEBIBYTE = 2**20


@pytest.mark.parametrize("processes", [2, 3, 4, 7, 512])
def test_a_ring_takes_its_closed_form(processes: int) -> None:
    expected = 2 * (processes - 1) * 10e-6 + 2 * (processes - 1) / processes * MEBIBYTE / 50e9
    assert ring_seconds(MEBIBYTE, processes, FLAT) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("processes", [2, 3, 512])
def test_a_gather_takes_half_of_a_ring(processes: int) -> None:
    half = ring_seconds(MEBIBYTE, processes, FLAT) / 2
    assert gather_seconds(MEBIBYTE, processes, FLAT) == pytest.approx(half, rel=1e-12)


@pytest.mark.parametrize(("processes", "depth"), [(2, 1), (3, 2), (8, 3), (512, 9), (513, 10)])
def test_two_trees_take_their_closed_form(processes: int, depth: int) -> None:
    expected = 2 * depth * 10e-6 + 2 * MEBIBYTE / 50e9
    assert tree_seconds(MEBIBYTE, processes, FLAT) == pytest.approx(expected, rel=1e-12)


def test_small_messages_of_many_take_the_tree_and_large_ones_of_few_the_ring() -> None:
    small = all_reduce_seconds(1024, 512, FLAT)
    assert small == tree_seconds(1024, 512, FLAT) < ring_seconds(1024, 512, FLAT)
    large = all_reduce_seconds(64 * MEBIBYTE, 4, FLAT)
    assert large == ring_seconds(64 * MEBIBYTE, 4, FLAT) < tree_seconds(64 * MEBIBYTE, 4, FLAT)
    assert all_reduce_seconds(1024, 512, FLAT, Algorithm.RING) == ring_seconds(1024, 512, FLAT)


def test_one_process_sends_nothing() -> None:
    for seconds in (all_reduce_seconds, ring_seconds, tree_seconds, gather_seconds):
        assert seconds(MEBIBYTE, 1, FLAT) == 0


def test_nodes_of_several_processes_are_as_fast_as_their_slowest_link_and_leave_the_node_once_a_round() -> None:
    inside = Link(450e9, 3e-6)
    cluster = Cluster(LINK, 8, inside)
    assert cluster.num_nodes(8) == 1
    assert cluster.num_nodes(9) == 2
    in_a_node = 14 * 3e-6 + 14 / 8 * MEBIBYTE / 450e9
    assert ring_seconds(MEBIBYTE, 8, cluster) == pytest.approx(in_a_node, rel=1e-12)
    between = 8 * 10e-6 + (2 * 31 - 8) * 3e-6 + 2 * 31 / 32 * MEBIBYTE / 50e9
    assert ring_seconds(MEBIBYTE, 32, cluster) == pytest.approx(between, rel=1e-12)
    tree = 2 * 7 * 3e-6 + 2 * 2 * 10e-6 + 2 * MEBIBYTE / 50e9
    assert tree_seconds(MEBIBYTE, 32, cluster) == pytest.approx(tree, rel=1e-12)


def schedule(*computed: float) -> tuple[Event, ...]:
    """Two buckets after the first two computations, and a wait after the third."""
    first, second, third = computed
    return (
        Event(Kind.BUCKET, first, 100, "generator"),
        Event(Kind.BUCKET, second, 200, "generator"),
        Event(Kind.WAIT, third, 0, "generator"),
        Event(Kind.END, 1.0),
    )


def seconds_of(event: Event) -> float:
    return event.num_bytes / 100


def test_no_overlap_where_nothing_is_left_to_compute() -> None:
    step = step_time(schedule(4, 0, 0), seconds_of)
    assert (step.compute_seconds, step.exposed_seconds) == (5, 3)
    assert step.seconds == step.most_seconds == 8


def test_perfect_overlap_where_the_computation_lasts() -> None:
    step = step_time(schedule(1, 1, 2), seconds_of)
    assert (step.compute_seconds, step.exposed_seconds) == (5, 0)
    assert step.seconds == step.least_seconds == 5


def test_a_bucket_waits_for_the_one_before_and_what_is_left_is_exposed() -> None:
    step = step_time(schedule(1, 0.5, 0.5), seconds_of)
    first, second = step.transfers
    assert (first.ready_seconds, first.began_seconds, first.ended_seconds) == (1, 1, 2)
    assert (second.ready_seconds, second.began_seconds, second.ended_seconds) == (1.5, 2, 4)
    assert step.exposed_seconds == 2
    assert step.least_seconds == 3 < step.seconds == 5 < step.most_seconds == 6


def test_a_second_network_finds_the_link_free() -> None:
    twice = (*schedule(1, 0, 0)[:3], *schedule(1, 0, 0))
    step = step_time(twice, seconds_of)
    assert step.exposed_seconds == 6
    assert step.transfers[2].began_seconds == step.transfers[2].ready_seconds == 5


@pytest.mark.parametrize("kind", [Kind.SUM, Kind.GATHER])
def test_a_table_of_batchnorm_is_waited_for_behind_the_buckets(kind: Kind) -> None:
    events = (Event(Kind.BUCKET, 1, 200), Event(kind, 0.5, 100), Event(Kind.WAIT, 1), Event(Kind.END, 0))
    step = step_time(events, seconds_of)
    assert step.exposed_seconds == 2.5
    assert step.seconds == 5


def test_a_scaled_schedule_keeps_its_shares_and_takes_the_bytes_of_another() -> None:
    events = scaled(schedule(1, 2, 0), 8)
    assert [event.compute_seconds for event in events] == [2, 4, 0, 2]
    assert compute_seconds(events) == 8
    other = tuple(replace(event, num_bytes=7 * event.num_bytes) for event in events)
    assert [event.num_bytes for event in with_bytes_of(events, other)] == [700, 1400, 0, 0]


def test_a_schedule_of_other_events_keeps_its_own_shares() -> None:
    """As that of 8 processes, whose images divide groups that those of 2 do not divide."""
    two = (Event(Kind.GATHER, 1, 16, "", DEVIATION), Event(Kind.END, 2))
    eight = (Event(Kind.GATHER, 3, 64, "", DEVIATION), Event(Kind.SUM, 4, 100, "", DEVIATION), Event(Kind.END, 5))
    assert with_bytes_of(two, eight) == eight


def test_a_gpu_gathers_statistics_forwards_and_sums_two_numbers_a_channel_backwards() -> None:
    table = 3 * 64 * 4 * 16  # of 64 channels and 16 processes
    sums = (Event(Kind.SUM, 1, table, "", BATCHNORM), Event(Kind.SUM, 1, table, "generator", BATCHNORM))
    forwards, backwards, bucket = as_on_gpus((*sums, Event(Kind.BUCKET, 1, 5)), 16)
    assert (forwards.kind, forwards.num_bytes) == (Kind.GATHER, 16 * (2 * 64 + 1) * 4)
    assert (backwards.kind, backwards.num_bytes) == (Kind.SUM, 2 * 64 * 4)
    assert bucket == Event(Kind.BUCKET, 1, 5)


def test_a_gpu_forms_the_other_sums_of_a_cpu_except_those_of_the_minibatch_deviation() -> None:
    """The time between sums that it does not form is spent all the same."""
    mean = Event(Kind.SUM, 1, 4, "", "mean of G's penalty")
    deviation = Event(Kind.SUM, 0.5, 4000, "discriminator", DEVIATION)
    counts = Event(Kind.GATHER, 0, 128, "", DEVIATION)
    kept, end = as_on_gpus((mean, counts, deviation, deviation, Event(Kind.END, 2)), 16)
    assert kept == mean
    assert end == Event(Kind.END, 3)


def test_every_kind_of_sum_has_a_row_of_its_own() -> None:
    """Of 2 and 4 ms, and one of 1 ms, behind a bucket; of the second step nothing is shown."""
    sums = [Event(Kind.SUM, 0.0, size, "", "BatchNorm") for size in (2000, 4000)]
    mean = Event(Kind.SUM, 0.0, 1000, "", "mean of G's penalty")
    bucket = Event(Kind.BUCKET, 0.0, 1000, "generator")
    schedule = (bucket, *sums, mean, Event(Kind.END, 0.0), mean, Event(Kind.END, 0.0))
    outcome = Prediction(2, 1, step_time(schedule, lambda event: event.num_bytes / 10**6), 64, 1.0)
    bucket_row, *rows = transfers_of(outcome).rows
    assert bucket_row[:2] == ["generator 1", "1,000"]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("BatchNorm × 2", "6,000", "6.00"),
        ("mean of G's penalty", "1,000", "1.00"),
    ]


def samples(link: Link, processes: int, num_cores: int | None = None, factor: float = 1.0) -> list[Sample]:
    cluster = Cluster(shared(link, processes, num_cores))
    return [
        Sample(processes, 2**power, factor * ring_seconds(2**power, processes, cluster)) for power in (10, 18, 24)
    ]


@pytest.mark.parametrize("num_cores", [None, 2])
def test_a_link_is_fitted_to_two_processes_and_predicts_three_and_four(num_cores: int | None) -> None:
    link = fitted(samples(LINK, 2, num_cores), num_cores)
    assert link.bytes_per_second == pytest.approx(50e9, rel=1e-9)
    assert link.latency_seconds == pytest.approx(10e-6, rel=1e-9)
    others = [*samples(LINK, 3, num_cores), *samples(LINK, 4, num_cores)]
    assert [one.num_processes for one in held_out(link, others, num_cores)] == [3, 4]
    assert all(one.median_error < 1e-9 for one in held_out(link, others, num_cores))


def test_the_error_on_held_out_counts_is_that_of_the_prediction() -> None:
    (outcome,) = held_out(LINK, samples(LINK, 4, factor=2.0))
    assert outcome.median_error == pytest.approx(0.5)
    assert outcome.large_error == pytest.approx(0.5)
    assert outcome.worst == pytest.approx(0.5)


def test_a_latency_below_zero_is_none() -> None:
    """Times that grow faster than their bytes would give one."""
    link = fitted([Sample(2, 1000, 1e-7), Sample(2, 10**6, 1.2e-3)])
    assert link.latency_seconds == 0
    assert link.bytes_per_second > 0
    assert math.isfinite(link.bytes_per_second)


def test_one_message_that_was_held_up_does_not_move_the_line() -> None:
    measured = samples(LINK, 2)
    held_up = [replace(measured[0], seconds=20 * measured[0].seconds), *measured, *measured]
    assert fitted(held_up).bytes_per_second == pytest.approx(50e9, rel=1e-3)


def test_small_messages_that_a_token_bucket_lets_through_do_not_move_the_line() -> None:
    """Measured between namespaces whose links are shaped to 100 Mbit/s, with a burst of 128 KB."""
    seconds = {2**10: 0.000216, 2**14: 0.000227, 2**18: 0.0218, 2**20: 0.0875, 2**22: 0.364, 2**24: 1.415}
    link = fitted([Sample(2, num_bytes, taken) for num_bytes, taken in seconds.items()])
    assert 8 * link.bytes_per_second == pytest.approx(96e6, rel=0.02)


def test_processes_share_cores_only_where_they_are_too_few() -> None:
    assert crowding(2, None) == crowding(2, 2) == crowding(2, 16) == 1
    assert crowding(3, 2) == 1.5
