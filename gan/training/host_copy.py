"""Tensors as they are now, on the host, while training goes on to change them."""

from collections.abc import Mapping

import torch
from torch import Tensor


class HostCopy:
    """Copies of tensors on the CPU, which nothing that is computed afterwards reaches.

    The copies from a GPU go into pinned memory, which PyTorch keeps for the next ones. They are queued on the
    stream that computes the tensors, behind what computes them now and before what changes them next, and the
    host does not wait for them: whoever asks for the tensors does.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._copies = {name: _queued_copy(tensor) for name, tensor in tensors.items()}
        self._copied: torch.cuda.Event | None = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._copied = torch.cuda.Event(blocking=True)  # the thread that waits sleeps
            self._copied.record()

    def tensors(self) -> dict[str, Tensor]:
        """Wait until they are copied, and return them by name, contiguous."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._copies


def _queued_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True, memory_format=torch.contiguous_format)
