"""References: outcomes of a recipe's seeds, stored once and compared with from then on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.results.folder import results_folder
from bench.stability.equivalence import Sample
from gan.errors import UsageError
from gan.files.json_files import read_json
from gan.process.program import command_of
from gan.recipe_files import file_of
from gan.recipes import RECIPES

REFERENCE_SCHEMA = "gan-reference/1"
CHECKOUT = Path(__file__).resolve().parent.parent.parent / "results" / "reference"
SHIPPED = Path(__file__).with_name("reference")
"""Those that the wheel installs; not in a checkout."""
FOLDER_VARIABLE = "GAN_BENCH_REFERENCES"
"""Names `references_folder` to the processes of a case, which do not work in the user's directory."""
MOST = 1e60
"""Fourth powers of larger numbers are not finite."""


@dataclass(frozen=True)
class Reference:
    """Outcomes of a recipe on a trusted configuration.

    Attributes:
        configuration: The case, the protocol and the number of seeds.
        metrics: Each metric over the seeds.
        environment: Machine and versions.
    """

    configuration: dict[str, Any]
    metrics: dict[str, Sample]
    environment: dict[str, Any]

    def require(self, protocol: Mapping[str, Any], outcomes: Sequence[str], path: Path) -> None:
        """Raise UsageError if it lacks an outcome, or was made by another protocol."""
        if lacking := set(outcomes) - self.metrics.keys():
            raise UsageError(f"{path}: lacks {', '.join(sorted(lacking))}; make it again with: {making(path)}")
        for key, value in protocol.items():
            if (made := self.configuration.get(key)) != value:
                raise UsageError(
                    f"{path}: made with {key} {made}, which is now {value}; make it again with: {making(path)}"
                )

    def to_json(self) -> dict[str, Any]:
        """Return the file's content."""
        return {
            "schema": REFERENCE_SCHEMA,
            "configuration": self.configuration,
            "metrics": {name: asdict(sample) for name, sample in self.metrics.items()},
            "environment": self.environment,
        }


def references_folder() -> Path:
    """Return where references are made: of the checkout or, with an installed wheel, of the user's results."""
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named)
    return results_folder().absolute() / "reference" if SHIPPED.is_dir() else CHECKOUT


def reference_path(recipe: str, global_batch_size: int) -> Path:
    """Return the path of a recipe's reference, to be made or read; each version of a recipe's file has its own."""
    file = file_of(recipe)
    name = recipe if file is None else f"{file.label.replace(':', '-')}-{file.sha256()[:8]}"
    return references_folder() / f"{name}-b{global_batch_size}.json"


def stored(path: Path) -> Path:
    """Return the file to read for a path: that which the wheel installs, if the user has made none."""
    folder = references_folder()
    shipped = SHIPPED / (path.relative_to(folder) if path.is_relative_to(folder) else path.name)
    return path if path.exists() or not shipped.exists() else shipped


def making(path: Path) -> str:
    """Return the command that makes the reference of a path, as `reference_path` returned it."""
    name, _, batch_size = path.stem.rpartition("-b")
    recipe = name if name in RECIPES else "FILE.py"
    return f"{command_of('bench')} reference --recipe {recipe} --batch-size {batch_size} --make"


def read_reference(path: Path) -> Reference:
    """Read a reference file.

    Raises:
        UsageError: It is missing, damaged or of another version.
    """
    path = stored(path)
    remedy = f"make it again with: {making(path)}"
    data = read_json(path, missing=f"make it with: {making(path)}")
    if not isinstance(data, dict) or "schema" not in data:
        raise UsageError(f"{path}: damaged (it names no schema); {remedy}")
    if (schema := data["schema"]) != REFERENCE_SCHEMA:
        raise UsageError(f"{path}: schema {str(schema)[:40]}; this version reads {REFERENCE_SCHEMA}; {remedy}")
    for name in ("configuration", "metrics", "environment"):
        if not isinstance(data.get(name), dict):
            raise UsageError(f"{path}: damaged ({name} is no object); {remedy}")
    for name, sample in data["metrics"].items():
        if not _is_sample(sample):
            raise UsageError(
                f"{path}: damaged ({name} must have a mean, an sd of at least 0 and an n of at least 2); {remedy}"
            )
    metrics = {name: Sample(**sample) for name, sample in data["metrics"].items()}
    return Reference(data["configuration"], metrics, data["environment"])


def _is_sample(sample: Any) -> bool:
    if not isinstance(sample, dict) or sample.keys() != {"mean", "sd", "n"}:
        return False
    numbers = all(type(sample[name]) in (int, float) and abs(sample[name]) <= MOST for name in ("mean", "sd"))
    return numbers and sample["sd"] >= 0 and type(sample["n"]) is int and 2 <= sample["n"] <= MOST
