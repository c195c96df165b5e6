"""Is there memory for what is about to be made? A line before is better than a process that the system kills."""

import psutil
import torch

from gan.errors import UsageError


def require_memory(what: str, num_bytes: int, device: torch.device) -> None:
    """Raise UsageError where so much does not fit into what is free of this machine's memory and its device's.

    Args:
        what: Begins the complaint: the option, and what takes the memory, in the plural.
        num_bytes: How much.
        device: Where it goes in the end.
    """
    free = psutil.virtual_memory().available
    if device.type == "cuda":
        free = min(free, torch.cuda.mem_get_info(device)[0])
    if num_bytes > free:
        raise UsageError(
            f"{what} take {num_bytes / 2**30:,.1f} GiB of memory, of which {free / 2**30:,.1f} are free; give a "
            "smaller --image-shape or --batch-size, or free some"
        )
