"""What a run writes: whole files or none, and the environment its numbers belong to."""

import contextlib
import errno
import glob
import json
import math
import os
import platform
import re
import reprlib
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import joblib
import torch

from gan.errors import UsageError
from gan.files.repository import git, revision_of

DEFAULT_OUTPUTS = Path("runs")
UNFINISHED = ".tmp"
RUN_SCHEMA = "gan-run/1"
MEND_CONFIG = "restore it, or begin a run in another --output"
REMAINS = (
    *("metrics.jsonl", "summary.json", "checkpoints", "generator.safetensors", "generator.json"),
    *("generators", "samples", "evaluation.json", "curves.png", "progress.gif"),
)
"""What a run without its config.json can be told by."""
MOST_JSON_BYTES = 256 << 20
PACKAGES = ("torch", "torchvision", "accelerate", "numpy")


@dataclass(frozen=True)
class RunFolder:
    """Where the files of a run are."""

    root: Path

    @property
    def config(self) -> Path:
        """Options, recipe, strategy and environment; its existence makes the directory a run."""
        return self.root / "config.json"

    def require_new(self) -> None:
        """Raise UsageError where the directory holds a run, or what is left of one."""
        another = "choose another directory"
        if self.config.exists():
            raise UsageError(f"--output {self.root}: already holds a run; continue it with --resume, or {another}")
        if remains := [name for name in REMAINS if (self.root / name).exists()]:
            raise UsageError(
                f"--output {self.root}: holds {', '.join(remains)} of a run whose config.json is gone; "
                f"{another}, or restore the file and --resume"
            )

    @property
    def metrics(self) -> Path:
        """A line an epoch."""
        return self.root / "metrics.jsonl"

    @property
    def summary(self) -> Path:
        """The end of a run that came to its end."""
        return self.root / "summary.json"

    @property
    def checkpoints(self) -> Path:
        """The last checkpoints."""
        return self.root / "checkpoints"

    @property
    def generator(self) -> Path:
        """G's weights at the last checkpoint."""
        return self.root / "generator.safetensors"

    @property
    def generator_config(self) -> Path:
        """What rebuilds G."""
        return self.root / "generator.json"

    def generator_of(self, epoch: int) -> Path:
        """G's weights at the end of an epoch, where they are kept."""
        return self.root / "generators" / f"epoch_{epoch:04d}.safetensors"

    @property
    def evaluation(self) -> Path:
        """Scores of the generator, which gan/evaluate.py writes."""
        return self.root / "evaluation.json"

    @property
    def curves(self) -> Path:
        """Losses and probabilities over epochs."""
        return self.root / "curves.png"

    @property
    def animation(self) -> Path:
        """The sample grids, one after another."""
        return self.root / "progress.gif"

    def sample(self, epoch: int) -> Path:
        """The sample grid of an epoch, from latents that stay the same."""
        return self.root / "samples" / f"epoch_{epoch:04d}.png"

    @property
    def real(self) -> Path:
        """A grid of real images as the networks get them."""
        return self.root / "samples" / "real.png"

    def remove_unfinished(self) -> None:
        """Delete what a kill in the middle of training has left; evaluations and pictures may be in the making."""
        for directory in ("", "samples", "checkpoints", "generators"):
            for path in (self.root / directory).glob(f".*{UNFINISHED}"):
                if re.fullmatch(rf"\.(?!{self.evaluation.name}\.).+\.\d+{re.escape(UNFINISHED)}", path.name):
                    path.unlink(missing_ok=True)

    def samples(self) -> list[Path]:
        """Return the sample grids there are, in order of their epochs."""
        numbers = {path: _number(r"epoch_(\d+)\.png", path) for path in self.root.glob("samples/epoch_*.png")}
        return sorted((path for path in numbers if numbers[path]), key=lambda path: numbers[path] or 0)


def default_output(recipe: str) -> Path:
    """Return runs/RECIPE where there is none yet, or runs/RECIPE-N, N one more than the highest there is."""
    highest = max(_default_outputs(recipe), default=0)
    return _default_output(recipe, highest + 1)


def newest_default_output(recipe: str) -> Path | None:
    """Return the one of runs/RECIPE, runs/RECIPE-2, ... with the highest number that holds files of a run."""
    for number in sorted(_default_outputs(recipe), reverse=True):
        path = _default_output(recipe, number)
        if any((path / name).exists() for name in ("config.json", *REMAINS)):
            return path
    return None


def _default_outputs(recipe: str) -> list[int]:
    """Return the numbers of the directories there are."""
    names = rf"{re.escape(recipe)}(?:-([2-9]|[1-9]\d+))?"
    matches = (re.fullmatch(names, path.name) for path in DEFAULT_OUTPUTS.glob(f"{glob.escape(recipe)}*"))
    return [int(match[1] or 1) for match in matches if match]


def _default_output(recipe: str, number: int) -> Path:
    return DEFAULT_OUTPUTS / (recipe if number == 1 else f"{recipe}-{number}")


def _number(pattern: str, path: Path) -> int | None:
    match = re.fullmatch(pattern, path.name)
    return int(match[1]) if match else None


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Give an error of the operating system the name of the file, which it lacks when writing fails."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def require_other_files(outputs: Mapping[str, Path | None], inputs: Sequence[Path] = ()) -> None:
    """Raise UsageError where an option's file is one that is read, or another option's."""
    taken = {path.resolve(): "is read" for path in inputs}
    for flag, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        if path.resolve() in taken:
            raise UsageError(f"{flag} {path}: the same file {taken[path.resolve()]}; name another")
        taken[path.resolve()] = f"is {flag}'s"


@contextmanager
def whole_file(path: Path, *, overwrite: bool = True, parents: bool = True) -> Iterator[IO[bytes]]:
    """Open a file that appears under `path` complete and on disk, or not at all.

    The bytes go to a hidden neighbour, which is flushed to disk and renamed. With `overwrite` off, FileExistsError
    is raised where `path` has come to exist, also by another process. With `parents` off, its directory must
    exist: a run whose directory was removed does not make it again. A link stays one, and what it leads to is
    replaced; a device or a pipe is written to as it is.
    """
    path = path.resolve() if path.is_symlink() else path
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if overwrite and path.exists() and not path.is_file():
        with _naming(path), path.open("wb") as device:
            yield device
        return
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}{UNFINISHED}")
    with _naming(path):
        try:
            with aside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            if overwrite:
                aside.replace(path)
            else:
                path.hardlink_to(aside)
                aside.unlink()
        except BaseException:
            aside.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, data: Any, *, parents: bool = True) -> None:
    """Write `data` as an indented JSON file, whole or not at all; `parents` as for `whole_file`."""
    with whole_file(path, parents=parents) as file:
        file.write(_utf8(json.dumps(data, indent=2, ensure_ascii=False)) + b"\n")


def _utf8(text: str) -> bytes:
    """Encode JSON; what stands for the bytes of a file name that is not UTF-8 becomes JSON's own escape."""
    return text.encode(errors="backslashreplace")


def read_json(path: Path, *, nonfinite: bool = False, missing: str = "", mend: str = "") -> Any:
    """Return what a JSON file says, UTF-8 with or without a byte order mark.

    Args:
        path: The file.
        nonfinite: Take NaN, Infinity, and numbers too large to be finite.
        missing: Ends the complaint about a file that is not there: how to come by it.
        mend: Ends the complaint about one that is.

    Raises:
        UsageError: It is missing, unreadable, too large or damaged; in one line that names it.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: not a file")
        if status.st_size > MOST_JSON_BYTES:
            raise UsageError(f"{path}: has {status.st_size:,} bytes; at most {MOST_JSON_BYTES:,} are read")
        return parse_json(path.read_bytes(), str(path), nonfinite=nonfinite)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: not found{missing and f'; {missing}'}") from error
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror or error}{mend and f'; {mend}'}") from error
    except UsageError as error:
        raise UsageError(f"{error}{mend and f'; {mend}'}") from error


def read_config(path: Path) -> dict[str, Any]:
    """Return a run's configuration, of which `options`, `identity` and `strategy` are objects.

    Raises:
        UsageError: It is missing or damaged, or of another version.
    """
    data = read_json(path, missing="name a directory that gan/train.py wrote", mend=MEND_CONFIG)
    sections = ("options", "identity", "strategy")
    if not isinstance(data, dict) or not all(isinstance(data.get(name), dict) for name in sections):
        raise UsageError(f"{path}: damaged (lacks {', '.join(sections)}, or one of them); {MEND_CONFIG}")
    if data.get("schema") != RUN_SCHEMA:
        schema = reprlib.repr(data.get("schema"))
        raise UsageError(f"{path}: damaged (schema {schema} instead of {RUN_SCHEMA!r}); {MEND_CONFIG}")
    return data


def parse_json(data: bytes, name: str, *, nonfinite: bool = False) -> Any:
    """Return what JSON in UTF-8 says; raise UsageError, which begins with `name`, as `read_json` does."""
    hooks: dict[str, Any] = {} if nonfinite else {"parse_constant": _refuse_constant, "parse_float": _finite}
    try:
        return json.loads(data.decode("utf-8-sig"), **hooks)
    except UnicodeDecodeError as error:
        raise UsageError(f"{name}: damaged (byte {error.start} is not UTF-8)") from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"{name}: damaged (not JSON: {error.msg} in {where})") from error
    except RecursionError as error:
        raise UsageError(f"{name}: damaged (nested too deeply)") from error
    except ValueError as error:  # a hook's, or a whole number of more digits than Python reads
        raise UsageError(f"{name}: damaged ({str(error).split(';')[0]})") from error


def _refuse_constant(constant: str) -> float:
    raise ValueError(f"{constant}, where numbers must be finite")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse_constant(digits[:40])


def append_json_line(path: Path, data: Mapping[str, Any]) -> None:
    """Append `data` as one line to a file that exists, and flush it to disk."""
    with _naming(path), path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        file.write(_utf8(json.dumps(data, ensure_ascii=False)) + b"\n")
        file.flush()
        os.fsync(file.fileno())


def require_regular(path: Path) -> None:
    """Raise UsageError for a pipe, a device or a directory, of which reading could wait for ever."""
    if path.exists() and not path.is_file():
        raise UsageError(f"{path}: not a file")


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the whole lines of a JSON-lines file; a last line cut short by a kill is left out.

    Raises:
        UsageError: Another line is damaged.
    """
    require_regular(path)
    if not path.exists():
        return []
    *lines, last = path.read_bytes().split(b"\n")
    records = []
    for number, line in enumerate(lines, 1):
        record = parse_json(line, f"{path}: line {number}", nonfinite=True)
        if not isinstance(record, dict):
            raise UsageError(f"{path}: line {number}: damaged (not an object)")
        records.append(record)
    with contextlib.suppress(UsageError):
        if isinstance(record := parse_json(last, "", nonfinite=True), dict):
            records.append(record)  # all but the line break was written
    return records


def write_json_lines(path: Path, lines: list[dict[str, Any]]) -> None:
    """Replace a JSON-lines file, whole or not at all."""
    with whole_file(path, parents=False) as file:
        file.writelines(_utf8(json.dumps(line, ensure_ascii=False)) + b"\n" for line in lines)


def environment() -> dict[str, Any]:
    """Return what a number depends on besides the run's options: machine, versions, threads, flags, revision."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "cores": num_available_cores(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        },
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "threads": torch.get_num_threads(),
        "flags": numerical_flags(),
        "git": _git_state(),
    }


def numerical_flags() -> dict[str, Any]:
    """Return PyTorch's settings that change results or speed."""
    return {
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
        "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "deterministic_algorithms": torch.are_deterministic_algorithms_enabled(),
    }


def num_available_cores() -> int:
    """Return how many cores this process may use, by its affinity and its control group."""
    cores: int = joblib.cpu_count()
    return cores


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _git_state() -> dict[str, Any] | None:
    """Return the revision of this code and whether files differ from it; None outside a git checkout of it."""
    root = Path(__file__).resolve().parent.parent.parent
    try:
        git(root, "ls-files", "--error-unmatch", "gan/__init__.py", timeout=10)  # else the repository is another
        revision = revision_of(root, timeout=10)
    except UsageError:
        return None
    return {"revision": revision.removesuffix("+"), "dirty": revision.endswith("+")}
