"""Readers of the three data sets on files made here, whole and broken."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import Cityscapes

from data.mini.world import encode_png16
from data.sets.cityscapes import cityscapes
from data.sets.dataset import DataSet
from data.sets.gta5 import gta5
from data.sets.synthia import synthia

W, H = 12, 6
IGNORE = 250


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


CITYSCAPES_IDS = [c.id for c in Cityscapes.classes if 0 <= c.train_id < 19]
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
        path.write_bytes(encode_png16(pixels))
    return root


def every_class_once_then_void(n: int) -> np.ndarray:
    return ids_cycling([IGNORE, *range(n)])


def test_cityscapes_is_sorted_by_path(cityscapes_root):
    data = cityscapes(cityscapes_root, "val", 19, (W, H))
    numbers = (("aachen", 1), ("aachen", 2), ("zurich", 0), ("zurich", 1))
    places = [(city, f"{city}_{i:06d}_000019") for city, i in numbers]
    images, labels = cityscapes_root / "leftImg8bit" / "val", cityscapes_root / "gtFine" / "val"
    assert data.images == tuple(images / city / f"{s}_leftImg8bit.png" for city, s in places)
    assert data.labels == tuple(labels / city / f"{s}_gtFine_labelIds.png" for city, s in places)
    np.testing.assert_array_equal(data.read_image(1), np.asarray(picture(2)))
    np.testing.assert_array_equal(data.read_label(0), every_class_once_then_void(19))
    assert (data.first(3).images, data.first(3).labels) == (data.images[:3], data.labels[:3])
    assert len(data.first(None)) == 4


def test_sizes_are_those_of_the_released_code(cityscapes_root, gta5_root, synthia_root):
    assert cityscapes(cityscapes_root, "val", 19).size == (2048, 1024)
    assert gta5(gta5_root, 19).size == (2048, 1024)
    assert synthia(synthia_root, 16).size == (1280, 760)


def test_another_size_is_reached_bilinear_for_images_and_nearest_for_labels(cityscapes_root):
    data = cityscapes(cityscapes_root, "val", 19, (2 * W, 2 * H))
    data.labels[1].unlink()  # not needed to read images
    expected = picture(1).resize((2 * W, 2 * H), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(data.read_image(0), np.asarray(expected))
    doubled = every_class_once_then_void(19).repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(data.read_label(0), doubled)


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


BROKEN = {
    "cut": (cut, ValueError),
    "empty": (lambda path: path.write_bytes(b""), ValueError),
    "text": (lambda path: path.write_text("not a picture, but long enough to be read"), ValueError),
    "missing": (Path.unlink, FileNotFoundError),
}


@pytest.mark.parametrize(("spoil", "error"), BROKEN.values(), ids=BROKEN)
def test_a_broken_image_or_label_is_named(cityscapes_root, gta5_root, synthia_root, spoil, error):
    for data in all_three(cityscapes_root, gta5_root, synthia_root):
        for path, read in ((data.labels[1], data.read_label), (data.images[1], data.read_image)):
            spoil(path)
            with pytest.raises(error) as raised:
                read(1)
            assert_names(raised, path)


def test_labels_of_colours_or_of_ids_that_do_not_exist_name_the_file(
    cityscapes_root, gta5_root, synthia_root
):
    for data in all_three(cityscapes_root, gta5_root, synthia_root):
        path = saved(picture(), data.labels[0])
        with pytest.raises(ValueError) as raised:
            data.read_label(0)
        assert_names(raised, path)
        if data.name == "synthia":
            path.write_bytes(encode_png16(np.full((H, W, 3), 200, dtype=np.uint16)))
        else:
            saved(Image.fromarray(np.full((H, W), 200, dtype=np.uint8)), path)
        with pytest.raises(ValueError, match="200") as raised:
            data.read_label(0)
        assert_names(raised, path)


def test_missing_and_empty_folders_are_named(tmp_path, gta5_root, synthia_root):
    def refuses(folder: Path, option: str, build: Callable[..., DataSet], *words: object) -> None:
        with pytest.raises(FileNotFoundError, match=option) as raised:
            build(*words)
        assert_names(raised, folder)

    root = tmp_path / "nowhere"
    refuses(root / "leftImg8bit" / "train", "--tgt_rootpath", cityscapes, root, "train", 19)
    refuses(root / "images", "--src_rootpath", gta5, root, 19)
    refuses(root / "RGB", "--src_rootpath", synthia, root, 19)
    (root / "leftImg8bit" / "train" / "aachen").mkdir(parents=True)
    refuses(root / "leftImg8bit" / "train", "unpack", cityscapes, root, "train", 19)
    (root / "RGB").mkdir()
    (root / "GT" / "LABELS").mkdir(parents=True)
    refuses(root / "RGB", "unpack", synthia, root, 16)
    shutil.rmtree(gta5_root / "labels")
    refuses(gta5_root / "labels", "--src_rootpath", gta5, gta5_root, 19)
    shutil.rmtree(synthia_root / "GT")
    refuses(synthia_root / "GT" / "LABELS", "--src_rootpath", synthia, synthia_root, 19)


@pytest.mark.parametrize(
    ("places", "given", "found"),
    [
        (["SYNTHIA"], "SYNTHIA", "SYNTHIA"),
        (["SYNTHIA/RAND_CITYSCAPES"], "SYNTHIA", "SYNTHIA/RAND_CITYSCAPES"),
        (["RAND_CITYSCAPES"], "SYNTHIA", "RAND_CITYSCAPES"),
        (["RAND_CITYSCAPES"], ".", "RAND_CITYSCAPES"),
        (["RAND_CITYSCAPES"], "RAND_CITYSCAPES", "RAND_CITYSCAPES"),
        (["SYNTHIA", "SYNTHIA/RAND_CITYSCAPES", "RAND_CITYSCAPES"], "SYNTHIA", "SYNTHIA"),
        (["SYNTHIA/RAND_CITYSCAPES", "RAND_CITYSCAPES"], "SYNTHIA", "SYNTHIA/RAND_CITYSCAPES"),
    ],
)
def test_synthia_is_found_as_it_unpacks(synthia_root, tmp_path, places, given, found):
    drawn = synthia_root.rename(tmp_path / "drawn")
    for place in places:
        shutil.copytree(drawn, tmp_path / place, dirs_exist_ok=True)
    data = synthia(tmp_path / given, 16)
    assert data.root == tmp_path / found and len(data) == 3
    assert all(path.is_relative_to(data.root) and path.is_file() for path in data.images + data.labels)


def test_synthia_beside_another_folder_than_the_usual_one_is_not_taken(synthia_root):
    synthia_root.rename(synthia_root.with_name("RAND_CITYSCAPES"))
    with pytest.raises(FileNotFoundError, match=r"mine/RGB: .*RAND_CITYSCAPES"):
        synthia(synthia_root.with_name("mine"), 16)


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


@pytest.mark.parametrize("content", [None, *SPLITS.values()], ids=["missing", *SPLITS])
def test_unusable_split_file_is_named(gta5_root, content):
    path = gta5_root / "split.mat"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(FileNotFoundError if content is None else ValueError) as raised:
        gta5(gta5_root, 19)
    assert_names(raised, path)
    assert "read_mapping.zip of GTA5's page" in str(raised.value).partition("; ")[0]


def test_the_split_file_may_lie_in_the_folder_of_its_archive(gta5_root):
    (gta5_root / "read_mapping").mkdir()
    (gta5_root / "split.mat").rename(gta5_root / "read_mapping" / "split.mat")
    assert len(gta5(gta5_root, 19)) == 4
    (gta5_root / "split.mat").write_text("no matlab file")  # what is there is not passed over
    with pytest.raises(ValueError, match=r"GTA5/split\.mat"):
        gta5(gta5_root, 19)


def test_a_synthia_label_with_a_wrong_checksum_is_refused_in_one_voice(synthia_root, capfd):
    data = synthia(synthia_root, 16, (W, H))
    content = bytearray(data.labels[0].read_bytes())
    content[-20] ^= 1  # in the pixels
    data.labels[0].write_bytes(content)
    with pytest.raises(ValueError, match=data.labels[0].name):
        data.read_label(0)
    assert capfd.readouterr().err == ""
