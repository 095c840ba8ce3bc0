"""The figures of benchmarks/rectified_labels.py and benchmarks/teacher_statistics.py, computed otherwise."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from cli_tools import (
    MINI,
    SMALL,
    TRAINING,
    checkpoint_name,
    random_network,
    run_here,
    succeed,
    train_stems,
    write_released,
    write_soft_labels,
)
from torch import nn
from torch.nn import functional as F

from benchmarks.teacher_statistics import BATCH, take_own_statistics
from data.batches import inference_loader, read
from data.sets.cityscapes import cityscapes

CHECKPOINT = f"models/{checkpoint_name()}"
K = 19


def softmax(x: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def score(label: np.ndarray, truth: np.ndarray) -> list[float]:
    """mIoU and mean accuracy in percent."""
    ious, accuracies = [], []
    for k in range(K):
        label_is, truth_is = (label == k) & (truth < K), truth == k
        if (label_is | truth_is).any():
            ious.append((label_is & truth_is).sum() / (label_is | truth_is).sum())
        if truth_is.any():
            accuracies.append((label_is & truth_is).sum() / truth_is.sum())
    return [100 * float(np.mean(ious)), 100 * float(np.mean(accuracies))]


def figures(line: str) -> list[list[float]]:
    """The numbers of each cell of a table's line but the first."""
    return [[float(number) for number in cell.split("/")] for cell in line.split("|")[2:-1]]


@torch.no_grad()
def test_rectified_labels_by_numpy_in_float64(desk, monkeypatch, capsys):
    network = random_network(MINI.split()[1])
    for name, weight in network.named_parameters():
        if name.startswith("layer5."):
            weight.mul_(20)  # so that classes and prototypes differ
    (desk / CHECKPOINT).unlink()
    write_released(desk / CHECKPOINT, network)
    words = SMALL.replace("--max_images 2", "")
    run_here(f"python benchmarks/rectified_labels.py {CHECKPOINT} {words}", desk, monkeypatch)
    *_, line = capsys.readouterr().out.splitlines()

    data = cityscapes(desk / "dataset" / "cityscapes", "train", K, (256, 128))
    (images,) = read(inference_loader(data, with_labels=True, workers=0, batch=len(data)))
    images = images.to("cpu")
    outputs = network.eval()(images.image)
    maps = [x.double() for x in outputs]
    feats, logits = (x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).numpy() for x in maps)
    centroids = unit(softmax(logits).T @ unit(feats))
    large = (F.interpolate(x, images.label.shape[1:], mode="bilinear", align_corners=True) for x in maps)
    feats, logits = (x.permute(0, 2, 3, 1).numpy() for x in large)
    truth, soft = images.label.numpy(), softmax(logits)
    expected = [score(soft.argmax(axis=-1), truth)]
    for temperature in (0.04, 0.08, 0.16, 0.3):
        omega = softmax(unit(feats) @ centroids.T / temperature)
        expected.append(score((omega * soft).argmax(axis=-1), truth))
    assert len({tuple(pair) for pair in expected}) == len(expected)  # else the temperature could be any
    assert np.array(figures(line)) == pytest.approx(np.array(expected), abs=0.06)


def test_own_statistics_are_the_means_of_all_batches():
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
    ours = nn.Sequential(first, nn.BatchNorm2d(4), nn.ReLU(), second, nn.BatchNorm2d(4))
    torchs = copy.deepcopy(ours)
    images = torch.rand(3 * BATCH, 3, 8, 9)
    take_own_statistics(ours, images)
    for norm in (torchs[1], torchs[4]):
        norm.reset_running_stats()
        norm.momentum = None  # torch's own cumulative mean
    with torch.no_grad():
        for batch in images.split(BATCH):
            torchs(batch)
    assert not ours.training
    for i in (1, 4):
        torch.testing.assert_close(ours[i].running_mean, torchs[i].running_mean)
        torch.testing.assert_close(ours[i].running_var, torchs[i].running_var)


def test_teacher_statistics_prints_the_scores_of_a_run(desk, dataset, monkeypatch, capsys):
    write_soft_labels(desk / "soft", train_stems(dataset, 2))
    succeed(f"python calc_prototype.py --resume_path {CHECKPOINT} {SMALL}", desk)
    words = f"--ema --proto_rectify --path_soft soft --resume_path {CHECKPOINT} {MINI} {SMALL} {TRAINING}"
    succeed(f"python train.py --name run --quirks none {words}", desk)
    run_here("python benchmarks/teacher_statistics.py logs/run", desk, monkeypatch)
    *_, line = capsys.readouterr().out.splitlines()
    run = json.loads((desk / "logs" / "run" / "scores_current.json").read_text())
    student, teacher, own = (cell[0] for cell in figures(line))
    assert student == pytest.approx(100 * run["miou"], abs=0.05)
    assert np.isfinite([teacher, own]).all()
