"""A management library whose GPU says what a test wants."""

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

UUID = "11111111-2222-3333-4444-555555555555"


class NVMLError(Exception):
    pass


class NotSupportedError(NVMLError):
    pass


class FakeNvml(ModuleType):
    """Functions of `pynvml` that return scripted values.

    Attributes:
        values: By the function's name without `nvmlDeviceGet`: a value, a list with one for each call of which the
            last one stays, or an exception.
    """

    NVMLError = NVMLError

    def __init__(self, **values: Any) -> None:
        super().__init__("pynvml")
        self.values: dict[str, Any] = {
            "ClockInfo": 1980,
            "MaxClockInfo": 1980,
            "PowerUsage": 300_000,
            "EnforcedPowerLimit": 700_000,
            "Temperature": 40,
            "CurrentClocksEventReasons": 0,
            "MemoryInfo": SimpleNamespace(used=2**30, total=80 * 2**30),
            "ComputeRunningProcesses": [],
            "GraphicsRunningProcesses": [],
            "EccMode": [1, 1],
            "TotalEccErrors": 0,
            "TotalEnergyConsumption": [1_000_000, 1_450_000],
            "MigMode": [0, 0],
            **values,
        }

    def nvmlInit(self) -> None:  # noqa: N802
        if isinstance(error := self.values.get("Init"), Exception):
            raise error

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:  # noqa: N802
        if uuid != f"GPU-{UUID}":
            raise NVMLError("not found")
        return uuid

    def __getattr__(self, name: str) -> Callable[..., Any]:
        key = name.removeprefix("nvmlDeviceGet")
        if key not in self.__dict__.get("values", {}):
            raise AttributeError(name)

        def function(handle: str, *_: int) -> Any:
            assert handle == f"GPU-{UUID}"
            value = self.values[key]
            if isinstance(value, list) and key in SCRIPTED:
                value = value.pop(0) if len(value) > 1 else value[0]
            if isinstance(value, Exception):
                raise value
            return value

        return function


SCRIPTED = ("ClockInfo", "PowerUsage", "CurrentClocksEventReasons", "TotalEnergyConsumption", "TotalEccErrors")
"""Functions for which a list has one value for each call; the others return lists."""


def processes(*pids: int) -> list[SimpleNamespace]:
    return [SimpleNamespace(pid=pid, usedGpuMemory=None) for pid in pids]


def install(monkeypatch: pytest.MonkeyPatch, **values: Any) -> FakeNvml:
    fake = FakeNvml(**values)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake
