"""What the processes that measured a case wrote, parsed once.

`damage.py` has checked the JSON before; here it becomes dataclasses, and what no figure needs is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from bench.results.checks import Check
from bench.results.damage import Json
from bench.results.environment import machine_line
from bench.results.gpu import GpuFacts
from bench.results.messages import Message
from bench.results.profile import StepProfile
from bench.results.statistics import Seconds
from bench.results.work import StepWork
from bench.suite.cases import Case


@dataclass(frozen=True, eq=False)
class ArmResult:
    """What one rank measured of one arm.

    Attributes:
        windows: Seconds of each window; empty if the arm was only warmed up.
        steps_per_window: Steps in each window.
        images_per_step: Images over all processes; 0 if a step handles none.
        every: The arm has a window in every round whose number is a multiple of this.
        settled: Whether the warm-up reached a steady state.
        period: Steps over which its times are means; windows have whole periods.
        part_of: The arm of whose windows this is a part; "" for an arm.
    """

    windows: Seconds
    steps_per_window: int
    images_per_step: int
    every: int
    settled: bool
    period: int = 1
    part_of: str = ""

    @property
    def seconds_per_step(self) -> Seconds:
        """The seconds per step in each window."""
        return self.windows / self.steps_per_window


@dataclass(frozen=True)
class QualityResult:
    """How training until a target quality ended.

    Attributes:
        target_fid: The Fréchet distance at which training stops.
        fid: The Fréchet distance that was reached; it may be not finite.
        images: Images seen until then.
        seconds: Seconds of training until then, without the time of scoring.
    """

    target_fid: float
    fid: float
    images: float
    seconds: float


@dataclass(frozen=True)
class Facts:
    """What was counted or found besides times. A fact that the workload does not need may be missing.

    Attributes:
        seconds: How long the whole workload took.
        flops_per_step: FLOPs of a step over all processes.
        least_bytes_per_step: The fewest bytes that a step can move, over all processes.
        work: FLOPs or bytes of one step of a roofline arm, by the arm's name.
        sequence: What a step does in sequence, over all processes; None in an older file.
        phases: The same by phase, for `phases`.
        messages: What is exchanged in a step, in the order in which it is sent; none in an older file.
        clock_error_seconds: By which the clocks of processes may differ, at the most.
        profile: What a profiler saw of the step; None if it was not profiled.
        checkpoint_bytes: Size of a checkpoint.
        subject_sha256: Of a subject's file; empty if it has none, and for the core.
        left_out: What of a subject was not measured, and why.
        weights_bytes: Bytes of a subject's networks, by name.
        optimizer_bytes: Bytes of a subject's optimizers, by name.
        same_weights: Whether the processes of a subject have the same weights.
        last_losses: After the last step, where losses are shown; None for one that is not finite.
        checks: Checks of the tiers of stability.
        seeds: The outcome of each seed, by metric.
        quality: How training until a target quality ended.
    """

    seconds: float = 0.0
    flops_per_step: float = 0.0
    least_bytes_per_step: float = 0.0
    work: Mapping[str, float] = field(default_factory=dict)
    sequence: StepWork | None = None
    phases: Mapping[str, StepWork] = field(default_factory=dict)
    messages: tuple[Message, ...] = ()
    clock_error_seconds: float = 0.0
    profile: StepProfile | None = None
    checkpoint_bytes: float = 0.0
    subject_sha256: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)
    weights_bytes: Mapping[str, int] = field(default_factory=dict)
    optimizer_bytes: Mapping[str, int] = field(default_factory=dict)
    same_weights: bool = True
    last_losses: Mapping[str, float | None] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    seeds: tuple[Mapping[str, float], ...] = ()
    quality: QualityResult | None = None


@dataclass(frozen=True)
class HostFacts:
    """The host of a rank, where a case ran on several.

    Attributes:
        name: As it was named in `--hosts`.
        cpu: Model, number of cores, and the widest instructions that PyTorch uses.
        gpus: Their names.
        python: The version.
        packages: Version by name; None if not installed.
        machine: A digest, equal for names of the same machine; empty where the system does not say.
        network: The same of its network: containers of a machine have one each.
    """

    name: str
    cpu: Mapping[str, str | int]
    gpus: tuple[str, ...]
    python: str
    packages: Mapping[str, str | None]
    machine: str = ""
    network: str = ""

    @classmethod
    def parse(cls, data: Json) -> "HostFacts":
        """Return the facts that a rank recorded."""
        return cls(
            name=data["name"],
            cpu=data["cpu"],
            gpus=tuple(data["gpus"]),
            python=data["python"],
            packages=data["packages"],
            machine=data.get("machine", ""),
            network=data.get("network", ""),
        )

    @property
    def line(self) -> str:
        """Machine and versions in one line, without the name."""
        return machine_line(self.cpu, self.gpus, self.python, self.packages)


@dataclass(frozen=True, eq=False)
class RankResult:
    """What one process measured in one launch.

    Attributes:
        arms: Its arms by name, the case's own first.
        startup_seconds: Seconds of each part of the start.
        compile_seconds: Seconds in torch.compile, whose cache was empty at first.
        peak_bytes: The most memory that it held: allocated on the GPU if there is one, resident otherwise.
        reserved_bytes: The most memory that it took from a GPU's driver; None without a GPU.
        device_bytes: What all processes held of the GPU's memory; None without a GPU.
        busy_cores: Cores that all processes of the machine kept busy while it measured.
        own_cores: Cores that it kept busy itself.
        stolen_cores: Cores that the host took away.
        facts: What it counted or found.
        threads: Threads of PyTorch.
        flags: PyTorch's settings that change results or speed.
        gpu: What it read of its GPU; None without one, and in older files.
        host: Where it ran; None if all processes of the case ran on the host of the session.
        shares_memory: Whether it exchanged gradients in memory which the processes of its host share.
    """

    arms: Mapping[str, ArmResult]
    startup_seconds: Mapping[str, float]
    compile_seconds: float
    peak_bytes: int
    reserved_bytes: int | None
    device_bytes: int | None
    busy_cores: float
    own_cores: float
    stolen_cores: float
    facts: Facts
    threads: int
    flags: Mapping[str, object]
    gpu: GpuFacts | None = None
    host: HostFacts | None = None
    shares_memory: bool = False


def parse_case(data: Json) -> Case:
    """Return a case. Axes that the file lacks have their defaults; axes that are not known here are left out.

    Before the axis `shared_memory` existed, processes shared none.
    """
    known = {item.name for item in fields(Case)}
    case = Case(**{name: _hashable(value) for name, value in data.items() if name in known})
    return replace(case, shared_memory=data.get("shared_memory", False)) if case.may_share_memory else case


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def parse_rank(data: Json) -> RankResult:
    """Return what one process measured."""
    memory = data["memory"]
    load = data["load"]
    device = memory.get("device", {})
    return RankResult(
        arms={name: _parse_arm(arm) for name, arm in data["arms"].items()},
        startup_seconds=data["startup_seconds"],
        compile_seconds=data["compile_seconds"],
        peak_bytes=memory["peak_device_bytes"] or memory["peak_host_bytes"],
        reserved_bytes=device.get("peak_reserved_bytes"),
        device_bytes=device.get("used_bytes"),
        busy_cores=load["busy_cores"],
        own_cores=load["own_cores"],
        stolen_cores=load["stolen_cores"],
        facts=_parse_facts(data["facts"]),
        threads=data["threads"],
        flags=data["flags"],
        gpu=GpuFacts.parse(data["gpu"]) if "gpu" in data else None,
        host=HostFacts.parse(data["host"]) if "host" in data else None,
        shares_memory=data["strategy"].get("shared_memory") is True,
    )


def _parse_arm(data: Json) -> ArmResult:
    return ArmResult(
        windows=np.array(data["windows"], dtype=np.float64),
        steps_per_window=data["steps_per_window"],
        images_per_step=data["images_per_step"],
        every=data["every"],
        settled=data["settled"],
        period=data.get("period", 1),
        part_of=data.get("part_of", ""),
    )


def _parse_facts(data: Json) -> Facts:
    """Return the facts that are of their type: only those that the workload needs have been checked."""
    work = data.get("work")
    quality = data.get("quality")
    return Facts(
        seconds=_number(data.get("seconds")),
        flops_per_step=_number(data.get("flops_per_step")),
        least_bytes_per_step=_number(data.get("least_bytes_per_step")),
        work={name: _parse_work(amount) for name, amount in work.items()} if isinstance(work, dict) else {},
        sequence=StepWork.of(data["sequence"]) if "sequence" in data else None,
        phases={name: StepWork.of(work) for name, work in data.get("phases", {}).items()},
        messages=tuple(Message(**message) for message in data.get("messages", ())),
        clock_error_seconds=_number(data.get("clock_error_seconds")),
        profile=StepProfile.of(data["profile"]) if "profile" in data else None,
        checkpoint_bytes=_number(data.get("checkpoint_bytes")),
        subject_sha256=data.get("subject", {}).get("sha256", ""),
        left_out=data.get("left_out", {}),
        weights_bytes=data.get("weights_bytes", {}),
        optimizer_bytes=data.get("optimizer_bytes", {}),
        same_weights=data.get("same_weights", True),
        last_losses=data.get("last_losses", {}),
        checks=tuple(map(Check.of, data.get("checks", ()))),
        seeds=tuple(data.get("seeds", ())),
        quality=_parse_quality(quality) if isinstance(quality, dict) else None,
    )


def _parse_quality(data: Json) -> QualityResult:
    return QualityResult(
        target_fid=_number(data["target_fid"]),
        fid=_number(data["fid"]),
        images=_number(data["images"]),
        seconds=_number(data["seconds"]),
    )


def _parse_work(amount: Any) -> float:
    """Return the only number of what a step of a roofline arm does, {"flops": n} or {"bytes": n}."""
    values = list(amount.values()) if isinstance(amount, dict) else []
    return _number(values[0]) if len(values) == 1 else 0.0


def _number(value: Any) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0.0
