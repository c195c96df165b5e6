"""What a step must cost: FLOPs and least bytes, counted. `bench.workloads.peaks` measures what a machine can do.

The floor of a step is the roofline's (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785): the
longer of its FLOPs at the peak rate of matrix products and its least bytes at the peak rate of copying. That bound
takes all of a step for one kernel, whose computing and moving of data can overlap.

But a step is a sequence: a product has to end before the optimizer reads its gradients. So the floor in sequence
is a sum: products at the peak rate of products, and the bytes of optimizers and of elementwise operations at the
peak rate of reading and writing (`bench.results.work`).
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import flop_registry, shape_wrapper

from bench.results.work import StepWork
from bench.workloads.attribution import REST, attributed, replaced
from bench.workloads.setup import Products
from bench.workloads.traffic import UPDATES, num_bytes, operator_name, traffic_bytes, update_bytes
from gan.training.batch import StepInputs
from gan.training.state import TrainState
from gan.training.step import train_step


@dataclass(frozen=True)
class StepCost:
    """The least that one step of one process costs.

    Activations can stay in caches in principle, and so do not count as bytes. What outlives the step has to come
    from memory and go back.

    Where a penalty is due in some steps only, all of it is the mean over a period.

    Attributes:
        flops: Multiplications and additions of its matrix products and convolutions.
        least_bytes: Its inputs read once; weights and optimizer state read and written once.
        products: The counted operations of each step of a period, on random inputs of the same shapes.
        work: What the step does in sequence, by phase.
        lasting_bytes: Of what outlives the step.
    """

    flops: int
    least_bytes: int
    products: Products
    work: Mapping[str, StepWork]
    lasting_bytes: int


def step_cost(
    state: TrainState, inputs: StepInputs, step: Callable[[], object] | None = None, period: int = 1
) -> StepCost:
    """Take the steps of a period eagerly, kernel by kernel, and return the cost of one.

    Args:
        state: Of the run.
        inputs: Of a step, which its least bytes count.
        step: Takes the step, its data included; by default the step is taken on `inputs`.
        period: How many steps to take.
    """
    recorders = [Recorder() for _ in range(period)]
    for recorder in recorders:
        with replaced(state, "graphs", None), attributed(state, recorder.mark):  # a graph hides what it does
            recorded(step or (lambda: train_step(state, inputs)), recorder)
    lasting = lasting_bytes(
        [player.network for player in state.players.values()],
        [player.optimizer for player in state.players.values()],
    )
    least_bytes = sum(map(num_bytes, (inputs.real, inputs.latents))) + 2 * lasting
    flops = mean_flops(recorders)
    return StepCost(flops, least_bytes, products_of(recorders), mean_work(recorders), lasting)


def mean_flops(recorders: Sequence["Recorder"]) -> int:
    """Return the FLOPs of a step, the mean over those that were recorded."""
    return round(sum(recorder.flops for recorder in recorders) / len(recorders))


def mean_work(recorders: Sequence["Recorder"]) -> dict[str, StepWork]:
    """Return what a step does by phase, the mean over those that were recorded."""
    phases = dict.fromkeys(phase for recorder in recorders for phase in recorder.work)
    sums = {
        phase: sum((recorder.work.get(phase, StepWork()) for recorder in recorders), StepWork())
        for phase in phases
    }
    return {phase: work.times(1 / len(recorders)) for phase, work in sums.items()}


def products_of(recorders: Sequence["Recorder"]) -> Products:
    """Return what takes the products of each recorded step.

    Products whose inputs are alike share them: weights are the same ones in every pass, and a step has so many
    products that inputs for each would take far more memory than the step.
    """
    distinct: list[tuple[Recorder, tuple[Callable[[], object], ...]]] = []
    inputs: dict[_Like, Tensor] = {}
    products = []
    for recorder in recorders:
        calls = next((calls for first, calls in distinct if first.has_products_of(recorder)), None)
        if calls is None:
            calls = recorder.calls(inputs)
            distinct.append((recorder, calls))
        products.append(calls)
    return products


def recorded(step: Callable[[], object], recorder: "Recorder | None" = None) -> "Recorder":
    """Take a step eagerly, and return what noted its products."""
    recorder = recorder or Recorder()
    with torch.compiler.set_stance("force_eager"), recorder, recorder.noting_optimizers():
        step()
    return recorder


def lasting_bytes(networks: Iterable[nn.Module], optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Return the bytes of what outlives a step: weights, buffers and the optimizers' state."""
    weights = sum(weights_bytes(network) for network in networks)
    return weights + sum(optimizer_bytes(optimizer) for optimizer in optimizers)


def weights_bytes(network: nn.Module) -> int:
    """Return the bytes of a network's weights and buffers."""
    return sum(num_bytes(value) for value in network.state_dict().values() if isinstance(value, Tensor))


def optimizer_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of an optimizer's state; it has none before its first step."""
    return sum(map(num_bytes, _optimizer_state(optimizer)))


def _optimizer_state(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for values in optimizer.state.values() for value in values.values() if isinstance(value, Tensor)]


def _onednn_flops(inputs: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Return the FLOPs of a linear layer in oneDNN, from the shapes of its inputs and its weight.

    For (…, in) inputs and (out, in) weights, each of the out results of a row takes in multiplications and as many
    additions.
    """
    return 2 * int(math.prod(inputs)) * int(weight[0])


def _convolution_backward_flops(gradient: Any, images: Any, weight: Any, *settings: Any, **_: Any) -> int:
    """Return the FLOPs of a convolution's gradients: each takes as many as the convolution.

    PyTorch counts the weights' gradient once too often for each group of channels but the first.
    """
    _, _, _, _, is_transposed, _, _, (of_images, of_weight, _) = settings
    places = math.prod((images if is_transposed else gradient)[2:])
    return int(2 * gradient[0] * places * math.prod(weight) * (of_images + of_weight))


COUNTED = {
    torch.ops.aten.convolution_backward: _convolution_backward_flops,
    **({torch.ops.mkldnn._linear_pointwise: _onednn_flops} if torch.backends.mkldnn.is_available() else {}),
}
"""Operators that PyTorch does not count, or not right, and what counts their FLOPs from the shapes of tensors."""
_REGISTRY = {**flop_registry, **{packet: shape_wrapper(count) for packet, count in COUNTED.items()}}
_INFERRED = {
    *(torch.ops.aten.linear, torch.ops.aten.matmul, torch.ops.aten.einsum),
    *(torch.ops.aten.conv1d, torch.ops.aten.conv2d, torch.ops.aten.conv_transpose1d),
    torch.ops.aten.conv_transpose2d,
}
"""Operators that arrive in one piece in torch.inference_mode, and are counted by what they are made of."""


@dataclass(frozen=True)
class _Like:
    """What a tensor is like: size, strides, dtype and device."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, tensor: Tensor) -> "_Like":
        return cls(tensor.size(), tensor.stride(), tensor.dtype, tensor.device)

    def random(self) -> Tensor:
        # not the number of elements: those of an expanded tensor share their places
        places = 1 + sum((size - 1) * stride for size, stride in zip(self.size, self.stride, strict=True))
        storage = torch.zeros(places, dtype=self.dtype, device=self.device)
        if self.dtype.is_floating_point:
            storage.normal_()
        return storage.as_strided(self.size, self.stride)


@dataclass
class CountedOperator:
    """What the calls of an operator did: FLOPs of products, and bytes read and written."""

    calls: int = 0
    flops: int = 0
    traffic_bytes: int = 0


class Recorder(TorchDispatchMode):
    """Counts the FLOPs of every operation that PyTorch can count, and notes what its arguments were like.

    Of all other operations it counts the bytes that they read and write, as if nothing were fused. What an
    optimizer does counts as the least bytes of its update.

    FlopCounterMode around the step itself would be simpler; its hooks fail if a penalty takes a gradient inside a
    forward pass.

    Attributes:
        flops: Multiplications and additions so far.
        work: What was done so far, by phase.
        operators: How often each operator was called and what it did, by its name and the part of the step.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.work: dict[str, StepWork] = defaultdict(StepWork)
        self.operators: dict[tuple[str, str], CountedOperator] = defaultdict(CountedOperator)
        self._noted: list[tuple[Any, Any, Any]] = []
        self._phase = REST
        self._in_optimizer = False

    def mark(self, phase: str) -> None:
        """Let a phase begin; without phases all is the rest."""
        self._phase = phase

    @contextmanager
    def noting_optimizers(self) -> Iterator[None]:
        """Count the steps of optimizers as what their updates have to read and write."""

        def begin(*_: Any) -> None:
            self._in_optimizer = True

        def end(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            self._in_optimizer = False
            self.work[self._phase] += StepWork(optimizer_traffic_bytes=update_bytes(optimizer))

        handles = [register_optimizer_step_pre_hook(begin), register_optimizer_step_post_hook(end)]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        packet: Any = getattr(func, "_overloadpacket", None)  # operators on functions have none
        count = _REGISTRY.get(packet)
        if count is None:
            if packet in _INFERRED:
                with self:
                    return func.decompose(*args, **kwargs)
            out = func(*args, **kwargs)
            moved_bytes = self._count(func, args, kwargs, out)
            if not self._in_optimizer:
                is_update = operator_name(func) in UPDATES  # without its optimizer, in the backward pass
                kind = "optimizer_traffic_bytes" if is_update else "elementwise_traffic_bytes"
                self.work[self._phase] += StepWork(**{kind: moved_bytes})
            return out
        out = func(*args, **kwargs)
        flops = int(count(*args, **kwargs, out_val=out))
        self.flops += flops
        self._count(func, args, kwargs, out, flops)
        self.work[self._phase] += StepWork(flops=flops)
        self._noted.append((func, *tree_map_only(Tensor, _Like.of, (args, kwargs))))
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any, flops: int = 0) -> int:
        """Count a call of an operator, and return the bytes that it read and wrote."""
        moved_bytes = traffic_bytes(func, args, kwargs, out)
        if name := operator_name(func):
            in_backward = torch._C._current_graph_task_id() != -1
            part = "optimizer" if self._in_optimizer else "backward" if in_backward else "forward"
            operator = self.operators[name, part]
            operator.calls += 1
            operator.flops += flops
            operator.traffic_bytes += moved_bytes
        return moved_bytes

    def has_products_of(self, other: "Recorder") -> bool:
        """Say whether another one has noted the same operations, on inputs that were alike."""
        return self._noted == other._noted

    def calls(self, inputs: dict[_Like, Tensor]) -> tuple[Callable[[], object], ...]:
        """Return the noted operations, each on random inputs, which `inputs` has or gets."""

        def like(noted: _Like) -> Tensor:
            if noted not in inputs:
                inputs[noted] = noted.random()
            return inputs[noted]

        def call(func: Any, args: Any, kwargs: Any) -> Callable[[], object]:
            args, kwargs = tree_map_only(_Like, like, (args, kwargs))
            return lambda: func(*args, **kwargs)

        return tuple(call(*noted) for noted in self._noted)
