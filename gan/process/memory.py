"""Free memory, checked before much of it is taken: a line is better than a process that the system kills."""

import errno
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import torch

from gan.errors import UsageError

SHARE_FOR_IMAGES = 0.25
"""Of the memory that is free, what images may take unless it is said how much."""
UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40
}  # fmt: skip
MUCH_OF_A_GPU = 0.1
"""The part of its memory from which on other processes are named. CUDA itself takes less, for each process."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
GROUPS_OF_PROCESS = Path("/proc/self/cgroup")
GROUP_FILES = {
    "": ("memory.max", "memory.current", ""),
    "memory": ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
}
"""The limit and the usage, and how the names of all pages begin, in versions 2 and 1 of control groups."""
OUT_OF_MEMORY = re.compile(
    r"out of memory|memory allocation|(can.?t|cannot|unable to|could not|failed to) (m?alloc|mmap)\w*"
    r"|not enough memory|insufficient memory|bad.?alloc|alloc_failed|pointer is null"
    r"|storage size calculation overflowed",
    re.IGNORECASE,
)
"""What libraries say that lack memory."""
SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?) *([A-Z]*)")


def require_memory(what: str, num_bytes: int, device: torch.device, lower: str = "") -> None:
    """Check that something fits into the free memory of the host, where it is made, and of its device.

    Args:
        what: The option, and what takes the memory, in the plural; begins the error.
        num_bytes: Bytes that it takes.
        device: Where it is moved.
        lower: The options that take less memory if they are smaller; empty if there are none.

    Raises:
        UsageError: It does not fit.
    """
    free_bytes = free_on_host()
    if device.type == "cuda":
        free_bytes = min(free_bytes, free_on_device(device))
    if num_bytes > free_bytes:
        advice = f"give a smaller {lower}, or free some" if lower else "free some"
        sizes = f"{gibibytes(num_bytes)} GiB of memory, of which {gibibytes(free_bytes)} are free"
        raise UsageError(f"{what} take {sizes}; {advice}")


def free_on_host() -> int:
    """Return the bytes of memory that this process may still take, of the host and of its control groups."""
    return min([int(psutil.virtual_memory().available), *_free_in_groups()])


def _free_in_groups() -> Iterator[int]:
    """Yield how many bytes each control group of this process, such as a container, is below its limit.

    Pages of files can be freed, and count as free.
    """
    for folder, (limit, usage, total) in _groups():
        try:
            most, used = (int((folder / name).read_text(encoding="ascii")) for name in (limit, usage))
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            files = sum(int(stat[f"{total}{kind}_file"]) for kind in ("active", "inactive"))
        except (OSError, ValueError, KeyError):  # there is no limit, or a container does not see the group
            continue
        yield max(0, most - used + files)


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """Yield the folder of each control group of this process, and what its files and pages are called there."""
    try:
        lines = GROUPS_OF_PROCESS.read_text(encoding="utf-8").splitlines()
    except OSError:  # not on Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers in GROUP_FILES:
            root = CONTROL_GROUPS / controllers
            for group in (Path(path), *Path(path).parents):
                yield root / group.relative_to("/"), GROUP_FILES[controllers]


def free_on_device(device: torch.device) -> int:
    """Return the bytes of memory that a device has free; those of the host, unless it is a CUDA device."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_on_host()


def held_by_others() -> str:
    """Return how much memory of the present GPU other processes hold, in words; "" if it is little, or unknown."""
    with suppress(RuntimeError):  # there may be too little memory to ask
        if torch.cuda.is_available():
            free, total = torch.cuda.mem_get_info()
            others = total - free - torch.cuda.memory_reserved()
            if others > MUCH_OF_A_GPU * total:
                return f"{gibibytes(others)} GiB of the GPU's {gibibytes(total)} GiB"
    return ""


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an error is that memory is short, of the host or of a GPU."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    of_a_library = isinstance(error, RuntimeError) or not isinstance(error, Exception)
    return of_a_library and OUT_OF_MEMORY.search(str(error)) is not None


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` count from now on. A system without /proc/self/clear_refs counts from the beginning."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes that this process has allocated on a CUDA device; else, its most resident memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return int(psutil.Process().memory_info().rss)


def memory_for_images(device: torch.device, processes_here: int, budget_bytes: int | None = None) -> int:
    """Return how many bytes the images of a process may take where they are kept, on its device.

    Args:
        device: Of the process.
        processes_here: Processes on this host, each of which keeps the images.
        budget_bytes: What the user allows; never more than is free. None takes SHARE_FOR_IMAGES of it.
    """
    free_bytes = free_on_device(device)
    if device.type != "cuda":
        free_bytes //= processes_here
    return int(SHARE_FOR_IMAGES * free_bytes) if budget_bytes is None else min(budget_bytes, free_bytes)


def size_in_words(num_bytes: int) -> str:
    """Return a size for a reader; small ones in bytes, which MiB would show as 0.

    >>> size_in_words(4160), size_in_words(3 * 2**19)
    ('4,160 B', '1.5 MiB')
    """
    return f"{num_bytes:,} B" if num_bytes < 2**20 / 10 else f"{num_bytes / 2**20:,.1f} MiB"


def gibibytes(num_bytes: float) -> str:
    """Return bytes in GiB, without the unit.

    >>> gibibytes(1.5 * 2**30), gibibytes(2**47)
    ('1.5', '131,072.0')
    """
    return f"{num_bytes / 2**30:,.1f}"


def parse_size(flag: str, text: str) -> int:
    """Return the bytes that a size such as 4GiB or 500MB means; a number alone is bytes.

    Args:
        flag: The option, for the error.
        text: The size.

    Raises:
        UsageError: It is no size.

    >>> parse_size("--memory-budget", "1.5GiB"), parse_size("--memory-budget", "0")
    (1610612736, 0)
    """
    match = SIZE.fullmatch(text.strip().upper())
    if match is None or match[2] not in UNITS:
        raise UsageError(f"{flag} {text}: no size; give a number with KiB, MiB, GiB, KB, MB or GB, as in 4GiB")
    return int(float(match[1]) * UNITS[match[2]])
