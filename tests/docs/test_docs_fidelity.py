"""Figures of docs/fidelity.md that can be worked out, and statements about what a run does."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch

from loss import cross_entropy, symmetric_cross_entropy

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "fidelity.md").read_text()
EPS = 1e-5


@pytest.mark.parametrize(("percent", "variance"), [("0.05", 1e-2), ("0.5", 1e-3), ("4.9", 1e-4)])
def test_what_clamping_the_variance_adds(percent, variance):
    ratio = math.sqrt(variance + EPS) / math.sqrt(max(variance, EPS))
    assert float(percent) == pytest.approx(100 * (ratio - 1), rel=0.01)
    assert re.search(rf"{percent} % at (a variance of )?1e-{round(-math.log10(variance))}\b", PAGE)


def test_images_left_out():
    assert f"{2975 - 2975 % 4:,} of 2,975 images" in PAGE and f"{100 * 3 / 2975:.1f} % of the images" in PAGE


@pytest.mark.parametrize("loss", [cross_entropy, symmetric_cross_entropy])
def test_a_batch_without_a_valid_label_costs_nothing(loss):
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    value = loss(logits, torch.full((2, 4, 5), 250), 250)
    value.backward()
    assert value == 0 and not logits.grad.any()
    assert "cross-entropy nan" in PAGE


def test_bf16_and_fp32_differ_by_what_is_said():
    """The means of the table in docs/performance.md."""
    table = (DOCS / "performance.md").read_text().partition("| stage | fp32 | bf16 |")[2].partition("\n\n")[0]
    rows = re.findall(r"\| ([\d.]+) \| ([\d.]+) \|$", table, flags=re.MULTILINE)
    moved = [round(float(bf16) - float(fp32), 1) for fp32, bf16 in rows]
    assert len(moved) == 5
    assert f"{min(moved)} to {max(moved)} points".replace("-", "−") in " ".join(PAGE.split())
