"""Image files below a directory."""

import hashlib
import os
from pathlib import Path

from gan.data.listing import list_images


class FolderImages:
    """Image files below a directory, with the classes of `list_images`; attributes as in `StoredImages`.

    Args:
        root: The directory.

    Raises:
        UsageError: There are no images.
    """

    def __init__(self, root: Path) -> None:
        listing = list_images(root)
        self.labels = listing.labels
        self.class_names = listing.class_names
        self.description = str(listing)
        names = b"\0".join(os.fsencode(path.relative_to(root)) for path in listing.paths)
        self.sha256 = hashlib.sha256(names).hexdigest()
        self._paths = listing.paths

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Path:
        return self._paths[index]
