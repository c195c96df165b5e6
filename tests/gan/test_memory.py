"""How much memory is free, also in a container that may not take all of the host's."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from gan.process import memory
from gan.process.memory import free_on_host

OF_2 = {
    "memory.max": "1000\n",
    "memory.current": "700\n",
    "memory.stat": "anon 1\nactive_file 30\ninactive_file 20\n",
}
OF_1 = {
    "memory.limit_in_bytes": "1000\n",
    "memory.usage_in_bytes": "700\n",
    "memory.stat": "cache 1\ntotal_active_file 30\ntotal_inactive_file 20\n",
}


@pytest.mark.parametrize(
    ("groups", "folder", "files", "free"),
    [
        ("0::/box/inner\n", "box", OF_2, 350),
        ("0::/\n", ".", OF_2, 350),
        ("0::/box\n", "box", {**OF_2, "memory.max": "max\n"}, 5000),
        ("0::/box\n", "box", {**OF_2, "memory.current": "1100\n"}, 0),
        ("9:cpu:/\n4:memory:/box\n0::/\n", "memory/box", OF_1, 350),
        ("4:memory:/docker/0123\n", "memory", OF_1, 350),
        ("4:memory:/box\n", "memory/box", {**OF_1, "memory.limit_in_bytes": f"{2**63 - 4096}\n"}, 5000),
        (None, ".", {}, 5000),
    ],
    ids=["outer", "inside", "unlimited", "over", "version 1", "version 1, inside", "version 1, unlimited", "none"],
)
def test_what_is_free_is_also_below_the_limits_of_control_groups(
    groups: str | None,
    folder: str,
    files: dict[str, str],
    free: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = tmp_path / "cgroup" / folder
    place.mkdir(parents=True)
    for name, text in files.items():
        (place / name).write_text(text)
    if groups is not None:
        (tmp_path / "self").write_text(groups)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "GROUPS_OF_PROCESS", tmp_path / "self")
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: SimpleNamespace(available=5000))
    assert free_on_host() == free
