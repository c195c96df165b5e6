"""Faults for processes that measure: a `sitecustomize` that breaks the step of a rank after some time."""

from pathlib import Path

SITECUSTOMIZE = """
import importlib.abc, importlib.util, os, sys

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "gan.loop":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module
        def exec_module(module):
            load(module)
            step, count = module.run_step, 0
            def broken(*arguments):
                nonlocal count
                count += 1
                if count == {after} and os.environ.get("RANK", "0") == "{rank}":
                    {fault}
                return step(*arguments)
            module.run_step = broken
        spec.loader.exec_module = exec_module
        return spec

sys.meta_path.insert(0, Finder())
"""


def inject(folder: Path, fault: str, after: int = 30, rank: int = 0) -> str:
    """Return a PYTHONPATH under which a rank executes the statement `fault` at its step number `after`."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE.format(fault=fault, after=after, rank=rank))
    return str(folder)
