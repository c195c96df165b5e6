"""Linear layers by oneDNN, for fp32 on CPUs. PyTorch takes MKL there, which leaves AMD's AVX-512 unused."""

from typing import Any

import torch
from torch import Tensor, nn

from gan.models.networks import linear_layers


class _Product(torch.autograd.Function):
    """The product a bᵀ + bias of a (M, K), b (N, K) and bias (N,); differentiable any number of times.

    The gradients are products of the same form: with Y's gradient G (M, N), a's is G b and b's is Gᵀ a.
    """

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(a, b)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(a, b, bias, "none", [], "")
        return product

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        needs_a, needs_b, needs_bias = ctx.needs_input_grad
        return (
            _Product.apply(gradient, b.t(), None) if needs_a else None,
            _Product.apply(gradient.t(), a.t(), None) if needs_b else None,
            gradient.sum(0) if needs_bias else None,
        )


class OneDNNLinear(nn.Linear):
    """`nn.Linear` by oneDNN for fp32. Other precisions, compiled graphs and empty batches are left to PyTorch."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002
        """Map (B, in_features) to (B, out_features)."""
        full = input.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not full or torch.compiler.is_compiling() or not len(input):
            return super().forward(input)
        output: Tensor = _Product.apply(input, self.weight, self.bias)
        return output


def use_onednn(network: nn.Module) -> None:
    """Turn the linear layers of a network on the CPU into `OneDNNLinear`, in place.

    Where PyTorch was built without oneDNN, and for layers of another class, nothing changes.
    """
    if torch.backends.mkldnn.is_available():
        for layer in linear_layers(network):
            if type(layer) is nn.Linear:
                layer.__class__ = OneDNNLinear
