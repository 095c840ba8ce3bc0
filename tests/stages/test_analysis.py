"""How right labels are, against plain loops and by hand; counting it changes nothing."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.step import batches, build
from data.batches import TargetBatch
from data.labels import IGNORE
from models import Compute
from stages.analysis import LABELS, Tally, scores
from tests.cli.killed_runs import differences

CPU = torch.device("cpu")
K, B, PIXELS = 4, 3, 6
NAMES = ("road", "sky", "person", "train")


def random_batch(seed: int = 0) -> tuple[TargetBatch, Tensor, Tensor, list[Tensor]]:
    """A target batch, its rectified labels, sampled positions, and assignments below rows of a queue."""
    rng = np.random.default_rng(seed)

    def ids(*shape: int) -> Tensor:
        """Train ids, an eighth of them ignored; class 3 never occurs."""
        found = rng.integers(0, 3, shape)
        found[rng.random(shape) < 1 / 8] = IGNORE
        return torch.from_numpy(found)

    soft = torch.from_numpy(rng.dirichlet(np.ones(K), (B, 5, 7)).transpose(0, 3, 1, 2))
    pixels = torch.from_numpy(np.stack([rng.permutation(4 * 6)[:PIXELS] for _ in range(B)]))
    assigned = [torch.from_numpy(rng.dirichlet(np.ones(K), 10 + PIXELS)).float() for _ in range(2 * B)]
    truths = {"truth_quarter": ids(B, 5, 7), "truth_grid": ids(B, 4, 6)}
    return TargetBatch([], [], [], soft_quarter=soft, **truths), ids(B, 5, 7), pixels, assigned


def counted(*seeds: int) -> Tensor:
    tally = Tally(K, CPU)
    for seed in seeds:
        tally.add_(*random_batch(seed))
    return tally.take_()


def test_counts_are_those_of_plain_loops():
    counts, mass = np.zeros((3, K, K)), np.zeros(K)
    for seed in (0, 1):
        target, rectified, pixels, assigned = random_batch(seed)
        soft = target.soft_quarter.numpy()
        for i in range(B):
            for y in range(5):
                for x in range(7):
                    truth = int(target.truth_quarter[i, y, x])
                    for which, label in ((0, int(np.argmax(soft[i, :, y, x]))), (1, int(rectified[i, y, x]))):
                        if truth != IGNORE and label != IGNORE:
                            counts[which, truth, label] += 1
            both = sum(rows[-PIXELS:].double().numpy() for rows in assigned[2 * i : 2 * i + 2])
            for row, position in zip(both, pixels[i].tolist(), strict=True):
                truth = int(target.truth_grid[i, position // 6, position % 6])
                if truth != IGNORE:
                    counts[2, truth, int(np.argmax(row))] += 1
                    mass += row / 2
    found = counted(0, 1)
    assert np.array_equal(found[:-1].numpy(), counts.reshape(3 * K, K)) and counts[1].sum() > 0
    np.testing.assert_allclose(found[-1], mass, rtol=1e-6)
    assert torch.equal(counted(0) + counted(1), found)  # parts of a batch, or of the processes, add up


def test_counts_begin_anew_when_they_are_taken_and_need_no_assignment():
    tally = Tally(K, CPU)
    target, rectified, _, _ = random_batch()
    tally.add_(target, rectified, None, [])
    first = tally.take_()
    assert first[: 2 * K].sum() > 0 == first[2 * K :].sum() and tally.take_().sum() == 0
    found = scores(first, NAMES, torch.full((K,), 1 / K))
    assert {name.split("/")[2] for name in found} == {"soft_label", "rectified_label"}
    assert scores(torch.zeros_like(first), NAMES) == {}


def test_swapped_labels_have_the_accuracy_computed_by_hand():
    """Ten pixels of road, six of sky, three of person: a third of person's and half of sky's are swapped."""
    truth = torch.tensor([0] * 10 + [1] * 6 + [2] * 3 + [IGNORE]).view(1, 4, 5)
    label = torch.tensor([0] * 10 + [1] * 3 + [2] * 3 + [2] * 2 + [1] + [3]).view(1, 4, 5)
    soft = torch.nn.functional.one_hot(truth.clamp(max=3), K).permute(0, 3, 1, 2).float()
    target = TargetBatch([], [], [], soft_quarter=soft, truth_quarter=truth, truth_grid=truth)
    pixels = torch.tensor([[0, 1, 10, 16, 19]])  # road, road, sky, person, and none
    assigned = torch.tensor([[1.0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 0, 0, 0]])
    tally = Tally(K, CPU)
    tally.add_(target, label, pixels, [assigned, assigned])
    found = scores(tally.take_(), NAMES, torch.tensor([0.25, 0.25, 0.25, 0.25]))
    found = {name.removeprefix("analysis/"): value for name, value in found.items()}
    expected = {
        "accuracy/soft_label": 1.0,
        "mean_accuracy/soft_label": 1.0,
        **{f"accuracy/soft_label/{name}": 1.0 for name in NAMES[:3]},
        "accuracy/rectified_label": 15 / 19,
        "mean_accuracy/rectified_label": (1 + 1 / 2 + 2 / 3) / 3,
        "accuracy/rectified_label/road": 1.0,
        "accuracy/rectified_label/sky": 1 / 2,
        "accuracy/rectified_label/person": 2 / 3,
        "accuracy/assignment": 2 / 4,
        "mean_accuracy/assignment": (1 / 2 + 1 + 0) / 3,
        "accuracy/assignment/road": 1 / 2,
        "accuracy/assignment/sky": 1.0,
        "accuracy/assignment/person": 0.0,
        **dict(zip((f"assigned/{name}" for name in NAMES), (1 / 4, 3 / 4, 0, 0), strict=True)),
        **dict(zip((f"truth/{name}" for name in NAMES), (2 / 4, 1 / 4, 1 / 4, 0), strict=True)),
        "assigned_to_prior": 0.5,
        "assigned_to_truth": 0.5,
        "prior_to_truth": 0.25,
    }
    assert found == pytest.approx(expected)


def test_analysis_changes_neither_losses_nor_state():
    o = Namespace(
        stage="stage1", backbone="mini", bs=2, rcrop=(64, 32), img_size=(128, 64), fbs=16, queue_length=64
    )
    source, plain = batches(o, CPU)
    grid = torch.randint(0, 19, (2, 9, 17), generator=torch.Generator().manual_seed(0))
    truth = {"truth_quarter": plain.soft_quarter.argmax(dim=1), "truth_grid": grid}
    found = []
    for target in (plain, replace(plain, **truth)):
        stage = build(o, Compute(), CPU)
        if target is not plain:
            stage.analysis, stage.tally = True, Tally(19, CPU)
        learned = [stage.step(source, target, show=show) for show in (False, True)]
        found.append({"losses": [step.losses for step in learned], "state": stage.state()})
    assert differences(*found) == []
    assert stage.target_parts == {"weak", "strong", "whole", "soft_quarter", "truth_quarter", "truth_grid"}
    logged = scores(learned[1].shown.tally.take_(), [str(k) for k in range(19)])
    assert logged["analysis/accuracy/soft_label"] == 1 > logged["analysis/accuracy/rectified_label"] > 0
    assert {f"analysis/accuracy/{label}" for label in LABELS} <= logged.keys()

    off = {"rectify": False, "self_labeling_weight": 0.0, "contrast_weight": 0.0, "consistency_weight": 0.0}
    stage.method = replace(stage.method, **off)  # self-training alone: nothing is rectified or assigned
    shown = stage.step(source, replace(target, truth_grid=None), show=True).shown
    logged = scores(shown.tally.take_(), [str(k) for k in range(19)])
    assert shown.clustering is None and "truth_grid" not in stage.target_parts
    assert logged["analysis/accuracy/soft_label"] == logged["analysis/accuracy/rectified_label"] == 1
    assert "analysis/accuracy/assignment" not in logged
