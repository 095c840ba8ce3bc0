"""Comparison of a recipe's rows over seeds, against plain loops on made-up results."""

from __future__ import annotations

import csv
import json
import math
import random
import statistics
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from utils.files.whole import save_image
from utils.recipe import Recipe, read_recipe
from utils.report.comparison import compare, rarest, write_comparison
from utils.report.recipe import write_report, write_tables

RECIPE = """
folder: {tmp}/runs/seed{{seed}}
options: {{log_dir: "{{folder}}/logs"}}
rare: 3
table:
  - {{step: first, title: first row}}
  - {{step: second}}
  - {{step: third, title: "third | row", against: first}}
  - {{step: fourth, title: not yet}}
steps:
  - {{name: first, script: train, options: {{name: a}}, test: [last]}}
  - {{name: second, script: train, options: {{name: b}}, test: best}}
  - {{name: third, script: train, options: {{name: c}}, test: [last]}}
  - {{name: fourth, script: train, options: {{name: d}}, test: [last]}}
"""
SEEDS = [0, 1, 2, 5]
PIXELS = [50, 3, 0, 700, 4, 20]  # of each class in the labels
RARE = [1, 4, 5]


def recipes(folder: Path, text: str = RECIPE) -> list[Recipe]:
    path = folder / "recipe.yaml"
    path.write_text(text.format(tmp=folder))
    return [read_recipe(path, seed, {}) for seed in SEEDS]


def write(recipe: Recipe, training: str, which: str, iou: list[float], **other: object) -> None:
    path = recipe.result_path(training, which)
    path.parent.mkdir(parents=True, exist_ok=True)
    known = [value for value in iou if not math.isnan(value)]
    confusion = [[0] * len(iou) for _ in iou]
    for i, pixels in enumerate(PIXELS):
        confusion[i][(i + 1) % len(iou)] = pixels - pixels // 3
        confusion[i][i] = pixels // 3
    result = {"classes": [f"c{i}" for i in range(len(iou))], "iou": iou, "miou": sum(known) / len(known)}
    about = {"images": 3, "quirks": "none", "torch": "2.0", "iteration": 400, "confusion": confusion}
    path.write_text(json.dumps(result | about | other))


@pytest.fixture
def tested(tmp_path) -> tuple[list[Recipe], dict]:
    """Recipes, and (training, seed) → IoU; the second row lacks seed 1, the fourth all."""
    found, draws, values = recipes(tmp_path), random.Random(0), {}
    for recipe in found:
        for training, which in (("first", "last"), ("second", "best"), ("third", "last")):
            if (training, recipe.seed) != ("second", 1):
                iou = [draws.random() for _ in PIXELS]
                iou[2] = math.nan
                values[training, recipe.seed] = iou
                write(recipe, training, which, iou)
    return found, values


def expected(values: dict, classes: list[int], row: str, against: str) -> dict:
    """Statistics by plain loops."""
    means = {key: statistics.mean(iou[i] for i in classes) for key, iou in values.items()}
    own, other = ({s: means[step, s] for s in SEEDS if (step, s) in means} for step in (row, against))
    differences = {s: own[s] - other[s] for s in own if s in other}
    mean, std = statistics.mean(differences.values()), statistics.stdev(differences.values())
    return {
        "mean": statistics.mean(own.values()),
        "std": statistics.stdev(own.values()),
        "difference_mean": mean,
        "difference_std": std,
        "better": f"{sum(d > 0 for d in differences.values())} of {len(differences)}",
        "beyond": "yes" if abs(mean) > std else "no",
        "difference": {str(s): d for s, d in differences.items()},
    }


def test_means_and_paired_differences_are_those_of_plain_loops(tested, tmp_path):
    found, values = tested
    markdown, table, content, picture = write_comparison(found)
    rows = json.loads(content.read_text())["rows"]
    assert [(row["step"], row["against"]) for row in rows] == [
        *(("first", None), ("second", "first"), ("third", "first"))
    ]
    lines = {(line["step"], line["measure"]): line for line in csv.DictReader(table.read_text().splitlines())}
    for row in rows[1:]:
        for measure, classes in (("mIoU (6)", [0, 1, 3, 4, 5]), ("mIoU (3 rarest)", RARE)):
            wanted = expected(values, classes, row["step"], row["against"])
            for key, value in wanted.items():
                assert row["measures"][measure][key] == pytest.approx(value), (row, key)
            line = lines[row["step"], measure]
            assert line["difference mean"] == f"{100 * wanted['difference_mean']:.1f}"
            assert line["difference better"] == wanted["better"]
            one = wanted["difference"].get("1")
            assert line["difference seed 1"] == ("nan" if one is None else f"{100 * one:.1f}")
    text = markdown.read_text()
    wanted = expected(values, RARE, "third", "first")
    assert f"| {100 * wanted['difference_mean']:+.1f} ± {100 * wanted['difference_std']:.1f} |" in text
    assert (
        f"| {wanted['better']} | {wanted['beyond']} |\n" in text and r"| third \| row | first row |" in text
    )
    for part in (
        "c1, c4, c5;",
        "second only of seeds 0, 2, 5",
        "(3 of 4 seeds) |",
        "not tested yet: not yet",
        "seeds 0, 1, 2, 5",
    ):
        assert part in text
    with Image.open(picture) as image:
        assert image.width == 1000


def test_tables_of_other_seeds_and_recipes_stay(tested, tmp_path):
    found, _ = tested
    written = {*write_comparison(found), *write_comparison(found[:2]), *write_tables(found)}
    (tmp_path / "other.yaml").write_text(RECIPE.format(tmp=tmp_path))
    written |= {*write_comparison([read_recipe(tmp_path / "other.yaml", seed, {}) for seed in SEEDS])}
    assert len(written) == len({path.absolute() for path in written}) == 16


def test_a_report_without_logs_has_no_curves_and_no_pictures_of_old_scores(tested, tmp_path):
    """As of checkpoints that come from another machine."""
    image = np.zeros((4, 6, 3), np.uint8)
    data = SimpleNamespace(
        images=[1], read_image=lambda i: image, read_label=lambda i: image[..., 0], image_name=lambda i: "x"
    )
    widths = []
    for training in ("first", "fourth"):  # the fourth has been predicted, but not scored since
        save_image(Image.fromarray(image[..., 0]), tested[0][0].prediction_folder(training) / "x.png")
        (picture,) = write_report(tested[0][0], data, np.zeros((6, 3), np.uint8))
        with Image.open(picture) as drawn:
            widths.append(drawn.width)
    assert widths[0] == widths[1]


def test_one_seed_has_no_deviation(tested, tmp_path):
    found, _ = tested
    text = write_comparison(found[1:2])[0].read_text()  # of which the second row is missing
    assert "not tested yet: second, not yet" in text and text.count(" of 1 | - |") == 2
    untested = RECIPE.replace("rare: 3", "rare: 99").replace("runs", "none")
    assert compare(recipes(tmp_path, untested)) is None


def test_rarest_classes_occur_and_bad_results_are_named(tested, tmp_path):
    found, _ = tested
    counts = {"classes": list("abc"), "confusion": [[1, 1, 0], [0, 0, 0], [0, 0, 1]]}
    assert rarest(counts, 9) == [2, 0]
    for wrong in (None, [[1]], [[0.5] * 3] * 3, "x"):
        with pytest.raises(ValueError, match="repeat the tests"):
            rarest(counts | {"confusion": wrong}, 9)
    write(found[0], "first", "last", [0.5] * 6, classes=list("uvwxyz"))
    with pytest.raises(ValueError, match="over different classes"):
        compare(found)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("step: second", "step: secnd", "'secnd' is no training"),
        ("against: first", "against: fourth", "third is against 'fourth', which is no row above it"),
        ("rare: 3", "rare: many", "rare"),
        ("title: not yet", "title: [a]", "the title of fourth"),
        ("title: not yet", f"title: {'a' * 101}", "the title of fourth"),
        ("step: second", "stp: second", "step"),
        ("{{step: second}}", "second", "'table' is a list"),
    ],
)
def test_mistakes_in_a_table_are_named(tmp_path, old, new, word):
    assert old in RECIPE
    with pytest.raises(ValueError) as raised:
        recipes(tmp_path, RECIPE.replace(old, new, 1))
    assert word in str(raised.value) and "recipe.yaml" in str(raised.value) and "\n" not in str(raised.value)
