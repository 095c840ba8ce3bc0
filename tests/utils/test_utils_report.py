"""Axes, thinning, sheets, and which published figures stand beside a run."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from utils.render import Sheet, load_sheet, save_sheet
from utils.report.charts import line_chart, number, thinned, ticks
from utils.report.run import About, Run
from utils.report.scores import published, scores_table


@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0), (-3.0, 7.0), (0.41, 0.43), (1e-9, 3e-9), (5.0, 90000.0), (-1e29, 1e29)]
)
def test_ticks_are_round_and_hold_the_bounds(bounds):
    low, high = bounds
    found = ticks(low, high)
    steps = np.diff(found)
    assert found[0] <= low + 1e-9 * (high - low) and found[-1] >= high - 1e-9 * (high - low)
    assert 3 <= len(found) <= 8 and np.allclose(steps, steps[0])
    digits = f"{steps[0]:.6e}".split("e")[0].rstrip("0").rstrip(".")
    assert digits in ("1", "2", "2.5", "5")


def test_numbers_are_short():
    shown = {0.0: "0", 12.0: "12", 0.25: "0.25", 1.43e9: "1.43e9", 2e-5: "2e-5", 123.456: "123.5"}
    assert {value: number(value) for value in shown} == shown


def test_thinned_points_are_means_of_neighbours():
    points = [(float(i), float(i * i)) for i in range(10)]
    assert thinned(points, 10) == points
    assert thinned(points, 4) == [(1.0, 5 / 3), (4.0, 50 / 3), (7.0, 149 / 3), (9.0, 81.0)]


def test_a_curve_lies_where_its_numbers_are():
    """0 to 10 over 100 iterations, the axis from 0 to 10: corners of the drawing."""
    drawn = line_chart("x", {"x": [(0.0, 0.0), (50.0, 5.0), (100.0, 10.0)]})
    points = re.search(r'<polyline class="c0" points="([^"]*)"', drawn)[1].split()
    (x0, y0), (x1, y1), (x2, y2) = (map(float, p.split(",")) for p in points)
    assert (x0 + x2, y0 + y2) == pytest.approx((2 * x1, 2 * y1)) and x0 < x2 and y0 > y2
    marks = {text: float(y) for y, text in re.findall(r'y="([\d.]+)" text-anchor="end">([\d.]+)<', drawn)}
    assert marks["0"] == pytest.approx(y0 + 4, abs=0.1) and marks["10"] == pytest.approx(y2 + 4, abs=0.1)
    assert line_chart("x", {"x": []}) == ""


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-12, -2e20])
def test_a_constant_is_drawn(value):
    assert "<polyline" in line_chart("x", {"x": [(5.0, value), (6.0, value)]})


def test_a_sheet_comes_back(tmp_path):
    rng = np.random.default_rng(0)
    rows = [[rng.integers(0, 256, (8, 12, 3), dtype=np.uint8) for _ in range(3)] for _ in range(2)]
    save_sheet(Sheet(["a", "b", "ü"], ["x", "y"], rows), 7, tmp_path / "s.png")
    sheet, iteration = load_sheet(tmp_path / "s.png")
    assert (sheet.columns, sheet.names, iteration) == (["a", "b", "ü"], ["x", "y"], 7)
    for row, other in zip(rows, sheet.rows, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(row, other, strict=True))


def run(**changed) -> Run:
    """A stage 1 of 19 classes on all of val, which the published figures can be compared with."""
    names = [f"class {k}" for k in range(19)]
    colours = np.zeros((19, 3), dtype=np.uint8)
    about = About("stage1", 9, names, colours, None, {"val": 500}, True, 1, [], [])
    options = {"src_dataset": "gta5", "tgt_dataset": "cityscapes", "backbone": "resnet101"}
    line = {"iteration": 9, "val/miou": 0.5} | {f"val/iou/{name}": 0.5 for name in names}
    about = replace(about, **{k: v for k, v in changed.items() if hasattr(about, k)})
    options |= {k: v for k, v in changed.items() if k in options}
    return Run(None, about, options, [line])


def test_published_figures_stand_beside_what_they_are_of():
    assert [row.title for row in published(run())] == ["stage1"]
    assert [row.title for row in published(run(stage="stage3"))] == ["stage3"]
    assert "<td>91.7</td>" in scores_table(run()) and "<td>55.7</td>" in scores_table(run())
    other = ({"stage": "source_only"}, {"as_published": False})
    for changed in other:
        assert not published(run(**changed)), changed
