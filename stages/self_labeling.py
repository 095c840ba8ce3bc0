"""Stage 1: self-training on rectified pseudo labels with class-balanced pixel-level self-labeling.

Letters: B images, K classes, D feature channels, H×W crop or image, h×w grid, P pixels sampled per image.
"weak" and "strong" are views of one crop of the target image, "whole" is the image that it was cut from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.replay import full_to_weak
from data.labels import IGNORE
from data.loaders import SourceBatch, TargetBatch
from loss import (
    ClassCounter,
    SelfLabeling,
    confidence_regulariser,
    cosines_to_prototypes,
    cross_entropy,
    prototype_consistency,
    queue_contrast,
    rectified_label,
    symmetric_cross_entropy,
    take_pixels,
)
from models import Compute, SegmentationOutput, ema_copy, ema_update_
from stages.stage import PLAIN, BatchDraws, OptimisationSettings, Stage, quarter, resize_logits
from utils.checkpoint import NETWORK
from utils.quirks import Quirks
from utils.transfer import sent

EMA_MOMENTUM = 0.999
PROTOTYPE_MULTIPLE = 5.0  # of the backbone's learning rate
Box = tuple[int, int, int, int]  # y1, y2, x1, x2


@dataclass(frozen=True)
class SelfLabelingSettings:
    """Weights and constants of the method; the comments name the options that set them."""

    self_labeling_weight: float = 0.1  # SL_lambda
    contrast_weight: float = 0.001  # contrast_lambda
    consistency_weight: float = 1.0  # proto_consistW
    symmetric: bool = False  # rce
    rce_alpha: float = 0.1
    rce_beta: float = 1.0
    label_threshold: float = 0.0  # train_thred
    train_on_strong: bool = False  # S_pseudo > 0
    regulariser_weight: float = 0.0  # regular_w
    regulariser: str = "MRKLD"  # regular_type
    pixels: int = 256  # fbs, per image
    queue_length: int = 65536
    temperature: float = 0.08
    epsilon: float = 0.05
    sinkhorn_iterations: int = 3
    learn_prototypes: bool = True  # not finetune
    refresh_prior: int | None = None  # refresh_distribution: every so many iterations


class TeacherView(NamedTuple):
    """What the EMA model sees in the whole images, without gradient."""

    feats: Tensor  # (B, D, h, w), whole image
    logits: Tensor  # (B, K, h, w), whole image
    probs_weak: Tensor  # (B, K, H/4, W/4): softmax of the weak crop's cosines to the prototypes, ω
    label_weak: Tensor  # (B, H/4, W/4): rectified label


class SelfLabelingStage(Stage):
    """The paper's section 3.

    prototypes: centroids (K, D) of calc_prototype; prior: (K,) class marginal to begin with.
    """

    def __init__(
        self,
        student: nn.Module,
        prototypes: Tensor,
        prior: Tensor,
        optimisation: OptimisationSettings,
        method: SelfLabelingSettings,
        quirks: Quirks,
        draws: BatchDraws,
        compute: Compute = PLAIN,
    ):
        self.method = method
        self.prototypes = nn.Parameter(F.normalize(prototypes, dim=1), requires_grad=method.learn_prototypes)
        self.prototypes_ema = self.prototypes.detach().clone()
        own = {
            "params": [self.prototypes],
            "lr": optimisation.lr * PROTOTYPE_MULTIPLE,
            "repeats": 1,
            "name": "prototypes",
        }
        self.ema = ema_copy(student)
        extra = [own] if method.learn_prototypes else []
        super().__init__(student, optimisation, quirks, extra, draws, compute)
        compute.prepare(self.ema)
        self.self_labeling = SelfLabeling(
            prior,
            prototypes.shape[1],
            method.queue_length,
            method.temperature,
            method.epsilon,
            method.sinkhorn_iterations,
            quirks.raw_queue_scores,
            self.processes.gather,
            self.processes.rank,
        ).to(prototypes.device)
        self.counter = None  # of the EMA model's predictions, for the next prior
        if method.refresh_prior is not None:
            self.counter = ClassCounter(len(prior), self.processes.sum).to(prototypes.device)
        self._refreshed = False

    @property
    def target_parts(self) -> frozenset[str]:
        """The parts of a target sample that the stage looks at."""
        parts = {"weak", "strong", "whole", "soft_quarter"}
        return frozenset(parts if self.quirks.unshuffled_labels else parts | {"soft_grid"})

    def train_mode(self) -> None:
        """The EMA model too with Q2, else in eval mode."""
        super().train_mode()
        self.ema.train(self.quirks.ema_train_mode)

    def learn(self, source: SourceBatch, target: TargetBatch) -> dict[str, Tensor]:
        """The forward and backward passes of the paper's algorithm."""
        source_loss = self.learn_source(source)
        box = self.draws.cutmix_box(*target.weak.shape[2:])
        seen = self.teacher_view(target)
        if self.counter is not None:
            self.counter.add_(seen.logits)
        label = self.training_label(source, target, seen, box)
        image = self.training_image(source, target, box)
        # Dropout of both views is drawn before the pixels: the order of draws decides what a seed gives.
        dropout = self.dropout(self.learner, image)
        apart = self.method.consistency_weight > 0 and not self.method.train_on_strong
        strong_dropout = self.dropout(self.learner, target.strong) if apart else None

        earlier = self.take_gradients() if apart else {}
        with self.accumulating(apart):
            output = self.compute(self.learner, image, dropout)
            pixels = self.sampled_pixels(seen.feats)
            queue_labels = self.queue_labels(target, seen, pixels)
            losses = {"CTS": self.self_train(output, label)}
            self.self_labeling.kept = [] if self.view else None
            losses["SL"], queue_was_full = self.self_labeling_loss(seen, pixels, queue_labels)
            losses["contrast"] = losses["SL"].new_zeros(())
            if box is None and queue_was_full:
                losses["contrast"] = self.contrast(output, seen, label)
            if self.method.regulariser_weight > 0:
                losses["regular"] = self.regulariser(output, label)
            if not apart:
                losses["consist"] = self.consistency(output, seen, target)
            self.backward(self.weigh(losses))
        if apart:  # the weak view's activations are gone before those of the strong view come
            self.add_gradients(earlier)
            strong = self.compute(self.learner, target.strong, strong_dropout)
            losses["consist"] = self.consistency(strong, seen, target)
            # The classifier takes no part; the 0 tells DistributedDataParallel that its gradient is complete.
            self.backward(self.weigh({"consist": losses["consist"]}) + 0 * strong.logits.sum())
        self._sum_prototype_gradients()
        if self.view:
            self._show(source, target, seen, output, label, pixels, box)
        losses = {name: loss.detach() for name, loss in losses.items()}
        return {"total": self.weigh(losses)} | losses | {"source": source_loss}

    def _show(
        self,
        source: SourceBatch,
        target: TargetBatch,
        seen: TeacherView,
        output: SegmentationOutput,
        label: Tensor,
        pixels: Tensor,
        box: Box | None,
    ) -> None:
        images = {"weak view": target.weak, "strong view": target.strong, "whole image": target.whole}
        images["training image"] = self.training_image(source, target, box)
        labels = {"soft label": target.soft_quarter.argmax(dim=1), "rectified label": seen.label_weak}
        labels["training label"] = label
        self.view.add_target(images, labels, {"prediction": output.logits})
        self.view.add_rectification(target.soft_quarter, seen.probs_weak)
        self.view.add_assignments(self.self_labeling, target.whole, pixels, seen.feats.shape[2:])
        self.view.add_queue(self.self_labeling.labels, len(self.prototypes))
        self.view.add_prototypes(self.prototypes.detach(), self.prototypes_ema)

    @torch.no_grad()
    def teacher_view(self, target: TargetBatch) -> TeacherView:
        """EMA features of the whole image, and the weak crop's labels rectified by them (section 3.2)."""
        feats, logits = self.forward(self.ema, target.whole)
        feats_weak = full_to_weak(
            feats, target.weak_records, tuple(target.whole.shape[2:])
        )  # (B, D, H/4, W/4)
        probs_weak = self._prototype_probs(feats_weak)
        label_weak = rectified_label(probs_weak, target.soft_quarter, self.method.label_threshold, IGNORE)
        return TeacherView(feats, logits, probs_weak, label_weak)

    def _prototype_probs(self, feats: Tensor) -> Tensor:
        """ω: softmax over the K cosines to the EMA prototypes."""
        return (cosines_to_prototypes(feats, self.prototypes_ema) / self.method.temperature).softmax(dim=1)

    def training_image(self, source: SourceBatch, target: TargetBatch, box: Box | None) -> Tensor:
        """What the student self-trains on: the weak view with CutMix; or the strong view, never mixed."""
        if self.method.train_on_strong:
            return target.strong
        return _paste(target.weak, source.image, box)

    def training_label(
        self, source: SourceBatch, target: TargetBatch, seen: TeacherView, box: Box | None
    ) -> Tensor:
        """The rectified label (B, H/4, W/4) with the source's pasted into the CutMix box."""
        if self.method.train_on_strong and not self.quirks.unreplayed_labels:
            return self.replay(seen.label_weak, target.strong_records)
        if box is None:
            return seen.label_weak
        full = seen.label_weak.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)  # (B, H, W)
        return _paste(full, source.label, box)[:, ::4, ::4]

    def self_train(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        """Cross-entropy, or symmetric cross-entropy, of the target."""
        logits = resize_logits(output.logits, label.shape[1:])
        if self.method.symmetric:
            alpha, beta = self.method.rce_alpha, self.method.rce_beta
            return symmetric_cross_entropy(logits, label, IGNORE, alpha, beta, self.processes.sum)
        return cross_entropy(logits, label, IGNORE, self.processes.sum)

    def sampled_pixels(self, maps: Tensor) -> Tensor:
        """(B, P) random flat positions of maps (B, C, h, w), on their device."""
        drawn = self.draws.pixels(len(maps), maps[0, 0].numel(), self.method.pixels)
        return sent(drawn, maps.device)

    def queue_labels(self, target: TargetBatch, seen: TeacherView, pixels: Tensor) -> Tensor:
        """Labels (B, P) that enter the queue with the sampled pixels of the whole image."""
        if self.quirks.unshuffled_labels:
            return self._weak_label_on_whole_grid(seen)[:, : pixels.shape[1]]
        probs = self._prototype_probs(seen.feats)  # (B, K, h, w)
        soft = resize_logits(target.soft_grid, seen.feats.shape[2:])
        label = rectified_label(probs, soft, self.method.label_threshold, IGNORE)
        return label.flatten(1).gather(1, pixels)

    @staticmethod
    def _weak_label_on_whole_grid(seen: TeacherView) -> Tensor:
        """Q4: the weak crop's label stretched over the whole image's grid, flat (B, h·w)."""
        label = F.interpolate(seen.label_weak[:, None].float(), size=seen.feats.shape[2:], mode="nearest")
        return label.flatten(1).long()

    def self_labeling_loss(self, seen: TeacherView, pixels: Tensor, labels: Tensor) -> tuple[Tensor, bool]:
        """L_SL: online class-balanced assignments of sampled pixels (section 3.3)."""
        feats, logits = take_pixels(seen.feats, pixels), take_pixels(seen.logits, pixels)
        return self.self_labeling(feats, logits, labels, self.prototypes)

    def contrast(self, output: SegmentationOutput, seen: TeacherView, label: Tensor) -> Tensor:
        """Student pixels of the crop, of label (B, H/4, W/4), against the queue of EMA features."""
        grid, pixels = output.feats.shape[2:], self.sampled_pixels(output.feats)
        if self.quirks.unshuffled_labels:
            grid_label = self._weak_label_on_whole_grid(seen)
        else:
            grid_label = F.interpolate(label[:, None].float(), size=grid, mode="nearest").flatten(1).long()
        anchors = take_pixels(output.feats, pixels).flatten(0, 1)  # (B·P, D)
        anchor_labels = grid_label.gather(1, pixels).flatten()
        queue, queue_labels = self.self_labeling.features.rows, self.self_labeling.labels.rows[:, 0]
        loss = queue_contrast(anchors, anchor_labels, queue, queue_labels, self.method.temperature)
        return loss / self.processes.size

    def regulariser(self, output: SegmentationOutput, label: Tensor) -> Tensor:
        """ProDA's regulariser of the target's logits, at the size of the label (`--regular_w`)."""
        logits = resize_logits(output.logits, label.shape[1:])
        return confidence_regulariser(logits, self.method.regulariser) / self.processes.size

    def consistency(self, strong: SegmentationOutput, seen: TeacherView, target: TargetBatch) -> Tensor:
        """The student's cosines on the strong view follow the EMA model's, moved as the view was."""
        if self.method.consistency_weight <= 0:
            return seen.feats.new_zeros(())
        replayed = self.replay(seen.probs_weak, target.strong_records)
        mask = replayed != IGNORE
        feats = resize_logits(strong.feats, quarter(target.strong.shape[2:]))
        cosines = cosines_to_prototypes(feats, self.prototypes_ema)
        return prototype_consistency(replayed, mask, cosines, self.method.temperature, self.processes.sum)

    def weigh(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum that is differentiated; the source's loss already was."""
        method = self.method
        weights = {
            "CTS": 1.0,
            "SL": method.self_labeling_weight,
            "contrast": method.contrast_weight,
            "consist": method.consistency_weight,
            "regular": method.regulariser_weight,
        }
        return sum(weights[name] * loss for name, loss in losses.items())

    def _sum_prototype_gradients(self) -> None:
        """`backward` has scaled shares for the network, whose gradients become a mean; this is a sum."""
        if self.prototypes.grad is not None and self.processes.size > 1:
            self.prototypes.grad.div_(self.processes.size)
            self.processes.sum_gradients([self.prototypes])

    def update(self) -> None:
        """SGD, then the EMA model and the EMA prototypes follow."""
        super().update()
        ema_update_(self.ema, self.student, EMA_MOMENTUM)
        self.prototypes_ema.lerp_(self.prototypes.detach(), 1.0 - EMA_MOMENTUM)

    def advance(self, update: bool = True) -> None:
        """Also refreshes the prior when that is due, though not after an iteration that was skipped."""
        super().advance(update)
        every = self.method.refresh_prior
        self._refreshed = every is not None and update and self.iteration % every == 0
        if self._refreshed:
            self.self_labeling.prior.copy_(self.counter.take_())

    def new_prior(self) -> Tensor | None:
        """The prior (K,) if the last iteration has refreshed it."""
        return self.self_labeling.prior if self._refreshed else None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """With the EMA model, the queues and the prior, and the counts for the next prior."""
        modules = super().modules | {"ema": self.ema, "self_labeling": self.self_labeling}
        return modules if self.counter is None else modules | {"counter": self.counter}

    def state(self) -> dict:
        """With both kinds of prototypes."""
        return super().state() | {"prototypes": self.prototypes.data, "prototypes_ema": self.prototypes_ema}

    def load_state(self, state: dict) -> None:
        """With both kinds of prototypes."""
        super().load_state(state)
        self.prototypes.data.copy_(state["prototypes"])
        self.prototypes_ema.copy_(state["prototypes_ema"])

    def released_state(self) -> dict:
        """With the EMA prototypes."""
        state = super().released_state()
        state[NETWORK]["prototypes_ema"] = self.prototypes_ema
        return state


def _paste(onto: Tensor, from_: Tensor, box: Box | None) -> Tensor:
    """`onto` (B, …, H, W) with the box of `from_`; the batches may differ in size at an epoch's end."""
    if box is None:
        return onto
    y1, y2, x1, x2 = box
    pasted = onto.clone()
    images = min(len(onto), len(from_))
    pasted[:images, ..., y1:y2, x1:x2] = from_[:images, ..., y1:y2, x1:x2]
    return pasted
