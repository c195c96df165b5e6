"""How threads wait for one another: they spin while each has a core, and sleep while other processes take cores.

Where PyTorch's threads meet, libgomp lets the first ones spin for milliseconds. Nothing is faster as long as each
thread has a core. Beside a busy process, a thread spins on the core that the thread it waits for needs, and a step
takes many times as long. No number of spins is right for both. But libgomp spins 3,000 times less while there are
more OpenMP threads than cores. So while this process's threads wait for cores, it gets further OpenMP threads,
which sleep; they end when the machine is calm again.

This needs Linux and libgomp, which PyTorch's wheels have; elsewhere nothing changes. Only the standard library is
imported, because processes that measure other code than this load the file by its path.
"""

import ctypes
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

LOOK_SECONDS = 0.1
IDLE = 0.2
"""A process that computes for less than this share of the time waits for its turn, and does not look."""
IDLE_SECONDS = 0.5
"""Until it is seen whether that is still so."""
THREADS_PER_LOOK = 16
"""With more threads there are fewer looks, because each thread takes some microseconds of a look."""
CONTENDED = 0.17
"""Seconds that the threads of this process wait for cores, all together, in a second.

Beside a busy process it is 0.25 and more, however threads wait. At rest it is up to 0.1: processes that wait for
their turn take some time to see whether it has come, and threads of the one before still spin for milliseconds.
With many threads, one busy process is not noticed.
"""
CALM = 0.12
LOOKS_UNTIL_CONTENDED = 2
LOOKS_UNTIL_CALM = 3
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_THREAD_LIMIT")
"""Variables by which users say how threads wait, or how many there may be. Then nothing changes.

Intel's KMP_BLOCKTIME, which `accelerate launch` sets by itself, means nothing to libgomp.
"""
MOST_CORES = 64
"""With more cores nothing changes: so many sleeping threads might not be allowed, which ends a process."""
ADAPTED = "adapted to the load"
WATCH = "gan: spinning"
"""The name of the thread that lets others spin less. A process has one, so that nothing else decides it there."""
TASKS = Path("/proc/self/task")


def adapt_spinning() -> None:
    """Let this process's threads spin less whenever they wait for cores; call it after PyTorch is imported.

    Nothing changes if `spin_as_told` was called before.
    """
    if library := _adaptable():
        _start_watch(lambda: _watch(_Crowd(library)))


def spin_as_told() -> "SimpleQueue[bool] | None":
    """Return a queue that takes whether this process's threads shall spin less from now on.

    None where that is impossible, or where the user has said how threads wait.
    """
    library = _adaptable()
    if library is None:
        return None
    told: SimpleQueue[bool] = SimpleQueue()

    def obey() -> None:
        crowd = _Crowd(library)
        while True:
            crowd.set(told.get())

    _start_watch(obey)
    return told


def _adaptable() -> ctypes.CDLL | None:
    """Return libgomp if this process's threads can spin less, and nobody has said how they wait."""
    library = None if spinning() else _libgomp()
    is_small = library is not None and len(os.sched_getaffinity(0)) <= MOST_CORES
    return library if is_small and waited_seconds() is not None else None


def _start_watch(watch: Callable[[], None]) -> None:
    threading.Thread(target=watch, name=WATCH, daemon=True).start()


def spinning() -> str:
    """Return how threads wait, for records: ADAPTED, or what the user has set; empty if nothing was changed."""
    asked = [f"{name}={os.environ[name]}" for name in SETTINGS if name in os.environ]
    watched = any(thread.name == WATCH for thread in threading.enumerate())
    return " ".join(asked) or (ADAPTED if watched else "")


def _libgomp() -> ctypes.CDLL | None:
    """Return PyTorch's libgomp, if it is loaded. Other packages bring copies of their own."""
    with suppress(OSError):
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
        paths = sorted({line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}, key=_is_of_torch)
        return ctypes.CDLL(paths[-1]) if paths else None
    return None


def _is_of_torch(path: str) -> bool:
    return "torch" in path


def waited_seconds() -> tuple[float, int] | None:
    """Return how long this process's threads have waited for cores so far, all together, and their number.

    None if the system does not say so.
    """
    nanoseconds = 0
    num_threads = 0
    try:
        for task in TASKS.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended
                nanoseconds += int((task / "schedstat").read_bytes().split()[1])
                num_threads += 1
    except (OSError, ValueError, IndexError):
        return None
    return (nanoseconds / 1e9, num_threads) if num_threads else None


@dataclass
class Contention:
    """Says whether threads wait for cores. A moment's wait changes nothing.

    Attributes:
        above: They do if they wait, all together, for more seconds than this in a second.
        below: They no longer do if they wait for less.
        contended: Whether they do.
    """

    above: float = CONTENDED
    below: float = CALM
    contended: bool = False
    _looks: int = 0

    def look(self, waiting: float) -> bool:
        """Take the seconds that threads have waited in a second, and return `contended`."""
        differs = waiting < self.below if self.contended else waiting > self.above
        self._looks = self._looks + 1 if differs else 0
        if self._looks >= (LOOKS_UNTIL_CALM if self.contended else LOOKS_UNTIL_CONTENDED):
            self.contended = not self.contended
            self._looks = 0
        return self.contended


class _Crowd:
    """OpenMP threads that sleep, and make more OpenMP threads than cores while they are there."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        # the ABI of GCC's `#pragma omp parallel`: function, its argument, number of threads, flags
        library.GOMP_parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
        self._leave: threading.Event | None = None

    def set(self, there: bool) -> None:
        """Let them come or go."""
        if there and self._leave is None:
            self._leave = threading.Event()
            threading.Thread(target=self._stay, args=(self._leave,), name=f"{WATCH}, crowd", daemon=True).start()
        elif not there and self._leave is not None:
            self._leave.set()
            self._leave = None

    def _stay(self, leave: threading.Event) -> None:
        """Begin a parallel region that does nothing. Its threads sleep until the one that began it ends."""
        nothing = ctypes.cast(self._library.omp_get_num_threads, ctypes.c_void_p)
        self._library.GOMP_parallel(nothing, None, len(os.sched_getaffinity(0)) + 1, 0)
        leave.wait()


def _watch(crowd: _Crowd) -> None:
    contention = Contention()
    pause = threading.Event()  # never set
    seen: tuple[float, int] | None = None
    while True:
        used_seconds = time.process_time()
        began = time.monotonic()
        num_threads = seen[1] if seen else 1
        idle = seen is None
        pause.wait(IDLE_SECONDS if idle else LOOK_SECONDS * max(1.0, num_threads / THREADS_PER_LOOK))
        seconds = time.monotonic() - began
        if time.process_time() - used_seconds < IDLE * seconds:
            seen = None  # looking would take time from those whose turn it is
            continue
        now = waited_seconds()
        if now is None:
            break
        if seen is not None:
            crowd.set(contention.look((now[0] - seen[0]) / seconds))
        seen = now
    crowd.set(False)
