"""What a subject imports: the files of its own tree, whatever the harness and the user have installed.

Two revisions of a repository are laid out beside its working tree. An editable installation, or a PYTHONPATH that
points into the working tree, would give both revisions the working tree's modules: they would be compared with
themselves.
"""

import importlib.machinery
import importlib.metadata
import json
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

HARNESS = "bench"
"""The package that measures. A subject's repository may have another one of this name."""


def import_from(tree: Path, working_tree: Path | None = None) -> None:
    """Let modules come from a tree first, and from it wherever they would come from the working tree.

    Args:
        tree: The directory with a subject's files.
        working_tree: What the tree is a revision of; None if the tree is where the user works.
    """
    root = tree.resolve()
    if working_tree:
        sys.path[:] = [_instead(entry, root, working_tree.resolve()) for entry in sys.path]
    sys.path[:] = [str(root), *(entry for entry in sys.path if entry != str(root))]
    if _has_another(root, HARNESS):
        # What is imported of the harness goes on; the subject's imports of this name are its tree's.
        for name in [name for name in sys.modules if name.split(".")[0] == HARNESS]:
            del sys.modules[name]


def _instead(entry: str, tree: Path, working_tree: Path) -> str:
    """Return the tree's counterpart of an entry of sys.path, if it has one: a virtual environment has none."""
    path = Path(entry or ".").resolve()
    if path.is_relative_to(working_tree) and not path.is_relative_to(tree):
        counterpart = tree / path.relative_to(working_tree)
        if counterpart.is_dir():
            return str(counterpart)
    return entry


def _has_another(folder: Path, name: str) -> bool:
    """Say whether a folder has a package or module of this name that is not the one that has been imported."""
    spec = importlib.machinery.PathFinder.find_spec(name, [str(folder)])
    if spec is None or spec.origin is None:
        return False
    imported = getattr(sys.modules.get(name), "__file__", None)
    return imported is None or Path(imported).resolve() != Path(spec.origin).resolve()


def imported_from_elsewhere(tree: Path, working_tree: Path) -> str | None:
    """Return a module that was imported from the working tree although the tree has its file, and the file."""
    root = tree.resolve()
    elsewhere = working_tree.resolve()
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not file:
            continue
        path = Path(file).resolve()
        is_elsewhere = path.is_relative_to(elsewhere) and not path.is_relative_to(root)
        if is_elsewhere and (root / path.relative_to(elsewhere)).exists():
            return f"{name} is imported from {path}"
    return None


def imported_from_a_copy(tree: Path, working_tree: Path) -> str | None:
    """Return a module of an installed copy of the working tree that is not as the tree has it, and its file.

    `pip install .` makes such a copy. Both revisions import it if no directory of theirs comes first, as where the
    package lies below src.
    """
    root = tree.resolve()
    modules = {
        Path(file).resolve(): name
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None))
    }
    working_root = working_tree.resolve()
    for distribution in importlib.metadata.distributions():
        folder = _installed_from(distribution, working_root)
        if folder is None:
            continue
        named: dict[str, list[Path]] = {}
        for candidate in (root / folder).rglob("*"):  # once, however many modules are imported
            named.setdefault(candidate.name, []).append(candidate)
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file))).resolve()
            if path not in modules:
                continue
            of_tree = (of_name for of_name in named.get(file.name, ()) if of_name.match(str(file)))
            contents = [candidate.read_bytes() for candidate in of_tree if candidate.is_file()]
            if contents and path.read_bytes() not in contents:
                return f"{modules[path]} is imported from {path}"
    return None


def _installed_from(distribution: importlib.metadata.Distribution, working_tree: Path) -> Path | None:
    """Return the folder of the working tree that a distribution was made of, relative to it; None for others."""
    text = distribution.read_text("direct_url.json")  # which pip writes, and uv
    url = urlsplit(json.loads(text)["url"] if text else "")
    path = Path(unquote(url.path)).resolve()
    if url.scheme != "file" or not path.is_relative_to(working_tree):
        return None
    return path.relative_to(working_tree) if path.is_dir() else Path()  # a wheel may lie anywhere in it
