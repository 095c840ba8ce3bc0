"""The small data sets have the form of the real ones, show every class, and come out the same each time."""

import io
import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat

from data.mini import world as mini
from data.mini.kinds import OUTSIDE
from data.mini.scene import DOMAINS, LAYOUTS, draw_scene
from data.mini.world import CITYSCAPES_IDS, STYLES, SYNTHIA_IDS, encode_png16, main, write_mini

SIZE = (96, 48)


def files(root: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path within it."""
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    root = tmp_path_factory.mktemp("mini") / "trees"
    assert write_mini(root, SIZE, seed=3, n_source=5, n_target=4, n_val=3)
    return root


def test_names_and_counts_are_those_of_the_real_data_sets(trees):
    names = set(files(trees))
    assert {f"GTA5/{kind}/{i:05d}.png" for kind in ("images", "labels") for i in range(1, 6)} <= names
    assert {f"SYNTHIA/{kind}/{i:07d}.png" for kind in ("RGB", "GT/LABELS") for i in range(5)} <= names
    for split, count in (("train", 4), ("val", 3)):
        images = sorted(trees.glob(f"cityscapes/leftImg8bit/{split}/*/*_leftImg8bit.png"))
        labels = sorted(trees.glob(f"cityscapes/gtFine/{split}/*/*_gtFine_labelIds.png"))
        assert len(images) == len(labels) == count
        assert len({p.parent.name for p in images}) >= 2
        for image, label in zip(images, labels, strict=True):
            stem = image.name.removesuffix("leftImg8bit.png")
            assert label.name == f"{stem}gtFine_labelIds.png" and stem.startswith(f"{image.parent.name}_")
    assert len(names) == 2 * (5 + 5 + 4 + 3) + 2  # and split.mat, mini.json: no temporary file is left


def test_modes_sizes_and_ids(trees):
    modes = {"GTA5/images": "RGB", "GTA5/labels": "P", "SYNTHIA/RGB": "RGB", "cityscapes/leftImg8bit": "RGB"}
    modes["cityscapes/gtFine"] = "L"
    for folder, mode in modes.items():
        found = set()
        for path in (trees / folder).rglob("*.png"):
            with Image.open(path) as image:
                assert (image.mode, image.size) == (mode, SIZE), path
                found |= set(np.unique(np.asarray(image)).tolist())
        if mode != "RGB":
            assert {7, 8, 11, 21, 23, 26} <= found <= set(CITYSCAPES_IDS.tolist())
    assert {1, 3} <= found  # the void of Cityscapes: ego vehicle, out of region of interest


def test_synthia_labels_have_16_bits(trees):
    for path in sorted((trees / "SYNTHIA/GT/LABELS").iterdir()):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert label.dtype == np.uint16 and label.shape == (SIZE[1], SIZE[0], 3)
        void, instances, classes = label.transpose(2, 0, 1)  # OpenCV turns RGB around
        assert set(np.unique(classes)) <= set(SYNTHIA_IDS)
        assert classes.max() > 0
        assert instances[classes == 3].max() == 0  # road
        assert (instances[classes == 8] > 0).all()  # cars
        assert void.max() == 0


def test_png16_keeps_every_bit():
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3), np.uint16)
    data = np.frombuffer(encode_png16(pixels), np.uint8)
    assert (cv2.imdecode(data, cv2.IMREAD_UNCHANGED)[..., ::-1] == pixels).all()


def test_split_covers_all_images(trees):
    split = loadmat(io.BytesIO((trees / "GTA5/split.mat").read_bytes()))
    parts = [split[name] for name in ("trainIds", "valIds", "testIds")]
    assert all(part.shape[1] == 1 for part in parts)
    assert sorted(np.concatenate(parts).ravel().tolist()) == [1, 2, 3, 4, 5]


def test_an_image_depends_on_the_seed_and_not_on_the_counts(trees, tmp_path):
    all_files = files(trees)
    write_mini(tmp_path / "same", SIZE, seed=3, n_source=5, n_target=4, n_val=3)
    assert files(tmp_path / "same") == all_files
    write_mini(tmp_path / "few", SIZE, seed=3, n_source=2, n_target=3, n_val=2)
    few = {name: data for name, data in files(tmp_path / "few").items() if name.endswith(".png")}
    assert len(few) == 2 * (2 + 2 + 3 + 2)
    assert all(all_files[name] == data for name, data in few.items())
    write_mini(tmp_path / "other", SIZE, seed=4, n_source=1, n_target=1, n_val=1)
    assert files(tmp_path / "other")["GTA5/images/00001.png"] != all_files["GTA5/images/00001.png"]


@pytest.mark.parametrize("domain", list(LAYOUTS))
def test_every_class_occurs_in_a_twelfth_of_the_images(domain):
    scenes = [draw_scene(LAYOUTS[domain], (256, 128), i, np.random.default_rng([7, i])) for i in range(60)]
    counts = np.array([np.bincount(s.labels.ravel(), minlength=OUTSIDE + 1) for s in scenes])
    shares = (counts[:, :19] > 20).mean(0)
    assert shares.min() >= 1 / 12, shares
    marginal = counts[:, :19].sum(0) / counts[:, :19].sum()
    assert marginal[0] > 0.25 and marginal.argsort()[-2] == 2  # road, then building; the tail is long
    assert marginal[[6, 7, 12, 14, 15, 16, 17, 18]].max() < 0.015


def test_domains_look_different(trees):
    def mean_colour(folder: str) -> np.ndarray:
        pictures = [np.asarray(Image.open(p)) for p in sorted((trees / folder).rglob("*.png"))]
        return np.concatenate(pictures).reshape(-1, 3).mean(0)

    gta5, synthia = mean_colour("GTA5/images"), mean_colour("SYNTHIA/RGB")
    city = mean_colour("cityscapes/leftImg8bit")
    assert gta5[0] > gta5[2] and synthia[2] > synthia[0]  # warm, cold
    assert city.max() - city.min() < 20  # greyish
    assert set(STYLES) == set(LAYOUTS) == set(DOMAINS)


COMMAND = ["--size", "64,32", "--source", "1", "--target", "2", "--val", "2"]


def assert_refused(out: Path, words: list[str], capsys, reason: str = "") -> None:
    """In one line, without a change."""
    before = files(out)
    capsys.readouterr()
    assert main([str(out), *COMMAND, *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and reason in error
    assert files(out) == before


def test_a_second_run_skips_and_other_parameters_are_refused(tmp_path, capsys):
    out = tmp_path / "out"
    assert main([str(out), *COMMAND]) == 0
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    assert main([str(out), *COMMAND]) == 0
    assert "already complete" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before
    assert_refused(out, ["--seed", "1"], capsys, "other parameters")


@pytest.mark.parametrize("content", ["mine", "{", "[" * 9999])
def test_a_folder_of_someone_else_is_refused(tmp_path, capsys, content):
    (tmp_path / ("notes.txt" if content == "mine" else "mini.json")).write_text(content)
    assert_refused(tmp_path, [], capsys, "not written by data.mini")


@pytest.mark.parametrize("wrong", [["--size", "8,8"], ["--seed", "-1"], ["--val", "0"]])
def test_impossible_numbers_are_refused(tmp_path, capsys, wrong):
    assert_refused(tmp_path / "out", wrong, capsys)
    assert not (tmp_path / "out").exists()


def test_an_interrupted_run_is_finished(tmp_path, monkeypatch):
    whole, out = tmp_path / "whole", tmp_path / "out"
    main([str(whole), *COMMAND])
    replace, calls = os.replace, []

    def fail_late(source, target):
        calls.append(target)
        if len(calls) == 4:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(mini.os, "replace", fail_late)
        main([str(out), *COMMAND])
    assert not (out / "mini.json").exists()
    assert main([str(out), *COMMAND]) == 0
    assert files(out) == files(whole)
    assert json.loads((out / "mini.json").read_text())["size"] == [64, 32]
