"""What a package's modules are, in a few letters."""

import hashlib
from pathlib import Path


def digest_of_modules(*packages: Path) -> str:
    """Return a digest of the names and contents of all modules below directories."""
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted(package.rglob("*.py")):
            digest.update(f"{path.relative_to(package.parent).as_posix()}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]
