"""Readers of the three data sets on files made here, whole and broken."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from data.sets.cityscapes import cityscapes
from data.sets.dataset import DataSet
from data.sets.gta5 import gta5
from data.sets.synthia import synthia

W, H = 12, 6
IGNORE = 250


def png16(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint16 → PNG of bit depth 16, colour type 2, no filter."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    height, width, _ = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def picture(seed: int = 0, size: tuple[int, int] = (W, H)) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def saved(image: Image.Image, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def palette_label(ids: np.ndarray) -> Image.Image:
    """A palette PNG: its pixels are the ids, its colours say something else."""
    image = Image.fromarray(ids.astype(np.uint8)).convert("L")
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([(7 * i + 90) % 256 for i in range(768)])
    return image


def ids_cycling(ids: list[int]) -> np.ndarray:
    return np.resize(np.array(ids), (H, W))


CITYSCAPES_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]
LISTS = {"trainIds": [[4], [1]], "valIds": [[3]], "testIds": [[2]]}


@pytest.fixture
def cityscapes_root(tmp_path) -> Path:
    """Two cities of two images each; written in an order that is not the sorted one."""
    root = tmp_path / "cityscapes"
    for split in ("train", "val"):
        for city, number in (("zurich", 1), ("aachen", 2), ("aachen", 1), ("zurich", 0)):
            name = f"{city}_{number:06d}_000019"
            saved(picture(number), root / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png")
            saved(
                Image.fromarray(ids_cycling([0, *CITYSCAPES_IDS]).astype(np.uint8)),
                root / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
            )
    return root


@pytest.fixture
def gta5_root(tmp_path) -> Path:
    root = tmp_path / "GTA5"
    for i in range(1, 5):
        saved(picture(i), root / "images" / f"{i:05d}.png")
        saved(palette_label(ids_cycling([0, *CITYSCAPES_IDS])), root / "labels" / f"{i:05d}.png")
    savemat(root / "split.mat", {key: np.array(ids, dtype=np.uint16) for key, ids in LISTS.items()})
    return root


@pytest.fixture
def synthia_root(tmp_path) -> Path:
    root = tmp_path / "SYNTHIA"
    for i in (2, 0, 1):
        saved(picture(i), root / "RGB" / f"{i:07d}.png")
        pixels = np.zeros((H, W, 3), dtype=np.uint16)
        pixels[..., 0] = ids_cycling([0, *SYNTHIA_IDS])
        pixels[..., 1] = 1000 + np.arange(W)  # instances
        path = root / "GT" / "LABELS" / f"{i:07d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png16(pixels))
    return root


def every_class_once_then_void(n: int) -> np.ndarray:
    return ids_cycling([IGNORE, *range(n)])


def test_cityscapes_is_sorted_by_path(cityscapes_root):
    data = cityscapes(cityscapes_root, "train", 19, (W, H))
    names = [image.name.removesuffix("_leftImg8bit.png") for image in data.images]
    assert names == [
        "aachen_000001_000019",
        "aachen_000002_000019",
        "zurich_000000_000019",
        "zurich_000001_000019",
    ]
    assert len(data) == 4
    assert all("train" in image.parts for image in data.images)
    for image, label in zip(data.images, data.labels, strict=True):
        assert label.name.removesuffix("_gtFine_labelIds.png") == image.name.removesuffix("_leftImg8bit.png")
        assert label.parent.name == image.parent.name


def test_cityscapes_reads_images_and_labels(cityscapes_root):
    data = cityscapes(cityscapes_root, "val", 19, (W, H))
    np.testing.assert_array_equal(data.read_image(1), np.asarray(picture(2)))
    np.testing.assert_array_equal(data.read_label(0), every_class_once_then_void(19))


def test_sizes_are_those_of_the_released_code(cityscapes_root, gta5_root, synthia_root):
    assert cityscapes(cityscapes_root, "val", 19).size == (2048, 1024)
    assert gta5(gta5_root, 19).size == (2048, 1024)
    assert synthia(synthia_root, 16).size == (1280, 760)


def test_another_size_is_reached_bilinear_for_images_and_nearest_for_labels(cityscapes_root):
    data = cityscapes(cityscapes_root, "val", 19, (2 * W, 2 * H))
    expected = picture(1).resize((2 * W, 2 * H), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.read_image(0), np.asarray(expected))
    doubled = every_class_once_then_void(19).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(data.read_label(0), doubled)


def test_first_keeps_the_first(cityscapes_root):
    data = cityscapes(cityscapes_root, "val", 19)
    assert data.first(3).images == data.images[:3]
    assert data.first(3).labels == data.labels[:3]
    assert len(data.first(None)) == 4


def test_gta5_joins_the_three_splits_and_reads_palette_labels(gta5_root):
    data = gta5(gta5_root, 19, (W, H))
    assert [image.name for image in data.images] == [f"{i:05d}.png" for i in range(1, 5)]
    assert [label.name for label in data.labels] == [image.name for image in data.images]
    np.testing.assert_array_equal(data.read_image(3), np.asarray(picture(4)))
    np.testing.assert_array_equal(data.read_label(2), every_class_once_then_void(19))


def test_gta5_with_fewer_classes(gta5_root):
    expected = np.resize(
        [IGNORE, 0, 1, 2, IGNORE, IGNORE, IGNORE, 3, 4, 5, IGNORE, 6, 7, 8, 9, IGNORE, 10, IGNORE, 11, 12],
        (H, W),
    )
    np.testing.assert_array_equal(gta5(gta5_root, 13, (W, H)).read_label(0), expected)


def test_synthia_reads_the_class_of_a_16_bit_png(synthia_root):
    data = synthia(synthia_root, 19, (W, H))
    assert [image.name for image in data.images] == ["0000000.png", "0000001.png", "0000002.png"]
    label = data.read_label(0)
    assert (label == 10).any()  # sky, id 1: Pillow would have given 0
    np.testing.assert_array_equal(label, every_class_once_then_void(19))
    np.testing.assert_array_equal(data.read_image(2), np.asarray(picture(2)))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def assert_names(raised: pytest.ExceptionInfo, path: Path) -> None:
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def all_three(cityscapes_root: Path, gta5_root: Path, synthia_root: Path) -> list[DataSet]:
    return [
        cityscapes(cityscapes_root, "train", 19, (W, H)),
        gta5(gta5_root, 19, (W, H)),
        synthia(synthia_root, 19, (W, H)),
    ]


def remove(path: Path) -> None:
    path.unlink()


def write(content: bytes) -> Callable[[Path], int]:
    return lambda path: path.write_bytes(content)


BROKEN = {
    "cut": (cut, ValueError),
    "empty": (write(b""), ValueError),
    "text": (write(b"not a picture at all, but long enough to be read"), ValueError),
    "missing": (remove, FileNotFoundError),
}


@pytest.mark.parametrize(("spoil", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_or_label_is_named(cityscapes_root, gta5_root, synthia_root, spoil, error):
    for data in all_three(cityscapes_root, gta5_root, synthia_root):
        for path, read in ((data.labels[1], data.read_label), (data.images[1], data.read_image)):
            spoil(path)
            with pytest.raises(error) as raised:
                read(1)
            assert_names(raised, path)


def test_labels_are_not_needed_to_read_images(cityscapes_root):
    for label in cityscapes_root.glob("gtFine/*/*/*.png"):
        label.unlink()
    assert cityscapes(cityscapes_root, "train", 19, (W, H)).read_image(0).shape == (H, W, 3)


def test_colour_labels_are_refused(cityscapes_root, gta5_root, synthia_root):
    for data in all_three(cityscapes_root, gta5_root, synthia_root):
        saved(picture(), data.labels[0])
        with pytest.raises(ValueError) as raised:
            data.read_label(0)
        assert_names(raised, data.labels[0])


def test_ids_that_do_not_exist_name_the_file(cityscapes_root, gta5_root, synthia_root):
    bad = Image.fromarray(np.full((H, W), 200, dtype=np.uint8))
    for data in all_three(cityscapes_root, gta5_root, synthia_root):
        if data.name == "synthia":
            data.labels[0].write_bytes(png16(np.full((H, W, 3), 200, dtype=np.uint16)))
        else:
            saved(bad, data.labels[0])
        with pytest.raises(ValueError, match="200") as raised:
            data.read_label(0)
        assert_names(raised, data.labels[0])


def test_missing_folder_names_folder_and_option(tmp_path):
    root = tmp_path / "nowhere"
    with pytest.raises(FileNotFoundError, match="--tgt_rootpath") as raised:
        cityscapes(root, "train", 19)
    assert_names(raised, root / "leftImg8bit" / "train")
    for build, folder in ((gta5, "images"), (synthia, "RGB")):
        with pytest.raises(FileNotFoundError, match="--src_rootpath") as raised:
            build(root, 19)
        assert_names(raised, root / folder)


def test_missing_label_folder_is_named(gta5_root, synthia_root):
    for build, folder in ((gta5, gta5_root / "labels"), (synthia, synthia_root / "GT" / "LABELS")):
        folder.rename(folder.with_name("elsewhere"))
        with pytest.raises(FileNotFoundError) as raised:
            build(folder.parents[1] if folder.name == "LABELS" else folder.parent, 19)
        assert_names(raised, folder)


def test_empty_folder_is_named(tmp_path):
    (tmp_path / "leftImg8bit" / "train" / "aachen").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as raised:
        cityscapes(tmp_path, "train", 19)
    assert_names(raised, tmp_path / "leftImg8bit" / "train")
    (tmp_path / "RGB").mkdir()
    (tmp_path / "GT" / "LABELS").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as raised:
        synthia(tmp_path, 16)
    assert_names(raised, tmp_path / "RGB")


FORMS = [{"do_compression": False}, {"do_compression": True}, {"format": "4"}]


@pytest.mark.parametrize("form", FORMS, ids=["plain", "packed", "version 4"])
def test_split_files_of_every_form(gta5_root, form):
    for dtype in ("i4", "u2", "f4", "f8", *(("u1", "i2", "u4", "i8", "u8") if "format" not in form else ())):
        lists = {name: np.array(ids, dtype=dtype) for name, ids in LISTS.items()}
        savemat(gta5_root / "split.mat", {"other": "text"} | lists, **form)
        assert len(gta5(gta5_root, 19)) == 4


def mat(changes: dict | None = None, **form: object) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, LISTS | (changes or {}), **form)
    return buffer.getvalue()


SPLITS = {
    "empty": b"",
    "text": b"no matlab file",
    "cut": b"MATLAB 5.0 MAT-file" + bytes(200),
    "a list less": mat().replace(b"valIds", b"valids"),
    "a list twice": mat() + mat()[128:],
    "too long": mat() + bytes(2**20),
    "no ids": mat(dict.fromkeys(LISTS, np.zeros((0, 1)))),
    "letters": mat({"valIds": "12"}),
    "struct": mat({"valIds": {"x": 1}}, do_compression=True),
    "cells": mat({"valIds": np.array([[1, "x"]], dtype=object)}),
    "too many": mat({"valIds": np.zeros((400, 400))}, do_compression=True),
    "letters, version 4": mat({"valIds": "12"}, format="4"),
}


@pytest.mark.parametrize("content", SPLITS.values(), ids=SPLITS)
def test_unusable_split_file_is_named(gta5_root, content):
    path = gta5_root / "split.mat"
    path.write_bytes(content)
    with pytest.raises(ValueError) as raised:
        gta5(gta5_root, 19)
    assert_names(raised, path)


def test_missing_split_file_is_named(gta5_root):
    (gta5_root / "split.mat").unlink()
    with pytest.raises(FileNotFoundError) as raised:
        gta5(gta5_root, 19)
    assert_names(raised, gta5_root / "split.mat")


def test_a_synthia_label_with_a_wrong_checksum_is_refused_in_one_voice(synthia_root, capfd):
    data = synthia(synthia_root, 16, (W, H))
    content = bytearray(data.labels[0].read_bytes())
    content[-20] ^= 1  # in the pixels
    data.labels[0].write_bytes(content)
    with pytest.raises(ValueError, match=data.labels[0].name):
        data.read_label(0)
    assert capfd.readouterr().err == ""
