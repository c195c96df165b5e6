"""The real step of rank 0 of many, in one process.

PyTorch's fake process group says that there are n processes, and its collectives return at once. So DDP lays out
the buckets, and BatchNorm the tables, that rank 0 of n has. The step computes what it would compute there, and
sends nothing. Sums that it computes are wrong, and nothing looks at them.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore

from bench.harness.device import DeviceClock, device_waiter
from bench.harness.windows import whole_periods
from bench.harness.world import World
from bench.predict.schedule import Event, Kind, compute_seconds
from bench.subjects.process import accelerate_variables
from bench.suite.cases import Case
from bench.workloads.attribution import replaced
from bench.workloads.exchanged import BLOCKING, exchange_period, name_of_unnamed
from gan.data import datasets
from gan.data.in_memory import InMemoryImages
from gan.files.environment import num_available_cores
from gan.process.memory import peak_bytes, reset_peak
from gan.process.named_sums import name_of_sum
from gan.surface import MeasuredRun, prepare
from gan.training.player import Player

WARMUP_STEPS = 4
"""After the first step DDP sorts its buckets by the order in which gradients come."""
STEPS_PER_TURN = 2
EPOCH_STEPS = 16
COMPRESSED = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""In what gradients are sent, by hook."""


class NoStepsError(Exception):
    """The turns ended before the first timed step."""


@dataclass(frozen=True)
class Order:
    """What to rehearse.

    Attributes:
        case: What is trained and how. Its `num_processes` has no part in it.
        sizes: Numbers of processes, each of which is rehearsed in a process of its own.
        num_threads: CPU threads; None for all cores.
        measure_seconds: How long each is measured at least, in turns.
        owner: The process that waits for the answer.
    """

    case: Case
    sizes: tuple[int, ...]
    num_threads: int | None
    measure_seconds: float
    owner: int


@dataclass(frozen=True)
class Rehearsal:
    """The step of rank 0.

    Attributes:
        num_processes: Of which it is the first.
        schedule: Its events, the last of which is its end; those of a whole period if steps differ.
        images_per_step: Real images over all processes.
        peak_bytes: Resident memory, or memory allocated on a GPU, at its peak in these steps.
        num_steps: How many were measured.
    """

    num_processes: int
    schedule: tuple[Event, ...]
    images_per_step: int
    peak_bytes: int
    num_steps: int


class Recorder:
    """Notes the events of steps, with the times between them.

    Args:
        device: Where the step runs. On a GPU its own clock counts, by events in the stream.
    """

    def __init__(self, device: torch.device) -> None:
        self._clock = DeviceClock(device)
        self._wait = device_waiter(device)
        self._network = ""
        self._times: list[Any] = []
        self._notes: list[tuple[Kind, int, str, str]] = []

    def note(self, kind: Kind, num_bytes: int = 0, name: str = "") -> None:
        """Note an event that happens now."""
        self._notes.append((kind, num_bytes, self._network, name))
        self._times.append(self._clock.now())

    @contextmanager
    def backward(self, network: str) -> Iterator[None]:
        """Note a backward pass, at whose end the sums of its buckets are waited for."""
        self._network = network
        yield
        self.note(Kind.WAIT)
        self._network = ""

    def steps(self, take: Callable[[], object], num_steps: int = 1) -> list[Event]:
        """Take steps, and return their events."""
        self._notes.clear()
        self._times.clear()
        began = self._clock.now()
        for _ in range(num_steps):
            take()
            self.note(Kind.END)
        self._wait()
        passed = [self._clock.between(began, moment) for moment in self._times]
        gaps = [after - before for before, after in zip([0.0, *passed], passed, strict=False)]
        return [
            Event(kind, gap, num_bytes, network, name)
            for (kind, num_bytes, network, name), gap in zip(self._notes, gaps, strict=True)
        ]


def rehearse(order: Order, num_processes: int, turns: Iterator[object]) -> Rehearsal:
    """Take steps as rank 0 of `num_processes`, some with each turn. This changes the process for good.

    Raises:
        UsageError: Bad options.
    """
    case = replace(order.case, num_processes=num_processes)
    os.environ.update(_variables(case))
    if num_processes > 1:
        distributed.init_process_group("fake", rank=0, world_size=num_processes, store=FakeStore())
    datasets.DATASETS["synthetic"] = _alike
    recorder = Recorder(torch.device(case.device))
    hook = _hook(recorder, COMPRESSED.get(case.comm_hook))
    with ExitStack() as stack:
        # at once: DDP's own sum takes no answer of a fake group, and to be prepared may take a backward pass
        stack.enter_context(replaced(DistributedDataParallel, "__init__", _hooked(hook)))
        options = {
            **case.train_options(),
            "num_threads": order.num_threads,
            "comm_hook": "no",
            "shared_memory": False,
        }
        run = prepare(options, EPOCH_STEPS)
        for name, player in run.state.players.items():
            stack.enter_context(replaced(player, "backward", _noted_backward(player, name, recorder)))
        unnamed = name_of_unnamed(player.network for player in run.state.players.values())
        for name in {*BLOCKING} & vars(distributed).keys():
            stack.enter_context(replaced(distributed, name, _noted_collective(name, recorder, unnamed)))
        steps = _steps(run, recorder, turns)
    num_steps = len(steps) * exchange_period(run.run.recipe)
    return Rehearsal(num_processes, _typical(steps), run.images_per_step, peak_bytes(run.device), num_steps)


def _variables(case: Case) -> dict[str, str]:
    """Return what a launcher would say to rank 0, each of whose processes has a machine to itself."""
    flags = case.launch_flags()
    variables = accelerate_variables(flags["mixed_precision"], flags["dynamo_backend"])
    if case.num_processes == 1:
        return variables
    place = {**World(0, case.num_processes).variables, "LOCAL_WORLD_SIZE": "1"}
    return {"OMP_NUM_THREADS": str(num_available_cores()), **variables, **place}


def _alike(request: datasets.DatasetRequest) -> InMemoryImages:
    """Return an epoch of one and the same image, which lies in memory once however many processes share it."""
    num_images = EPOCH_STEPS * request.images_per_step
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, *request.image_shape), dtype=torch.uint8, generator=generator)
    labels = torch.arange(num_images) % datasets.SYNTHETIC_NUM_CLASSES
    images = image.to(request.device).expand(num_images, *request.image_shape)
    return InMemoryImages(images, labels=labels.to(request.device))


def _hooked(hook: Callable[..., Any]) -> Callable[..., None]:
    """Return the constructor of DDP with a hook that sends gradients."""
    construct = DistributedDataParallel.__init__

    def hooked(self: DistributedDataParallel, *args: Any, **kwargs: Any) -> None:
        construct(self, *args, **kwargs)
        self.register_comm_hook(None, hook)

    return hooked


def _noted_backward(player: Player, name: str, recorder: Recorder) -> Callable[[Tensor], None]:
    backward = player.backward

    def noted(loss: Tensor) -> None:
        with recorder.backward(name):
            backward(loss)

    return noted


def _noted_collective(name: str, recorder: Recorder, unnamed: str) -> Callable[..., Any]:
    """Return a collective that is noted; its first argument is the tensor that holds the result.

    Args:
        name: In torch.distributed.
        recorder: Notes it.
        unnamed: What is added up where the core does not say.
    """
    collective = getattr(distributed, name)
    kind = Kind.SUM if name == "all_reduce" else Kind.GATHER

    def noted(result: Tensor, *args: Any, **kwargs: Any) -> Any:
        recorder.note(kind, result.nbytes, name_of_sum() or unnamed)
        return collective(result, *args, **kwargs)

    return noted


def _hook(recorder: Recorder, dtype: torch.dtype | None) -> Callable[[Any, Any], Any]:
    """Return a hook of DDP that notes a bucket, and does to it what the real one does besides sending it."""

    def hook(_: Any, bucket: distributed.GradBucket) -> torch.futures.Future[Tensor]:  # type: ignore[name-defined]
        gradients = bucket.buffer()
        sent = gradients if dtype is None else gradients.to(dtype)
        recorder.note(Kind.BUCKET, sent.nbytes)
        if dtype is not None:
            gradients.copy_(sent)
        done: torch.futures.Future[Tensor] = torch.futures.Future(
            devices=[gradients.device] if gradients.is_cuda else None
        )
        done.set_result(gradients)
        return done

    return hook


def _steps(run: MeasuredRun, recorder: Recorder, turns: Iterator[object]) -> list[list[Event]]:
    """Return the events of the steps, or periods, that are taken in turns; the first turn is the warm-up.

    A period begins with the step in which every penalty is due.
    """
    steps = run.steps()
    period = exchange_period(run.run.recipe)
    next(turns)
    for _ in range(whole_periods(WARMUP_STEPS, period)):
        recorder.steps(lambda: next(steps))
    reset_peak(run.device)
    measured: list[list[Event]] = []
    for _ in turns:
        num_periods = max(1, STEPS_PER_TURN // period)
        measured += [recorder.steps(lambda: next(steps), period) for _ in range(num_periods)]
    return measured


def _typical(steps: Sequence[Sequence[Event]]) -> tuple[Event, ...]:
    """Return the events of a step, with the median of what the quicker half of steps computes before each.

    Neighbours slow some steps.
    """
    if not steps:
        raise NoStepsError
    layouts = {tuple(replace(event, compute_seconds=0.0) for event in step) for step in steps}
    assert len(layouts) == 1, "steps differ in what they send"
    steps = sorted(steps, key=compute_seconds)[: -(-len(steps) // 2)]
    return tuple(
        replace(events[0], compute_seconds=statistics.median(event.compute_seconds for event in events))
        for events in zip(*steps, strict=True)
    )
