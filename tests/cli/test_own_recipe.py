"""The full-size example of docs/own_data.md on drawn data: JPEGs, coloured PNGs, lists, 12 classes."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_tools import PROJECT, finish, pixels, random_network, run_here, write_released
from PIL import Image

from data.check import check
from data.labels import IGNORE, NAMES, SCHEMES
from data.sets.choose import target_data
from utils.grid import grid_size
from utils.options import parse

PAGE = (PROJECT / "docs" / "own_data.md").read_text()
CITY = re.search(r"> city.yaml <<'END'\n(.*?)END\n", PAGE, re.DOTALL)[1]
CLASSES = yaml.safe_load(CITY)["classes"]
CITYSCAPES = dict(zip(NAMES, SCHEMES["cityscapes"][0], strict=True))
LISTS = {"train": 3, "val": 1, "report": 2}
(CHECK,) = re.findall(r"`(python -m data.check [^`]*)`", PAGE)
(REPORT,) = re.findall(r"`(python test.py [^`]*city_report[^`]*)`", PAGE)
(SPLIT,) = re.findall(r"^sed 's/(.*)/(.*)/' city.yaml > city_report.yaml$", PAGE, re.MULTILINE)


def ids_of(entry: dict) -> list[int]:
    """The ids of a class in GTA5 and Cityscapes."""
    return entry.get("source") or [CITYSCAPES[entry["name"]]]


def colours_of(entry: dict) -> list[tuple[int, ...]]:
    given = entry["target"] if isinstance(entry["target"], list) else [entry["target"]]
    return [tuple(bytes.fromhex(colour[1:])) for colour in given]


@pytest.fixture(scope="module")
def place(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with dataset/GTA5, dataset/city and the page's files."""
    place = tmp_path_factory.mktemp("own")
    city = place / "dataset" / "city"
    (place / "dataset" / "GTA5").mkdir(parents=True)
    for part in ("images", "labels", "split.mat"):
        if (dataset / "GTA5" / part).exists():
            (place / "dataset" / "GTA5" / part).symlink_to(dataset / "GTA5" / part)
    (place / "configs").symlink_to(PROJECT / "configs")
    (place / "city.yaml").write_text(CITY)
    (place / "city_report.yaml").write_text(CITY.replace(*SPLIT))
    for folder in ("images", "labels", "lists"):
        (city / folder).mkdir(parents=True)
    images = sorted((dataset / "cityscapes" / "leftImg8bit").glob("*/*/*.png"))
    for i, path in enumerate(images):
        with Image.open(path) as image:
            image.convert("RGB").save(city / "images" / f"{i:06d}.jpg")
        label = Path(
            str(path).replace("leftImg8bit", "gtFine").replace("_gtFine.png", "_gtFine_labelIds.png")
        )
        ids = pixels(label)
        coloured = np.zeros((*ids.shape, 3), np.uint8)
        for entry in CLASSES:
            for at, colour in enumerate(colours_of(entry)):  # the first colour, the second on the left half
                half = (np.arange(ids.shape[1]) < ids.shape[1] // 2) | (at == 0)
                coloured[np.isin(ids, ids_of(entry)) & half] = colour
        Image.fromarray(coloured).save(city / "labels" / f"{i:06d}.png")
    start = 0
    for name, count in LISTS.items():
        names = [f"{i:06d}" for i in range(start, start + count)]
        (city / "lists" / f"{name}.txt").write_text("\n".join(names))
        start += count
    assert start == len(images)
    return place


def test_check_finds_nothing_wrong_and_colours_mean_the_classes_of_the_source(place, dataset, monkeypatch):
    monkeypatch.chdir(place)
    options = parse("check", "", CHECK.split()[3:])
    text = check(options).text
    assert text.endswith("no problem found") and options.n_class == len(CLASSES) == 12
    assert "3 images (3 of 256×128)" in text and "1 images (1 of 256×128), 1 labels" in text
    known = pixels(sorted((dataset / "cityscapes" / "gtFine").glob("*/*/*labelIds.png"))[3])
    meaning = {i: train_id for train_id, entry in enumerate(CLASSES) for i in ids_of(entry)}
    expected = [[meaning.get(value, IGNORE) for value in row] for row in known.tolist()]
    assert target_data(options, "val").read_label(0).tolist() == expected


def test_the_report_is_of_other_images_than_those_that_choose(place, monkeypatch):
    model = write_released(place / "model.pkl", random_network("mini", len(CLASSES)))
    for classes, images in (("city.yaml", 1), ("city_report.yaml", 2)):
        command = REPORT.replace("CHECKPOINT", str(model)).replace("city_report.yaml", classes)
        run_here(f"{command} --num_workers 0 --device cpu --result scores.json", place, monkeypatch)
        scores = json.loads((place / "scores.json").read_text())
        assert scores["images"] == images and scores["classes"] == [entry["name"] for entry in CLASSES]


def test_the_figures_of_disk_and_size_are_counted():
    columns, rows = grid_size(1920, 1080)
    soft, confidence = len(CLASSES) * columns * rows * 4, 1920 * 1080 * 2
    for size, row in ((soft, f"{columns} × {rows} × 4 B"), (confidence, "× 2 B"), (confidence / 2, "uint8`")):
        (line,) = [line for line in PAGE.splitlines() if row in line and line.startswith("| ")]
        assert f"{size / 1e6:.2f} MB" in line and f"{size * 7500 / 1e9:.1f} GB" in line
    recipe = yaml.safe_load((PROJECT / "configs" / "own_data.yaml").read_text())
    assert recipe["options"]["resize"] == 2200 * 1920 // 2048 and "2062 for 1920" in PAGE


@pytest.mark.slow
def test_the_recipe_trains_all_stages_in_small(place, tmp_path):
    shutil.copytree(place, tmp_path, symlinks=True, dirs_exist_ok=True)
    toy = {"backbone": "mini", "device": "cpu", "threads": 1, "num_workers": 0, "bs": 1, "train_iters": 2}
    toy |= {"val_interval": 2, "resize": 256, "rcrop": "64,32", "fbs": 32, "queue_length": 64}
    toy |= {"student_init": "stage1"}  # SimCLR's weights are for ResNet-101
    words = [word for name, value in toy.items() for word in ("--set", f"{name}={value}")]
    finish(["reproduce.py", "--config", "configs/own_data.yaml", *words], tmp_path)
    table = (tmp_path / "logs" / "own_data" / "table.md").read_text()
    stages = ("warm_up", "stage1", "stage2", "stage3")
    assert all(f"| {stage} | {which} |" in table for stage in stages for which in ("last", "best"))
    labels = tmp_path / "Pseudo" / "own"
    assert np.load(labels / "own_warm_up_soft" / "000000.npy").shape == (12, 17, 33)
    assert len(list((labels / "own_stage2").glob("*_conf.png"))) == LISTS["train"]
