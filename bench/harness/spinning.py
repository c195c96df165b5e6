"""How the threads of a process that takes turns with others wait for one another.

Processes that take turns must wait in the same way, or one of them would seem to be slower. So none of them
decides it by itself, as a process that trains does: each says how long its threads have waited, and is told.
"""

import importlib.util
from pathlib import Path
from types import ModuleType


class Spinning:
    """Says how long threads waited for cores, and lets them spin less if it is told to.

    `gan.process.spinning` does both. It is read from its file: a process of a launch pair cannot import it,
    because its `gan` is that of an old revision, of somebody else, or none.

    Args:
        file: Of that module; None to leave the threads alone.
    """

    def __init__(self, file: Path | None) -> None:
        self._module = _loaded(file) if file else None
        self._told = self._module.spin_as_told() if self._module else None

    @property
    def label(self) -> str:
        """How threads wait, for records; empty if nothing is changed."""
        return str(self._module.spinning()) if self._module else ""

    def waited_seconds(self) -> float:
        """Return how long this process's threads have waited for cores so far, all together; 0 if unknown."""
        seen = self._module.waited_seconds() if self._module and self._told else None
        return float(seen[0]) if seen else 0.0

    def set(self, less: bool) -> None:
        """Let threads spin less, or as usual."""
        if self._told:
            self._told.put(less)


def _loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("_gan_process_spinning", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
