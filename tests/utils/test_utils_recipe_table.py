"""Tables of a recipe: last beside best, over seeds."""

from __future__ import annotations

import csv
import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest

from utils.recipe import Recipe, read_recipe
from utils.report.recipe import caption, gather, mean_and_deviation, save_tables, summary

RECIPE = """
folder: {tmp}/seed{{seed}}
options: {{log_dir: "{{folder}}/logs", n_class: {n_class}}}
steps:
  - {{name: warm_up, script: train, options: {{name: a}}, test: last}}
  - {{name: stage1, script: train, options: {{name: b}}, test: best}}
"""
IOU = {  # (training, which, seed) → IoU of two classes
    ("warm_up", "last", 0): [0.10, 0.30],
    ("warm_up", "last", 1): [0.20, math.nan],
    ("warm_up", "last", 2): [0.40, 0.50],
    ("stage1", "last", 0): [0.51, 0.61],
    ("stage1", "best", 0): [0.52, 0.66],
}


def recipes(folder: Path, seeds: list[int], n_class: int = 19) -> list[Recipe]:
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(tmp=folder / "runs", n_class=n_class))
    return [read_recipe(path, seed, {}) for seed in seeds]


def write(recipe: Recipe, training: str, which: str, iou: list[float], **other: object) -> None:
    path = recipe.result_path(training, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [value for value in iou if not math.isnan(value)]
    result = {"classes": [f"c{i}" for i in range(len(iou))], "iou": iou, "miou": sum(known) / len(known)}
    about = {"images": 3, "quirks": "none", "torch": "2.0", "iteration": 400}
    path.write_text(json.dumps(result | about | other))


@pytest.fixture
def tested(tmp_path) -> list[Recipe]:
    found = recipes(tmp_path, [0, 1, 2])
    for (training, which, seed), iou in IOU.items():
        write(found[seed], training, which, iou)
    return found


def test_mean_and_deviation_are_those_of_the_standard_library():
    values = np.random.default_rng(0).random((5, 4))
    values[1, 2] = values[3, 2] = math.nan
    values[:4, 3] = math.nan
    mean, deviation = mean_and_deviation(values)
    for column in range(3):
        known = [v for v in values[:, column].tolist() if not math.isnan(v)]
        assert mean[column] == pytest.approx(statistics.mean(known))
        assert deviation[column] == pytest.approx(statistics.stdev(known))
    assert mean[3] == values[4, 3] and math.isnan(deviation[3])


def test_all_that_was_tested_last_before_best(tested):
    assert [(row.training, row.which, list(row.results)) for row in gather(tested)] == [
        ("warm_up", "last", [0, 1, 2]),
        ("stage1", "last", [0]),
        ("stage1", "best", [0]),
    ]
    lines = summary(gather(tested), [0, 1, 2]).splitlines()
    assert lines[0].split() == ["stage", "checkpoint", "iteration", "mIoU", "(2)", "of", "each", "seed"]
    assert lines[1].split()[-6:] == ["28.3", "±", "14.4", "20.0", "20.0", "45.0"]


def test_the_tables_hold_mean_and_deviation_of_each_class(tested, tmp_path):
    rows = gather(tested)
    markdown, latex, table, values = (
        path.read_text() for path in save_tables(rows, [0, 1, 2], tmp_path / "t")
    )
    assert "| warm_up | last | 400, 400, 400 | 23.3 ± 15.3 | 40.0 ± 14.1 | 28.3 ± 14.4 |" in markdown
    assert "| stage1 | best | 400 | 52.0 | 66.0 | 59.0 |" in markdown
    assert r"warm\_up & last & 400, 400, 400 & 23.3 $\pm$ 15.3 & 40.0" in latex
    lines = list(csv.DictReader(table.splitlines()))
    of = {(line["stage"], line["checkpoint"], line["of"]): line for line in lines}
    assert of["warm_up", "last", "seed 1"]["c0"] == "20.0" and of["warm_up", "last", "seed 1"]["c1"] == "nan"
    assert of["warm_up", "last", "std"]["c0"] == "15.3" and of["stage1", "best", "std"]["c0"] == "nan"
    found = json.loads(values)["rows"][0]
    assert found["mean"]["c0"] == pytest.approx(0.7 / 3) and found["seeds"]["2"]["iou"] == [0.4, 0.5]


def test_a_caption_says_what_the_figures_are_of(tested, tmp_path):
    write(tested[0], "stage1", "last", [0.1, 0.2], quirks="all", torch="2.1")
    text = caption(gather(tested), [0, 1, 2])
    for part in ("2 classes", "3 images", "(n − 1) over seeds 0, 1, 2", "stage1 best only of 0"):
        assert part in text
    for part in ("quirks all / none", "torch 2.0 / 2.1", "best: the one of the highest mIoU on these same"):
        assert part in text
    assert "seed 1;" in caption(gather(tested[1:2]), [1])


def published_text(tmp_path: Path, n_class: int, **other: object) -> tuple[str, list[str]]:
    (recipe,) = recipes(tmp_path, [0], n_class)
    for training in ("warm_up", "stage1"):
        write(recipe, training, "last", [0.5] * n_class, **other)
    rows = gather([recipe])
    return summary(rows, [0]), save_tables(rows, [0], tmp_path / "t")[0].read_text().splitlines()


def test_published_rows_stand_beside_scores_taken_alike_only(tmp_path):
    text, lines = published_text(tmp_path, 19, as_published=True)
    stages = ["warm_up last", "warm_up published", "stage1 last"]
    stages += [f"stage{i} published" for i in (1, 2, 3)]
    assert [" ".join(line.split()[1:4:2]) for line in lines[2:8]] == stages
    assert "| stage1 | published | - | 91.7 | 52.9 |" in lines[5] and lines[5].endswith("| 55.7 |")
    assert "stage3" in text and "60.8" in text
    text, lines = published_text(tmp_path, 19, as_published=False)
    assert "published" not in text + "".join(lines)


def test_published_means_over_16_and_13(tmp_path):
    text, lines = published_text(tmp_path, 16, as_published=True, miou_13=0.6)
    assert lines[0].endswith("| mIoU (16) | mIoU (13) |")
    assert lines[4].endswith("| 57.9 | 65.3 |") and text.splitlines()[-1].split()[-2:] == ["57.9", "65.3"]


def test_results_over_different_classes_are_refused(tested):
    write(tested[1], "stage1", "last", [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="different classes"):
        gather(tested)
