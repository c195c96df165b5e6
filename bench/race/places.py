"""Where contenders are: where the user runs the race, and a temporary directory for what their processes write."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.race.contenders import Contender
from bench.runner.leftovers import temporary_directory
from bench.subjects.load import BUILT_IN, CORE
from gan.errors import UsageError

CODE = Path(__file__).resolve().parents[2]
"""The directory that holds `bench` and `gan`."""
RACES_PREFIX = "gan-race-"


@dataclass(frozen=True)
class Place:
    """Where a contender is; see `bench.turns.ranks.Places`.

    Attributes:
        root: A temporary directory.
        folder: What its files and modules are relative to.
        has_gan: Whether it is the core, whose `gan` is measured.
    """

    root: Path
    folder: Path
    has_gan: bool
    code = CODE
    working_tree = None

    def tree(self, _: str) -> Path:
        """Return `folder`."""
        return self.folder

    def cache(self, side: str) -> Path:
        """Return the directory of its compiler cache."""
        return self.root / f"{side}-cache"


@contextmanager
def places(contenders: Mapping[str, Contender]) -> Iterator[dict[str, Place]]:
    """Yield where contenders are; what they wrote is gone afterwards, however the race ends.

    Raises:
        UsageError: There is no room.
    """
    with contextlib.ExitStack() as stack:
        try:
            root = stack.enter_context(temporary_directory(RACES_PREFIX))
        except OSError as error:
            raise UsageError(f"{error.filename}: {error.strerror}; TMPDIR names another place") from error
        yield {letter: _place_of(contender, root) for letter, contender in contenders.items()}


def _place_of(contender: Contender, root: Path) -> Place:
    is_ours = contender.subject in (CORE, *BUILT_IN)
    return Place(root, CODE if is_ours else Path.cwd(), contender.subject == CORE)
