"""How a subject is named: `core`, `plain`, FILE.py:NAME, package.module:NAME, or an installed entry point."""

import difflib
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.subjects.blame import blamed
from bench.subjects.measured import MeasuredSubject
from bench.subjects.process import seed_everything
from bench.subjects.subject import MakeSubject, Setup, SetupRefusedError, Subject, SubjectError

CORE = "core"
"""Our own loop. It is measured through `gan.surface`, by which other revisions of it are measured, too."""
PLAIN = "plain"
BUILT_IN = {PLAIN: "bench.subjects.plain:make"}
ENTRY_POINTS = "gan_bench.subjects"
"""The group of entry points in which an installed package names its subjects."""
FORMS = "FILE.py:NAME or package.module:NAME"


@dataclass(frozen=True)
class Address:
    """Where the function that builds a subject is.

    Attributes:
        where: FILE.py or package.module.
        name: Of the function in it.
    """

    where: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether it is FILE.py, and no module that Python finds."""
        return self.where.endswith(".py")


def short_name(spec: str) -> str:
    """Return what tables and ids show of a subject.

    >>> short_name("models/my_gan.py:make"), short_name("package.module:make"), short_name("plain")
    ('my_gan:make', 'package.module:make', 'plain')
    """
    where, _, name = spec.rpartition(":")
    return f"{Path(where).stem}:{name}" if where.endswith(".py") else spec


def address_of(spec: str, place: Path = Path()) -> Address:
    """Return where a subject's function is; nothing of the subject is run.

    Args:
        spec: As in the module's docstring, but for `core`.
        place: The directory that FILE.py is relative to.

    Raises:
        SubjectError: There is no such file, entry point or form of a name.
    """
    where, colon, name = BUILT_IN.get(spec, spec).rpartition(":")
    if not colon:
        point = _entry_point(spec)
        where, name = point.module, point.attr
    if not name.isidentifier() or not where:
        raise SubjectError(f"{spec}: {name!r} is no name of a function; give {FORMS}")
    address = Address(where, name)
    if address.is_file and not (place / where).is_file():
        raise SubjectError(f"{spec}: {place / where} is no file; give {FORMS}")
    return address


def require_named(spec: str, place: Path = Path()) -> None:
    """Check as much of a subject's name as can be known without running anything of it; raise SubjectError."""
    if spec != CORE:
        address_of(spec, place)


def load_subject(spec: str, place: Path = Path()) -> MakeSubject:
    """Return the function that builds a subject; its file is run.

    Args:
        spec: As in the module's docstring, but for `core`.
        place: The directory that FILE.py is relative to. It is also the first that modules are imported from.

    Raises:
        SubjectError: There is no such subject, or its module does not import.
    """
    address = address_of(spec, place)
    module = _module(spec, address, place)
    make = getattr(module, address.name, None)
    if not callable(make):
        functions = [
            key
            for key, value in vars(module).items()
            if callable(value) and getattr(value, "__module__", "") == module.__name__
        ]
        hint = _nearest(address.name, functions) or f"; it has {', '.join(functions) or 'none'}"
        raise SubjectError(f"{spec}: {address.where} has no function {address.name}{hint}")
    return make  # type: ignore[no-any-return]


def build_subject(spec: str, setup: Setup, place: Path = Path()) -> Subject:
    """Return a subject that is ready to take its first step.

    Everything global that is random is seeded, before its module is imported and again before it is built.

    Raises:
        SetupRefusedError: It cannot be what the setup asks for.
        SubjectError: It cannot be built, or is no subject.
    """
    seed_everything(setup.seed)
    make = load_subject(spec, place)
    name = spec.rpartition(":")[2]
    _require_call(spec, make, (setup,), f"{name}() takes a Setup and nothing else")
    seed_everything(setup.seed)
    with blamed(spec, f"{name}()", place):
        try:
            subject = make(setup)
        except SubjectError as error:
            raise SetupRefusedError(f"{spec}: {error}") from error
    with blamed(spec, "images_per_step", place):
        _require_parts(spec, subject)
    return subject


def measured_subject(spec: str, setup: Setup, place: Path = Path()) -> MeasuredSubject:
    """Return a subject where the core's measured runs are expected; raise as `build_subject` does."""
    return MeasuredSubject(build_subject(spec, setup, place), setup, spec, place)


def source_of(spec: str, place: Path = Path()) -> dict[str, str]:
    """Return the file of a subject that was loaded and its SHA-256, JSON-ready; empty if it has no file."""
    address = address_of(spec, place)
    file = str(place / address.where) if address.is_file else getattr(sys.modules[address.where], "__file__", None)
    if file is None or not Path(file).is_file():
        return {}
    return {"file": str(file), "sha256": hashlib.sha256(Path(file).read_bytes()).hexdigest()}


def _require_parts(spec: str, subject: Any) -> None:
    """Raise SubjectError unless an object has what a subject must have."""
    kind = type(subject).__name__
    for part in ("images_per_step", "step"):
        if not hasattr(subject, part):
            raise SubjectError(f"{spec}: returned {kind}, which lacks {part}{'()' if part == 'step' else ''}")
    if not callable(subject.step):
        raise SubjectError(f"{spec}: step is {type(subject.step).__name__}, and no method")
    _require_call(spec, subject.step, (), "step() takes nothing")
    images = subject.images_per_step
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise SubjectError(
            f"{spec}: images_per_step is {images!r}; give the real images of a step in this process, a whole "
            "number of at least 1"
        )


def _require_call(spec: str, function: Callable[..., object], arguments: tuple[object, ...], rule: str) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # of C code, which says so itself when it is called
        return
    try:
        signature.bind(*arguments)
    except TypeError as error:
        raise SubjectError(f"{spec}: {rule}; its signature is {signature}") from error


def _entry_point(spec: str) -> EntryPoint:
    points = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if spec not in points:
        known = [CORE, *BUILT_IN, *points]
        hint = _nearest(spec, known) or ";"
        raise SubjectError(f"{spec}: no such subject{hint} give {', '.join(known)}, {FORMS}")
    return points[spec]


def _module(spec: str, address: Address, place: Path) -> ModuleType:
    if not address.is_file:
        _import_first_from(place)
        with blamed(spec, f"importing {address.where}", place):
            return importlib.import_module(address.where)
    path = place / address.where
    name = f"gan_bench_subject_{path.stem}"  # which no other module has
    description = importlib.util.spec_from_file_location(name, path)
    assert description
    assert description.loader
    module = importlib.util.module_from_spec(description)
    _import_first_from(path.parent)
    sys.modules[name] = module  # which pickle and dataclasses look it up by
    with blamed(spec, f"importing {address.where}", place):
        description.loader.exec_module(module)
    return module


def _import_first_from(folder: Path) -> None:
    """Let Python look for modules in a folder first, as it does for a script's."""
    entry = str(folder.resolve())
    if entry not in sys.path:
        sys.path.insert(0, entry)


def _nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of an error line that suggests a known name; empty if none is similar."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
