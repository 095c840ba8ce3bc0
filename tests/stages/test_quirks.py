"""Each quirk switched on and off in the stage that it belongs to, against a form written out by hand.

Q4 and Q10 are in test_stages_paths, Q6 in test_loss_self_labeling, Q9 in tests/cli/test_scripts.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data.augment.replay import replay_strong
from data.augment.strong import StrongRecord
from models import DeepLabV2, FCDiscriminator, SegmentationOutput
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings
from stages.warm_up import SourceOnlyStage, WarmUpStage
from tests.golden import inputs
from utils.quirks import Quirks

OPTIMISATION = OptimisationSettings(1e-2, 5.0, 100)


def network(seed: int = 0) -> DeepLabV2:
    torch.manual_seed(seed)
    return DeepLabV2(inputs.K, layers=(1, 1, 1, 1), width=8, feat_channels=32)


def without_dropout(net: DeepLabV2) -> DeepLabV2:
    net.layer5.head[0].p = 0.0
    return net


# Updates of a weight, by the start of its name.
TIMES = {"conv1.": 1, "layer1.0.conv2.": 3, "layer3.0.downsample.0.": 4, "layer5.": 1}


@pytest.mark.parametrize("quirk", ["repeated_updates", "none"])
def test_repeated_updates(quirk: str) -> None:
    source, _ = inputs.batches()
    stage = SourceOnlyStage(without_dropout(network()), OPTIMISATION, Quirks.parse(quirk))
    before = {k: p.detach().clone() for k, p in stage.student.named_parameters()}
    gradients: dict[str, Tensor] = {}
    for name, parameter in stage.student.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda p, n=name: gradients.update({n: p.grad.clone()}))
    stage.step(source, None)
    for prefix, repeats in TIMES.items():
        key = next(k for k in before if k.startswith(prefix) and k.endswith("weight"))
        p, rate = before[key].double(), 1e-2 * (5 if prefix == "layer5." else 1)
        # The first step: each repetition starts its buffer anew.
        for _ in range(1 if quirk == "none" else repeats):
            p = p - rate * (gradients[key].double() + 2e-4 * p)
        torch.testing.assert_close(stage.student.get_parameter(key).double(), p, rtol=1e-5, atol=1e-7)


def self_labeling(quirks: Quirks) -> SelfLabelingStage:
    torch.manual_seed(3)
    prototypes = torch.randn(inputs.K, 32)
    method = SelfLabelingSettings(pixels=8, queue_length=32)
    return SelfLabelingStage(
        without_dropout(network()), prototypes, inputs.PRIOR, OPTIMISATION, method, quirks, BatchDraws(0)
    )


@pytest.mark.parametrize("name", ["ema_train_mode", "none"])
def test_ema_train_mode(name: str) -> None:
    quirks, train = Quirks.parse(name), name != "none"
    source, target = inputs.batches()
    target = replace(target, soft_grid=torch.ones(inputs.B, inputs.K, 9, 17))
    stage, alone = self_labeling(quirks), without_dropout(network()).train(train)
    assert stage.ema.layer5.head[0].training == train
    outputs: list[SegmentationOutput] = []
    stage.ema.register_forward_hook(lambda _, __, output: outputs.append(output))
    stage.step(source, target)
    students, own = (dict(module.named_buffers()) for module in (stage.student, stage.ema))
    for name, start in alone.named_buffers():
        averages = not train and start.is_floating_point()
        expected = 0.999 * start + 0.001 * students[name] if averages else students[name]
        torch.testing.assert_close(own[name], expected, msg=name)
        assert not torch.equal(students[name], start)
    with torch.no_grad():
        expected = alone(target.whole)
    torch.testing.assert_close(outputs, [expected])


@pytest.mark.parametrize("name", ["kd_probabilities", "none"])
def test_kd_probabilities(name: str) -> None:
    quirks, probs = Quirks.parse(name), name != "none"
    source, target = inputs.batches()
    student, teacher = without_dropout(network(0)), network(1)
    stage = DistillationStage(student, teacher, OPTIMISATION, DistillationSettings(1.0), quirks)
    seen: list[Tensor] = []
    student.register_forward_hook(lambda _, __, output: seen.append(output.logits.detach()))
    got = float(stage.step(source, target).losses["distill"])
    with torch.no_grad():
        t = F.interpolate(teacher(target.strong).logits, (12, 16), mode="bilinear", align_corners=True)
        s = F.interpolate(seen[1], (12, 16), mode="bilinear", align_corners=True)
    t, s = t.double().softmax(1), s.double().softmax(1)
    expected = (t * (t.log() - (s if probs else s.log()))).mean()
    assert got == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    "names", ["flat_replay", "translate_by_height", "flat_replay,translate_by_height", "none"]
)
@pytest.mark.parametrize("kind", ["labels", "probabilities"])
def test_replay_switches_reach_the_replay(names: str, kind: str) -> None:
    twice = StrongRecord(operations=(("TranslateX", 20), ("TranslateX", -9)))
    records = [twice, inputs.STRONG_RECORDS[0]]
    flags = ("flat_replay" in names, "translate_by_height" in names)
    stage = SourceOnlyStage(network(), OPTIMISATION, Quirks.parse(names))
    maps = inputs.hard_label()[:, ::4, ::4] if kind == "labels" else inputs.quarter_soft_label()
    outcomes = {f: replay_strong(maps, records, 4, 250, *f) for f in product((True, False), repeat=2)}
    replayed = stage.replay(maps, records)
    assert [f for f, outcome in outcomes.items() if torch.equal(replayed, outcome)] == [flags]


@pytest.mark.parametrize("name", ["source_replay_scale", "none"])
def test_source_replay_scale(name: str) -> None:
    quirks, scale = Quirks.parse(name), 8 if name == "none" else 4
    source, target = inputs.batches()
    source = replace(source, strong=source.image.flip(3), strong_records=inputs.STRONG_RECORDS)
    student = without_dropout(network())
    seen: list[Tensor] = []
    student.register_forward_hook(lambda _, __, output: seen.append(output.logits.detach()))
    discriminator = FCDiscriminator(inputs.K, 4)
    stage = WarmUpStage(student, discriminator, OPTIMISATION, quirks, strong_source_weight=1.0)
    got = float(stage.step(source, target).losses["source"])
    h, w = seen[0].shape[2:]
    rows, columns = torch.arange(h) * 48 // h, torch.arange(w) * 64 // w  # nearest
    label = source.label[:, rows][:, :, columns]
    flags = (quirks.flat_replay, quirks.translate_by_height)
    label = replay_strong(label, inputs.STRONG_RECORDS, scale, 250, *flags)
    log_probs = seen[0].double().log_softmax(1)
    picked = [
        float(log_probs[b, label[b, y, x], y, x])
        for b in range(2) for y in range(h) for x in range(w) if label[b, y, x] != 250
    ]  # fmt: skip
    assert got == pytest.approx(-sum(picked) / len(picked), rel=1e-5)
