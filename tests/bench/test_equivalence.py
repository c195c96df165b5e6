import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bench.stability.equivalence import (
    Sample,
    equal_scatter,
    holm,
    two_one_sided,
    two_sided,
    verdicts,
)
from bench.stability.references import FOLDER_VARIABLE, Reference, read_reference
from gan.errors import UsageError
from gan.files.json_files import write_json


def test_the_tests_are_those_of_the_textbook() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.2, 1.0, 12), rng.normal(0.0, 1.7, 9)
    ours, reference = Sample.of(a), Sample.of(b)
    assert two_sided(ours, reference) == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    above = stats.ttest_ind(a + 0.8, b, equal_var=False, alternative="greater").pvalue
    below = stats.ttest_ind(a - 0.8, b, equal_var=False, alternative="less").pvalue
    assert two_one_sided(ours, reference, 0.8) == pytest.approx(max(above, below))


def test_scatter() -> None:
    one, other = Sample(0, 1.0, 11), Sample(5, 2.0, 11)
    assert equal_scatter(one, Sample(0, 1.0, 11)) == pytest.approx(1)
    assert equal_scatter(one, other) == pytest.approx(equal_scatter(other, one))
    assert equal_scatter(other, one) == pytest.approx(2 * stats.f.sf(4, 10, 10))


def test_holm() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})


@pytest.mark.parametrize(
    ("ours", "word"),
    [
        (Sample(0.1, 1.0, 40), "equivalent"),
        (Sample(0.1, 1.0, 3), "undecided"),
        (Sample(2.0, 1.0, 40), "different"),
        (Sample(-2.0, 1.0, 40), "different"),
        (Sample(0.0, 4.0, 40), "different"),
        (Sample(0.9, 1.0, 40), "undecided"),
    ],
)
def test_words(ours: Sample, word: str) -> None:
    (verdict,) = verdicts({"fid": ours}, {"fid": Sample(0.0, 1.0, 40)})
    assert verdict.word == word


def test_seeds_that_diverged_differ_and_hide_nothing() -> None:
    ours = {"loss": Sample.of([1.0, math.nan, 2.0]), "fid": Sample(5.0, 1.0, 40)}
    words = {
        verdict.metric: verdict.word
        for verdict in verdicts(ours, {"loss": Sample(1.0, 1.0, 40), "fid": Sample(0.0, 1.0, 40)})
    }
    assert words == {"loss": "different", "fid": "different"}


@pytest.mark.parametrize(
    ("ours", "reference", "word"),
    [
        ((3.0, 0.0), (3.0, 0.0), "equivalent"),
        ((3.0, 0.0), (3.0, 0.5), "different"),
        ((3.0, 0.5), (3.0, 0.0), "different"),
    ],
)
def test_seeds_without_scatter(ours: tuple[float, float], reference: tuple[float, float], word: str) -> None:
    (verdict,) = verdicts({"x": Sample(*ours, 20)}, {"x": Sample(*reference, 20)})
    assert verdict.word == word


def test_another_protocol_is_refused(tmp_path: Path) -> None:
    reference = Reference({"images": 30_000}, {}, {})
    reference.require({"images": 30_000}, (), tmp_path)
    with pytest.raises(UsageError, match="made with images 30000, which is now 5000; make it again with"):
        reference.require({"images": 5000}, (), tmp_path / "mlp-b64.json")


def test_equivalence_is_claimed_wrongly_in_at_most_five_percent() -> None:
    """Of two means that differ by exactly the margin."""
    rng = np.random.default_rng(2)
    claimed = 0
    for _ in range(2000):
        ours, reference = Sample.of(rng.normal(1.0, 1.0, 20)), Sample.of(rng.normal(0.0, 1.0, 20))
        claimed += two_one_sided(ours, reference, 1.0) <= 0.05
    assert claimed / 2000 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 2000)


def test_a_reference_comes_back_and_damage_is_named(tmp_path: Path) -> None:
    reference = Reference({"recipe": "quickstart"}, {"fid": Sample(1.0, 0.5, 8)}, {"python": "3.11"})
    path = tmp_path / "quickstart.json"
    write_json(path, reference.to_json())
    assert read_reference(path) == reference
    with pytest.raises(UsageError, match=r"none-b1\.json: not found; make it with"):
        read_reference(tmp_path / "none-b1.json")
    path.write_text("{}")
    with pytest.raises(UsageError, match="damaged"):
        read_reference(path)


@pytest.mark.parametrize("content", [None, "{}", "[]", '{"schema": "gan-reference/0"}', "protocol"])
def test_the_advice_makes_the_reference_that_is_missing_and_no_other(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[..., Any]
) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(
        "bench.reference._run", lambda case, seeds: [{"fid": float(seed)} for seed in range(seeds)]
    )
    path = tmp_path / "mlp-compact-b32.json"
    if content == "protocol":
        write_json(path, Reference({"images": 1}, {}, {}).to_json())
    elif content is not None:
        path.write_text(content)
    code, _, errors = command("reference", "--recipe", "mlp-compact", "--batch-size", 32)
    assert code == 2
    _, advised = errors.split("with: ")
    program, module, name, *arguments = advised.split()
    assert (program, module, name) == ("python", "-m", "bench")
    assert command(*arguments)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mlp-compact-b32.json"]
    assert read_reference(path).configuration["recipe"] == "mlp-compact"
    assert read_reference(path).configuration["batch_size"] == 32


@pytest.mark.parametrize(
    "arguments",
    [
        *(("--precision", "fp33"), ("--precision", "fp32,bf16"), ("--compile", "ind"), ("--batch-size", "0")),
        *(("--recipe", "mpl"), ("--recipe", "dcgan-small")),
    ],
)
def test_bad_references_are_refused(arguments: tuple[str, str], command: Callable[..., Any]) -> None:
    code, _, errors = command("reference", *arguments)
    assert code == 2
    assert errors.startswith(f"error: {' '.join(arguments)}: ")
    assert "--set" not in errors, "it has no such option"
