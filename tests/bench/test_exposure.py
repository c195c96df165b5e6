"""Where the time of a step in several processes goes: closed forms, scripted hooks, real processes, and tables."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.modules._functions import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

from bench.harness.clocks import PINGS, aligned
from bench.report.notes import notes
from bench.report.tables import legend, tables
from bench.results.case_result import CaseResult
from bench.results.damage import damage
from bench.results.exposure import exposure
from bench.workloads.exchanged import (
    BATCHNORM,
    BLOCKING,
    UNKNOWN,
    ExchangeRecorder,
    SeenMessage,
    SeenStep,
    exchange_period,
)
from bench.workloads.exposure import Ledger, divided
from gan.methods.lecam import LeCam
from gan.methods.path_length import PathLength
from gan.models.batch_statistics import synchronize_batchnorm
from gan.models.minibatch_deviation import MinibatchDeviation
from gan.models.stylegan2 import StyleGAN2
from gan.process import named_sums
from gan.recipes import RECIPES
from gan.training.adaptation import Adaptation
from gan.training.player import Player
from gan.training.state import TrainState
from tests.bench.exposure_worker import (
    AHEAD_SECONDS,
    REQUIRED,
    require_covered,
    require_exposed,
    require_waited_for,
)
from tests.bench.records import arm, doubt_lines, explained_record, results_file, scaling_record
from tests.conftest import run_two_processes


def seen(ready: float, ended: float, waits_from: float, returned: float | None = None) -> SeenMessage:
    spans = ((ready, returned or ready), (waits_from, max(waits_from, ended)))
    return SeenMessage("generator 1", 4, ready, ended, spans)


@pytest.mark.parametrize(
    ("message", "latest", "compute", "exposed", "waiting"),
    [
        (seen(ready=2, ended=4, waits_from=5), 2, 10, 0, 0),  # all of it beside the computation
        (seen(ready=2, ended=8, waits_from=5), 2, 7, 3, 0),  # a slow link: its last 3 s are exposed
        (seen(ready=2, ended=8, waits_from=5), 6, 7, 2, 1),  # the slowest process was ready at 6
        (seen(ready=2, ended=8, waits_from=5), 8, 7, 0, 3),
        (seen(ready=2, ended=8, waits_from=8, returned=5), 2, 7, 3, 0),  # a hook that waits by itself
        (seen(ready=2, ended=8, waits_from=7, returned=5), 4, 6, 2, 2),
    ],
)
def test_parts_of_a_step_in_closed_form(
    message: SeenMessage, latest: float, compute: float, exposed: float, waiting: float
) -> None:
    parts = divided([SeenStep(0, 10, (message,))], [[latest]])
    assert parts == {"compute": compute, "generator 1 exposed": exposed, "generator 1 waiting": waiting}


def test_parts_add_up_over_steps_and_messages_of_one_name() -> None:
    """Two sums of BatchNorm in each of two steps, of which the other process is late for one."""
    sums = [SeenMessage(BATCHNORM, 4, at, at + 2, ((at, at + 2),)) for at in (1.0, 5.0)]
    steps = [SeenStep(0, 10, tuple(sums)), SeenStep(10, 20, tuple(sums))]
    parts = divided(steps, [[1.0, 6.0], [1.0, 5.0]])
    assert parts == {"compute": 12.0, "BatchNorm exposed": 7.0, "BatchNorm waiting": 1.0}


@pytest.mark.usefixtures("one_process_group")
def test_a_message_of_some_steps_takes_the_mean_over_all() -> None:
    """Steps of 10 s, in one of four of which the running mean of a penalty takes 4 s."""
    bucket = seen(ready=2, ended=4, waits_from=5)
    mean = SeenMessage("mean of G's penalty", 4, 5, 9, ((5, 9),))
    steps = [SeenStep(0, 10, (bucket, mean) if step % 4 == 1 else (bucket,)) for step in range(8)]
    setup: Any = SimpleNamespace(device=torch.device("cpu"), facts={})
    recorder: Any = SimpleNamespace(take=lambda: steps)
    parts = Ledger(setup, recorder, 4).parts()
    messages = {message["name"]: message for message in setup.facts["messages"]}
    of_mean = messages["mean of G's penalty"]
    assert (of_mean["count"], of_mean["num_bytes"], of_mean["ready_seconds"], of_mean["seconds"]) == (1, 1, 5, 1)
    assert parts["mean of G's penalty exposed"] / len(steps) == of_mean["seconds"]
    assert messages["generator 1"]["seconds"] == 2


@pytest.fixture
def one_process_group() -> Iterator[None]:
    distributed.init_process_group("gloo", rank=0, world_size=1, store=distributed.HashStore())
    yield
    distributed.destroy_process_group()


def small_state(recorder: ExchangeRecorder | None, hook: Any = None) -> Any:
    """A network in DDP with two buckets: the first is closed at 1 MiB, and the second has what is left."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(512, 512), nn.Linear(512, 512), nn.Linear(512, 512))
    network[1].register_full_backward_hook(lambda *_: distributed.all_reduce(torch.ones(2)))
    if recorder is None:
        return SimpleNamespace(players={"generator": player_of(DistributedDataParallel(network), network)})
    with recorder.building() as finish:
        wrapped = DistributedDataParallel(network)
        if hook:
            wrapped.register_comm_hook(state=None, hook=hook)
        state: Any = SimpleNamespace(players={"generator": player_of(wrapped, network)})
        finish(state)
    return state


def player_of(wrapped: DistributedDataParallel, network: nn.Module) -> Player:
    optimizer = torch.optim.SGD(network.parameters(), 0.1)
    return Player(network, wrapped, optimizer, torch.amp.GradScaler("cpu", enabled=False))


def take_step(state: Any) -> None:
    player = state.players["generator"]
    named_sums.total(torch.ones(2), BATCHNORM)
    for batch in player.update([torch.ones(4, 512)]):
        player.backward(player.objective(batch).square().mean())


@pytest.mark.usefixtures("one_process_group")
def test_every_gradient_is_seen_and_nothing_is_changed() -> None:
    plain = small_state(None)
    for _ in range(3):
        take_step(plain)
    recorder = ExchangeRecorder(torch.device("cpu"))
    state = small_state(recorder)
    player = state.players["generator"]
    before = (distributed.all_reduce, vars(player).copy(), DistributedDataParallel.register_comm_hook)
    for _ in range(3):
        with recorder.step(state):
            take_step(state)
    assert (distributed.all_reduce, vars(player), DistributedDataParallel.register_comm_hook) == before
    expected = plain.players["generator"].network.parameters()
    assert all(map(torch.equal, player.network.parameters(), expected))
    first, *_, last = recorder.take()
    num_bytes = 4 * sum(parameter.numel() for parameter in player.network.parameters())
    for step in (first, last):
        tables = [message for message in step.messages if message.name in (BATCHNORM, UNKNOWN)]
        buckets = [message for message in step.messages if message not in tables]
        assert [table.num_bytes for table in tables] == [8, 8]
        assert sorted(step.messages, key=lambda message: message.ready_seconds) == [*step.messages]
        assert sum(bucket.num_bytes for bucket in buckets) == num_bytes
        assert [bucket.name for bucket in buckets] == [f"generator {n + 1}" for n in range(len(buckets))]
    assert [message.name for message in last.messages] == [BATCHNORM, "generator 1", UNKNOWN, "generator 2"]
    moments = [last.began_seconds, *(span[0] for one in last.messages for span in one.blocked), last.ended_seconds]
    assert moments[0] <= min(moments)
    assert max(moments) == moments[-1]
    assert not recorder.take()


def sums_of(network: nn.Module, *inputs: torch.Tensor) -> list[str]:
    """Return the names of the sums of a forward and a backward pass of a network that is one of two processes'."""
    network = synchronize_batchnorm(network, torch.device("cpu")).train()
    recorder = ExchangeRecorder(torch.device("cpu"))
    player = SimpleNamespace(network=network, shared_gradients=None, backward=None)
    state: Any = SimpleNamespace(players={"generator": player})
    with recorder.step(state):
        network(*inputs).square().sum().backward()
    (step,) = recorder.take()
    return [message.name for message in step.messages]


@pytest.mark.usefixtures("one_process_group")
def test_a_sum_has_the_name_of_what_is_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forwards and backwards; the deviation gathers counts, and adds up means and variances of a divided group."""
    images = torch.rand(4, 2, 8, 8, requires_grad=True)
    assert sums_of(nn.BatchNorm2d(2), images) == 2 * [BATCHNORM]
    assert sums_of(MinibatchDeviation(4), images) == ["minibatch deviation"]
    monkeypatch.setattr("gan.models.minibatch_deviation.counts_of_processes", lambda *_: [4, 3])
    assert sums_of(MinibatchDeviation(7), images) == 4 * ["minibatch deviation"]
    style = StyleGAN2(4, max_channels=4, style_width=8, mapping_layers=1).generator(6, (1, 8, 8))
    assert sums_of(style, torch.randn(4, 6)) == ["average style"]


def test_what_batchnorm_of_pytorch_forms_on_gpus_is_noted() -> None:
    """It calls a collective by its name in torch.distributed, which PyTorch may change; `all_gather` is gloo's."""
    code = [function.__code__ for function in (SyncBatchNorm.forward, SyncBatchNorm.backward)]
    called = {name for one in code for name in one.co_names if name.startswith("all_")} - {"all_gather"}
    assert "all_reduce" in called
    assert len(called) > 1
    assert called <= {*BLOCKING}


@pytest.mark.usefixtures("one_process_group")
def test_what_follows_a_step_is_no_sum_of_batchnorm() -> None:
    """The running mean of the path length, LeCam's anchors and ADA's signs, as two processes add them up."""
    row = replace(RECIPES["stylegan2-ada"], generator_penalty=PathLength(2.0), lecam=LeCam(0.3))
    mean, anchors = torch.zeros(()), torch.zeros(2)
    state: Any = SimpleNamespace(
        players={}, recipe=row, world_size=2, generator_penalty_mean=mean, anchors=anchors
    )
    assert row.adaptive is not None
    adaptation = Adaptation.of(row.adaptive, torch.zeros(()), world_size=2)
    recorder = ExchangeRecorder(torch.device("cpu"))
    with recorder.step(state):
        TrainState.move_penalty_mean(state, torch.ones(()))
        TrainState.move_anchors(state, torch.ones(2))
        adaptation.follow(row.adaptive.interval, 8)
    (step,) = recorder.take()
    names = ["mean of G's penalty", "LeCam's anchors", "signs for adaptation"]
    assert [message.name for message in step.messages] == names
    assert [message.num_bytes for message in step.messages] == [4, 8, 4]


@pytest.mark.usefixtures("one_process_group")
@pytest.mark.parametrize("waits_in_hook", [False, True], ids=["in a thread", "in the hook"])
def test_a_slow_sum_is_exposed(waits_in_hook: bool) -> None:
    """50 ms for each of two buckets, at the same time unless the hook itself waits."""

    def slow(state: Any, bucket: distributed.GradBucket) -> torch.futures.Future[torch.Tensor]:
        if waits_in_hook:
            time.sleep(0.05)
            return allreduce_hook(state, bucket)
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        threading.Timer(0.05, lambda: done.set_result(bucket.buffer())).start()
        return done

    recorder = ExchangeRecorder(torch.device("cpu"))
    state = small_state(recorder, slow)
    least_seconds = 0.05 * (2 if waits_in_hook else 1)
    for number in range(60):  # the first one rebuilds the buckets; other programs hold some up
        with recorder.step(state):
            take_step(state)
        (step,) = recorder.take()
        parts = divided([step], [[message.ready_seconds for message in step.messages]])
        exposed = sum(seconds for name, seconds in parts.items() if name.endswith(" exposed"))
        if number and parts["compute"] < 0.05 and exposed >= least_seconds:
            break
    assert least_seconds <= exposed < sum(parts.values())
    assert parts["compute"] < 0.05
    assert sum(seconds for name, seconds in parts.items() if name.endswith(" waiting")) < 0.001


def test_the_tables_say_where_the_step_goes() -> None:
    """25 ms: rank 0 computes 10 and waits 8 for rank 1, which computes 18; both wait 7 for their sums."""
    result = CaseResult.of(explained_record())
    divided_step = exposure(result)
    assert divided_step is not None
    first, second = divided_step.ranks
    assert (first.compute_seconds, first.waiting_seconds) == pytest.approx((0.010, 0.008), abs=1e-6)
    assert (second.compute_seconds, second.waiting_seconds) == pytest.approx((0.018, 0.0), abs=1e-6)
    assert first.exposed_seconds == pytest.approx(0.007, abs=1e-6)
    mean = divided_step.mean
    of_messages = sum(one.exposed_seconds + one.waiting_seconds for one in divided_step.messages)
    assert mean.compute_seconds + of_messages == pytest.approx(result.median())
    _, ranks, messages = tables([result])
    assert [row[0] for row in ranks.rows] == ["all", "0", "1"]
    assert ranks.rows[0] == ["all", "25.0", "14.0", "20.0", "7.00", "4.00"]
    assert ranks.rows[2][-1] == "0"
    assert messages.rows == [
        ["discriminator 1", "4,000", "5.00", "3.00", "3.00", "0"],
        ["BatchNorm × 6", "1,200", "6.00", "4.00", "4.00", "4.00"],
    ]
    said = " ".join(notes([result]))
    assert "parts add up to 100.0% of the steps in which messages were timed" in said
    assert "takes 1.000 (1.000 to 1.000) times as long as an untouched one" in said
    assert {line.partition(":")[0] for line in legend([ranks, messages])} >= {"exposed", "waiting", "by itself"}


def test_a_record_without_explanation_has_no_such_tables() -> None:
    result = CaseResult.of(scaling_record())
    assert exposure(result) is None
    assert len(tables([result])) == 1


def test_clocks_that_differ_are_said() -> None:
    record = explained_record()
    record["launches"][0]["ranks"][1]["facts"]["clock_error_seconds"] = 45e-6  # rank 0 is what it is compared with
    assert "the clocks of its machines agree to 45 µs" in " ".join(notes([CaseResult.of(record)]))


def test_a_question_has_come_once_its_number_can_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """NCCL's recv returns when it is enqueued: the answer is the time at which the question is there, not that."""
    now_seconds = 0.0
    due_seconds = 0.0
    answers: list[float] = []

    class OnGpu(torch.Tensor):
        def item(self) -> Any:
            nonlocal now_seconds
            now_seconds = max(now_seconds, due_seconds)
            return super().item()

    def recv(numbers: torch.Tensor, source: int) -> None:
        nonlocal due_seconds
        due_seconds = now_seconds + 1.0

    monkeypatch.setattr(torch, "zeros", lambda *_, **__: torch.tensor([0.0, 0.0]).as_subclass(OnGpu))
    monkeypatch.setattr(distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(distributed, "recv", recv)
    monkeypatch.setattr(distributed, "send", lambda numbers, _: answers.append(numbers[0].tolist()))
    aligned(torch.device("cpu"), lambda: now_seconds)
    assert answers == [float(number) for number in range(1, PINGS + 1)]


def test_a_period_of_messages_has_whole_intervals_of_adaptation() -> None:
    """Windows of other lengths would not all have the part of the step in which signs are added up."""
    row = RECIPES["stylegan2-ada"]
    assert row.adaptive is not None
    often = replace(row, penalty=None)
    assert [exchange_period(one) for one in (row, often, RECIPES["mlp"])] == [16, 4, 1]
    other = replace(row, adaptive=replace(row.adaptive, interval=3))
    assert exchange_period(other) == 48


def test_messages_that_take_long_to_time_are_doubted() -> None:
    record = explained_record()
    for of_rank in record["launches"][0]["ranks"]:
        of_rank["arms"]["explained"] = arm([0.030] * 4, of_rank["arms"]["step"]["images_per_step"])
    (line,) = [line for line in doubt_lines(CaseResult.of(record)) if "timing the messages takes long" in line]
    assert line.endswith("(20% of the step): read ms/step and communication rather than the parts")


@pytest.mark.parametrize("scale", [1.0, 0.9])
def test_parts_that_do_not_add_up_are_doubted(scale: float) -> None:
    record = explained_record(scale)
    doubted = "parts do not add up to the step" in " ".join(doubt_lines(CaseResult.of(record)))
    assert doubted == (scale < 1)


def test_messages_without_their_parts_are_damage() -> None:
    record = explained_record()
    assert damage(results_file(record)) is None
    for of_rank in record["launches"][0]["ranks"]:
        of_rank["facts"]["messages"][0]["name"] = "another"
    assert "the parts of explained are not those of facts.messages" in (damage(results_file(record)) or "")


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("exposure")
    run_two_processes("bench/exposure_worker.py", folder, cwd=folder)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", ["late", "late in shared memory"])
def test_the_process_that_is_late_is_waited_for(of_ranks: list[dict[str, Any]], name: str) -> None:
    require_waited_for(*(of_rank[name] for of_rank in of_ranks))


@pytest.mark.slow
@pytest.mark.multiprocess
def test_a_slow_link_is_exposed_in_both_processes(of_ranks: list[dict[str, Any]]) -> None:
    require_exposed(*(of_rank["slow"] for of_rank in of_ranks))


@pytest.mark.slow
@pytest.mark.multiprocess
@pytest.mark.parametrize("name", REQUIRED)
def test_parts_cover_the_window_and_all_ranks_see_the_same_messages(
    of_ranks: list[dict[str, Any]], name: str
) -> None:
    require_covered(*(of_rank[name] for of_rank in of_ranks))
    first, second = ([(m["name"], m["count"], m["num_bytes"]) for m in one[name]["messages"]] for one in of_ranks)
    assert first == second
    assert "BatchNorm" in {message[0] for message in first}


@pytest.mark.slow
@pytest.mark.multiprocess
def test_clocks_are_aligned_to_that_of_rank_0(of_ranks: list[dict[str, Any]]) -> None:
    assert all(of_rank["shared"] for of_rank in of_ranks)
    assert of_ranks[0]["clock"] == {"offset_seconds": 0.0, "error_seconds": 0.0}
    ahead = of_ranks[1]["clock"]
    assert abs(ahead["offset_seconds"] + AHEAD_SECONDS) <= ahead["error_seconds"] < 0.01
