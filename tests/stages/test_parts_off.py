"""Stage 1 with parts of the method switched off: what is off is not computed, and the rest is as before."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_stages_paths import METHOD, NONE, Mixed, batches, self_labeling
from torch import Tensor

from data.sets.choose import classes_of
from engine.about import ABOUT_FILE, write_about
from engine.pictures import view_of
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from utils.options import parse
from utils.quirks import Quirks

NOTHING = replace(
    METHOD, rectify=False, self_labeling_weight=0.0, contrast_weight=0.0, consistency_weight=0.0
)
OF_PART = {
    "SL": {"self_labeling_weight": 0.0},
    "contrast": {"contrast_weight": 0.0},
    "consist": {"consistency_weight": 0.0},
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def built(method: SelfLabelingSettings, quirks: Quirks = NONE, **others: object) -> SelfLabelingStage:
    torch.manual_seed(1)
    return self_labeling(method=replace(method, queue_length=16), quirks=quirks, **others)


def given(stage: SelfLabelingStage) -> tuple:
    """Batches with those parts of the target alone that the stage asks for."""
    source, target = batches()
    kept = {"weak", "strong", "whole", "soft_quarter", "soft_grid"} & {f.name for f in fields(target)}
    return source, replace(target, **dict.fromkeys(kept - stage.target_parts))


def two_losses(stage: SelfLabelingStage) -> list[dict[str, Tensor]]:
    return [stage.step(*given(stage)).losses for _ in range(2)]


@pytest.mark.parametrize("quirks", [NONE, Quirks()], ids=["none", "reference"])
@pytest.mark.parametrize("part", OF_PART)
def test_a_part_that_is_off_is_0_and_leaves_the_others_as_they_were(part: str, quirks: Quirks) -> None:
    torch.manual_seed(2)
    on = two_losses(built(METHOD, quirks))
    torch.manual_seed(2)
    off = two_losses(built(replace(METHOD, **OF_PART[part]), quirks))
    assert [float(losses[part]) for losses in off] == [0, 0]
    assert float(on[1][part]) > 0  # in the second iteration the queue is full
    drawn_after = {"SL", "contrast"} if part == "consist" else set()  # the strong view's dropout
    for name in {"CTS", "SL", "contrast", "consist", "source"} - {part} - drawn_after:
        torch.testing.assert_close(off[0][name], on[0][name])
    weights = {
        "CTS": 1.0,
        "SL": METHOD.self_labeling_weight,
        "contrast": METHOD.contrast_weight,
        "consist": 1.0,
    }
    by_hand = sum(weights[name] * float(off[1][name]) for name in weights)
    assert float(off[1]["total"]) == pytest.approx(by_hand, rel=1e-5)


def test_plain_self_training_uses_the_soft_labels_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any part neither teacher nor prototypes nor Sinkhorn nor the strong view are touched."""
    stage = built(NOTHING)
    for module in (stage.ema, stage.self_labeling):
        monkeypatch.setattr(module, "forward", None)
    for name in ("omega", "sampled_loss"):
        monkeypatch.setattr(stage.self_labeling, name, None)
    prototypes = stage.self_labeling.prototypes.detach().clone()
    teacher = [value.clone() for value in stage.ema.state_dict().values()]
    source, target = given(stage)
    assert stage.target_parts == {"weak", "soft_quarter"}
    learned = stage.step(source, target, show=True)
    assert all(map(torch.equal, teacher, stage.ema.state_dict().values()))
    expected = np.argmax(target.soft_quarter.numpy(), axis=1)
    assert np.array_equal(learned.shown.labels["rectified label"].numpy(), expected)
    assert learned.shown.clustering is None and "whole image" not in learned.shown.images
    assert float(learned.losses["total"]) == float(learned.losses["CTS"])
    assert torch.equal(stage.self_labeling.prototypes, prototypes)
    assert stage.self_labeling.queues.labels.filled == 0


def test_labels_that_are_not_rectified_have_no_confidence_of_rectified_ones() -> None:
    for rectify in (True, False):
        stage = built(replace(METHOD, rectify=rectify))  # which computes ω in any case, for the consistency
        view = view_of(stage.step(*given(stage), show=True).shown)
        assert ("rectified_label" in view.confidences) is rectify and "soft_label" in view.confidences


@pytest.mark.parametrize("weight", [0.0, 0.1])
def test_the_page_shows_a_prior_only_where_one_is_used(weight: float, tmp_path: Path) -> None:
    stage, o = built(replace(METHOD, self_labeling_weight=weight)), parse("train", "", ["--ema"])
    write_about(o, tmp_path, stage, (None, None), None, 3, classes_of(o))
    prior = json.loads((tmp_path / ABOUT_FILE).read_text())["prior"]
    assert prior == (stage.self_labeling.prior.tolist() if weight else None)


def test_the_queue_is_filled_for_the_contrast_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loss.class_balanced.sinkhorn", None)
    stage = built(replace(NOTHING, contrast_weight=0.5))
    losses = two_losses(stage)
    assert float(losses[1]["contrast"]) > 0 and stage.self_labeling.queues.features.is_full
    assert float(losses[1]["total"]) == pytest.approx(
        float(losses[1]["CTS"]) + 0.5 * float(losses[1]["contrast"])
    )


def test_truth_is_read_only_where_something_is_compared_with_it() -> None:
    for weight, parts in ((0.1, {"truth_quarter", "truth_grid"}), (0.0, {"truth_quarter"})):
        stage = built(
            replace(METHOD, self_labeling_weight=weight)
        )  # without it, pixels are drawn for the contrast
        stage.analysis = True
        assert {name for name in stage.target_parts if "truth" in name} == parts


def test_without_cutmix_nothing_is_pasted() -> None:
    stage = built(replace(METHOD, cutmix=False), draws=Mixed(0))
    source, target = given(stage)
    shown = stage.step(source, target, show=True).shown
    assert torch.equal(shown.images["training image"], target.weak)
    assert torch.equal(shown.labels["training label"], shown.labels["rectified label"])


@pytest.mark.parametrize("average", [True, False])
def test_without_an_average_the_teacher_equals_the_student(average: bool) -> None:
    stage = built(replace(METHOD, average=average))
    stage.step(*given(stage))
    pairs = zip(stage.ema.state_dict().values(), stage.student.state_dict().values(), strict=True)
    assert all(torch.equal(teacher, student) for teacher, student in pairs) is not average


def test_a_prior_that_nothing_uses_is_not_refreshed() -> None:
    stage = built(replace(METHOD, refresh_prior=1, self_labeling_weight=0.0))
    stage.step(*given(stage))
    assert stage.counter is None and stage.new_prior() is None


def test_the_log_names_the_parts() -> None:
    assert METHOD.described() == (
        "stage 1 with rectified labels, EMA teacher, CutMix, self-labeling, contrast, consistency"
    )
    assert replace(NOTHING, cutmix=False).described() == (
        "stage 1 with nothing; without "
        "rectified labels, EMA teacher, CutMix, self-labeling, contrast, consistency"
    )
    assert "without CutMix" in replace(METHOD, train_on_strong=True).described()  # nothing is pasted there
