"""A whole training step as one CUDA graph: the host launches it once, instead of each of its kernels.

A graph repeats what it was captured with: kernels, addresses and numbers. So whatever changes from step to step
lies in tensors that keep their address: inputs are copied into the graph's, and schedules write into the
optimizers' tensors. Dropout draws from the default generator, whose seed and position each replay reads anew.
"""

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan.errors import UsageError

WARM_UP_STEPS = 2
"""Steps of a kind that are taken without a graph first. In them optimizers, scalers and libraries allocate."""


@dataclass(frozen=True)
class _Captured:
    """A step of one kind. Its tensors are of the graph's memory, and hold what the last replay wrote."""

    graph: torch.cuda.CUDAGraph
    inputs: dict[str, Tensor]
    gradients: list[Tensor | None]
    output: Tensor


class StepGraphs:
    """Steps of each kind as graphs, captured when WARM_UP_STEPS of that kind have been taken.

    All steps train, those before a capture too, and they compute the same. A kind of steps has the same shapes and
    constants. The last step of an epoch may be one of its own.

    Args:
        networks: Those whose gradients and training mode a step goes by.
    """

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        self._networks = networks
        self._parameters = [parameter for network in networks for parameter in network.parameters()]
        self._stream = torch.cuda.Stream()
        self.forget()

    def forget(self) -> None:
        """Drop all graphs, because tensors that they read have been replaced by others."""
        torch.cuda.synchronize()  # the last replay may still be running
        self._taken: Counter[Hashable] = Counter()
        self._captured: dict[Hashable, _Captured] = {}
        self._last: _Captured | None = None
        self._pool = torch.cuda.graph_pool_handle()

    def run(
        self, step: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor], *constants: Hashable
    ) -> Tensor:
        """Take a step and return its output, which is valid until the next one.

        Args:
            step: Reads nothing on the host, and returns a tensor.
            inputs: Its argument.
            constants: What else makes a step another one; the same constants must mean the same step.

        Raises:
            UsageError: The step cannot be captured.
        """
        kind = (
            *constants,
            *((name, value.shape, value.dtype) for name, value in inputs.items()),
            *(network.training for network in self._networks),
            torch.are_deterministic_algorithms_enabled(),
        )
        if kind not in self._captured:
            if self._taken[kind] < WARM_UP_STEPS:
                self._taken[kind] += 1
                self._last = None
                return self._take(step, inputs)
            self._captured[kind] = self._capture(step, inputs)
        captured = self._captured[kind]
        for name, value in captured.inputs.items():
            value.copy_(inputs[name])
        captured.graph.replay()
        if captured is not self._last:  # gradients were another step's
            for parameter, gradient in zip(self._parameters, captured.gradients, strict=True):
                parameter.grad = gradient
            self._last = captured
        return captured.output

    def _take(self, step: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> Tensor:
        """Take a step without a graph, on the stream that steps are captured on."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            output = step(dict(inputs))
        torch.cuda.current_stream().wait_stream(self._stream)
        return output

    def _capture(self, step: Callable[[dict[str, Tensor]], Tensor], inputs: Mapping[str, Tensor]) -> _Captured:
        """Capture a step, which is not taken by that."""
        held = {name: value.clone() for name, value in inputs.items()}
        graph = torch.cuda.CUDAGraph()
        first: RuntimeError | None = None
        try:
            # other threads, which load images, may go on
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                try:
                    output = step(held)
                except RuntimeError as error:
                    first = error  # the end of the capture raises another one, which hides it
                    raise
        except RuntimeError as error:
            cause = first or error
            if isinstance(cause, torch.OutOfMemoryError):
                raise cause from None
            reason = " ".join(str(cause).split("\n")[0].split())
            raise UsageError(
                f"--cuda-graph: a step of this recipe cannot be captured ({reason}); use --no-cuda-graph"
            ) from error
        return _Captured(graph, held, [parameter.grad for parameter in self._parameters], output)
