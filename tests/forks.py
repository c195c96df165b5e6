"""Two gloo processes for a test in a second, or one: forks of a process that has imported all that they need.

Through the launcher two would take seven seconds. What launchers do is tested with the real ones.
"""

import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORLD_SIZE = 2
IMPORTED = ("gan.loop", "gan.train", "bench.stability.exchange", "tests.gan.reference")


class Forks:
    """The process that has imported all. It starts with the first run, and ends with this one."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def run(
        self, worker: Path, *arguments: object, cwd: Path, seconds: float = 280, world_size: int = WORLD_SIZE
    ) -> subprocess.CompletedProcess[str]:
        """Run a script in two processes; the first exit code that is not 0 is that of both.

        A single one has no rank: it runs as without a launcher.

        Raises:
            RuntimeError: The process that has imported all has ended; the next run starts another one.
        """
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.forks"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin
        assert self._process.stdout
        written = (cwd / "forks-output", cwd / "forks-errors")
        for path in written:
            path.unlink(missing_ok=True)
        words = [str(worker), *map(str, arguments)]
        order = {
            "words": words,
            "cwd": str(cwd),
            "until": time.monotonic() + seconds,
            "environment": environment,
            "world_size": world_size,
        }
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that forks both has ended with exit code {self._process.wait()}")
        code = int(answer)
        output, errors = (path.read_text() for path in written)
        return subprocess.CompletedProcess(words, code, output, errors)

    def end(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def serve() -> None:
    """Run what standard input asks for, line by line."""
    for name in IMPORTED:
        __import__(name)
    gc.freeze()  # or each fork would look through all modules, and copy their pages for that
    for line in sys.stdin:
        order = json.loads(line)
        pids = fork_all(order)
        print(wait_for(pids, order["until"]), flush=True)


def fork_all(order: dict[str, Any]) -> list[int]:
    """Start the processes and return their ids."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    pids = []
    for rank in range(order["world_size"]):
        pid = os.fork()
        if not pid:
            be_rank(rank, port, order)
        pids.append(pid)
    return pids


def be_rank(rank: int, port: int, order: dict[str, Any]) -> None:
    """Run the script as a launcher would, and end this process."""
    code = 1
    try:
        os.chdir(order["cwd"])
        for number, name in ((1, "forks-output"), (2, "forks-errors")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ.clear()
        os.environ |= order["environment"]
        if (world_size := order["world_size"]) > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
            os.environ |= {name: str(value) for name, value in {**place, "MASTER_PORT": port}.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"}
        sys.argv = order["words"]
        runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_for(pids: list[int], until: float) -> int:
    """Return the first exit code that is not 0, or 0. When one process fails, the other is killed."""
    running = set(pids)
    failure = 0
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            time.sleep(0.01)
        running.discard(pid)
        failure = failure or (os.waitstatus_to_exitcode(status) if pid else 0)
        if failure or time.monotonic() > until:
            failure = failure or -signal.SIGKILL
            for other in running:
                os.kill(other, signal.SIGKILL)
    return failure


if __name__ == "__main__":
    serve()
