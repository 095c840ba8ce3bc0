"""Scores of a confusion matrix against plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.metrics import ConfusionMatrix, nan_mean

K, IGNORE = 5, 250


def maps(seed: int, images: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Class 3 appears neither in the labels nor in the predictions; a tenth of the labels is void."""
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 1, 2, 4, IGNORE, 255], (images, 6, 7), p=[0.3, 0.3, 0.2, 0.1, 0.05, 0.05])
    prediction = np.where(rng.random(label.shape) < 0.5, label, rng.choice([0, 1, 2, 4], label.shape))
    prediction[prediction >= K] = 0
    return torch.from_numpy(label.astype(np.uint8)), torch.from_numpy(prediction)


def loop_scores(pairs: list[tuple[int, int]]) -> dict:
    pairs = [(y, p) for y, p in pairs if 0 <= y < K]
    iou, accuracy, frequency = [], [], []
    for k in range(K):
        both = sum(y == k and p == k for y, p in pairs)
        either = sum(y == k or p == k for y, p in pairs)
        labelled = sum(y == k for y, _ in pairs)
        iou.append(both / either if either else math.nan)
        accuracy.append(both / labelled if labelled else math.nan)
        frequency.append(labelled / len(pairs))
    return {
        "overall_accuracy": sum(y == p for y, p in pairs) / len(pairs),
        "mean_accuracy": np.nanmean(accuracy),
        "frequency_weighted_iou": sum(f * i for f, i in zip(frequency, iou, strict=True) if f > 0),
        "miou": np.nanmean(iou),
        "iou": iou,
    }


def test_scores_equal_the_plain_loops():
    matrix, pairs = ConfusionMatrix(K), []
    for seed in range(3):
        label, prediction = maps(seed)
        matrix.update(label, prediction)
        pairs += list(zip(label.flatten().tolist(), prediction.flatten().tolist(), strict=True))
    scores, expected = matrix.scores(), loop_scores(pairs)
    for name, value in expected.items():
        assert scores[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name
    assert math.isnan(scores["iou"][3])
    assert scores["images"] == 6
    assert matrix.counts.dtype == torch.int64
    assert int(matrix.counts.sum()) == sum(0 <= y < K for y, _ in pairs)


def test_counting_asks_the_device_for_nothing():
    """A meta tensor has no values: what needs one on the host fails."""
    matrix = ConfusionMatrix(K, "meta")
    for label, prediction in (maps(0), maps(1)):
        matrix.update(label.to("meta"), prediction.to("meta"))
    assert matrix.images == 4


def test_perfect_and_opposite():
    label = torch.tensor([[[0, 1], [1, 0]]])
    for prediction, expected in ((label, 1.0), (1 - label, 0.0)):
        matrix = ConfusionMatrix(2)
        matrix.update(label, prediction)
        names = ("overall_accuracy", "mean_accuracy", "frequency_weighted_iou", "miou")
        assert {matrix.scores()[name] for name in names} == {expected}


def test_half_right():
    """Two of four pixels of class 0 called 1: IoU 2/4 and 0/2."""
    matrix = ConfusionMatrix(2)
    matrix.update(torch.zeros(1, 2, 2, dtype=torch.int64), torch.tensor([[[0, 0], [1, 1]]]))
    scores = matrix.scores()
    assert scores["iou"] == [0.5, 0.0]
    assert (scores["miou"], scores["overall_accuracy"], scores["mean_accuracy"]) == (0.25, 0.5, 0.5)
    assert scores["frequency_weighted_iou"] == 0.5


def test_a_class_only_predicted_counts_as_zero_iou_and_not_in_the_mean_accuracy():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([[[0, 0, 250]]]), torch.tensor([[[0, 1, 1]]]))
    assert matrix.counts.tolist() == [[1, 1, 0], [0, 0, 0], [0, 0, 0]]  # a row a label
    scores = matrix.scores()
    assert scores["iou"][:2] == [0.5, 0.0] and math.isnan(scores["iou"][2])
    assert scores["miou"] == 0.25
    assert scores["mean_accuracy"] == 0.5


def test_nothing_labelled_gives_nan():
    scores = ConfusionMatrix(3).scores()
    assert math.isnan(scores["miou"]) and math.isnan(scores["overall_accuracy"])
    assert nan_mean([1.0, math.nan, 3.0]) == 2.0 and math.isnan(nan_mean([math.nan]))
