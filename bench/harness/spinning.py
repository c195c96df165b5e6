"""How the threads of a process that measures wait for one another: as in the core, whatever `gan` it imports."""

import importlib.util
from pathlib import Path


def adapt_spinning(file: Path) -> str:
    """Do what `gan.process.spinning` does, read from its file; return how threads wait, for records.

    A process of a launch pair cannot import it: its `gan` is that of an old revision, of somebody else, or none.
    """
    spec = importlib.util.spec_from_file_location("_gan_process_spinning", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.adapt_spinning()
    return str(module.spinning())
