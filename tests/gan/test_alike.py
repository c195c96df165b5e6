"""Ranks that differ are refused, by name. Two ranks are played by this process, one after the other."""

import dataclasses
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gan.session.alike
from gan.data.datasets import ImageSource
from gan.data.folder import FolderImages
from gan.data.in_memory import InMemoryImages
from gan.data.streamed import StreamedImages
from gan.errors import UsageError
from gan.options import TrainOptions
from gan.session.alike import require_same_data, require_same_settings, require_shared
from tests.gan.small_run import write_images


def accelerator(rank: int = 0, **changes: Any) -> Any:
    compiler = SimpleNamespace(backend=SimpleNamespace(value=changes.get("compiler", "NO")), mode="default")
    return SimpleNamespace(
        num_processes=2,
        process_index=rank,
        mixed_precision=changes.get("precision", "no"),
        device=torch.device("cpu"),
        state=SimpleNamespace(dynamo_plugin=compiler),
    )


@pytest.fixture
def refusal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str | None]:
    """Let rank 0 and then rank 1 do something, and return the line with which rank 1 refuses; None without one."""

    def run(of_main: Callable[[], None], of_other: Callable[[], None], host: str = "node1") -> str | None:
        said: list[list[Any]] = []
        monkeypatch.setattr("gan.session.alike.raise_everywhere", lambda complaint: None)
        monkeypatch.setattr("gan.session.alike.gather_object", lambda facts: said.append(facts) or facts)
        of_main()
        of_ranks = iter(said)
        monkeypatch.setattr("gan.session.alike.gather_object", lambda facts: [*next(of_ranks), *facts])
        monkeypatch.setattr(socket, "gethostname", lambda: host)
        try:
            of_other()
        except UsageError as error:
            return str(error) if error.everywhere else "not on all ranks"
        return None

    return run


OPTIONS = TrainOptions(recipe="mlp-compact", dataset="digits", seed=3)


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"recipe": "mlp"}, '--recipe: "mlp" on rank 1 (node1), but "mlp-compact" on rank 0 ('),
        ({"seed": 4}, "--seed: 4 on rank 1 (node1), but 3 on rank 0 ("),
        ({"batch_size": 30}, "--batch-size: 30 on rank 1 (node1), but nothing on rank 0 ("),
        ({"set": ("optimizer.learning_rate=1e-4",)}, "--set: "),
        ({"steps": 30}, "--steps: 30 on rank 1"),
        ({"checkpoint_every": 30}, "--checkpoint-every: 30 on rank 1"),
    ],
)
def test_other_options_are_refused(changed: dict[str, Any], line: str, refusal) -> None:
    other = dataclasses.replace(OPTIONS, **changed)
    said = refusal(
        lambda: require_same_settings(OPTIONS, accelerator()), lambda: require_same_settings(other, accelerator(1))
    )
    assert said is not None
    assert said.startswith(line)
    assert said.endswith("give all nodes the same command, configuration and versions")


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"precision": "bf16"}, 'precision: "bf16" on rank 1 (node1), but "fp32" on rank 0 ('),
        ({"compiler": "INDUCTOR"}, 'compiler: "inductor default" on rank 1 (node1), but "no default" on rank 0 ('),
    ],
)
def test_another_precision_or_compiler_is_refused(changed: dict[str, Any], line: str, refusal) -> None:
    of_other = accelerator(1, **changed)
    said = refusal(
        lambda: require_same_settings(OPTIONS, accelerator()), lambda: require_same_settings(OPTIONS, of_other)
    )
    assert said is not None
    assert said.startswith(line)


@contextmanager
def another_torch() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "__version__", "2.11.0")
        yield


@contextmanager
def other_code() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gan.session.alike._digest_of_code", lambda: "0123456789abcdef")
        yield


@pytest.mark.parametrize(("other", "what"), [(another_torch, "torch"), (other_code, "the code of gan (SHA-256)")])
def test_other_code_is_refused(other: Callable[[], Any], what: str, refusal) -> None:
    def of_other() -> None:
        with other():
            require_same_settings(OPTIONS, accelerator(1))

    said = refusal(lambda: require_same_settings(OPTIONS, accelerator()), of_other)
    assert said is not None
    assert said.startswith(f"{what}: ")


def test_the_digest_of_the_code_is_of_all_its_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = gan.session.alike._digest_of_code.__wrapped__
    monkeypatch.setattr("gan.session.alike.PACKAGE", tmp_path)
    seen = {digest()}
    for name, text in (("a.py", "1"), ("a.py", "2"), ("b/a.py", "2"), ("b/c.txt", "")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        seen.add(digest())
    assert len(seen) == 4, "a change of a module, and a new one; other files do not count"


def test_what_is_of_a_node_may_differ(refusal) -> None:
    other = dataclasses.replace(
        OPTIONS, data_root=Path("/data"), output=Path("x"), num_threads=7, num_workers=0, memory_budget="1GiB"
    )
    assert not refusal(
        lambda: require_same_settings(OPTIONS, accelerator()), lambda: require_same_settings(other, accelerator(1))
    )


IMAGES = InMemoryImages(torch.arange(40, dtype=torch.uint8).reshape(10, 1, 2, 2), labels=torch.arange(10))


@pytest.mark.parametrize(
    ("other", "line"),
    [
        (
            dataclasses.replace(IMAGES, train=IMAGES.train[:9]),
            "number of images: 9 on rank 1 (node1), but 10",
        ),
        (dataclasses.replace(IMAGES, train=IMAGES.train.flip(0)), "images (SHA-256): "),
        (dataclasses.replace(IMAGES, labels=IMAGES.labels.flip(0)), "labels (SHA-256): "),
        (dataclasses.replace(IMAGES, files_sha256="0"), "names or contents of files (SHA-256): "),
        (IMAGES, None),
    ],
)
def test_other_data_are_refused(other: InMemoryImages, line: str | None, refusal) -> None:
    said = refusal(
        lambda: require_same_data(IMAGES, accelerator()), lambda: require_same_data(other, accelerator(1))
    )
    if line is None:
        assert said is None
    else:
        assert said.startswith(line)
        assert said.endswith("see --dataset and --data-root")


def test_large_datasets_are_compared_by_images_evenly_spaced(refusal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gan.session.alike.STREAMED_IMAGES", 1)
    monkeypatch.setattr("gan.session.alike.HASHED_BYTES", 12)
    images = IMAGES.train.clone()
    images[-1] += 1
    other = dataclasses.replace(IMAGES, train=images)
    said = refusal(
        lambda: require_same_data(IMAGES, accelerator()), lambda: require_same_data(other, accelerator(1))
    )
    assert said is not None
    assert said.startswith("images (SHA-256): ")


def test_a_rank_may_stream_what_another_has_in_memory(tmp_path: Path, refusal) -> None:
    """As nodes with other free memory do, or another `--memory-budget`."""
    ours, others = (
        StreamedImages(FolderImages(write_images(tmp_path / name, 9, levels)), (3, 8, 8), 0, torch.device("cpu"))
        for name, levels in (("ours", 256), ("others", 2))
    )
    kept = ours.in_memory(print)

    def said_of(main: ImageSource, other: ImageSource) -> str | None:
        of_main = partial(require_same_data, main, accelerator())
        return refusal(of_main, partial(require_same_data, other, accelerator(1)))

    assert said_of(kept, ours) is None
    assert said_of(ours, kept) is None
    assert said_of(kept, others).startswith("images (SHA-256): ")


@pytest.mark.parametrize("seen", ["another", None])
def test_an_output_that_is_not_shared_is_refused(
    seen: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def give_holder(objects: list[Any]) -> None:
        objects[0] = "the holder"

    monkeypatch.setattr("gan.session.alike.broadcast_object_list", give_holder)
    monkeypatch.setattr("gan.session.alike.SECONDS_TO_APPEAR", 0)
    monkeypatch.setattr("gan.session.strategy.gather_object", lambda complaint: complaint)
    if seen is not None:
        (tmp_path / ".lock").write_text(seen)
    with pytest.raises(UsageError, match=r"^--output .*: rank 1 \(.*\) does not see this directory of rank 0"):
        require_shared(tmp_path, accelerator(1), 300)
    (tmp_path / ".lock").write_text("the holder")
    require_shared(tmp_path, accelerator(1), 300)


@pytest.mark.parametrize(("limit_seconds", "is_seen"), [(300, True), (20, False)])
def test_a_shared_output_may_be_seen_late(
    limit_seconds: float, is_seen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NFS client that has looked for the file before believes for 60 s that there is none."""
    now = [0.0]

    def sleep(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 60:
            (tmp_path / ".lock").write_text("the holder")

    monkeypatch.setattr("gan.session.alike.time", SimpleNamespace(monotonic=lambda: now[0], sleep=sleep))
    monkeypatch.setattr(
        "gan.session.alike.broadcast_object_list", lambda objects: objects.__setitem__(0, "the holder")
    )
    monkeypatch.setattr("gan.session.strategy.gather_object", lambda complaint: complaint)
    if is_seen:
        require_shared(tmp_path, accelerator(1), limit_seconds)
    else:
        with pytest.raises(UsageError, match="does not see this directory of rank 0"):
            require_shared(tmp_path, accelerator(1), limit_seconds)
        assert now[0] < limit_seconds, "before the other ranks stop waiting"
