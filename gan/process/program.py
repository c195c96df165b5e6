"""What starts the programs of this project: in the way in which this one was started.

From a checkout people run scripts (`python gan/train.py`), from a wheel console scripts (`gan-train`), and from
both modules (`accelerate launch -m gan.train`). Help texts and advice name what works where the user is.
"""

import shlex
import sys
from pathlib import Path

CONSOLE_SCRIPTS = {
    "gan.train": "gan-train",
    "gan.sample": "gan-sample",
    "gan.evaluate": "gan-evaluate",
    "bench": "gan-bench",
}
"""The programs: each is a module, and has a console script. Those of `gan` are also files to run."""
SCRIPTS = Path(__file__).resolve().parent.parent


def command_of(program: str) -> str:
    """Return what a user types to start a program: its script, its console script or its module.

    If this process is none of the programs, it is the module: that works wherever the package can be imported.

    Args:
        program: A key of CONSOLE_SCRIPTS.
    """
    started = Path(sys.argv[0])
    if started.stem in CONSOLE_SCRIPTS.values():
        return CONSOLE_SCRIPTS[program]
    top, _, name = program.rpartition(".")
    if top and _is_script(started):
        return f"python {shlex.quote(str(started.with_name(f'{name}.py')))}"
    return f"python -m {program}"


def _is_script(started: Path) -> bool:
    """Say whether a file of `gan` was started by its path; `python -m gan.train` sets the same path."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    by_name = spec is not None and spec.name in CONSOLE_SCRIPTS
    return not by_name and f"gan.{started.stem}" in CONSOLE_SCRIPTS and started.parent.resolve() == SCRIPTS
