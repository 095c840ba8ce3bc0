"""One lister for all data sets: hidden files, links, endings in any case; missing files are counted."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from data.build import inference_data
from data.check import check, check_sample
from data.mini import write_mini
from data.own_images import own_images
from data.sets.files import listed, listed_images, located, require_files
from data.sets.folder import read_list
from utils.distributed import ALONE
from utils.options import Options, parse

W, H = 64, 32


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def names(root: Path, paths: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in paths]


def test_hidden_files_are_passed_over_and_endings_have_any_case(tmp_path):
    touch(
        tmp_path, "b/X.png", "b/Y.PNG", "b/Z.Jpeg", "b/x_depth.PNG", "a.png", "b/c/d.png", "notes.txt", "png"
    )
    touch(
        tmp_path, "b/._X.png", "Thumbs.db", "b/desktop.ini", ".cache/e.png", "@eaDir/f.png", "__MACOSX/g.png"
    )
    deep = ["a.png", "b/X.png", "b/Y.PNG", "b/c/d.png", "b/x_depth.PNG"]
    assert names(tmp_path, listed(tmp_path, [".png"])) == deep
    assert names(tmp_path, listed(tmp_path, ["_depth.png"])) == ["b/x_depth.PNG"]
    assert listed(tmp_path, ["_DEPTH.png"]) == []  # only the ending has any case
    assert names(tmp_path, listed(tmp_path, [".png"], depth=0)) == ["a.png"]
    assert names(tmp_path, listed(tmp_path, [".jpeg", ".png"], depth=1)) == [
        f"b/{name}" for name in ("X.png", "Y.PNG", "Z.Jpeg", "x_depth.PNG")
    ]
    assert listed(tmp_path / "nowhere", [".png"]) == []


def test_links_are_followed_once(tmp_path):
    root, other = tmp_path / "root", tmp_path / "other"
    touch(root, "a/1.png")
    touch(other, "2.png")
    (root / "b").symlink_to(other)
    (root / "c").symlink_to(other)  # the same folder again
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "here").symlink_to(root / "a")
    (other / "back").symlink_to(root)
    (root / "a" / "0.png").symlink_to(tmp_path / "nothing")  # is missing, and must not be left out in silence
    (root / "self").symlink_to(root / "self")
    os.mkfifo(root / "pipe.png")
    assert names(root, listed(root, [".png"])) == ["a/0.png", "a/1.png", "b/2.png"]


def test_a_rarer_form_counts_where_no_png_or_jpeg_has_its_name(tmp_path):
    touch(tmp_path, "1.png", "1.tif", "2.tiff", "3.WEBP", "4.bmp", "4.jpg", "5.gif")
    assert names(tmp_path, listed_images(tmp_path)) == ["1.png", "2.tiff", "3.WEBP", "4.jpg"]


def test_missing_files_are_counted_and_the_first_named(tmp_path):
    touch(tmp_path, "1.png", "2.PNG", "4.png", "4.PNG")
    (tmp_path / "5.png").symlink_to(tmp_path / "nothing")
    paths = [tmp_path / f"{i}.png" for i in range(1, 6)] + [tmp_path / "no" / "6.png"]
    assert names(tmp_path, located(paths)) == ["1.png", "2.PNG", "3.png", "4.png", "5.png", "no/6.png"]
    require_files(paths[:2], "images")
    with pytest.raises(
        FileNotFoundError, match=r"/3\.png: 3 of 6 images are missing, the first is this; copy"
    ):
        require_files(paths, "images")


# --- data sets --------------------------------------------------------------------------------------------


@pytest.fixture
def tree(tmp_path, monkeypatch) -> Path:
    write_mini(tmp_path / "dataset", (W, H), 0, 12, 2, 2)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "dataset"


def options(script: str = "check", words: str = "--stage warm_up") -> Options:
    return parse(script, "", f"{words} --img_size {W},{H} --num_workers 0".split())


def test_every_data_set_passes_hidden_files_over_and_finds_endings_in_any_case(tree):
    for path in sorted(tree.glob("**/*.png")):
        touch(path.parent, f"._{path.name}", ".DS_Store", "Thumbs.db")
        if "SYNTHIA" in path.parts or path.stem[-1] != "0":
            path.rename(path.with_suffix(".PNG"))
    for source in ("gta5", "synthia"):
        o = options(words=f"--stage warm_up --src_dataset {source}")
        check_sample(o)
        text, problems = check(o)
        assert (
            problems == 0 and "12 images (12 of 64×32), 12 labels" in text and "2 images (2 of 64×32)" in text
        )
        assert f"source: {24 + 4} hidden files passed over" in text


def test_images_that_are_listed_but_absent_stop_a_run_before_it_begins(tree):
    (tree / "GTA5" / "images" / "00002.png").unlink()
    with pytest.raises(ValueError, match=r"00002\.png: 1 of 12 images of gta5 are missing.*data\.check"):
        check_sample(options())
    (tree / "GTA5" / "images" / "00002.png").symlink_to("nothing")
    with pytest.raises(ValueError, match="1 of 12 images"):
        check_sample(options())
    next(tree.glob("cityscapes/leftImg8bit/train/*/*.png")).unlink()
    image = next(tree.glob("cityscapes/leftImg8bit/train/*/*.png"))
    image.unlink()
    image.symlink_to("nothing")
    with pytest.raises(FileNotFoundError, match="1 of 1 images of cityscapes are missing"):
        inference_data(options("pseudo_label", "--resume_path x"), "train", ALONE)


def test_a_list_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "list.txt").write_text("a/1\r\nb/2\r\n", encoding="utf-8-sig")
    assert read_list(tmp_path / "list.txt") == ["a/1", "b/2"]


# --- images of one's own ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["png", "bmp", "webp", "tiff", "jpg"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 9])
def test_own_images_stand_upright_in_every_form(tmp_path, form, orientation):
    """The upper left quarter of the scene is bright; the camera was turned."""
    scene = np.zeros((16, 32, 3), np.uint8)
    scene[:8, :16] = 255
    # EXIF: 3 rotated by 180 degrees; 6: the first row is the right side, the first column the top.
    stored = {3: scene[::-1, ::-1], 6: np.rot90(scene)}.get(orientation, scene)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    kept = {} if form == "bmp" else {"exif": exif}
    Image.fromarray(scene if form == "bmp" else np.ascontiguousarray(stored)).save(
        tmp_path / f"x.{form}", **kept
    )
    (item,) = own_images(tmp_path, size=(8, 4))
    assert np.abs(item.pixels.numpy().astype(int) - scene).max() < 30 and item.resized.shape == (4, 8, 3)


def test_the_check_names_an_orientation_and_training_does_not_apply_it(tree):
    path = tree / "GTA5" / "images" / "00003.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    with Image.open(path) as image:
        image.save(path, exif=exif)
    text, problems = check(options())
    assert problems == 0 and "source: 1 images with an EXIF orientation, which is not applied" in text


@pytest.mark.filterwarnings("error")
def test_a_transparent_palette_is_read_without_a_word(tmp_path):
    image = Image.new("P", (16, 8), 1)
    image.putpalette([1, 2, 3, 4, 5, 6])
    image.save(tmp_path / "x.png", transparency=bytes([0, 9]))
    (item,) = own_images(tmp_path)
    assert (item.pixels == item.pixels.new_tensor([4, 5, 6])).all()
