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
        devices = {tensor.device for tensor in tensors.values() if tensor.is_cuda}
        self._copied = [_recorded(device) for device in devices]

    def tensors(self) -> dict[str, Tensor]:
        """Wait until they are copied, and return them by name, contiguous."""
        for event in self._copied:
            event.synchronize()
        return self._copies


def _queued_copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True, memory_format=torch.contiguous_format)


def _recorded(device: torch.device) -> torch.cuda.Event:
    """Return an event that comes after what is queued on a device, which need not be the current one."""
    event = torch.cuda.Event(blocking=True)  # the thread that waits sleeps
    event.record(torch.cuda.current_stream(device))
    return event
