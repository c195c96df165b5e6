"""Results files, written: whole or not at all, and never over one another."""

import shutil
import tempfile
from pathlib import Path
from typing import Any

from pytest_benchmark.storage.file import FileStorage
from pytest_benchmark.utils import safe_dumps

from gan.files.atomic import whole_file


class ResultsStorage(FileStorage):  # type: ignore[misc]
    """pytest-benchmark's storage, with files that appear whole or not at all.

    Attributes:
        saved: The file that was written last, if any.
        traces: The directory with traces of profiled steps, if there are any; they are kept beside the file.
        errors: A line for each file that could not be written.
    """

    saved: Path | None = None
    traces: Path | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.errors: list[str] = []

    @property
    def location(self) -> str:
        """The folder, also from a working directory that does not hold it."""
        return str(self.path)

    def save(self, output_json: dict[str, Any], save: str) -> None:
        """Write under the first free number; if that fails, into a temporary directory."""
        data = safe_dumps(output_json, ensure_ascii=True, indent=1).encode()
        try:
            self.saved = self._write(data, save)
        except OSError as error:
            failure = f"{error.filename or self.path}: {error.strerror or error}"
            try:
                self.saved = Path(tempfile.mkdtemp(prefix="gan-bench-results-")) / f"{save}.json"
                self.saved.write_bytes(data)
                self.errors.append(f"{failure}; the results are in {self.saved}")
            except OSError:
                self.saved = None
                self.errors.append(f"{failure}; nor is there room for the results in {tempfile.gettempdir()}")
        self._keep_traces()

    def _keep_traces(self) -> None:
        """Move traces into a folder beside the file: its name, with .traces at its end."""
        traces = [] if self.traces is None else sorted(self.traces.glob("*.json.gz"))
        if self.saved is None or not traces:
            return
        folder = self.saved.with_suffix(".traces")
        try:
            folder.mkdir()
            for trace in traces:
                shutil.move(trace, folder / trace.name)
        except OSError as error:
            self.errors.append(f"{error.filename or folder}: {error.strerror or error}; traces are not kept")

    def save_as(self, path: Path, output_json: dict[str, Any]) -> None:
        """Write the file that --benchmark-json asks for."""
        try:
            with whole_file(path) as file:
                file.write(safe_dumps(output_json, ensure_ascii=True, indent=4).encode())
        except OSError as error:
            self.errors.append(f"{error.filename or path}: {error.strerror or error}")

    def _write(self, data: bytes, name: str) -> Path:
        while True:
            path: Path = self.get(f"{self._next_num}_{name}.json")
            try:
                with whole_file(path, overwrite=False) as file:
                    file.write(data)
                return path
            except FileExistsError:
                if not path.exists():  # something that is no file has the name
                    raise
