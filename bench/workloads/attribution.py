"""Which phase of a real step its time belongs to, told from outside: the step does not know that it is watched.

A phase measured by itself has warm caches: its weights and moments come from caches, and in the step they come
from memory. So the boundaries of phases are marked while the step runs. A mark is a time on the CPU, and an event
in the stream on a GPU, so that nothing waits for the device. Phases follow one another without a gap: they add up
to the step.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from bench.harness.device import DeviceClock
from gan.training.player import Player
from gan.training.state import TrainState

DATA = "data"
FAKES = "fakes"
RECORD = "record"
REST = "rest"
OF_PLAYERS = tuple(f"{letter} {part}" for letter in "DG" for part in ("forward", "backward", "optimizer"))
PHASES = (DATA, FAKES, *OF_PLAYERS, RECORD, REST)
"""`data` is order, images and latents. `fakes` is the generation for D's updates; where G's update shares it, it
is a part of `G forward`. `optimizer` has the loss scaler and the clipping of weights, too. `record` keeps the
metrics, and averages G. `rest` is what lies between."""

Mark = Callable[[str], None]
"""Says which phase begins now."""


class Marks:
    """The boundaries of phases, in the order in which they were passed.

    Args:
        device: Where the step runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._clock = DeviceClock(device)
        self._phases: list[str] = []
        self._times: list[Any] = []

    def mark(self, phase: str) -> None:
        """Let a phase begin, and the one before end."""
        self._phases.append(phase)
        self._times.append(self._clock.now())

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase since the last call, up to the last mark. The device has to be idle."""
        sums: dict[str, float] = defaultdict(float)
        for phase, begin, end in zip(self._phases, self._times, self._times[1:], strict=False):
            sums[phase] += self._clock.between(begin, end)
        self._clock.release(self._times)
        self._phases.clear()
        self._times.clear()
        return dict(sums)

    def seconds_of(self, phases: Sequence[str]) -> dict[str, float]:
        """Return the seconds of these phases as `seconds` does; those of any other phase count as the rest."""
        sums = self.seconds()
        known = {phase: sums.pop(phase, 0.0) for phase in phases}
        known[REST] = known.get(REST, 0.0) + sum(sums.values())
        return known


@contextmanager
def attributed(state: TrainState, mark: Mark) -> Iterator[None]:
    """Mark the phases of the one step that is taken inside, its data included."""
    mark(REST)  # what marking itself takes
    with ExitStack() as stack:

        def watch(owner: Any, name: str, phase: str) -> None:
            stack.enter_context(replaced(owner, name, _within(phase, getattr(owner, name), mark)))

        watch(state, "generate", FAKES)
        watch(state, "preview", FAKES)
        watch(state, "generator_loss", "G forward")
        watch(state, "record", RECORD)
        letters = {"D": state.discriminator, "G": state.generator}
        for letter, player in letters.items():
            watch(player, "objective", f"{letter} forward")
            watch(player, "backward", f"{letter} backward")
            stack.enter_context(replaced(player, "update", _updating(letter, player, mark)))
        optimizers = {player.optimizer: f"{letter} optimizer" for letter, player in letters.items()}
        stack.enter_context(_hooked(optimizers, mark))
        mark(DATA)
        yield
    mark(REST)


def _within(phase: str, call: Callable[..., Any], mark: Mark) -> Callable[..., Any]:
    def marked(*args: Any, **kwargs: Any) -> Any:
        mark(phase)
        result = call(*args, **kwargs)
        mark(REST)
        return result

    return marked


def _updating(letter: str, player: Player, mark: Mark) -> Callable[..., Iterator[Any]]:
    """Return `player.update`, in which the optimizer's phase begins after the last micro-batch."""
    update = player.update

    def marked(micro_batches: Sequence[Any]) -> Iterator[Any]:
        mark(REST)
        for batch in update(micro_batches):
            mark(REST)
            yield batch
            mark(f"{letter} optimizer")
        mark(REST)

    return marked


@contextmanager
def _hooked(phases: dict[torch.optim.Optimizer, str], mark: Mark) -> Iterator[None]:
    """Mark the steps of optimizers wherever they are taken, also inside of a backward pass."""

    def begin(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if optimizer in phases:
            mark(phases[optimizer])

    handles = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(begin)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Give an object another attribute or method for a while."""
    is_field = name in vars(owner)
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if is_field:
            setattr(owner, name, before)
        else:  # a method of its class
            delattr(owner, name)
