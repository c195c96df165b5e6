"""Bytes that operations read and write, counted from shapes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

UNMOVED = frozenset(
    {
        *("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"),
        *("aten::_unsafe_view", "aten::_reshape_alias", "aten::lift_fresh", "aten::resize_", "aten::set_"),
    }
)
"""Operators that only allocate, or only describe otherwise what is there."""
GATHERING = frozenset({"aten::index", "aten::index_select", "aten::embedding", "aten::gather"})
"""These read of their first argument as many numbers as they write, and not all of it."""
OVERWRITING = frozenset({"aten::zero_", "aten::fill_", "aten::normal_", "aten::uniform_", "aten::copy_"})
"""Operators that write to their first argument without reading it."""
UPDATES = frozenset({"aten::_fused_adam_", "aten::_fused_adamw_", "aten::_fused_sgd_", "aten::_fused_adagrad_"})
"""Operators that are an optimizer's update as a whole."""


def operator_name(func: Any) -> str:
    """Return an operator's name as profilers show it, such as aten::mm; "" for an operator on functions."""
    schema = getattr(func, "_schema", None)
    return str(schema.name) if schema else ""


def num_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor, those of an expanded one counted once."""
    places = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        places *= size if stride or not size else 1
    return places * tensor.element_size()


def traffic_bytes(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    """Return the bytes that a call of an operator reads and writes: inputs and outputs, each once.

    Args:
        func: The overload of the operator.
        args: Its arguments by position.
        kwargs: Its arguments by name.
        out: What it returned.
    """
    schema = getattr(func, "_schema", None)
    if schema is None or schema.name in UNMOVED:
        return 0
    if any(value.alias_info is not None and not value.alias_info.is_write for value in schema.returns):
        return 0  # a view
    written = list(_written(schema, args, kwargs))
    fresh = [] if any(value.alias_info is not None for value in schema.returns) else _tensors(out)
    overwritten = written if schema.name in OVERWRITING else []
    read = [tensor for tensor in _tensors((args, kwargs)) if not any(tensor is other for other in overwritten)]
    if schema.name in GATHERING:
        read = [*read[1:], *fresh]
    return sum(map(num_bytes, (*read, *written, *fresh)))


def _written(schema: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
    """Yield the tensors among the arguments that the operator changes."""
    for index, argument in enumerate(schema.arguments):
        if schema.name in UPDATES and argument.name == "grads":
            continue  # which it changes only for a loss scaler
        if argument.alias_info is not None and argument.alias_info.is_write:
            yield from _tensors(args[index] if index < len(args) else kwargs.get(argument.name))


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def update_bytes(optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes that an update of an optimizer has to move.

    Of each parameter with a gradient it reads the gradient, and reads and writes the weight and every moment. So
    Adam in fp32 moves 7 × 4 bytes a weight, RMSprop 5 × 4, and SGD without momentum 3 × 4.
    """
    total = 0
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            moments = [
                value
                for value in optimizer.state.get(parameter, {}).values()
                if isinstance(value, Tensor) and value.shape == parameter.shape
            ]
            total += num_bytes(parameter.grad) + 2 * sum(map(num_bytes, (parameter, *moments)))
    return total
