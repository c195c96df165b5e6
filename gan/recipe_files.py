"""Recipes by name: rows of RECIPES, and rows of Python files of the user's, `FILE.py` or `FILE.py:NAME`.

A file runs only where a command names it: nothing that a run has stored makes Python code run.
"""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from gan.errors import UsageError, nearest
from gan.recipe_rules import PARTS, broken_rule
from gan.recipes import NOT_IN_JSON, RECIPES, Recipe
from gan.recipes_small import require_row

SUFFIX = ".py"
MODULES_PREFIX = "recipe_file_"
MOST_LETTERS = 300
"""Of an error of the user's code."""
_rows: dict[tuple[str, str], tuple[str, Recipe]] = {}
"""Attribute and row by specification and SHA-256 of the file: each version of a file runs once in a process."""


@dataclass(frozen=True)
class RecipeFile:
    """A Python file with a recipe.

    Attributes:
        path: Where it is, as it was given.
        name: The attribute of the module; None for the only recipe in it.
    """

    path: Path
    name: str | None

    @property
    def label(self) -> str:
        """The file's name without its suffix, and the attribute if one was given."""
        return self.path.stem + (f":{self.name}" if self.name else "")

    def sha256(self) -> str:
        """Return the digest of its contents."""
        return hashlib.sha256(self.content()).hexdigest()

    def content(self) -> bytes:
        """Return its contents; raise UsageError where it cannot be read."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            raise UsageError(f"--recipe {self.path}: no such file") from None
        except OSError as error:
            raise UsageError(f"--recipe {self.path}: {error.strerror or error}") from None


def file_of(spec: str) -> RecipeFile | None:
    """Return the file that a specification names; None for the name of a row.

    >>> file_of("mlp") is None
    True
    >>> file_of("examples/my_gan.py:small").label
    'my_gan:small'
    """
    if spec.endswith(SUFFIX):
        return RecipeFile(Path(spec), None)
    path, colon, name = spec.rpartition(":")
    return RecipeFile(Path(path), name) if colon and path.endswith(SUFFIX) else None


def files_named(specs: Iterable[str]) -> list[Path]:
    """Return the files that specifications of recipes, or of subjects, name."""
    return [file.path for file in map(file_of, specs) if file]


def label_of(spec: str) -> str:
    """Return what a recipe is called in few letters: the name of its row, or `RecipeFile.label`."""
    file = file_of(spec)
    return file.label if file else spec


def located(spec: str) -> str:
    """Return the specification for a process that works in another directory."""
    file = file_of(spec)
    return spec if file is None else f"{file.path.absolute()}{f':{file.name}' if file.name else ''}"


def recipe_named(spec: str, *, takes_settings: bool = True) -> Recipe:
    """Return the row of RECIPES, or run the file and return its recipe.

    Args:
        spec: What `--recipe` says.
        takes_settings: Whether the command has `--set`, which an error may then advise.

    Raises:
        UsageError: There is no such recipe, or the file raises; one line, with the line of the file.
    """
    if file_of(spec):
        return _row_of_file(spec)[1]
    require_row("--recipe", spec, takes_settings=takes_settings)
    return RECIPES[spec]


def full_name(spec: str) -> str:
    """Return the name that a run of a recipe has in its folder: that of the row, or `stem:attribute`."""
    file = file_of(spec)
    return spec if file is None else f"{file.path.stem}:{_row_of_file(spec)[0]}"


def file_record(spec: str) -> dict[str, Any] | None:
    """Return which file a recipe comes from, and its texts and sizes, JSON-ready; None for a row of RECIPES."""
    file = file_of(spec)
    if file is None:
        return None
    row = recipe_named(spec)
    rest = {name: getattr(row, name) for name in NOT_IN_JSON}
    return {"spec": spec, "name": full_name(spec), "sha256": file.sha256(), **rest}


def code_of(recipe: Recipe) -> dict[str, str]:
    """Return class and digest of the source of each part of a recipe that is not of this package, by its field."""
    parts = {name: getattr(recipe, name) for name in PARTS}
    parts |= {f"augmentation {number}": item for number, item in enumerate(recipe.augmentation, 1)}
    return {
        name: f"{type(part).__name__} {_digest_of_source(type(part))}"
        for name, part in parts.items()
        if part is not None and not isinstance(part, str) and type(part).__module__.partition(".")[0] != "gan"
    }


def _digest_of_source(kind: type) -> str:
    try:
        source = inspect.getsource(kind)
    except (OSError, TypeError):  # made by a function, for example
        return "of unknown source"
    return hashlib.sha256(source.encode()).hexdigest()[:12]


def _row_of_file(spec: str) -> tuple[str, Recipe]:
    file = file_of(spec)
    assert file
    content = file.content()
    key = (located(spec), hashlib.sha256(content).hexdigest())
    if key not in _rows:
        module = _run(file, content, key[1])
        name = file.name or _only_recipe(file, module)
        row = _recipe_of(file, module, name)
        if complaint := broken_rule(row):
            raise UsageError(f"--recipe {file.path}: {name}: {complaint}")
        _rows[key] = (name, row)
    return _rows[key]


def _run(file: RecipeFile, content: bytes, sha256: str) -> ModuleType:
    """Run a file as a module of its own name, and return the module.

    Its directory comes last on `sys.path`: the file may import its neighbours, and they hide no other package.
    """
    module = ModuleType(f"{MODULES_PREFIX}{file.path.stem}_{sha256[:12]}")
    module.__file__ = str(file.path.absolute())
    if module.__name__ in sys.modules:
        return sys.modules[module.__name__]
    if (folder := str(file.path.absolute().parent)) not in sys.path:
        sys.path.append(folder)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    try:
        exec(compile(content, module.__file__, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        line = told(error)
        del sys.modules[module.__name__]
        raise UsageError(f"--recipe {file.path}: {line}") from error
    return module


def told(error: BaseException) -> str:
    """Return an error in one line, after the last line of a recipe file that it went through."""
    where = ""
    paths = {module.__file__ for name, module in sys.modules.items() if name.startswith(MODULES_PREFIX)}
    places = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if isinstance(error, SyntaxError):
        places.append((error.filename or "", error.lineno))
    for filename, line in places:
        if filename in paths:
            where = f"{Path(filename).name}:{line}: "
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    first = next((text.strip() for text in message.splitlines() if text.strip()), "")
    return f"{where}{type(error).__name__}{f': {first[:MOST_LETTERS]}' if first else ''}"


def _recipes_in(module: ModuleType) -> Mapping[str, Recipe]:
    """Return the recipes at a module's top, each once, without rows of RECIPES and names with an underscore."""
    ours = {id(row) for row in RECIPES.values()}
    chosen: dict[str, Recipe] = {}
    for name, value in vars(module).items():
        if isinstance(value, Recipe) and not name.startswith("_") and id(value) not in ours:
            ours.add(id(value))
            chosen[name] = value
    return chosen


def _only_recipe(file: RecipeFile, module: ModuleType) -> str:
    names = list(_recipes_in(module))
    if len(names) == 1:
        return names[0]
    if names:
        raise UsageError(
            f"--recipe {file.path}: has several recipes: {', '.join(names)}; name one, as in "
            f"{file.path}:{names[0]}"
        )
    raise UsageError(
        f"--recipe {file.path}: has no gan.recipes.Recipe at its top level; assign one to a name, or name a "
        f"function that returns one, as in {file.path}:make"
    )


def _recipe_of(file: RecipeFile, module: ModuleType, name: str) -> Recipe:
    """Return the recipe that an attribute is, or returns."""
    known = [key for key, value in vars(module).items() if isinstance(value, Recipe) or callable(value)]
    if name not in vars(module):
        names = ", ".join(_recipes_in(module)) or "none"
        hint = nearest(name, known) or f"; its recipes: {names}"
        raise UsageError(f"--recipe {file.path}:{name}: the file has no {name}{hint}")
    value = vars(module)[name]
    if not isinstance(value, Recipe) and callable(value):
        try:
            value = value()
        except (Exception, SystemExit) as error:
            raise UsageError(f"--recipe {file.path}:{name}: {told(error)}") from error
    if not isinstance(value, Recipe):
        raise UsageError(
            f"--recipe {file.path}:{name}: is a {type(value).__name__}, not a gan.recipes.Recipe or a function "
            "that returns one"
        )
    return value
