import os
import socket
from pathlib import Path

import pytest
from PIL import Image

from gan.data.listing import list_images
from gan.data.stored import check_headers
from gan.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of two images, and one of them with an image deeper down."""
    for name in ("cats/1.png", "cats/2.PNG", "dogs/1.jpg", "dogs/old/2.tiff"):
        picture(tmp_path / "photos" / name)
    return tmp_path / "photos"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path, format="PNG")


def said(root: Path) -> str:
    return str(list_images(root)).removeprefix(f"data root {root}: ")


BOTH = "4 images in 2 classes (cats 2, dogs 2)"


def test_classes_are_the_folders_right_below_the_root(root: Path) -> None:
    listing = list_images(root)
    assert listing.class_names == ("cats", "dogs")
    assert [str(path.relative_to(root)) for path in listing.paths] == [
        *("cats/1.png", "cats/2.PNG", "dogs/1.jpg", "dogs/old/2.tiff")
    ]
    assert listing.labels == [0, 0, 1, 1]
    assert str(listing) == f"data root {root}: {BOTH}"


def test_a_link_is_what_it_leads_to(root: Path, tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "3.png"):
        picture(tmp_path / "elsewhere" / name)
    (root / "birds").symlink_to(tmp_path / "elsewhere")
    (root / "cats" / "3.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    listing = list_images(root)
    assert listing.class_names == ("birds", "cats", "dogs")
    assert listing.labels == [0] * 3 + [1] * 3 + [2] * 2


def test_links_in_a_circle_end(root: Path) -> None:
    (root / "all").symlink_to(root)
    (root / "cats" / "up").symlink_to("..")
    (root / "cats" / "self").symlink_to(".")
    (root / "dogs" / "itself").symlink_to("itself")
    (root / "dogs" / "gone.png").symlink_to("nowhere.png")
    assert said(root) == f"{BOTH}; left out: 3 linked to a folder that is read already, 2 linked to nothing"


def test_many_links_to_one_another_end(tmp_path: Path) -> None:
    for index in range(8):
        picture(tmp_path / f"class{index}" / "1.png")
        for other in range(8):
            (tmp_path / f"class{index}" / f"to{other}").symlink_to(tmp_path / f"class{other}")
    assert len(list_images(tmp_path).paths) == 8 * 8, "each class reads each folder once"


def test_what_systems_hide_is_no_class_and_no_image(root: Path) -> None:
    for name in (
        *(".ipynb_checkpoints/1-checkpoint.png", "__MACOSX/cats/._1.png", "cats/._1.png", "cats/.DS_Store"),
        *("cats/@eaDir/1.png", ".hidden.png", "dogs/.thumbs/2.jpg", "lost+found/1.png"),
    ):
        picture(root / name)
    assert said(root) == f"{BOTH}; left out: 8 hidden"


def test_a_hidden_root_is_no_hidden_entry(root: Path) -> None:
    hidden = root.parent / ".photos"
    root.rename(hidden)
    assert said(hidden) == BOTH


def test_what_is_not_a_file_is_left_out(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "cats" / "holiday.png").mkdir()
    (root / "birds").mkdir()
    os.mkfifo(root / "cats" / "pipe.png")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.png")
    (root / "dogs" / "notes.txt").write_text("")
    (root / "README").write_text("")
    assert said(root) == (
        f"{BOTH}; left out: 2 folders without images (birds, holiday.png), 2 not a regular file, "
        "2 of other types (no suffix, .txt)"
    )


def test_a_folder_named_like_an_image_is_a_folder(root: Path) -> None:
    picture(root / "cats" / "thumbs.png" / "3.png")
    assert said(root) == "5 images in 2 classes (cats 3, dogs 2)"


def test_why_there_are_no_classes(root: Path, tmp_path: Path) -> None:
    picture(root / "3.png")
    assert list_images(root).class_names is None
    assert said(root) == "5 images without classes, because 1 lies beside 2 folders (cats, dogs)"
    assert said(root / "cats") == "2 images in no folders, so without classes"
    picture(tmp_path / "one" / "only" / "1.png")
    assert said(tmp_path / "one") == "1 image without classes, because all are in 1 folder (only)"


def test_names_of_many_classes_are_cut_and_odd_ones_are_safe(tmp_path: Path) -> None:
    for name in ("\x1b[31mred", "b", "c", "d", "e", "f", os.fsdecode(b"caf\xe9")):
        picture(tmp_path / name / "1.png")
    listing = list_images(tmp_path)
    assert listing.class_names is not None
    assert listing.class_names[3] == os.fsdecode(b"caf\xe9")
    assert said(tmp_path) == r"7 images in 7 classes (\x1b[31mred 1, b 1, c 1, caf\udce9 1, d 1, …)"


def test_a_folder_that_may_not_be_read_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = os.scandir

    def guarded(path: Path) -> object:
        if path.name == "old":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr("gan.data.listing.os.scandir", guarded)
    with pytest.raises(UsageError, match=r"dogs/old: Permission denied; make it readable, or move it elsewhere$"):
        list_images(root)


def test_no_image_at_all_says_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"")
    (tmp_path / ".b.png").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no images; .*; left out: 1 hidden, 1 of other types"):
        list_images(tmp_path)


def test_headers_name_damage_and_count_animations(root: Path) -> None:
    frames = [Image.new("L", (4, 4), level) for level in (0, 99)]
    frames[0].save(root / "cats" / "3.gif", save_all=True, append_images=frames[1:])
    paths = list_images(root).paths
    assert check_headers(paths) == "of 1 with several frames or pages the first is taken"
    assert "the headers of 0 were checked in 0 s" in check_headers(paths, seconds=0)
    paths[0].write_text("no image")
    paths[1].write_bytes(b"")
    with pytest.raises(
        UsageError, match=r"1\.png: not a readable image .*\(and 1 more of 5 that were looked at\)$"
    ):
        check_headers(paths)
