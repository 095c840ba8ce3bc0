"""Figures of docs/healthy.md and docs/before_you_start.md against those that they are taken from."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from stages.self_labeling import SelfLabelingSettings
from utils.options import parse
from utils.published import LOSS_BOUND, MIOU_BOUND, RUNS
from utils.recipe import read_recipe

PROJECT = Path(__file__).parents[2]
DOCS = PROJECT / "docs"
HEALTHY, BEFORE, FIDELITY = (
    (DOCS / name).read_text() for name in ("healthy.md", "before_you_start.md", "fidelity.md")
)
RECIPE = read_recipe(PROJECT / "configs" / "gta5_to_cityscapes.yaml", None, {})


def table(page: str, head: str) -> list[list[str]]:
    """The rows of the table whose header begins with `head`, as cells."""
    body = re.search(rf"^\| {head}.*\n\|[-: |]+\n((?:\|.*\n)+)", page, flags=re.MULTILINE)[1]
    return [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in body.splitlines()]


@pytest.mark.parametrize(("column", "stage"), [(1, "stage1"), (2, "stage2"), (3, "stage3")])
def test_milestones_are_the_published_ones(column, stage):
    rows = table(HEALTHY, r"Iter \| stage 1")
    places = [row[0] for row in rows]
    told = [
        str(value) if str(iteration) in places else f"{value} ({iteration})"
        for iteration, value in RUNS[stage].every_miou
    ]
    assert [row[column] for row in rows if row[column]] == told


def test_losses_of_the_first_lines_add_up():
    values = {name: list(map(float, cells)) for name, *cells in table(HEALTHY, r"Iter \| 20")}
    published = {name: [loss for _, loss in points] for name, points in RUNS["stage1"].losses.items()}
    assert values["loss"] == published.pop("total")
    assert {name: values[f"loss_{name}"] for name in published} == published
    weights = {"loss_CTS": 1, "loss_SL": 0.1, "loss_consist": 5, "loss_contrast": 0.001}
    for i, loss in enumerate(values["loss"]):
        assert loss == pytest.approx(sum(w * values[name][i] for name, w in weights.items()), abs=0.02)
    (stage1,) = [step for step in RECIPE.trainings if step.name == "stage1"]
    o = parse("train", "", stage1.words[2:])
    assert [o.SL_lambda, o.proto_consistW, o.contrast_lambda] == [
        0.1,
        5,
        SelfLabelingSettings.contrast_weight,
    ]
    assert o.queue_length == 64 * o.fbs * o.bs


def test_near_and_far_are_what_is_said_of_them():
    section = HEALTHY.partition("## Near and far")[2].partition("\n## ")[0]
    ((_, points, factor), _) = table(section, "word")
    assert points == f"at most {MIOU_BOUND:g} points off" and f"at most {LOSS_BOUND:g} times" in factor
    reruns = re.search(r"gave ([\d.]+) and ([\d.]+); some reached only (\d+\.\d)", FIDELITY).groups()
    best = RUNS["stage1"].best[1]
    assert MIOU_BOUND - 0.5 < best - min(map(float, reruns)) < MIOU_BOUND
    demo = float(re.search(r"factor of ([\d.]+) between", section)[1])
    assert math.log(LOSS_BOUND) / math.log(demo) == pytest.approx(2, abs=0.2)
    quoted = re.findall(
        r"^    published (stage\d), (.*): mIoU (.*), this run (.*?): (.*)$", section, re.MULTILINE
    )
    for stage, where, published, own, word in quoted:
        (said,) = RUNS[stage].beside_validation(int(where.split()[1]) - 1, float(own))
        assert f"{said.published} {said.word}" == f"{published} {word.partition(';')[0]}"
        assert said.look in word
    assert len(quoted) == 2


def test_rates_of_the_head():
    for step, multiple in zip(RECIPE.trainings[1:], (5, 10, 10), strict=True):
        o = parse("train", "", step.words[2:])
        rate = o.lr * multiple * (1 - 998 / o.train_iters) ** 0.9
        assert f"{rate:.6g}" in HEALTHY


def test_hours_and_memory_are_the_counted_ones():
    pattern = r"^\| (\w+), (\d), ([^|]+?) \|(.*)\|$"
    found = re.findall(pattern, (DOCS / "performance.md").read_text(), flags=re.MULTILINE)
    counted = {
        (stage, images, way): [float(x) for x in re.findall(r"[\d.]+", cells)]
        for stage, images, way, cells in found
    }
    ways = ("fp32", "fp32, recompute", "bf16, channels last", "bf16, channels last, recompute")
    for stages, images, *cells in table(BEFORE, r"stage \| images per GPU"):
        for way, cell in zip(ways, cells, strict=True):
            _, _, _, ms, _, memory = counted.pop((stages.split(",")[0], images, way))
            assert cell == f"{memory} GB, {90000 * ms / 3.6e6:.1f} h"
    assert not counted


def test_disk_adds_up():
    *parts, whole = [cells[1] for cells in table(BEFORE, r"what \| GB")]
    assert sum(math.prod(map(float, part.split(" × "))) for part in parts) == pytest.approx(float(whole))
    states = table((DOCS / "performance.md").read_text(), r"stage \| GB \| state s")
    warm_up, stage1, stage2 = (float(row[1]) for row in states)
    assert parts[0] == f"{2975 * 19 * 129 * 257 * 4 / 1e9:.1f}"
    assert parts[1] == f"2 × {2975 * 1024 * 2048 * 2 / 1e9:.1f}"
    assert parts[2] == f"{2 * (warm_up + stage1 + 2 * stage2):.1f}"
    assert parts[3] == f"{4 * 2 * 65.1e6 * 4 / 1e9:.1f}"
