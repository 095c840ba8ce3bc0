"""Curves, sheets, and which published figures stand beside a run."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from engine.log import RunLog, get_logger
from utils.render import Sheet, load_sheet, save_sheet
from utils.report.curves import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    chart,
    number,
    plot,
    png_axes,
    spark,
    thinned,
)
from utils.report.page import page
from utils.report.run import About, Run, read_log


def test_numbers_are_short():
    shown = {0.0: "0", 12.0: "12", 0.25: "0.25", 1.43e9: "1.43e9", 2e-5: "2e-5", 123.456: "123.5"}
    assert {value: number(value) for value in shown} == shown


def test_thinned_points_are_means_of_neighbours():
    points = [(float(i), float(i * i)) for i in range(10)]
    assert thinned(points, 10) == points
    assert thinned(points, 4) == [(1.0, 5 / 3), (4.0, 50 / 3), (7.0, 149 / 3), (9.0, 81.0)]


def test_a_curve_lies_where_its_numbers_are():
    """0 to 10 over 100 iterations: the curve joins two corners of the axes, whose ends have these numbers."""
    drawn = chart("x", {"x": [(0.0, 0.0), (50.0, 5.0), (100.0, 10.0)]})
    path = re.search(r'<path d="([^"]*)" style="fill: none; stroke: var\(--c0\)', drawn.svg)[1]
    points = [(float(x), float(y)) for x, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)]
    assert points[0] == pytest.approx((LEFT, HEIGHT - BOTTOM)) and points[-1] == pytest.approx(
        (WIDTH - RIGHT, TOP)
    )
    marks = {
        text: float(y)
        for y, text in re.findall(r'text-anchor: end[^>]* y="([\d.]+)"[^>]*>([\d.]+)<', drawn.svg)
    }
    assert marks["0"] - marks["10"] == pytest.approx(HEIGHT - BOTTOM - TOP, abs=0.1)
    assert drawn.series == [
        {
            "name": "x",
            "at": [[0, 0], [50, 5], [100, 10]],
            "x": pytest.approx([LEFT, (points[0][0] + points[-1][0]) / 2, WIDTH - RIGHT]),
        }
    ]
    assert chart("x", {"x": []}) is None


@pytest.mark.parametrize("x", [0.0, 5.0, 1e16, -1e29])
@pytest.mark.parametrize("y", [0.0, 3.0, 1e-12, 5e-324, 1e16, -2e20, 9e29])
def test_constants_and_extremes_are_drawn_alike_every_time(x, y):
    assert "#102030" in spark([(x, y)], "#102030")
    first, second = (chart("x", {"x": [(x, y), (x + 1, y)]}) for _ in range(2))
    assert first == second and "var(--c0)" in first.svg and "http" not in first.svg


def test_a_picture_of_several_axes(tmp_path):
    with png_axes(tmp_path / "p.png", (8, 4), 1, 2) as grid:
        for axes in grid.flat:
            plot(axes, [(1.0, 2.0), (10.0, 3.0)], "$x^{")
            plot(axes, [], "only in the legend")
            axes.set(xscale="log")
            axes.legend()
    with Image.open(tmp_path / "p.png") as image:
        assert image.size == (800, 400)


def test_a_sheet_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (8, 12, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    save_sheet(Sheet(["a", "b", "ü"], ["x", "y"], rows), 7, tmp_path / "s.png")
    sheet, iteration = load_sheet(tmp_path / "s.png")
    assert (sheet.columns, sheet.names, iteration) == (["a", "b", "ü"], ["x", "y"], 7)
    for row, other in zip(rows, sheet.rows, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(row, other, strict=True))


@pytest.mark.parametrize(
    ("stage", "as_published", "figures"),
    [
        *(("stage1", True, ["91.7", "55.7"]), ("stage3", True, ["92.8", "60.8"])),
        *(("source_only", True, []), ("stage1", False, [])),
    ],
)
def test_published_figures_stand_beside_what_they_are_of(tmp_path, stage, as_published, figures):
    """Stages of 19 classes on all of val; the figures of road and of the mean are looked for."""
    classes = [(f"class {k}", "#102030") for k in range(19)]
    about = About(stage, 9, classes, None, {"val": 500}, as_published, 1, [], [])
    line = {"iteration": 9, "val/miou": 0.5} | {f"val/iou/{name}": 0.25 for name, _ in classes}
    text = page(Run(tmp_path, about, lines=[line], written=0.0))
    assert (f"published {stage}" in text) == bool(figures)
    rows = re.findall(r"(?s)<tr>.*?</tr>", text)
    (road,) = [row for row in rows if "class 0<" in row and "25.0" in row]
    (mean,) = [row for row in rows if "mean over 19" in row]
    assert re.findall(r"<td>([\d.]+)<", road) + re.findall(r"<td>([\d.]+)<", mean)[1:] == figures


def test_scores_of_labels_without_a_class_are_said_so_and_logged_as_null(tmp_path):
    with RunLog(tmp_path, get_logger(tmp_path), total=9, per_epoch=3, epochs=3) as log:
        log.write_scores(3, {"miou": math.nan, "iou": [math.nan, 0.5]}, -1.0, ["road", "sky"])
    said = (tmp_path / "run.log").read_text()
    assert "no pixel of the labels has a class" in said and "nan" not in said and "best" not in said
    line = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"iteration": 3, "val/miou": None, "val/iou/road": None, "val/iou/sky": 0.5}
    (read,) = read_log(tmp_path / "log.jsonl")
    assert math.isnan(read["val/miou"]) and read["val/iou/sky"] == 0.5
