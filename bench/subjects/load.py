"""How a subject is named: `core`, `plain`, FILE.py:NAME, package.module:NAME, or an installed entry point."""

import importlib
import importlib.util
import sys
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from bench.subjects.imports import seed_everything
from bench.subjects.subject import MakeSubject, Setup, Subject, SubjectError

CORE = "core"
"""Our own loop. It is measured through `gan.surface`, by which other revisions of it are measured, too."""
BUILT_IN = {"plain": "bench.subjects.plain:make"}
ENTRY_POINTS = "gan_bench.subjects"
"""The group of entry points in which an installed package names its subjects."""


def load_subject(spec: str, place: Path = Path()) -> MakeSubject:
    """Return the function that builds a subject.

    Args:
        spec: As in the module's docstring.
        place: The directory that FILE.py is relative to. It is also the first that modules are imported from.

    Raises:
        SubjectError: There is no such subject, or its module does not import.
    """
    require_named(spec, place)
    where, colon, name = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon:
        return _from_entry_point(spec)
    module = _from_file(spec, place / where) if where.endswith(".py") else _from_module(spec, where, place)
    make = getattr(module, name, None)
    if not callable(make):
        functions = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        raise SubjectError(f"{spec}: {where} has no function {name}; it has {', '.join(functions) or 'none'}")
    return make  # type: ignore[no-any-return]


def require_named(spec: str, place: Path = Path()) -> None:
    """Check as much of a subject's name as can be known without importing it; raise SubjectError."""
    where, colon, name = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon:
        if spec != CORE:
            _entry_point(spec)
    elif not name.isidentifier():
        raise SubjectError(f"{spec}: {name!r} is no name; give FILE.py:NAME or package.module:NAME")
    elif where.endswith(".py") and not (place / where).is_file():
        raise SubjectError(f"{spec}: {place / where} is no file")


def build_subject(spec: str, setup: Setup, place: Path = Path()) -> Subject:
    """Return a subject that is ready to take its first step; raise SubjectError.

    Everything global that is random is seeded, before its module is imported and again before it is built.
    """
    seed_everything(setup.seed)
    make = load_subject(spec, place)
    seed_everything(setup.seed)
    subject = make(setup)
    if not isinstance(subject, Subject):
        raise SubjectError(f"{spec}: returned {type(subject).__name__}, which lacks images_per_step or step()")
    return subject


def _entry_point(spec: str) -> EntryPoint:
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if spec not in points:
        known = ", ".join([CORE, *BUILT_IN, *points])
        raise SubjectError(f"{spec}: no such subject; give {known}, FILE.py:NAME or package.module:NAME")
    return points[spec]


def _from_entry_point(spec: str) -> MakeSubject:
    point = _entry_point(spec)
    try:
        return point.load()  # type: ignore[no-any-return]
    except Exception as error:
        raise SubjectError(f"{spec}: {point.value} does not import: {_one_line(error)}") from error


def _from_file(spec: str, path: Path) -> ModuleType:
    name = f"gan_bench_subject_{path.stem}"  # which no other module has
    description = importlib.util.spec_from_file_location(name, path)
    assert description
    assert description.loader
    module = importlib.util.module_from_spec(description)
    _import_first_from(path.parent)
    sys.modules[name] = module  # which pickle and dataclasses look it up by
    try:
        description.loader.exec_module(module)
    except Exception as error:
        raise SubjectError(f"{spec}: does not import: {_one_line(error)}") from error
    return module


def _from_module(spec: str, name: str, place: Path) -> ModuleType:
    _import_first_from(place)
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise SubjectError(f"{spec}: {name} does not import: {_one_line(error)}") from error


def _import_first_from(folder: Path) -> None:
    """Let Python look for modules in a folder first, as it does for a script's."""
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
