"""JSON from anywhere is read, or refused in one line that names the file."""

import json
import os
from pathlib import Path

import pytest

import gan.files.json_files
from gan.errors import UsageError
from gan.files.atomic import require_other_files
from gan.files.json_files import append_json_line, read_json, read_json_lines, write_json


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "damaged (not JSON: Expecting value in line 1, column 1)"),
        (b'{"a": 1,\n "b": }', "damaged (not JSON: Expecting value in line 2, column 7)"),
        (b'{"a": "caf\xe9"}', "damaged (byte 10 is not UTF-8)"),
        ('{"a": 1}'.encode("utf-16"), "damaged (byte 0 is not UTF-8)"),
        (b"[" * 100_000, "damaged (nested too deeply)"),
        (b'{"a": ' * 100_000 + b"1" + b"}" * 100_000, "damaged (nested too deeply)"),
        (b'{"a": ' + b"9" * 5000 + b"}", "damaged (Exceeds the limit (4300 digits) for integer string conversion"),
        (b'{"a": NaN}', "damaged (NaN, where numbers must be finite)"),
        (b'{"a": [-Infinity]}', "damaged (-Infinity, where numbers must be finite)"),
        (b'{"a": 1e999}', "damaged (1e999, where numbers must be finite)"),
    ],
)
def test_damaged_json_is_refused_in_one_line(content: bytes, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        read_json(path)
    assert str(refused.value).startswith(f"{path}: {complaint}")
    assert "\n" not in str(refused.value)


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(UsageError, match=r"file\.json: not found; make it$"):
        read_json(tmp_path / "file.json", missing="make it")
    with pytest.raises(UsageError, match=r"file\.json: not found$"):
        read_json(tmp_path / "file.json")
    with pytest.raises(UsageError, match="not a file"):
        read_json(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a file"):
        read_json(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(UsageError, match="loop: Too many levels of symbolic links"):
        read_json(tmp_path / "loop")
    write_json(tmp_path / "large", list(range(100)))
    monkeypatch.setattr(gan.files.json_files, "MOST_JSON_BYTES", 100)
    with pytest.raises(UsageError, match=r"large: has \d+ bytes; at most 100 are read"):
        read_json(tmp_path / "large")


def test_json_is_read_with_a_byte_order_mark_and_with_infinities_where_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"\xef\xbb\xbf" + '{"a": "é"}'.encode())
    assert read_json(path) == {"a": "é"}
    path.write_text("[Infinity, 1e999]")
    assert read_json(path, nonfinite=True) == [float("inf")] * 2


def test_a_file_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9 \xc3\xa9")
    write_json(tmp_path / "file.json", {"path": name})
    (tmp_path / "lines").touch()
    append_json_line(tmp_path / "lines", {"path": name})
    assert read_json(tmp_path / "file.json") == json.loads((tmp_path / "file.json").read_text()) == {"path": name}
    assert read_json_lines(tmp_path / "lines") == [{"path": name}]


def test_a_link_stays_and_a_device_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "target.json").write_text("old")
    (tmp_path / "link").symlink_to("target.json")
    write_json(tmp_path / "link", [1])
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "target.json").read_text()) == [1]
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_json(tmp_path / "pipe", [2])
    assert json.loads(os.read(reader, 100)) == [2]
    os.close(reader)
    with pytest.raises(IsADirectoryError):
        write_json(tmp_path, [3])


def test_no_output_replaces_what_is_read_or_another_output(tmp_path: Path) -> None:
    read = tmp_path / "a.json"
    read.write_text("{}")
    (tmp_path / "link").symlink_to("a.json")
    for path in (read, tmp_path / "link"):
        with pytest.raises(UsageError, match=r"--output .*: the same file is read; name another"):
            require_other_files({"--output": path}, [read])
    with pytest.raises(UsageError, match=r"--markdown .*: the same file is --output's"):
        require_other_files({"--output": tmp_path / "b", "--markdown": tmp_path / "b"})
    require_other_files({"--output": Path(os.devnull), "--markdown": Path(os.devnull)}, [read])
