"""Paths of the stages that the golden numbers do not take, on a tiny network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.replay import replay_strong
from models import DeepLabV2, FCDiscriminator, SegmentationOutput
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings
from stages.warm_up import SourceOnlyStage, WarmUpStage
from tests.distributed.shared_cases import Unmixed
from tests.golden import inputs
from utils.quirks import Quirks

D = 32
OPTIMISATION = OptimisationSettings(1e-2, 5.0, 100)
METHOD = SelfLabelingSettings(consistency_weight=1.0, pixels=8, queue_length=32)
NONE = Quirks.parse("none")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def network() -> DeepLabV2:
    return DeepLabV2(inputs.K, layers=(1, 1, 1, 1), width=8, feat_channels=D)


def self_labeling(
    optimisation: OptimisationSettings = OPTIMISATION,
    method: SelfLabelingSettings = METHOD,
    quirks: Quirks = NONE,
    draws: BatchDraws | None = None,
) -> SelfLabelingStage:
    prototypes = torch.randn(inputs.K, D)
    return SelfLabelingStage(
        network(), prototypes, inputs.PRIOR, optimisation, method, quirks, draws or Unmixed(0)
    )


def batches() -> tuple:
    source, target = inputs.batches()
    soft_grid = torch.randn(2, inputs.K, 9, 17).softmax(dim=1)
    strong = replace(source, strong=source.image.flip(3), strong_records=inputs.STRONG_RECORDS)
    return strong, replace(target, soft_grid=soft_grid)


def batch_norm_tensors(net: nn.Module) -> list[Tensor]:
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    return [t.clone() for m in norms for t in m.state_dict().values()]


def test_a_clean_reading_of_the_paper_runs_and_the_contrast_waits_for_a_full_queue() -> None:
    stage = self_labeling()
    rows = [stage.step(*batches()).losses for _ in range(3)]
    assert all(torch.isfinite(loss) for row in rows for loss in row.values())
    assert not stage.ema.training and stage.student.training
    # 2 images × 8 pixels an iteration: the 32 rows are full when the third begins.
    assert [float(row["contrast"]) > 0 for row in rows] == [False, False, True]


def test_a_state_of_another_layout_is_refused() -> None:
    """As of an earlier version, which kept the prototypes beside the queues."""
    stage = self_labeling()
    state = stage.state()
    del state["modules"]["self_labeling"]["prototypes"]
    with pytest.raises(ValueError, match="another version"):
        stage.load_state(state)


def test_no_contrast_in_a_mixed_batch() -> None:
    stage = self_labeling(draws=Mixed(0))
    rows = [stage.step(*batches()).losses for _ in range(3)]
    assert float(rows[2]["contrast"]) == 0.0


@pytest.mark.parametrize("quirks", [Quirks.parse("unshuffled_labels"), NONE], ids=["Q4", "none"])
def test_queue_labels_are_those_of_the_pixels_or_with_q4_of_others(quirks: Quirks) -> None:
    source, target = batches()
    stage = self_labeling(quirks=quirks, method=replace(METHOD, queue_length=16))
    outputs: list[SegmentationOutput] = []
    stage.ema.register_forward_hook(lambda _, __, output: outputs.append(output))
    shown = stage.step(source, target, show=True).shown
    ((feats, _),), centres = outputs, F.normalize(shown.clustering.prototypes_ema, dim=1)
    omega = (torch.einsum("bdhw,kd->bkhw", F.normalize(feats, dim=1), centres) / 0.08).softmax(dim=1)
    by_hand = (omega * target.soft_grid).argmax(dim=1)  # (B, 9, 17)
    queue = stage.self_labeling.queues.labels.newest_first()[:, 0].view(2, 8).flip(0)  # last image first
    weak = shown.labels["rectified label"]  # (B, 12, 16)
    for image in range(2):
        for column, flat in enumerate(shown.clustering.pixels[image].tolist()):
            expected = by_hand[image, flat // 17, flat % 17]
            if quirks.unshuffled_labels:  # of the weak crop's first positions
                expected = weak[image, 0, column * weak.shape[2] // 17]
            assert queue[image, column] == expected


def test_frozen_batch_norm_does_not_move() -> None:
    frozen = replace(OPTIMISATION, freeze_bn=True)
    discriminator = FCDiscriminator(inputs.K, 4)
    for stage in (SourceOnlyStage(network(), frozen, NONE), self_labeling(frozen),
                  WarmUpStage(network(), discriminator, frozen, NONE)):  # fmt: skip
        before = batch_norm_tensors(stage.student)
        stage.step(*batches())
        stage.train_mode()
        stage.step(*batches())
        assert all(torch.equal(a, b) for a, b in zip(before, batch_norm_tensors(stage.student), strict=True))


def test_prototypes_learn_unless_finetuning() -> None:
    for learn in (True, False):
        stage = self_labeling(method=replace(METHOD, learn_prototypes=learn))
        before = stage.self_labeling.prototypes.detach().clone()
        stage.step(*batches())
        assert torch.equal(before, stage.self_labeling.prototypes.detach()) != learn


@pytest.mark.parametrize("momentum", [None, 0.5, 0.0])
def test_the_ema_prototypes_have_a_momentum_of_their_own(momentum: float | None) -> None:
    """By default that of the EMA model, 0.999."""
    chosen = {} if momentum is None else {"prototype_momentum": momentum}
    stage = self_labeling(method=replace(METHOD, **chosen))
    part, rate = stage.self_labeling, 1 - (0.999 if momentum is None else momentum)
    before, weight = part.prototypes_ema.clone(), next(stage.ema.parameters()).clone()
    stage.step(*batches())
    learned = part.prototypes.detach()
    assert not torch.equal(learned, before)
    torch.testing.assert_close(part.prototypes_ema, (1 - rate) * before + rate * learned)
    followed = 0.999 * weight + 0.001 * next(stage.student.parameters())
    torch.testing.assert_close(next(stage.ema.parameters()), followed)


class Mixed(BatchDraws):
    """Always CutMix, at a box that no quarter divides."""

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int]:
        return 9, 33, 14, 50


def pasted(label: Tensor, source_label: Tensor) -> Tensor:
    """By hand: a label (B, 12, 16) with the box of `Mixed` from the source's (B, 48, 64)."""
    label = label.clone()
    for image, y, x in np.ndindex(*label.shape):
        if 9 <= 4 * y < 33 and 14 <= 4 * x < 50:
            label[image, y, x] = source_label[image, 4 * y, 4 * x]
    return label


@pytest.mark.parametrize("quirks", [Quirks(), NONE], ids=["reference", "none"])
@pytest.mark.parametrize("draws", [Unmixed, Mixed])
def test_labels_of_the_strong_view(quirks: Quirks, draws: type[BatchDraws]) -> None:
    source, target = batches()
    stage = self_labeling(method=replace(METHOD, train_on_strong=True), quirks=quirks, draws=draws(0))
    forwards = []
    stage.student.register_forward_pre_hook(lambda _, given: forwards.append(given[0]))
    shown = stage.step(source, target, show=True).shown
    assert [image is target.strong for image in forwards] == [False, True]  # source, then target, once
    weak, flags = shown.labels["rectified label"], (quirks.flat_replay, quirks.translate_by_height)
    replayed = replay_strong(weak, inputs.STRONG_RECORDS, 4, 250, *flags)
    as_it_was = weak if draws is Unmixed else pasted(weak, source.label)
    assert torch.equal(shown.labels["training label"], as_it_was if quirks.unreplayed_labels else replayed)
    assert not torch.equal(weak, replayed)


def test_cutmix_pastes_the_source_and_its_label_at_full_resolution() -> None:
    source, target = batches()
    before = target.weak.clone()
    shown = self_labeling(draws=Mixed(0)).step(source, target, show=True).shown
    weak = shown.labels["rectified label"]
    assert torch.equal(shown.labels["training label"], pasted(weak, source.label))
    assert torch.equal(before, target.weak)  # the batch itself is left alone
    before[..., 9:33, 14:50] = source.image[..., 9:33, 14:50]
    assert torch.equal(shown.images["training image"], before)


def test_source_loss_of_the_strong_image_carries_its_weight() -> None:
    losses = []
    for weight in (1.0, 3.0):
        torch.manual_seed(1)
        discriminator = FCDiscriminator(inputs.K, 4)
        stage = WarmUpStage(network(), discriminator, OPTIMISATION, NONE, strong_source_weight=weight)
        losses.append(float(stage.step(*batches()).losses["source"]))
    assert losses[1] == pytest.approx(3 * losses[0], rel=1e-5)


@pytest.mark.parametrize(
    ("strong", "quirks", "student_view", "teacher_view"),
    [
        (True, Quirks(), "strong", "strong"),
        (True, NONE, "strong", "strong"),
        (False, Quirks(), "weak", "strong"),  # Q10
        (False, NONE, "weak", "weak"),
    ],
)
def test_distillation_views(strong: bool, quirks: Quirks, student_view: str, teacher_view: str) -> None:
    """The labels fit the student's view: replayed for the strong one, as they are for the weak one."""
    source, target = batches()
    quarter = target.label[:, ::4, ::4]
    stage = DistillationStage(network(), network(), OPTIMISATION, DistillationSettings(1.0, strong), quirks)
    assert stage.target_parts == {student_view, teacher_view, "label"}
    images: dict[str, list[Tensor]] = {"student": [], "teacher": []}
    for name, net in (("student", stage.student), ("teacher", stage.teacher)):
        net.register_forward_pre_hook(lambda _, given, name=name: images[name].append(given[0]))
    shown = stage.step(source, target, show=True).shown
    assert torch.equal(shown.labels["pseudo label"], quarter) != strong
    assert images["student"][1] is getattr(target, student_view)
    assert images["teacher"] == [getattr(target, teacher_view)]
    assert not stage.teacher.training


def test_all_parts_of_a_distillation_stages_loss_are_logged() -> None:
    method = DistillationSettings(2.0, regulariser_weight=0.5)
    losses = DistillationStage(network(), network(), OPTIMISATION, method, NONE).step(*batches()).losses
    parts = losses["CTS"] + 2 * losses["distill"] + 0.5 * losses["regular"]
    torch.testing.assert_close(losses["total"], parts)


@pytest.mark.parametrize("kind", ["MRKLD", "MRENT"])
def test_the_regulariser_acts_on_logits_at_a_quarter(kind: str) -> None:
    source, target = batches()
    stage = self_labeling(method=replace(METHOD, regulariser_weight=0.5, regulariser=kind))
    outputs: list[Tensor] = []
    stage.student.register_forward_hook(lambda _, __, output: outputs.append(output.logits.detach()))
    got = float(stage.step(source, target).losses["regular"])
    logits = torch.nn.functional.interpolate(outputs[1], (12, 16), mode="bilinear", align_corners=True)
    log_probs = logits.double().log_softmax(dim=1)
    by_hand = -log_probs.mean() if kind == "MRKLD" else (log_probs.exp() * log_probs).sum(dim=1).mean()
    assert got == pytest.approx(float(by_hand), rel=1e-5)


def test_without_distillation_there_is_no_teacher() -> None:
    """Its state goes on in a stage without one, and not in one that has a teacher."""
    first, second = (
        DistillationStage(network(), None, OPTIMISATION, DistillationSettings(0.0, False), NONE)
        for _ in range(2)
    )
    assert first.target_parts == {"weak", "label"}  # the student's view alone
    losses = first.step(*batches()).losses
    assert losses["distill"] == 0 and losses["total"] == losses["CTS"]
    second.load_state(first.state())
    assert all(map(torch.equal, first.student.parameters(), second.student.parameters()))
    taught = DistillationStage(network(), network(), OPTIMISATION, DistillationSettings(1.0), NONE)
    with pytest.raises(ValueError, match="another teacher"):
        taught.load_state(first.state())


def test_cutmix_boxes_have_half_the_area_and_come_half_of_the_time() -> None:
    draws, again = BatchDraws(5), BatchDraws(5)
    boxes = [draws.cutmix_box(512, 896) for _ in range(2000)]
    assert boxes == [again.cutmix_box(512, 896) for _ in range(2000)]
    drawn = [box for box in boxes if box is not None]
    assert 0.45 < len(drawn) / len(boxes) < 0.55
    for y1, y2, x1, x2 in drawn:
        assert 0 <= y1 < y2 <= 512 and 0 <= x1 < x2 <= 896
        assert 256 <= y2 - y1 <= 512 and 448 <= x2 - x1 <= 896
        assert (y2 - y1) * (x2 - x1) == pytest.approx(512 * 896 / 2, rel=0.01)


def test_sampled_pixels_differ_within_an_image_and_between_images() -> None:
    pixels = BatchDraws(0).pixels(2, 50, 20)
    assert pixels.shape == (2, 20) and int(pixels.min()) >= 0 and int(pixels.max()) < 50
    assert all(len(row.unique()) == 20 for row in pixels)
    assert not torch.equal(pixels[0], pixels[1])
    with pytest.raises(ValueError, match="--fbs"):
        BatchDraws(0).pixels(1, 10, 20)
