"""`python -m bench configs`: where the configuration files of `accelerate launch` are."""

from dataclasses import dataclass
from typing import Annotated

import tyro

from gan.errors import require_known
from gan.files.text import printable
from gan.process.configs import CONFIGS, config_shown


@dataclass(frozen=True)
class ConfigsOptions:
    """Print the paths of the files for accelerate launch --config_file, which an installed wheel has too."""

    name: Annotated[
        tyro.conf.Positional[str], tyro.conf.arg(metavar="[NAME]", help_behavior_hint="(default: all)")
    ] = ""
    """One file: cpu, cpu_ddp, gpu, gpu_ddp, multi_node or multi_node_cpu."""


def show_configs(options: ConfigsOptions) -> None:
    """Print a path in each line.

    Raises:
        UsageError: There is no such file.
    """
    names = sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    if options.name:
        require_known("configs", options.name, names)
        names = [options.name]
    for name in names:
        print(printable(config_shown(name)))
