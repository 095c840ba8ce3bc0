"""Folders of one's own: which images there are, where their labels lie, at which size they are read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from benchmarks import plain_samples as plain
from data.augment.colour_transfer import KeptStatistics
from data.augment.weak import WeakRecord
from data.batches import inference_loader, read
from data.classes import value_format
from data.image_cache import ImageCache
from data.kept_labels import images_digest
from data.pseudo_labels import PseudoLabels, shared_files, write_hard, write_soft
from data.samples import Augmentation, SourceSamples, TargetSamples
from data.sets.dataset import DataSet
from data.sets.folder import folder, has_labels, read_list
from generate_pseudo_label import kept_labels
from utils.classes_file import LAYOUTS
from utils.grid import grid_size

STORED = value_format([[0], [1], [2]], [255], "ids", "")
SIZES = {"a/1": (40, 24), "a/2": (33, 47), "b/1": (24, 40)}
CROP = (32, 16)


def make(root: Path, image: str, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Path:
    """A file of random pixels; ids 0 to 2 where it has one channel."""
    path = root / image
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(len(image) + size[0])
    shape = (size[1], size[0])
    pixels = rng.integers(0, 3, shape) if mode == "L" else rng.integers(0, 256, (*shape, 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return path


def target(
    root: Path, split: str = "train", size: tuple[int, int] | None = None, **changes: object
) -> DataSet:
    return folder(root, replace(LAYOUTS["target"], **changes), split, STORED, "--tgt_rootpath", size)


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """Images of three sizes in two folders, with labels of the same sizes."""
    for name, size in SIZES.items():
        make(tmp_path, f"images/train/{name}.png", size)
        make(tmp_path, f"labels/train/{name}.png", size, "L")
    return tmp_path


def linear(values: np.ndarray, axis: int, count: int) -> np.ndarray:
    """Values of an axis at evenly spaced places from its first to its last."""
    length = values.shape[axis]
    places = np.linspace(0, length - 1, count)
    return np.apply_along_axis(lambda line: np.interp(places, np.arange(length), line), axis, values)


# --- which images, which labels ---------------------------------------------------------------------------


def test_images_of_sub_folders_with_their_labels(town):
    make(town, "images/train/.hidden/3.png")
    make(town, "images/train/a/.4.png")
    make(town, "images/train/z/5.JPG")
    (town / "images/train/a/notes.txt").write_text("no image")
    data = target(town)
    names = [*SIZES, "z/5"]
    assert [data.image_name(i) for i in range(len(data))] == names
    assert data.images == tuple(
        town / "images/train" / f for f in ("a/1.png", "a/2.png", "b/1.png", "z/5.JPG")
    )
    assert data.labels == tuple(town / "labels/train" / f"{name}.png" for name in names)
    assert has_labels(data) and (data.name, data.root, data.size) == ("folder", town, None)
    assert data.first(2).names == ("a/1", "a/2") and data.only([2]).labels == data.labels[2:3]


def test_links_to_folders_are_followed_and_labels_of_both_splits_may_share_one(town, tmp_path):
    (town / "images/train/c").symlink_to(town / "images/train/b")
    assert target(town).names == (*SIZES, "c/1")
    assert target(town).all_labels and not target(town, labels="labels").all_labels


def test_suffixes_and_named_splits(tmp_path):
    make(tmp_path, "images/1.png")
    data = folder(tmp_path, LAYOUTS["source"], "train", STORED, "--src_rootpath")  # has no splits
    assert data.names == ("1",) and data.labels == (tmp_path / "labels/1.png",)
    for name in ("1_rgb.png", "2_rgb.png", "2_depth.png", "_rgb.png"):
        make(tmp_path, f"day/pictures/x/{name}")
    layout = {"images": "{split}/pictures", "labels": "{split}/truth", "train": "day"}
    data = target(tmp_path, **layout, image_suffix="_rgb.png", label_suffix=".ids.png")
    assert data.names == ("x/1", "x/2")
    assert data.labels == tuple(tmp_path / "day/truth/x" / f"{i}.ids.png" for i in (1, 2))
    assert not has_labels(data)


@pytest.mark.parametrize(("labels", "suffix"), [(".", "_id.png"), ("truth", ".png"), ("truth", "_id.png")])
def test_labels_in_the_folder_of_the_images(tmp_path, labels, suffix):
    for name in ("s/1", "s/2"):
        make(tmp_path, f"{name}.png")
        make(tmp_path, f"{labels}/{name}{suffix}", mode="L")
    data = target(tmp_path, images=".", labels=labels, label_suffix=suffix)
    assert data.names == ("s/1", "s/2") and all(label.is_file() for label in data.labels)


def test_images_below_the_labels(tmp_path):
    for name in ("1", "2"):
        make(tmp_path, f"train/rgb/{name}.png")
        make(tmp_path, f"train/{name}.png", mode="L")
    data = target(tmp_path, images="{split}/rgb", labels="{split}")
    assert data.names == ("1", "2") and all(label.is_file() for label in data.labels)


def test_a_name_that_is_no_utf_8(tmp_path):
    name = os.fsdecode(b"stra\xdfe.png")
    make(tmp_path / "images" / "train", name)
    data = target(tmp_path)
    assert data.images[0].name == name and len(images_digest(data)) == 64
    KeptStatistics(tmp_path / "statistics.txt").get(data, 0)
    cache = ImageCache(tmp_path / "cache", 10**9)
    assert cache.rows(data.images[0], "RGB", (8, 8, 3), 0, 8, lambda: data.read_image(0)).shape == (8, 8, 3)


def test_two_images_of_one_name_share_their_pseudo_labels(tmp_path):
    for name in ("a.jpg", "a.png", "b.jpg", "b_conf.jpg"):
        make(tmp_path / "images" / "train", name)
    data = target(tmp_path)
    lines = shared_files(data)
    assert len(lines) == 2 and "a.png: has the name of" in lines[0] and "b_conf.jpg: would share" in lines[1]
    with pytest.raises(ValueError, match="rename one of the two images"):
        kept_labels(SimpleNamespace(o=None), data)


def test_a_jpeg_beside_its_label(tmp_path):
    for name in ("1", "2"):
        make(tmp_path, f"{name}.jpg")
        make(tmp_path, f"{name}.png", mode="L")
    data = target(tmp_path, images=".", labels=".")
    assert data.names == ("1", "2") and [i.suffix for i in data.images] == [".jpg", ".jpg"]
    assert data.read_label(0).shape == (8, 8)


@pytest.mark.parametrize(("suffix", "count"), [("_id.png", 0), ("_labelTrainIds.png", 1)])
def test_train_ids_of_another_program_are_neither_images_nor_labels(tmp_path, suffix, count):
    """Unless they are what is asked for: then one without an image is still found."""
    for name in ("1", "2"):
        make(tmp_path, f"{name}.png")
        for end in (suffix, "_id_labelTrainIds.png" if suffix == "_id.png" else ""):
            make(tmp_path, f"{name}{end or suffix}", mode="L")
    data = target(tmp_path, images=".", labels=".", label_suffix=suffix)
    assert data.names == ("1", "2") and all(label.is_file() for label in data.labels)
    make(tmp_path, "3_labelTrainIds.png", mode="L")
    assert len({*data.all_labels()} - {*data.labels}) == count


def test_a_list_says_which_images_in_which_order(town):
    make(town, "images/train/c.jpeg")
    (town / "train.txt").write_text("b/1\n\n  a/2.png \nc\n")
    data = target(town, list="{split}.txt")
    assert data.names == ("b/1", "a/2", "c")
    assert [image.name for image in data.images] == ["1.png", "2.png", "c.jpeg"]
    assert data.all_labels is None  # others may lie there
    (town / "train.txt").write_text("a/1")
    assert target(town, list="train.txt", image_suffix=".png").names == ("a/1",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a/1\na/9\nb/7\n", r"train\.txt: lists 2 of 3 images that are not there, such as .*a/9\.png"),
        ("a/1\n../../etc/passwd\n", r"train\.txt: '../../etc/passwd' is no name of a file below"),
        ("/etc/passwd\n", r"train\.txt: '/etc/passwd' is no name"),
        ("a\0b\n", r"train\.txt: 'a\\x00b' is no name"),
        ("a/1\na/1.png\n", r"train\.txt: 'a/1' is listed twice"),
        (" \n\n", r"train\.txt: a list has one name a line"),
        (b"\xff\xfe\x00", r"train\.txt: not a text of names in UTF-8"),
    ],
)
def test_lists_that_are_refused(town, content, message):
    (town / "train.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        target(town, list="train.txt")
    with pytest.raises(FileNotFoundError, match=r"other\.txt: no such file"):
        read_list(town / "other.txt")


def test_folders_that_are_not_there(town):
    with pytest.raises(
        FileNotFoundError, match=r"images/val: no such folder; the val images .*--tgt_rootpath"
    ):
        target(town, "val")
    with pytest.raises(ValueError, match=r"images/train: no file ends in _rgb\.png"):
        target(town, image_suffix="_rgb.png")


# --- sizes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [False, True])
def test_each_image_at_its_own_size(town, tmp_path, cached):
    data = replace(target(town), cache=ImageCache(tmp_path / "cache", 10**9) if cached else None)
    for _ in range(2):
        for i, size in enumerate(SIZES.values()):
            with Image.open(data.images[i]) as image, Image.open(data.labels[i]) as label:
                np.testing.assert_array_equal(data.read_image(i), np.asarray(image))
                np.testing.assert_array_equal(data.read_label(i), np.asarray(label))
            assert data.size_of(i) == size
            np.testing.assert_array_equal(data.read_region(i, (3, 5, 20, 9)), data.read_image(i)[5:9, 3:20])


def test_all_images_and_their_labels_at_one_size(town):
    make(town, "labels/train/a/1.png", (80, 48), "L")
    for size in (None, (30, 20)):
        data = target(town, size=size)
        with Image.open(town / "labels/train/a/1.png") as image:
            expected = np.asarray(image.resize(data.size_of(0), Image.Resampling.NEAREST))
        np.testing.assert_array_equal(data.read_label(0), expected)
    assert {data.read_image(i).shape for i in range(3)} == {(20, 30, 3)}
    assert {data.read_label(i).shape for i in range(3)} == {(20, 30)}


def test_training_samples_of_images_of_several_sizes(town):
    data = target(town)
    samples = SourceSamples(data, Augmentation(64, CROP, 0.5, 0.4), 3, True, data)
    for epoch in range(3):
        for i in range(3):
            sample = samples[epoch, i]
            assert sample["image"].shape == sample["strong"].shape == (16, 32, 3)
            assert sample["label"].shape == (16, 32) and set(np.unique(sample["label"])) <= {0, 1, 2}


def test_target_samples_of_images_of_several_sizes(town, tmp_path):
    """A batch is one tensor a part; each image's labels follow its own size."""
    data, rng = target(town), np.random.default_rng(0)
    pseudo = PseudoLabels(tmp_path / "pseudo", 3)
    soft = {}
    for name, size in SIZES.items():
        width, height = grid_size(*size)
        soft[name] = rng.dirichlet(np.ones(3), (height, width)).transpose(2, 0, 1).astype(np.float32)
        write_soft(pseudo.folder, name, soft[name])
        hard = rng.integers(0, 3, size[::-1])
        write_hard(pseudo.folder, name, hard, np.ones(size[::-1]), np.zeros((3, 3), np.uint8))
    pseudo.require(list(SIZES), ".npy", "")
    pseudo.require(list(SIZES), ".png", "")
    parts = frozenset({"weak", "strong", "whole", "soft_quarter", "soft_grid", "label", "truth_quarter"})
    parts |= {"truth_grid"}
    samples = TargetSamples(data, Augmentation(64, CROP, 0.5, 0.4, enabled=False), 3, parts, pseudo)
    for i, (name, (width, height)) in enumerate(SIZES.items()):
        sample = samples[0, i]
        with Image.open(data.images[i]) as image:
            whole = np.asarray(image.resize((40, 24), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(sample["whole"], whole)
        grid = linear(linear(soft[name], 1, 4), 2, 6)  # of 40×24: half, half in ceil mode and one more, half
        np.testing.assert_allclose(sample["soft_grid"], grid, atol=1e-6)
        assert sample["soft_quarter"].shape == (3, 4, 8) and sample["truth_quarter"].shape == (4, 8)
        with Image.open(data.labels[i]) as label:
            whole = np.asarray(label.resize((40, 24), Image.Resampling.NEAREST))
        places = np.rint(np.linspace(0, 23, 4)).astype(int), np.rint(np.linspace(0, 39, 6)).astype(int)
        np.testing.assert_array_equal(sample["truth_grid"], whole[np.ix_(*places)])
        scale = max(1.0, 32 / width, 16 / height)  # as large as the crop, which is then its middle
        scaled = tuple(int(np.ceil(side * scale)) for side in (width, height))
        left, top = (scaled[0] - 32) // 2, (scaled[1] - 16) // 2
        record = WeakRecord(scaled[::-1], (top, top + 16, left, left + 32), False)
        with Image.open(data.images[i]) as image, Image.open(pseudo.folder / f"{name}.png") as label:
            weak = plain.weak(image, record, Image.Resampling.BILINEAR)
            weak_label = plain.weak(label, record, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(sample["weak"], np.asarray(weak))
        np.testing.assert_array_equal(sample["label"], np.asarray(weak_label))


def test_whole_images_of_several_sizes_one_by_one(town):
    batches = list(read(inference_loader(target(town), True, 0)))
    assert [batch.names for batch in batches] == [[name] for name in SIZES]
    assert [tuple(batch.image.shape[2:0:-1]) for batch in batches] == list(SIZES.values())
    with pytest.raises(ValueError, match="leave out --infer_bs, or read all at one size"):
        list(read(inference_loader(target(town), True, 0, batch=2)))
    assert len(list(read(inference_loader(target(town, size=(24, 24)), True, 0, batch=2)))) == 2


def test_missing_pseudo_labels_of_sub_folders(town, tmp_path):
    pseudo = PseudoLabels(tmp_path / "pseudo", 3)
    write_soft(pseudo.folder, "a/1", np.ones((3, 2, 2)))
    with pytest.raises(FileNotFoundError, match=r"pseudo/a/2\.npy: missing, as 2 of 3 .*with: command"):
        pseudo.require(list(SIZES), ".npy", "command")
