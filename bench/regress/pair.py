"""A launch pair: fresh processes of BASE and HEAD that take turns; only the side that holds the token runs."""

import contextlib
import json
import os
import random
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.harness.host import NOT_INHERITED
from bench.harness.processes import SECONDS_TO_DIE
from bench.regress.record import CaseWindows, Facts, Pair
from bench.regress.settings import CheckSettings
from bench.regress.sides import SIDES, Both
from bench.regress.trees import Trees
from bench.suite.cases import Case
from gan.process.launcher import num_threads_asked

WINDOW_SECONDS = 0.013
LEAST_QUADS = 12
QUAD_SECONDS = 9.0
"""A case has fewer quads where they would take longer than this,"""
PAIR_SECONDS = 27.0
"""or where those of all cases together would take longer than this."""
CALIBRATION_QUADS = 60
WARMUP_SECONDS = 0.6
"""Of each side, in windows that take turns, before the first quad."""
QUAD_ORDERS = {"ABBA": ("base", "head", "head", "base"), "BAAB": ("head", "base", "base", "head")}
ANSWER_SECONDS = 600.0


class PairError(Exception):
    """A launch pair could not be measured, and why, in one line. `side` is whose fault it is."""

    def __init__(self, side: str, message: str) -> None:
        super().__init__(f"{side.upper()}: {message}")
        self.side = side


class RankProcess:
    """One rank of a side."""

    def __init__(self, trees: Trees, side: str, device: str, world: Mapping[str, str]) -> None:
        self.side = side
        self.who = f"rank {world['RANK']}: " if world else ""
        self._log = trees.root / f"{side}-{world.get('RANK', '0')}.log"
        answers, theirs = os.pipe()
        self._answers = os.fdopen(answers, "rb", buffering=0)
        spec = {
            "owner": os.getpid(),
            "answers": theirs,
            "monotonic_seconds": time.monotonic(),
            "tree": str(trees.tree(side)),
        }
        try:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "bench.regress.side", json.dumps(spec)],
                    cwd=trees.code,
                    env={**_environment(trees, side, device), **world},
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=(theirs,),
                    start_new_session=True,
                )
        finally:
            os.close(theirs)

    @property
    def name(self) -> str:
        """Its side, and its rank where there are several."""
        return f"{self.side.upper()} {self.who}".rstrip(": ")

    def fileno(self) -> int:
        """Return where its answers come from."""
        return self._answers.fileno()

    def send(self, name: str, *arguments: Any) -> None:
        """Give it a command."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps([name, *arguments]).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self) -> Any:
        """Return the answer; raise PairError."""
        line = b""
        while not line.endswith(b"\n"):
            part = self._answers.read(65536)
            if not part:
                raise self._gone()
            line += part
        answer = json.loads(line)
        if "error" in answer:
            raise PairError(self.side, f"{self.who}{answer['error']}")
        return answer["ok"]

    def _gone(self) -> PairError:
        try:
            code = self._process.wait(SECONDS_TO_DIE)
        except subprocess.TimeoutExpired:
            return PairError(self.side, f"{self.who}it closed its pipe, and goes on")
        lines = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = f": {lines[-1].strip()}" if lines else ""
        how = f"signal {-code}" if code < 0 else f"code {code}"
        return PairError(self.side, f"{self.who}its process ended with {how}{said}")

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
    places = (str(trees.code), str(trees.tree(side)), kept.get("PYTHONPATH"))
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(filter(None, places)),
        "TORCHINDUCTOR_CACHE_DIR": str(trees.cache(side) / "inductor"),
        "TRITON_CACHE_DIR": str(trees.cache(side) / "triton"),
        **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}),
    }


@dataclass(frozen=True)
class SideRanks:
    """One side's processes, in the order of their ranks. All are given the same commands."""

    ranks: Sequence[RankProcess]

    def send(self, name: str, *arguments: Any) -> None:
        """Give them the token, for one command."""
        for process in self.ranks:
            process.send(name, *arguments)

    def receive(self) -> list[Any]:
        """Return each rank's answer, and take the token back; raise PairError."""
        return answers_of(self.ranks)

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """Send a command and return each rank's answer."""
        self.send(name, *arguments)
        return self.receive()

    def run(self, num_steps: int) -> tuple[float, int]:
        """Return the seconds of a window, the slowest rank's, and how often a compiler ran in it."""
        seconds, compilations = zip(*self.ask("run", num_steps), strict=True)
        return max(seconds), sum(compilations)


def answers_of(ranks: Sequence[RankProcess]) -> list[Any]:
    """Return each process's answer; raise PairError for the first that fails, whichever that is."""
    answers: dict[RankProcess, Any] = {}
    while waiting := [process for process in ranks if process not in answers]:
        ready, _, _ = select.select(waiting, [], [], ANSWER_SECONDS)
        if not ready:
            first, *others = waiting
            also = f" (nor from {', '.join(process.name for process in others)})" if others else ""
            raise PairError(first.side, f"{first.who}no answer for {ANSWER_SECONDS:g} s{also}; all were ended")
        answers |= {process: process.receive() for process in ready}
    return [answers[process] for process in ranks]


@contextmanager
def processes(
    trees: Trees, sides: Sequence[str], device: str, num_processes: int = 1
) -> Iterator[dict[str, SideRanks]]:
    """Start fresh processes of each side, in the order given; none is left behind."""
    with contextlib.ExitStack() as stack:
        launches = {}
        for side in sides:
            ranks = []
            for world in _worlds(num_processes):
                ranks.append(RankProcess(trees, side, device, world))
                stack.callback(ranks[-1].end)
            launches[side] = SideRanks(ranks)
        yield launches


def _worlds(num_processes: int) -> list[dict[str, str]]:
    """Return what a launcher would tell each of several processes of their number."""
    if num_processes == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    sizes = {"WORLD_SIZE": str(num_processes), "LOCAL_WORLD_SIZE": str(num_processes)}
    return [{**meeting, **sizes, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(num_processes)]


@dataclass(frozen=True)
class QuadPlan:
    """How a case is measured, the same in every pair of a check.

    Attributes:
        steps_per_window: Of both sides.
        warmup_windows: Of both sides, before the first quad.
        quads: How many.
    """

    steps_per_window: int
    warmup_windows: int
    quads: int


def plan_for(seconds_per_step: float, most_quads: int, num_cases: int = 1) -> QuadPlan:
    """Return windows of about WINDOW_SECONDS or of one step, and as many quads as there is time for."""
    steps = max(1, round(WINDOW_SECONDS / seconds_per_step))
    window = steps * seconds_per_step
    quads = min(most_quads, max(LEAST_QUADS, int(min(QUAD_SECONDS, PAIR_SECONDS / num_cases) / (4 * window))))
    return QuadPlan(steps, max(2, round(WARMUP_SECONDS / window)), quads)


def spec_of(case: Case) -> dict[str, Any]:
    """Return what a side is told of a case: fields of TrainOptions, and what `accelerate launch` would set."""
    flags = case.launch_flags()
    num_threads, _ = num_threads_asked() or (None, "")
    return {
        "workload": case.workload,
        "options": {**case.train_options(), "num_threads": num_threads},
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
    plans: dict[str, QuadPlan] = field(default_factory=dict)
    say: Callable[[str], None] = lambda _: None
    _products: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, settings: CheckSettings, trees: Trees) -> "LaunchPairs":
        """Return what measures the pairs of a check."""
        dose = settings.options.inject
        injected: dict[str, float] = {}
        if dose > 0:
            injected = {"head": dose}
        elif dose < 0:
            injected = {"base": 1 / (1 + dose) - 1}  # HEAD's step is then 1 + dose of BASE's
        return cls(trees, random.Random(settings.seed), settings.most_quads, injected, settings.products)

    def measure(self, cases: Mapping[str, Case], open_cases: Sequence[str]) -> Pair:
        """Measure one pair.

        Args:
            cases: All, by name. The first is always started, so that start-up means the same in every pair.
            open_cases: Which are measured.

        Raises:
            PairError: A side failed, compiled inside a window, or is configured otherwise than the other.
        """
        started = tuple(self.random.sample(SIDES, 2))
        time_of_day = time.time()
        began = time.monotonic()
        first = next(iter(cases))
        environments: Both[Facts] | None = None
        startup_seconds: Both[float] | None = None
        measured: dict[str, CaseWindows] = {}
        for group in launched_together(cases):
            names = [name for name in group if name == first or name in open_cases]
            if not names:
                continue
            case = cases[names[0]]
            with processes(self.trees, started, case.device, case.num_processes) as sides:
                greetings = ask_both(sides, "hello")
                environments = environments or Both.parse(greetings, lambda ranks: ranks[0]["environment"])
                for name in names:
                    self.say(f"{name}: starting")
                    prepared = ask_both(sides, "prepare", spec_of(cases[name]))
                    if name == first:
                        startup_seconds = Both.parse(
                            prepared, lambda ranks: max(answer["startup_seconds"] for answer in ranks)
                        )
                    if name in open_cases:
                        self.say(name)
                        measured[name] = self._case(sides, name, prepared, len(cases))
                    ask_both(sides, "drop")
        assert environments is not None
        assert startup_seconds is not None
        seconds = round(time.monotonic() - began, 3)
        return Pair(round(time_of_day, 3), started, environments, startup_seconds, measured, seconds)

    def _case(
        self,
        sides: Mapping[str, SideRanks],
        name: str,
        prepared: Mapping[str, Sequence[Mapping[str, Any]]],
        num_cases: int,
    ) -> CaseWindows:
        if name not in self.plans:
            self.plans[name] = self._find_plan(sides, num_cases)
        plan = self.plans[name]
        for _ in range(plan.warmup_windows):
            for side in SIDES:
                sides[side].run(plan.steps_per_window)
        peak_bytes: Both[float] = Both.of(lambda side: max(sides[side].ask("memory")))
        injected = {side: self._inject(sides[side], fraction, name) for side, fraction in self.injected.items()}
        orders: list[str] = []
        windows: Both[list[float]] = Both([], [])
        for number in range(plan.quads):
            orders.append(self.random.choice(list(QUAD_ORDERS)))
            for side in QUAD_ORDERS[orders[-1]]:
                seconds, compilations = sides[side].run(plan.steps_per_window)
                if compilations:
                    raise PairError(side, f"{name} compiled again inside a window of quad {number + 1}")
                windows[side].append(seconds)
        return CaseWindows(
            configuration=Both.of(lambda side: prepared[side][0]["configuration"]),
            steps_per_window=Both(plan.steps_per_window, plan.steps_per_window),
            peak_bytes=peak_bytes,
            injected=injected,
            orders=tuple(orders),
            windows=Both(tuple(windows.base), tuple(windows.head)),
        )

    def _inject(self, ranks: SideRanks, fraction: float, name: str) -> dict[str, Any]:
        """Let a side do more work in each step, the same in every pair of the check."""
        measured: dict[str, Any] = {}
        if name not in self._products:
            quads = min(CALIBRATION_QUADS, self.plans[name].quads)
            measured = {} if self.products else ranks.ask("calibrate", fraction, quads)[0]
            self._products[name] = self.products or measured["products"]
        ranks.ask("inject", self._products[name])
        return {**measured, "products": self._products[name]}

    def _find_plan(self, sides: Mapping[str, SideRanks], num_cases: int) -> QuadPlan:
        """Time some steps of BASE, after as many that warm up; HEAD takes as many."""
        seconds: list[float] = []
        while len(seconds) < 6 or (sum(seconds) < WARMUP_SECONDS and len(seconds) < 200):
            seconds.append(sides["base"].run(1)[0])
            sides["head"].run(1)
        return plan_for(sorted(seconds[len(seconds) // 2 :])[len(seconds) // 4], self.most_quads, num_cases)


def launched_together(cases: Mapping[str, Case]) -> list[list[str]]:
    """Group cases by the processes that measure them: those of one process share it, others have their own."""
    single = [name for name, case in cases.items() if case.num_processes == 1]
    return [*([single] if single else []), *([name] for name in cases if name not in single)]


def ask_both(sides: Mapping[str, SideRanks], name: str, *arguments: Any) -> dict[str, list[Any]]:
    """Let both sides do what is not timed, at once; return each rank's answer."""
    for launch in sides.values():
        launch.send(name, *arguments)
    answers = iter(answers_of([process for launch in sides.values() for process in launch.ranks]))
    return {side: [next(answers) for _ in launch.ranks] for side, launch in sides.items()}
