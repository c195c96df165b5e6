"""CUDA graphs on the CPU: a capture notes operators without an effect, a replay runs them on the same memory.

As on a GPU, numbers are repeated, tensors are read anew, random numbers are drawn anew, and to read a tensor on
the host is an error while a graph is captured.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _tensors(values: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


class SimulatedGraph(TorchDispatchMode):
    """Stands for a CUDAGraph, and notes the operators of a capture."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Any]] = []
        self.num_replays = 0
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        taken = _tensors((args, kwargs))
        for tensor in taken:
            key = _storage(tensor)
            if key not in self._made and key not in self._before:
                whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
                self._before[key] = (whole, whole.clone())
        result = func(*args, **kwargs)
        known = set(map(_storage, taken))
        self._made |= {key for key in map(_storage, _tensors(result)) if key not in known}
        self.operators.append((func, args, kwargs, result))
        return result

    def undo(self) -> None:
        """Give what existed before the capture its values back."""
        for whole, before in self._before.values():
            whole.copy_(before)
        self._before.clear()

    def replay(self) -> None:
        self.num_replays += 1
        with torch.no_grad():
            for func, args, kwargs, result in self.operators:
                known = set(map(_storage, _tensors((args, kwargs))))
                for held, new in zip(_tensors(result), _tensors(func(*args, **kwargs)), strict=True):
                    if _storage(held) not in known:
                        held.copy_(new)


@contextmanager
def _capture(graph: SimulatedGraph, *_settings: Any, **_more: Any) -> Iterator[None]:
    state = torch.default_generator.get_state()
    try:
        with graph:
            yield
    except RuntimeError as error:
        # as torch.cuda.graph does when it leaves a capture in which a step failed
        raise RuntimeError("operation failed due to a previous error during capture") from error
    finally:
        graph.undo()
        torch.default_generator.set_state(state)


class _Stream:
    def wait_stream(self, _stream: object) -> None:
        pass


def simulate_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `torch.cuda`'s graphs be simulated ones."""
    for name, double in {
        "CUDAGraph": SimulatedGraph,
        "Stream": _Stream,
        "current_stream": _Stream,
        "graph": _capture,
        "graph_pool_handle": object,
        "stream": lambda _stream: nullcontext(),
        "synchronize": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, double)
    # PyTorch has capturable optimizers for GPUs alone
    monkeypatch.setattr(
        sys.modules["torch.optim.rmsprop"], "_get_capturable_supported_devices", lambda **_: ["cpu"]
    )
