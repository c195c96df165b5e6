"""What processes exchange in a real step and when, told from outside: the step does not know that it is watched.

Gradients go through a hook of DDP, which notes when the last gradient of a bucket is there and when its sum is.
Those in shared memory are noted where they are averaged, a bucket at a time.
Other sums are noted where they are called, with the name that the core gives them. Nothing waits for the device: a
moment is an event on a GPU.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

from bench.harness.device import DeviceClock
from bench.workloads.attribution import replaced
from gan.models.batch_statistics import BATCHNORM, shared_sums_of
from gan.process.named_sums import name_of_sum
from gan.recipe import Recipe
from gan.training.exchange import SharedGradients
from gan.training.player import Player
from gan.training.state import TrainState

BLOCKING = ("all_reduce", "all_gather_into_tensor", "all_gather_single")
"""Collectives that a step waits for, by their names in torch.distributed: all but those of gradients.

The last two are one, which has a new name since PyTorch 2.13."""
UNKNOWN = "other sums"
"""The name of sums without one."""

Hook = Callable[[Any, Any], torch.futures.Future[Tensor]]


@dataclass(frozen=True)
class SeenMessage:
    """What one process saw of a message, in seconds.

    Attributes:
        name: The network and the number of the bucket, or what is added up.
        num_bytes: Before a hook makes them fewer.
        ready_seconds: When its bytes were there.
        ended_seconds: When its sum was there.
        blocked: Spans of time in which the process did nothing but wait for it: beginnings and ends.
    """

    name: str
    num_bytes: int
    ready_seconds: float
    ended_seconds: float
    blocked: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class SeenStep:
    """What one process saw of a step.

    Attributes:
        began_seconds: When it began.
        ended_seconds: When it had ended.
        messages: In the order in which they were sent.
    """

    began_seconds: float
    ended_seconds: float
    messages: tuple[SeenMessage, ...]


@dataclass
class _Sent:
    """A message, in moments of the device's clock; None until they have come.

    Attributes:
        name: Of the message.
        num_bytes: Of it.
        ready: When it was handed over.
        returned: When the process went on after that.
        ended: When the sum was there.
    """

    name: str
    num_bytes: int
    ready: Any
    returned: Any = None
    ended: Any = None


@dataclass
class _Backward:
    """A backward pass and its buckets; it waits for their sums from when all gradients are there."""

    network: str
    buckets: list[_Sent] = field(default_factory=list)
    idle: Any = None
    ended: Any = None


@dataclass
class _Step:
    """A step: all its messages in the order in which they were handed over, and its backward passes."""

    began: Any
    ended: Any = None
    messages: list[_Sent] = field(default_factory=list)
    backwards: list[_Backward] = field(default_factory=list)


def name_of_unnamed(networks: Iterable[nn.Module]) -> str:
    """Return the name of sums to which the core gives none: those that PyTorch's own BatchNorm forms on GPUs."""
    modules = (module for network in networks for module in network.modules())
    return BATCHNORM if any(isinstance(module, nn.SyncBatchNorm) for module in modules) else UNKNOWN


def exchange_period(recipe: Recipe) -> int:
    """Return after how many steps the same messages are sent again; adaptation sends one in an interval."""
    return math.lcm(recipe.period, recipe.adaptive.interval) if recipe.adaptive else recipe.period


class ExchangeRecorder:
    """Notes what the steps of a state exchange.

    Args:
        device: Where the steps run.
    """

    def __init__(self, device: torch.device) -> None:
        self._clock = DeviceClock(device)
        self._steps: list[_Step] = []
        self._backward = _Backward("")
        self._in_hook = False

    @contextmanager
    def building(self) -> Iterator[Callable[[TrainState], None]]:
        """Let what DDP sends be noted, of a state that is built inside, and then passed to what this yields."""
        hooked: set[int] = set()
        register = DistributedDataParallel.register_comm_hook

        def noted_register(wrapped: DistributedDataParallel, state: Any, hook: Hook) -> None:
            hooked.add(id(wrapped))
            register(wrapped, state, self._noted(hook))

        def finish(state: TrainState) -> None:
            for player in state.players.values():
                wrapped = player.objective
                if isinstance(wrapped, DistributedDataParallel) and id(wrapped) not in hooked:
                    register(wrapped, None, self._noted(allreduce_hook))

        with replaced(DistributedDataParallel, "register_comm_hook", noted_register):
            yield finish

    @contextmanager
    def step(self, state: TrainState) -> Iterator[None]:
        """Note what the one step exchanges that is taken inside."""
        began = self._clock.now() if self._steps else self._clock.anchor()
        step = _Step(began)
        self._steps.append(step)
        with ExitStack() as stack:
            for name, player in state.players.items():
                stack.enter_context(replaced(player, "backward", self._noted_backward(name, player)))
                if player.shared_gradients is not None:
                    noted = self._noted_average(name, player.shared_gradients)
                    stack.enter_context(replaced(player.shared_gradients, "average_bucket", noted))
            networks = [player.network for player in state.players.values()]
            for sums in filter(None, set(map(shared_sums_of, networks))):
                stack.enter_context(replaced(sums, "add_up", self._noted_sum(sums.add_up, BATCHNORM)))
            unnamed = name_of_unnamed(networks)
            for name in {*BLOCKING} & vars(distributed).keys():
                noted_sum = self._noted_sum(getattr(distributed, name), unnamed)
                stack.enter_context(replaced(distributed, name, noted_sum))
            yield
        step.ended = self._clock.now()

    def take(self) -> list[SeenStep]:
        """Return the steps since the last call. The device has to be idle."""
        steps = [self._seen_step(step) for step in self._steps]
        self._steps.clear()
        return steps

    def _noted(self, hook: Hook) -> Hook:
        """Return a hook of DDP that does what another one does, and notes when."""

        @functools.wraps(hook)
        def noted(state: Any, bucket: Any) -> torch.futures.Future[Tensor]:
            backward = self._backward
            sent = _Sent(
                f"{backward.network} {len(backward.buckets) + 1}", bucket.buffer().nbytes, self._clock.now()
            )
            backward.buckets.append(sent)
            if self._steps:  # not before the first, when DDP settles its buckets
                self._steps[-1].messages.append(sent)

            def arrived(future: torch.futures.Future[Tensor]) -> Tensor:
                sent.ended = self._clock.now()
                return future.value()

            def idle() -> None:
                backward.idle = self._clock.now()

            if bucket.is_last():  # DDP waits in a callback of this kind, which it queues after this one
                torch.autograd.Variable._execution_engine.queue_callback(idle)
            self._in_hook = True
            try:
                future = hook(state, bucket)
            finally:
                self._in_hook = False
            sent.returned = self._clock.now()
            return future.then(arrived)

        return noted

    def _noted_backward(self, network: str, player: Player) -> Callable[[Tensor], None]:
        backward = player.backward

        def noted(loss: Tensor) -> None:
            self._backward = _Backward(network)
            self._steps[-1].backwards.append(self._backward)
            backward(loss)
            self._backward.ended = self._clock.now()

        return noted

    def _noted_average(self, network: str, shared: SharedGradients) -> Callable[[int, Sequence[Tensor]], None]:
        average = shared.average_bucket

        def noted(number: int, gradients: Sequence[Tensor]) -> None:
            sent = _Sent(f"{network} {number + 1}", shared.buckets_bytes[number], self._clock.now())
            self._steps[-1].messages.append(sent)
            average(number, gradients)
            sent.returned = sent.ended = self._clock.now()

        return noted

    def _noted_sum(self, collective: Callable[..., Any], unnamed: str) -> Callable[..., Any]:
        """Return a sum that is waited for; its first argument is as large as its result.

        Args:
            collective: The sum.
            unnamed: Its name where the core gives it none.
        """

        def noted(table: Tensor, *args: Any, **kwargs: Any) -> Any:
            if self._in_hook or kwargs.get("async_op"):
                return collective(table, *args, **kwargs)
            sent = _Sent(name_of_sum() or unnamed, table.nbytes, self._clock.now())
            self._steps[-1].messages.append(sent)
            done = collective(table, *args, **kwargs)
            sent.returned = sent.ended = self._clock.now()
            return done

        return noted

    def _seen_step(self, step: _Step) -> SeenStep:
        at = self._clock.host_seconds
        waits: dict[int, tuple[float, float]] = {}
        for backward in step.backwards:
            waits |= self._waits(backward)
        seen = []
        for sent in step.messages:
            span = (at(sent.ready), at(sent.returned))
            blocked = (span, waits[id(sent)]) if id(sent) in waits else (span,)
            seen.append(SeenMessage(sent.name, sent.num_bytes, at(sent.ready), at(sent.ended), blocked))
        return SeenStep(at(step.began), at(step.ended), tuple(seen))

    def _waits(self, backward: _Backward) -> dict[int, tuple[float, float]]:
        """Divide the end of a backward pass among its buckets, by the `id` of each, in the order of their sums."""
        if not backward.buckets:  # of a micro-batch whose gradients stay here
            return {}
        waits = {}
        waits_from = self._clock.host_seconds(backward.idle)
        for sent in backward.buckets:
            is_last = sent is backward.buckets[-1]
            ended = self._clock.host_seconds(backward.ended if is_last else sent.ended)
            waits[id(sent)] = (waits_from, max(waits_from, ended))
            waits_from = max(waits_from, ended)
        return waits
