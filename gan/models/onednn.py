"""Linear layers by oneDNN, for fp32 on CPUs."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from gan.files.environment import cpu_vendor
from gan.models.networks import linear_layers


@cache
def onednn_is_faster() -> bool:
    """Say whether oneDNN multiplies fp32 matrices faster than MKL, which PyTorch takes if it has it.

    MKL leaves the AVX-512 of CPUs that are not Intel's unused. On Intel's own it is the faster one.
    """
    return not (torch.backends.mkl.is_available() and cpu_vendor() == "GenuineIntel")


def linear_layers_by() -> str:
    """Return what computes the linear layers of new networks in fp32: "oneDNN", or "PyTorch" as it chooses."""
    by_onednn = torch.backends.mkldnn.is_available() and onednn_is_faster()
    return "oneDNN" if by_onednn and not torch.accelerator.is_available() else "PyTorch"


def _product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
    return product


class _Product(torch.autograd.Function):
    """The product a bᵀ + bias of a (M, K), b (N, K) and bias (N,); differentiable any number of times.

    The gradients are products of the same form: with Y's gradient G (M, N), a's is G b and b's is Gᵀ a. The
    latter lies in memory as b does, by columns if b is a transposed matrix.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        return _product(a, b, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(_Product.apply, ctx, gradient)


def _gradients(product: Any, ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    a, b = ctx.saved_tensors
    needs_a, needs_b, needs_bias = ctx.needs_input_grad
    gradient_of_b = None
    if needs_b and b.t().is_contiguous() and not b.is_contiguous():
        gradient_of_b = product(a.t(), gradient.t(), None).t()
    elif needs_b:
        gradient_of_b = product(gradient.t(), a.t(), None)
    return (
        product(gradient, b.t(), None) if needs_a else None,
        gradient_of_b,
        gradient.sum(0) if needs_bias else None,
    )


@torch.library.custom_op("gan::onednn_product", mutates_args=())
def compiled_product(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
    """Return `_Product` as an operator that compilers leave as it is, at a little more time for a call."""
    return _product(a, b, bias)


@compiled_product.register_fake
def _(a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ARG001
    return a.new_empty(a.shape[0], b.shape[0])


compiled_product.register_autograd(
    lambda ctx, gradient: _gradients(compiled_product, ctx, gradient),
    setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs[:2]),  # noqa: ARG005
)


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: A002
    """Return `nn.functional.linear`, of (B, K) by oneDNN in fp32. The rest, and empty batches, is PyTorch's."""
    full = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if not full or input.ndim != 2 or not len(input):
        return nn.functional.linear(input, weight, bias)
    product = compiled_product if torch.compiler.is_compiling() else _Product.apply
    output: Tensor = product(input, weight, bias)
    return output


class OneDNNLinear(nn.Linear):
    """`nn.Linear` by oneDNN for fp32."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map (…, in_features) to (…, out_features)."""
        return linear(input, self.weight, self.bias)


def use_onednn(network: nn.Module) -> None:
    """Turn the linear layers of a network on the CPU into `OneDNNLinear`, in place.

    Where PyTorch was built without oneDNN, and for layers of another class, nothing changes.
    """
    if torch.backends.mkldnn.is_available():
        for layer in linear_layers(network):
            if type(layer) is nn.Linear:
                layer.__class__ = OneDNNLinear
