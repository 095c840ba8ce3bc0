"""Every golden number with ours beside it: the tests judge them, tests.golden.measure prints them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.replay import full_to_weak, replay_strong
from loss import RingQueue, cosines_to_prototypes, queue_contrast, reverse_cross_entropy, sinkhorn
from models import DeepLabV2, FCDiscriminator
from stages.distillation import DistillationSettings, DistillationStage
from stages.self_labeling import SelfLabelingSettings, SelfLabelingStage
from stages.stage import BatchDraws, OptimisationSettings, Stage
from stages.warm_up import WarmUpStage
from tests.golden import inputs
from utils.quirks import Quirks

HERE = Path(__file__).parent
IGNORE = 250


class Pair(NamedTuple):
    """Our value, the golden one, and the magnitude that a deviation is relative to."""

    what: str
    ours: Tensor
    golden: Tensor
    scale: float

    @property
    def deviation(self) -> float:
        """The largest relative deviation."""
        assert self.ours.shape == self.golden.shape, self.what
        return float((self.ours.double() - self.golden.double()).abs().max()) / self.scale


def pair(what: str, ours: object, golden: object, scale: float | None = None) -> Pair:
    """scale: by default the largest golden magnitude."""
    ours, golden = torch.as_tensor(ours).detach(), torch.as_tensor(golden)
    if scale is None:
        scale = float(golden.double().abs().max()) or 1.0
    return Pair(what, ours, golden, scale)


# --- pieces -----------------------------------------------------------------------------------------------


def _feats() -> Tensor:
    """(2, D, 16, 32) features of whole images."""
    return inputs.normal("feat", 2, inputs.D, 16, 32)


def _weak_feats() -> Tensor:
    return full_to_weak(_feats(), inputs.WEAK_RECORDS, inputs.WHOLE)


def _omega() -> Tensor:
    return (cosines_to_prototypes(_weak_feats(), inputs.prototypes()) / 0.08).softmax(dim=1)


def _label(scale: int) -> Tensor:
    """Replayed hard label (B, 1, H, W) at full size or, nearest, at a quarter."""
    label = inputs.hard_label()[:, ::scale, ::scale]
    return replay_strong(label, inputs.STRONG_RECORDS, scale, IGNORE)[:, None].float()


def _contrast() -> Tensor:
    anchors = F.normalize(inputs.normal("anchors", 32, inputs.D), dim=1)
    anchor_labels = inputs.integers("alab", inputs.K, 32, 1)[:, 0]
    queue, queue_labels, _ = inputs.full_queues()
    return queue_contrast(anchors, anchor_labels, queue, queue_labels[:, 0], 0.08)


def _rce() -> Tensor:
    logits = inputs.normal("logits", 2, inputs.K, 12, 16)
    return reverse_cross_entropy(logits, inputs.hard_label()[:, ::4, ::4], IGNORE)


COMPONENTS: dict[str, Callable[[], Tensor]] = {
    "sinkhorn": lambda: sinkhorn(inputs.normal("scores", 300, inputs.K, scale=0.3), inputs.PRIOR, 0.05, 3),
    "full2weak": _weak_feats,
    "proto_weight": _omega,
    "strong_label": lambda: _label(4),
    "strong_label_s1": lambda: _label(1),
    "strong_soft": lambda: replay_strong(inputs.quarter_soft_label(), inputs.STRONG_RECORDS, 4, IGNORE),
    "contrast": _contrast,
    "rce": _rce,
}


def component(name: str) -> Pair:
    """A piece by its golden name."""
    with np.load(HERE / "components.npz") as file:
        # Of replayed probabilities, 1; the ignore id among them is no magnitude.
        scale = 1.0 if name == "strong_soft" else None
        return pair(name, COMPONENTS[name](), np.asarray(file[name]), scale)


def forward() -> list[Pair]:
    """The whole ResNet-101 network in eval mode."""
    network = DeepLabV2(19).eval()
    inputs.fill(network.state_dict())
    with torch.inference_mode():
        feats, logits = network(inputs.uniform("image", 2, 3, 65, 97))
    with np.load(HERE / "forward_r101_bnclr0_k19.npz") as golden:
        return [
            pair("out", logits, golden["out"]),
            pair("feat_mean", feats.mean(dim=(2, 3)), golden["feat_mean"]),
        ]


# --- two iterations of each stage ---------------------------------------------------------------------------

STEPS = json.loads((HERE / "steps.json").read_text())


class FixedDraws(BatchDraws):
    """The first pixels in row-major order and a given CutMix box."""

    def __init__(self, box: tuple[int, int, int, int] | None):
        super().__init__(0)
        self.box = box

    def cutmix_box(self, height: int, width: int) -> tuple[int, int, int, int] | None:
        return self.box

    def pixels(self, images: int, positions: int, count: int) -> Tensor:
        return torch.arange(count).expand(images, -1)


def small_network(salt: str = "") -> DeepLabV2:
    """Filled from the names of its tensors, without dropout."""
    network = DeepLabV2(inputs.K, layers=inputs.LAYERS)
    inputs.fill(network.state_dict(), salt)
    for module in network.modules():
        if isinstance(module, nn.Dropout2d):
            module.p = 0.0
    return network


def _losses(stage: Stage, names: list[str], golden: list[list[float]]) -> Iterator[Pair]:
    """Losses of two iterations on the same batch."""
    source, target = inputs.batches()
    for iteration, expected in enumerate(golden, start=1):
        losses, _ = stage.step(source, target)
        for name, value in zip(names, expected, strict=True):
            yield pair(f"loss {name}, iteration {iteration}", losses[name].double(), value, abs(value) or 1.0)


def _tensors(title: str, state: dict[str, Tensor], golden: dict[str, list[float]]) -> Iterator[Pair]:
    """[sum, L2 norm] of each; a sum may cancel, so it is relative to the norm."""
    for key, (total, norm) in golden.items():
        value = state[key].detach().double()
        yield pair(f"{title} norm {key}", value.norm(), norm, norm)
        yield pair(f"{title} sum {key}", value.sum(), total, norm)


def _rates(rates: list[float], golden: list[float]) -> Pair:
    return pair("learning rates", torch.tensor(rates).double(), torch.tensor(golden).double())


def self_labeling_stage(
    quirks: Quirks, box: tuple[int, int, int, int] | None = None, strong: bool = False
) -> SelfLabelingStage:
    """Stage 1 with full queues. box: of CutMix; strong: with --S_pseudo."""
    method = SelfLabelingSettings(
        consistency_weight=5.0, symmetric=True, pixels=inputs.P, queue_length=inputs.N, train_on_strong=strong
    )
    settings, draws = OptimisationSettings(1e-4, 5.0, 90000), FixedDraws(box)
    stage = SelfLabelingStage(
        small_network(), inputs.prototypes(), inputs.PRIOR, settings, method, quirks, draws
    )
    for ring, rows in zip(queues_of(stage).values(), inputs.full_queues(), strict=True):
        ring.enqueue_(rows)
    return stage


def queues_of(stage: SelfLabelingStage) -> dict[str, RingQueue]:
    """By their golden names."""
    queues = stage.self_labeling.queues
    return {"q": queues.features, "ql": queues.labels, "qo": queues.predictions}


def distillation_stage(quirks: Quirks, strong: bool = True) -> DistillationStage:
    """Stage 2; strong: with --S_pseudo."""
    settings = OptimisationSettings(6e-4, 10.0, 90000)
    method = DistillationSettings(1.0, strong)
    return DistillationStage(small_network(), small_network("teacher."), settings, method, quirks)


def warm_up_stage(quirks: Quirks, strong_source_weight: float = 0.0) -> WarmUpStage:
    """strong_source_weight: --S_pseudo_src."""
    discriminator = FCDiscriminator(inputs.K)
    inputs.fill(discriminator.state_dict(), "disc.")
    settings = OptimisationSettings(2.5e-4, 10.0, 90000)
    return WarmUpStage(
        small_network(), discriminator, settings, quirks, strong_source_weight=strong_source_weight
    )


def stage1(case: str, box: tuple[int, int, int, int] | None) -> Iterator[Pair]:
    """`stage1_nocutmix` or `stage1_cutmix`."""
    stage, golden = self_labeling_stage(Quirks(), box), STEPS[case]
    rings = queues_of(stage)
    yield from _losses(stage, ["total", "CTS", "consist", "SL", "contrast"], golden["losses"])
    yield from _tensors("student", stage.student.state_dict(), golden["student"])
    yield from _tensors("EMA", stage.ema.state_dict(), golden["ema"])
    prototypes = {"p": stage.self_labeling.prototypes, "pe": stage.self_labeling.prototypes_ema}
    yield from _tensors("prototypes", prototypes, golden["prototypes"])
    yield from _tensors("queue", {name: ring.rows for name, ring in rings.items()}, golden["queue"])
    newest = rings["q"].newest_first()[0].sum()
    yield pair("newest queue row", newest, golden["queue_first_row_sum"], 1.0)
    yield _rates(list(stage.learning_rates().values()), golden["lr"])


def distillation() -> Iterator[Pair]:
    """`distill`."""
    stage, golden = distillation_stage(Quirks()), STEPS["distill"]
    yield from _losses(stage, ["source", "total"], golden["losses"])
    yield from _tensors("student", stage.student.state_dict(), golden["student"])
    yield _rates(list(stage.learning_rates().values()), golden["lr"])


def warm_up() -> Iterator[Pair]:
    """`warm_up`."""
    stage, golden = warm_up_stage(Quirks()), STEPS["warm_up"]
    yield from _losses(stage, ["source", "adversarial", "discriminator"], golden["losses"])
    yield from _tensors("student", stage.student.state_dict(), golden["student"])
    yield from _tensors("discriminator", stage.discriminator.state_dict(), golden["disc"])
    discriminator_rate = stage.disc_optimizer.param_groups[0]["lr"]
    yield _rates([discriminator_rate, *stage.learning_rates().values()], [*golden["lr"][0], *golden["lr"][1]])


STAGES: dict[str, Callable[[], Iterator[Pair]]] = {
    "stage1_nocutmix": lambda: stage1("stage1_nocutmix", None),
    "stage1_cutmix": lambda: stage1("stage1_cutmix", (10, 34, 12, 50)),
    "distill": distillation,
    "warm_up": warm_up,
}
