"""Convolutions and rectifiers whose gradients are differentiated again, in fewer operations than PyTorch takes.

A penalty on a gradient is differentiated with respect to the weights. PyTorch does that right, but slowly:

- It takes the gradient of a convolution's weights as another convolution, whose kernel is as large as the image,
  and one for each group. Here it is the operator that the first backward pass takes, too.
- It has a gradient of zeros for the input of a rectifier, whose slope is constant on both sides of 0. The zeros
  go back through all layers before. Here there is none.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.nn import functional
from torch.overrides import TorchFunctionMode

aten = torch.ops.aten


class DoubleBackward(TorchFunctionMode):
    """Within it, convolutions and rectifiers are recorded by the functions of this module.

    Args:
        inputs: What the first gradient is taken of; it requires a gradient.
    """

    def __init__(self, inputs: Tensor) -> None:
        super().__init__()
        self.inputs = inputs
        self.skips_weights = False

    def gradient(self, output: Tensor) -> Tensor:
        """Return the gradient of a scalar at the inputs, which can be differentiated again."""
        self.skips_weights = True
        gradient: Tensor
        try:
            (gradient,) = torch.autograd.grad(output, self.inputs, create_graph=True)
        finally:
            self.skips_weights = False
        return gradient

    def depends_on_inputs(self, value: Tensor | None) -> bool:
        """Say whether a value is the inputs or was computed from them, as weights may be."""
        if value is self.inputs:
            return True
        waiting = [] if value is None else [value.grad_fn]
        seen = set()
        while waiting:
            function = waiting.pop()
            if function is None or function in seen:
                continue
            if function is self.inputs.grad_fn or getattr(function, "variable", None) is self.inputs:
                return True
            seen.add(function)
            waiting += [before for before, _ in function.next_functions]
        return False

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call the function of this module in the place of one of PyTorch's, or that itself.

        Functions of this module cannot be in compiled code, nor in `torch.func.vmap` and its like.
        """
        is_possible = not (torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active())
        ours = _FUNCTIONS.get(func) if is_possible else None
        result = NotImplemented if ours is None else ours(self, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {})) if result is NotImplemented else result


class _Geometry(NamedTuple):
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


def _pair(value: int | Sequence[int]) -> list[int]:
    """Return both numbers of what PyTorch takes for two: also one, or a number of NumPy or of a tensor."""
    numbers = [*map(int, value)] if isinstance(value, Sequence) else [int(value)]
    return numbers * 2 if len(numbers) == 1 else numbers


def _conv2d(
    mode: DoubleBackward,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: str | int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Any:
    if isinstance(padding, str):
        return NotImplemented
    geometry = _Geometry(_pair(stride), _pair(padding), _pair(dilation), False, [0, 0], groups)
    return _convolution(mode, input, weight, bias, geometry)


def _conv_transpose2d(
    mode: DoubleBackward,
    input: Tensor,  # noqa: A002
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Any:
    geometry = _Geometry(_pair(stride), _pair(padding), _pair(dilation), True, _pair(output_padding), groups)
    return _convolution(mode, input, weight, bias, geometry)


def _convolution(
    mode: DoubleBackward, images: Tensor, weight: Tensor, bias: Tensor | None, geometry: _Geometry
) -> Any:
    dtypes = {value.dtype for value in (images, weight, bias) if value is not None}
    if images.ndim != 4 or len(dtypes) > 1 or not images.is_floating_point():
        return NotImplemented
    kind = images.device.type
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return NotImplemented  # autocast casts what an operator takes, and not what is kept for its gradient
    is_needed = mode.depends_on_inputs(weight) or mode.depends_on_inputs(bias)
    return _Convolution.apply(None if is_needed else mode, images, weight, bias, geometry)


def _leaky_relu(
    _mode: DoubleBackward,
    input: Tensor,  # noqa: A002
    negative_slope: float = 0.01,
    inplace: bool = False,
) -> Any:
    if inplace or not isinstance(negative_slope, int | float) or negative_slope < 0:
        return NotImplemented
    return _Rectified.apply(input, negative_slope, False)


def _relu(_mode: DoubleBackward, input: Tensor, inplace: bool = False) -> Any:  # noqa: A002
    if inplace:
        return NotImplemented
    return _Rectified.apply(input, 0.0, True)


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    functional.conv2d: _conv2d,
    functional.conv_transpose2d: _conv_transpose2d,
    functional.leaky_relu: _leaky_relu,
    functional.relu: _relu,
    torch.relu: _relu,
    Tensor.relu: _relu,
}


class _Convolution(Function):
    """Input (B, I, H, W), weights and a bias (O,) to (B, O, H', W').

    With a mode, gradients of weights and bias are left out while the mode takes its own gradient, which does not
    need them. A function is not told which of its gradients are asked for.
    """

    @staticmethod
    def forward(
        ctx: Any,
        mode: DoubleBackward | None,
        images: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry,
    ) -> Tensor:
        ctx.mode, ctx.geometry = mode, geometry
        ctx.save_for_backward(images, weight)
        out: Tensor = aten.convolution(images, weight, bias, *geometry)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        images, weight = ctx.saved_tensors
        (gradient,) = gradients
        _, of_images, of_weight, of_bias, _ = ctx.needs_input_grad
        if ctx.mode is not None and ctx.mode.skips_weights:
            of_weight = of_bias = False
        return (
            None,
            _gradient(gradient, images, weight, ctx.geometry, of_images=True) if of_images else None,
            _gradient(gradient, images, weight, ctx.geometry, of_images=False) if of_weight else None,
            gradient.sum((0, 2, 3)) if of_bias else None,
            None,
        )


class _Gradient(Function):
    """A convolution's gradient of its output, and one of its two factors, to the gradient of the other factor.

    The factors are its input and its weights. `like` is the other one, of which only the shape counts.
    """

    @staticmethod
    def forward(
        ctx: Any, gradient: Tensor, factor: Tensor, like: Tensor, geometry: _Geometry, of_images: bool
    ) -> Tensor:
        ctx.geometry, ctx.of_images = geometry, of_images
        ctx.save_for_backward(gradient, factor)
        images, weight = (like, factor) if of_images else (factor, like)
        wanted = (of_images, not of_images, False)
        gradients = aten.convolution_backward(gradient, images, weight, None, *geometry, wanted)
        out: Tensor = gradients[wanted.index(True)]
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        gradient, factor = ctx.saved_tensors
        (second,) = gradients
        images, weight = (second, factor) if ctx.of_images else (factor, second)
        needs_gradient, needs_factor, *_ = ctx.needs_input_grad
        return (
            _Convolution.apply(None, images, weight, None, ctx.geometry) if needs_gradient else None,
            _gradient(gradient, images, weight, ctx.geometry, of_images=not ctx.of_images)
            if needs_factor
            else None,
            None,
            None,
            None,
        )


def _gradient(gradient: Tensor, images: Tensor, weight: Tensor, geometry: _Geometry, *, of_images: bool) -> Any:
    factor, other = (weight, images) if of_images else (images, weight)
    return _Gradient.apply(gradient, factor, other.detach(), geometry, of_images)


class _Rectified(Function):
    """Leaky ReLU with a slope of at least 0, or ReLU. As in PyTorch, one keeps its input, the other its output."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float, keeps_output: bool) -> Tensor:
        ctx.slope, ctx.keeps_output = slope, keeps_output
        out = x.relu() if keeps_output else functional.leaky_relu(x, slope)
        ctx.save_for_backward(out if keeps_output else x)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        gradient = _RectifiedGradient.apply(*gradients, kept.detach(), ctx.slope, ctx.keeps_output)
        return gradient, None, None


class _RectifiedGradient(Function):
    """The gradient of a rectifier's output to that of its input, whose sign is that of what was kept.

    ReLU's is 0 where its slope is, whatever the gradient: 0 times infinity would not be.
    """

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, kept: Tensor, slope: float, is_relu: bool) -> Tensor:
        ctx.slope, ctx.is_relu = slope, is_relu
        ctx.save_for_backward(kept)
        out: Tensor
        if is_relu:
            out = aten.threshold_backward(gradient, kept, 0)
        else:
            out = aten.leaky_relu_backward(gradient, kept, slope, False)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (kept,) = ctx.saved_tensors
        return _RectifiedGradient.apply(*gradients, kept, ctx.slope, ctx.is_relu), None, None, None
