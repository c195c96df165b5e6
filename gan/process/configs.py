"""The configuration files of `accelerate launch`: of the checkout, or those that the wheel installs."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent
CONFIGS = next(
    (
        folder
        for folder in (PACKAGE / "accelerate_configs", PACKAGE.parent / "accelerate_configs")
        if folder.is_dir()
    ),
    PACKAGE / "accelerate_configs",
)
"""The folder with the files."""


def config_shown(name: str) -> str:
    """Return the path of a file, such as `cpu_ddp`, to be typed: below the working directory a relative one."""
    path = CONFIGS / f"{name}.yaml"
    here = Path.cwd()
    return os.path.relpath(path, here) if path.is_relative_to(here) else str(path)
