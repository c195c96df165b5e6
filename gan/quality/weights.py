"""Files of published weights, checked by their SHA-256; nothing is downloaded."""

import hashlib
import re
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from gan.errors import UsageError
from gan.files.atomic import require_regular

SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class PublishedFile:
    """A file of weights as its authors publish it.

    Attributes:
        flag: The option that names it.
        what: What it holds, for a reader.
        names: Names under which it is published.
        sha256: Digest of its contents.
        address: Where it may be had.
        in_packages: Packages that install it, with its path in them.
    """

    flag: str
    what: str
    names: tuple[str, ...]
    sha256: str
    address: str
    in_packages: tuple[tuple[str, str], ...] = ()

    def located(self, path: Path | None, needed_for: str) -> Path:
        """Return the file that the user names, or else the one of a package or in the directory of `torch.hub`.

        Args:
            path: What the user named.
            needed_for: The option that needs the file, for the error.

        Raises:
            UsageError: None was named, and none is there.
        """
        directory = Path(torch.hub.get_dir()) / "checkpoints"
        candidates = [*self._installed(), *(directory / name for name in self.names)] if path is None else [path]
        for candidate in candidates:
            require_regular(candidate)
            if candidate.exists():
                return candidate
        where = f"{self.flag} {path}: no such file" if path else f"{self.flag}: not named, and not in {directory}"
        raise UsageError(
            f"{where}; {needed_for} needs {self.what}, {self.names[0]}; it may be had at {self.address}, and is "
            "not downloaded"
        )

    def _installed(self) -> list[Path]:
        specs = [(find_spec(package), inner) for package, inner in self.in_packages]
        return [Path(spec.origin).parent / inner for spec, inner in specs if spec is not None and spec.origin]


@dataclass(frozen=True)
class Weights:
    """A file of weights that was checked.

    Attributes:
        path: The file.
        sha256: Digest of its contents.
        is_published: Whether it is the published file.
    """

    path: Path
    sha256: str
    is_published: bool


def checked_weights(
    published: PublishedFile, path: Path | None, needed_for: str, accepted: str | None = None, accept: str = ""
) -> Weights:
    """Return a file of weights whose digest is the published one, or another that the user accepts.

    Args:
        published: The published file.
        path: The file that the user names; None to look for it.
        needed_for: The option that needs the file, for errors.
        accepted: The SHA-256 of other weights, which the user takes knowingly.
        accept: The option that accepts other weights; empty if there is none.

    Raises:
        UsageError: There is no file, it cannot be read, or it is another one.
    """
    located = published.located(path, needed_for)
    try:
        with located.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"{published.flag} {located}: {error.strerror or error}; make it readable") from error
    expected = accepted or published.sha256
    if digest != expected:
        knowingly = (
            f", or accept this file with {accept} {digest}: no paper's scores compare with its" if accept else ""
        )
        raise UsageError(
            f"{published.flag} {located}: another file (its SHA-256 is {digest}, not {expected}); take "
            f"{published.address}{knowingly}"
        )
    return Weights(located, digest, digest == published.sha256)


def require_sha256(flag: str, text: str | None) -> None:
    """Raise UsageError unless a text is a SHA-256 in hexadecimal digits."""
    if text is not None and not SHA256.fullmatch(text):
        raise UsageError(f"{flag} {text}: must be 64 hexadecimal digits in lower case, as sha256sum prints")
