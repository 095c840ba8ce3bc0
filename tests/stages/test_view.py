"""Statistics that an iteration shows on request, against plain loops; showing changes nothing."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch

from benchmarks.step import STAGES, batches, build
from engine.pictures import Pictures, Points, frequencies, view_of
from models import Compute
from tests.cli.killed_runs import differences
from utils.distributed import ALONE

CPU = torch.device("cpu")
K, PIXELS, QUEUE = 19, 16, 64


def options(stage: str) -> Namespace:
    sizes = {"rcrop": (64, 32), "img_size": (128, 64), "fbs": PIXELS, "queue_length": QUEUE}
    return Namespace(stage=stage, backbone="mini", bs=2, **sizes)


def stepped(stage: str, show: bool, steps: int = 2):
    """A stage after some iterations, the view of the last, and its batches."""
    o = options(stage)
    learner, (source, target) = build(o, Compute(), CPU), batches(o, CPU)
    for _ in range(steps):
        _, shown = learner.step(source, target, show=show)
    return learner, shown and view_of(shown), source, target


COLUMNS = {
    "warm_up": ["weak view", "prediction"],
    "stage1": [
        *("weak view", "strong view", "whole image", "training image"),
        *("soft label", "rectified label", "training label", "prediction", "assignment"),
    ],
    "stage2": ["strong view", "pseudo label", "prediction", "teacher"],
}


@pytest.mark.parametrize("stage", STAGES)
def test_showing_changes_nothing(stage):
    shown, view, _, _ = stepped(stage, True)
    plain, nothing, _, _ = stepped(stage, False)
    assert differences(shown.state(), plain.state()) == [] and nothing is None
    assert view.sheets.keys() == {"source", "target"} and list(view.sheets["target"]) == COLUMNS[stage]
    if stage == "stage1":
        assert view.confidences.keys() == {"soft_label", "rectified_label", "prediction"}


def test_assignments_and_the_full_queue_of_stage_1():
    """Rows of the assignments are the queue's, then the pixels'; frequencies count every pixel or row."""
    label = torch.tensor([[0, 1, 1, 250], [2, 2, 2, 250]])
    assert frequencies(label, 4).tolist() == [1 / 8, 2 / 8, 3 / 8, 0]
    learner, view, _, target = stepped("stage1", True, 1)
    whole, sampled = view.means["sinkhorn/all_rows"], view.means["sinkhorn/sampled_pixels"]
    assert float(whole.sum()) == pytest.approx(1, abs=1e-5) == float(sampled.sum())
    distance = float(view.means["sinkhorn/distance_to_prior"])
    assert 0.5 * float((whole - 1 / K).abs().sum()) <= distance + 1e-6  # the mean's is at most the mean
    points = view.sheets["target"]["assignment"]
    assert points.positions.shape == points.classes.shape == (2, PIXELS)
    assert int(points.positions.max()) < points.grid[0] * points.grid[1]
    assert points.images is target.whole

    rows = learner.self_labeling.queues.labels.rows[:, 0].tolist()
    assert view.means["queue/labels"].tolist() == pytest.approx([rows.count(k) / QUEUE for k in range(K)])
    assert float(view.means["queue/ignored"]) == rows.count(250) / QUEUE
    assert float(view.means["queue/fill"]) == 1


def test_prototypes_and_a_queue_that_is_not_full():
    _, shown = build(options("stage1"), Compute(), CPU).step(*batches(options("stage1"), CPU), show=True)
    online, ema, start = (torch.from_numpy(np.random.default_rng(s).normal(size=(K, 8))) for s in range(3))
    start[4] = 0  # of a class that was never predicted
    clustering = shown.clustering._replace(
        prototypes=online,
        prototypes_ema=ema,
        prototypes_start=start,
        queue_labels=torch.tensor([3, 3, 250, 7]),
        queue_length=10,
    )
    view = view_of(shown._replace(clustering=clustering))
    a, b, c = online.numpy(), ema.numpy(), start.numpy()

    def cosine(x: np.ndarray, y: np.ndarray) -> float:
        return float(x @ y / (x @ x) ** 0.5 / (y @ y) ** 0.5)

    nearest = [max(cosine(a[i], a[j]) for j in range(K) if j != i) for i in range(K)]
    found = {name.removeprefix("prototypes/"): x.tolist() for name, x in view.means.items()}
    assert found["nearest_cosine"] == pytest.approx(nearest)
    assert found["cosine_to_ema"] == pytest.approx([cosine(a[i], b[i]) for i in range(K)])
    to_start = [0.0 if i == 4 else cosine(a[i], c[i]) for i in range(K)]
    assert found["cosine_to_start"] == pytest.approx(to_start)
    assert found["mean_cosine_to_start"] == pytest.approx(sum(to_start) / (K - 1))
    assert found["norm"] == pytest.approx([(row @ row) ** 0.5 for row in a])
    assert float(view.means["prototypes/nearest_pair"]) == pytest.approx(max(nearest))
    labels = view.means["queue/labels"]
    assert labels[3] == 0.5 and labels[7] == 0.25 and labels[0] == 0
    assert float(view.means["queue/ignored"]) == 0.25
    assert float(view.means["queue/fill"]) == pytest.approx(0.4)


def test_dots_lie_where_the_pixels_are():
    """A grid of 3×5 on an image of 20×40: corner, middle and corner; the image itself is dimmed."""
    colours = np.arange(3 * 3, dtype=np.uint8).reshape(3, 3) + 100
    pictures = Pictures(None, "abc", colours, 1, ALONE)
    image = torch.ones(1, 3, 20, 40)
    positions, classes = torch.tensor([[0, 7, 14]]), torch.tensor([[0, 1, 2]])
    points = Points(image, positions, classes, (3, 5))
    sheet = pictures.sheet({"weak view": image, "assignment": points})
    tile = sheet.rows[0][1]
    assert tile.shape == (128, 256, 3) and (sheet.rows[0][0] == 255).all()
    for (y, x), k in {(0, 0): 0, (63, 127): 1, (127, 255): 2}.items():
        assert tile[y, x].tolist() == colours[k].tolist()
    assert (tile[20, 20] == int(255 * 0.35)).all()


def test_labels_keep_their_colours_and_images_their_proportions():
    colours = np.array([[10, 20, 30], [40, 50, 60]], dtype=np.uint8)
    pictures = Pictures(None, "ab", colours, 1, ALONE)
    wide, high = torch.rand(1, 3, 16, 32), torch.full((1, 3, 32, 16), 1.0)
    label = torch.tensor([[[0, 1], [250, 1]]])
    rows = pictures.sheet({"wide": wide, "high": high, "label": label}).rows[0]
    assert {tile.shape for tile in rows} == {(128, 256, 3)}
    assert (rows[1][:, :90] == 0).all() and (rows[1][:, 100:150] == 255).all()  # bars on both sides
    square = rows[2][:, 64:192]
    assert square[10, 10].tolist() == [10, 20, 30] and square[10, 100].tolist() == [40, 50, 60]
    assert square[100, 10].tolist() == [0, 0, 0]
