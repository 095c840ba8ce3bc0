"""The block and the figures of docs/daformer.md."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
from test_method_as_a_part import K, follow
from torch import Tensor, nn
from torch.nn import functional as F

from loss import ClassBalancedSelfLabeling

PAGE = (Path(__file__).parents[2] / "docs" / "daformer.md").read_text(encoding="utf-8")
START, D = 2, 6


class Segmenter(nn.Module):
    """Logits at the image's size from features at a quarter of it."""

    def __init__(self):
        super().__init__()
        self.body, self.classifier = nn.Conv2d(3, D, 4, 4), nn.Conv2d(D, K, 1)

    def forward(self, images: Tensor) -> Tensor:
        return F.interpolate(self.classifier(self.body(images)), images.shape[2:], mode="bilinear")


@pytest.fixture
def names() -> dict:
    """Return all that the block takes from the loop around it."""
    torch.manual_seed(0)
    student, size = Segmenter(), (2, 3, 64, 80)
    teacher = copy.deepcopy(student)
    loader = [(torch.randn(size), torch.randint(0, K, (2, 64, 80)), torch.randn(size)) for _ in range(4)]
    return {
        "student": student,
        "teacher": teacher,
        "classifier": teacher.classifier,
        "optimizer": torch.optim.AdamW(student.parameters(), lr=6e-5, weight_decay=0.01),
        "loader": loader,
        "target_batches": [torch.randn(size) for _ in range(2)],
        "mix": lambda source, label, target, own, weight: (target, own, weight),
        "update_teacher": follow,
        "device": "cpu",
        "START": START,
        "K": K,
        "D": D,
    }


def test_the_block_runs_and_the_module_begins_at_start(names, monkeypatch):
    calls = []
    monkeypatch.setattr(
        ClassBalancedSelfLabeling, "update_ema_", lambda part: calls.append(part.prototypes_ema.clone())
    )
    weights = copy.deepcopy(names["student"].state_dict())
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    exec(block, names)
    part, starts = names["part"], names["centroids"]
    assert len(calls) == len(names["loader"]) - START and torch.equal(calls[0], starts)
    assert int(part.queues.features.filled) == (len(names["loader"]) - START) * 2 * 256
    assert not torch.equal(part.prototypes, starts) and torch.equal(part.prior, names["prior"])
    groups = names["optimizer"].param_groups
    assert [group["weight_decay"] for group in groups] == [0.01, 0.0] and len(groups[1]["params"]) == 1
    assert all(not torch.equal(value, weights[name]) for name, value in names["student"].state_dict().items())
    assert names["weight"].shape == names["label"].shape == (2, 64, 80)
    assert 0 < float(names["loss"].detach()) < float("inf")


def test_the_figures_are_counted():
    d, k, grid, batch, pixels, rows = 256, 19, 128 * 128, 2, 256, 65_536
    part = ClassBalancedSelfLabeling(torch.randn(k, d), torch.full((k,), 1 / k), pixels, rows)
    queues = sum(x.numel() * x.element_size() for x in part.queues.buffers()) / 1e6
    shown = {
        f"{sum(p.numel() for p in part.parameters()):,} |": "parameters",
        f"{queues:.1f} MB": "queues",
        f"{d * grid * 4 / 1e6:.1f} MB an image": "features",
        f"{(rows + pixels) * k * 4 / 1e6:.1f} MB each": "scores",
        f"{2 * batch * grid * d * k / 1e9:.2f} GFLOP": "rectify",
        f"{2 * batch * (rows + 2 * pixels) * d * k / 1e9:.2f} GFLOP": "backward",
    }
    for figure, row in shown.items():
        assert any(figure in line and row in line for line in PAGE.splitlines()), figure
    assert f"{d * 512 * 512 * 4 / 1e6:.0f} MB" in PAGE and f"{rows // (pixels * batch)} for batch 2" in PAGE
    assert f"{10 / rows:.1e}".replace("e-04", "e-4") in PAGE and 100 * 6e-5 * d**0.5 == pytest.approx(0.096)
