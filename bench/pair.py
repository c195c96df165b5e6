"""A launch pair: fresh processes of BASE and HEAD that take turns; only the one that holds the token runs."""

import contextlib
import json
import os
import random
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.cases import Case
from bench.launch import NOT_INHERITED, SECONDS_TO_DIE
from bench.trees import SIDES, Trees

WINDOW_SECONDS = 0.013
LEAST_STEPS = 2
LONG_STEP_SECONDS = 2 * WINDOW_SECONDS
"""A step as long as this is a window by itself."""
QUADS = 160
LEAST_QUADS = 12
QUAD_SECONDS = 9.0
"""A case has fewer quads where they would take longer than this,"""
PAIR_SECONDS = 27.0
"""or where those of all cases together would take longer than this."""
WARMUP_SECONDS = 0.6
"""Of each side, in windows that take turns, before the first quad."""
QUAD_ORDERS = {"ABBA": ("base", "head", "head", "base"), "BAAB": ("head", "base", "base", "head")}
ANSWER_SECONDS = 600.0


class PairError(Exception):
    """A launch pair could not be measured, and why, in one line. `side` is whose fault it is."""

    def __init__(self, side: str, message: str) -> None:
        super().__init__(f"{side.upper()}: {message}")
        self.side = side


class Process:
    """One side's process."""

    def __init__(self, trees: Trees, side: str, device: str) -> None:
        self.side = side
        self._log = trees.root / f"{side}.log"
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers, "rb", buffering=0)
        spec = {"owner": os.getpid(), "answers": theirs, "launched": time.time()}
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "bench.side", json.dumps(spec)],
                    cwd=trees.code,
                    env=_environment(trees, side, device),
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
        finally:
            os.close(theirs)

    def send(self, name: str, *arguments: Any) -> None:
        """Give it the token, for one command."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self) -> Any:
        """Return the answer, and take the token back; raise PairError."""
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._answers], [], [], ANSWER_SECONDS)
            if not ready:
                raise PairError(self.side, f"no answer for {ANSWER_SECONDS:g} s; its processes were ended")
            part = self._answers.read(65536)
            if not part:
                raise self._gone()
            line += part
        answer = json.loads(line)
        if "error" in answer:
            raise PairError(self.side, answer["error"])
        return answer["ok"]

    def ask(self, name: str, *arguments: Any) -> Any:
        """Send a command and return its answer."""
        self.send(name, *arguments)
        return self.receive()

    def _gone(self) -> PairError:
        code = self._process.wait()
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        return PairError(
            self.side, f"its process ended with {f'signal {-code}' if code < 0 else f'code {code}'}{said}"
        )

    def end(self) -> None:
        """Kill it and whatever it started."""
        doomed: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            own = psutil.Process(self._process.pid)
            doomed = [own, *own.children(recursive=True)]
        for each in doomed:
            with contextlib.suppress(psutil.Error):
                each.kill()
        self._process.wait()
        psutil.wait_procs(doomed, timeout=SECONDS_TO_DIE)
        for pipe in (self._process.stdin, self._answers):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()


def _environment(trees: Trees, side: str, device: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not NOT_INHERITED.fullmatch(name)}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(map(str, (trees.code, trees.tree(side)))),
        "TORCHINDUCTOR_CACHE_DIR": str(trees.cache(side) / "inductor"),
        "TRITON_CACHE_DIR": str(trees.cache(side) / "triton"),
        **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }


@contextmanager
def processes(trees: Trees, sides: Sequence[str], device: str) -> Iterator[dict[str, Process]]:
    """Start a fresh process a side, in the order given; none is left behind."""
    with contextlib.ExitStack() as stack:
        started = {}
        for side in sides:
            started[side] = Process(trees, side, device)
            stack.callback(started[side].end)
        yield started


@dataclass(frozen=True)
class Plan:
    """How a case is measured, the same in every pair of a check.

    Attributes:
        steps_per_window: Of both sides.
        warmup_windows: Of both sides, before the first quad.
        quads: How many.
    """

    steps_per_window: int
    warmup_windows: int
    quads: int


def plan_for(seconds_per_step: float, most_quads: int, num_cases: int = 1) -> Plan:
    """Return windows of about WINDOW_SECONDS, and as many quads as there is time for."""
    steps = 1
    if seconds_per_step < LONG_STEP_SECONDS:
        steps = max(LEAST_STEPS, round(WINDOW_SECONDS / seconds_per_step))
    window = steps * seconds_per_step
    quads = min(most_quads, max(LEAST_QUADS, int(min(QUAD_SECONDS, PAIR_SECONDS / num_cases) / (4 * window))))
    return Plan(steps, max(2, round(WARMUP_SECONDS / window)), quads)


def spec_of(case: Case) -> dict[str, Any]:
    """Return what a side is told of a case: fields of TrainOptions, and what `accelerate launch` would set."""
    flags = case.launch_flags()
    return {
        "workload": case.workload,
        "options": case.train_options(),
        "environment": {
            "ACCELERATE_USE_CPU": str(case.device == "cpu"),
            "ACCELERATE_MIXED_PRECISION": flags["mixed_precision"],
            "ACCELERATE_DYNAMO_BACKEND": flags["dynamo_backend"].upper(),
            "ACCELERATE_DYNAMO_MODE": "default",
            "ACCELERATE_DYNAMO_USE_FULLGRAPH": "False",
            "ACCELERATE_DYNAMO_USE_DYNAMIC": "False",
            "ACCELERATE_DYNAMO_USE_REGIONAL_COMPILATION": "False",
        },
    }


@dataclass
class LaunchPairs:
    """Measures launch pairs of a check.

    Attributes:
        trees: What is compared.
        random: Draws the orders.
        most_quads: Of a case and pair.
        injected: Side to the fraction of a step's work that it is to do more.
        products: How many products of small matrices that is; None to measure it in the first pair.
        plans: How each case is measured; those missing are found on BASE in the first pair.
        say: Told what is going on.
    """

    trees: Trees
    random: random.Random
    most_quads: int
    injected: Mapping[str, float]
    products: int | None = None
    plans: dict[str, Plan] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None
    _products: dict[str, int] = field(default_factory=dict)

    def measure(self, cases: Mapping[str, Case], open_cases: Sequence[str]) -> dict[str, Any]:
        """Return the record of one pair, JSON-ready.

        Args:
            cases: All, by name. The first is always started, so that start-up means the same in every pair.
            open_cases: Which are measured.

        Raises:
            PairError: A side failed, compiled inside a window, or is configured otherwise than the other.
        """
        started = tuple(self.random.sample(SIDES, 2))
        device = next(iter(cases.values())).device
        began = time.time()
        with processes(self.trees, started, device) as sides:
            for side in sides.values():
                side.send("hello")
            record: dict[str, Any] = {"time": round(began, 3), "started": list(started), "cases": {}}
            record["sides"] = {name: sides[name].receive()["environment"] for name in started}
            for index, (name, case) in enumerate(cases.items()):
                if index and name not in open_cases:
                    continue
                self.say(f"{name}: starting")
                prepared = _both(sides, "prepare", spec_of(case))
                if not index:
                    record["startup_seconds"] = {side: prepared[side]["startup_seconds"] for side in SIDES}
                if name in open_cases:
                    self.say(name)
                    record["cases"][name] = self._case(sides, name, prepared, len(cases))
                _both(sides, "drop")
        record["seconds"] = round(time.time() - began, 3)
        return record

    def _case(
        self, sides: Mapping[str, Process], name: str, prepared: Mapping[str, Any], num_cases: int
    ) -> dict[str, Any]:
        if name not in self.plans:
            self.plans[name] = self._find_plan(sides, num_cases)
        plan = self.plans[name]
        for _ in range(plan.warmup_windows):
            for side in SIDES:
                sides[side].ask("run", plan.steps_per_window)
        memory = {side: sides[side].ask("memory") for side in SIDES}
        doses = {
            side: sides[side].ask("inject", fraction, self.products or self._products.get(name))
            for side, fraction in self.injected.items()
        }
        self._products[name] = next((dose["products"] for dose in doses.values()), 0)
        orders: list[str] = []
        windows: dict[str, list[float]] = {side: [] for side in SIDES}
        for number in range(plan.quads):
            orders.append(self.random.choice(list(QUAD_ORDERS)))
            for side in QUAD_ORDERS[orders[-1]]:
                seconds, compilations = sides[side].ask("run", plan.steps_per_window)
                if compilations:
                    raise PairError(side, f"{name} compiled again inside a window of quad {number + 1}")
                windows[side].append(seconds)
        return {
            "configuration": {side: prepared[side]["configuration"] for side in SIDES},
            "steps_per_window": dict.fromkeys(SIDES, plan.steps_per_window),
            "peak_bytes": memory,
            "injected": doses,
            "orders": orders,
            "windows": windows,
        }

    def _find_plan(self, sides: Mapping[str, Process], num_cases: int) -> Plan:
        """Time some steps of BASE, after as many that warm up; HEAD takes as many."""
        seconds: list[float] = []
        while len(seconds) < 6 or (sum(seconds) < WARMUP_SECONDS and len(seconds) < 200):
            seconds.append(sides["base"].ask("run", 1)[0])
            sides["head"].ask("run", 1)
        return plan_for(sorted(seconds[len(seconds) // 2 :])[len(seconds) // 4], self.most_quads, num_cases)


def _both(sides: Mapping[str, Process], name: str, *arguments: Any) -> dict[str, Any]:
    """Let both sides do what is not timed, at once."""
    for process in sides.values():
        process.send(name, *arguments)
    return {side: process.receive() for side, process in sides.items()}
