"""Free memory, checked before much of it is taken: a line is better than a process that the system kills."""

import psutil
import torch

from gan.errors import UsageError


def require_memory(what: str, num_bytes: int, device: torch.device) -> None:
    """Check that something fits into the free memory of the host, where it is made, and of its device.

    Args:
        what: The option, and what takes the memory, in the plural; begins the error.
        num_bytes: Bytes that it takes.
        device: Where it is moved.

    Raises:
        UsageError: It does not fit.
    """
    free_bytes = psutil.virtual_memory().available
    if device.type == "cuda":
        free_bytes = min(free_bytes, torch.cuda.mem_get_info(device)[0])
    if num_bytes > free_bytes:
        raise UsageError(
            f"{what} take {num_bytes / 2**30:,.1f} GiB of memory, of which {free_bytes / 2**30:,.1f} are free; "
            "give a smaller --image-shape or --batch-size, or free some"
        )
