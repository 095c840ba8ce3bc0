"""Stage 1: self-training on rectified pseudo labels with class-balanced pixel-level self-labeling.

Letters: B images, K classes, D feature channels, H×W crop, P pixels sampled per image; h×w is the network's
grid (an eighth) of the crop, h̄×w̄ that of the whole image. `weak` and `strong` are two augmentations of one
target crop, `whole` is the image it was cut from. f̄ and η̄ are features of the EMA model and prototypes that
follow η. docs/method.md has the equations.

Several processes: each term is the part of this process's images, and the parts add up to the loss of the
whole batch. `processes.sum` makes counts those of the whole batch; where a mean is over images of equal size,
it is divided by `processes.size` instead.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.augment.replay import full_to_weak
from data.batches import SourceBatch, TargetBatch
from data.labels import IGNORE
from loss import (
    ClassBalancedSelfLabeling,
    ClassCounter,
    confidence_regulariser,
    cosines_to_prototypes,
    prototype_consistency,
    queue_contrast,
    rectified_label,
    take_pixels,
)
from models import Compute, SegmentationOutput, ema_copy, ema_update_
from stages.analysis import Tally
from stages.stage import (
    PLAIN,
    BatchDraws,
    Clustering,
    Learned,
    OptimisationSettings,
    Shown,
    Stage,
    detached,
    quarter,
    resize_bilinear,
    resize_label,
    self_training_loss,
)
from utils.checkpoint import NETWORK
from utils.distributed import sent
from utils.quirks import Quirks

EMA_MOMENTUM = 0.999
PROTOTYPE_MULTIPLE = 5.0  # of the backbone's learning rate
Box = tuple[int, int, int, int]  # y1, y2, x1, x2


@dataclass(frozen=True)
class SelfLabelingSettings:
    """Weights and constants of the method; the comments name the options that set them.

    What a weight of 0 or a switch turns off is not computed, and its loss is 0.
    """

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
    prototype_momentum: float = EMA_MOMENTUM  # prototype_ema
    learn_prototypes: bool = True  # not finetune
    rectify: bool = True  # proto_rectify; else the soft labels as they are
    cutmix: bool = True  # not no_cutmix
    average: bool = True  # ema; else the teacher equals the student
    refresh_prior: int | None = None  # refresh_distribution: every so many iterations

    @property
    def uses_omega(self) -> bool:
        """True if a part that is on uses ω."""
        return self.rectify or self.consistency_weight > 0

    @property
    def uses_queue(self) -> bool:
        """True if a part that is on uses the queues."""
        return self.self_labeling_weight > 0 or self.contrast_weight > 0

    @property
    def uses_teacher(self) -> bool:
        """True if a part that is on uses outputs of the EMA model."""
        return self.uses_omega or self.uses_queue

    def described(self) -> str:
        """Name the parts that are on, and those that are off."""
        parts = {
            "rectified labels": self.rectify,
            "EMA teacher": self.average and self.uses_teacher,
            "CutMix": self.cutmix and not self.train_on_strong,
            "self-labeling": self.self_labeling_weight > 0,
            "contrast": self.contrast_weight > 0,
            "consistency": self.consistency_weight > 0,
        }
        on, off = ([name for name, used in parts.items() if used is which] for which in (True, False))
        return f"stage 1 with {', '.join(on) or 'nothing'}" + (f"; without {', '.join(off)}" if off else "")


class SelfLabelingStage(Stage):
    """The paper's section 3.

    prototypes: centroids (K, D) of calc_prototype; prior: class distribution (K,) to begin with. analysis:
    count how right labels are, which changes nothing else.
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
        analysis: bool = False,
    ):
        self.method, self.analysis = method, analysis
        self.self_labeling = ClassBalancedSelfLabeling(
            prototypes,
            prior,
            method.pixels,
            method.queue_length,
            method.temperature,
            method.epsilon,
            method.sinkhorn_iterations,
            method.prototype_momentum,
            quirks.raw_queue_scores,
            IGNORE,
            absent_classes=True,  # one that is never predicted has a centroid of 0
        )
        self.self_labeling.requires_grad_(method.learn_prototypes)
        self.prototypes_start = self.self_labeling.prototypes.detach().clone()
        self.tally = Tally(len(prior), prototypes.device) if analysis else None
        own = {
            "params": [self.self_labeling.prototypes],
            "lr": optimisation.lr * PROTOTYPE_MULTIPLE,
            "repeats": 1,
            "name": "prototypes",
        }
        self.ema = ema_copy(student)
        extra = [own] if method.learn_prototypes else []
        super().__init__(student, optimisation, quirks, extra, draws, compute)
        compute.prepare(self.ema)
        self.counter = None  # of the EMA model's predictions, for the next prior
        if method.refresh_prior is not None and method.self_labeling_weight > 0:
            self.counter = ClassCounter(len(prior), self.processes.sum).to(prototypes.device)
        self._refreshed = False

    @property
    def target_parts(self) -> frozenset[str]:
        """The parts of a target sample that the stage uses."""
        strong = self.method.consistency_weight > 0 or self.method.train_on_strong
        parts = {
            "weak": True,
            "soft_quarter": True,
            "strong": strong,
            "whole": self.method.uses_teacher,
            "soft_grid": self.method.uses_queue and not self.quirks.unshuffled_labels,
            "truth_quarter": self.analysis,
            "truth_grid": self.analysis and self.method.self_labeling_weight > 0,
        }
        return frozenset(name for name, used in parts.items() if used)

    def train_mode(self) -> None:
        """Set the EMA model to training mode too with Q2, else to eval mode."""
        super().train_mode()
        self.ema.train(self.quirks.ema_train_mode)

    def learn(self, source: SourceBatch, target: TargetBatch, show: bool = False) -> Learned:
        """Do one iteration of the paper's algorithm up to the gradients; fill the queues and the counter."""
        method, sl, processes, tau = self.method, self.self_labeling, self.processes, self.method.temperature

        # ============ source: CE(x_s, y_s), backward at once ============
        source_loss, source_logits = self.learn_source(source)
        box = self.draws.cutmix_box(*target.weak.shape[2:]) if method.cutmix else None  # or None by chance

        # ============ section 3.2, rectified pseudo labels: ŷ = argmax ω·p_soft ============
        whole = omega = None
        with torch.no_grad():  # ω = softmax(cos(f̄, η̄)/τ)
            if method.uses_teacher:
                whole = self.forward(self.ema, target.whole)  # feats (B, D, h̄, w̄), logits (B, K, h̄, w̄)
            if method.uses_omega:
                feats = full_to_weak(whole.feats, target.weak_records, target.whole.shape[2:])
                omega = sl.omega(feats)  # (B, K, H/4, W/4)
            label_weak = self.pseudo_label(omega, target.soft_quarter)  # (B, H/4, W/4)
        if self.counter is not None:  # for the next class prior
            self.counter.add_(whole.logits)

        # ============ section 3.2, self-training with CutMix: L_CTS = CE(p, ŷ), or α·CE + β·RCE ============
        image = _paste(target.weak, source.image, box)  # (B, 3, H, W)
        label = _paste_quarter(label_weak, source.label, box)  # (B, H/4, W/4)
        if method.train_on_strong:
            image = target.strong
            if not self.quirks.unreplayed_labels:  # Q10
                label = self.replay(label_weak, target.strong_records)
        # Dropout of both views is drawn before the pixels: the order of draws decides what a seed gives.
        two_views = method.consistency_weight > 0 and not method.train_on_strong
        dropout = self.dropout(self.student_ddp, image)  # (B, D)
        dropout_strong = self.dropout(self.student_ddp, target.strong) if two_views else None
        source_gradients = self.take_gradients() if two_views else {}  # to be added back in one operation
        with self.accumulating(two_views):
            student = self.compute(self.student_ddp, image, dropout)  # (B, D, h, w), (B, K, h, w)
        logits_quarter = resize_bilinear(student.logits, label.shape[1:])  # (B, K, H/4, W/4)
        losses = {"CTS": self_training_loss(logits_quarter, label, method, processes.sum)}
        if method.regulariser_weight > 0:
            losses["regular"] = confidence_regulariser(logits_quarter, method.regulariser) / processes.size

        # ============ section 3.3, balanced assignments Q: L_SL = −Σ Q·ln softmax(cos(f̄, η)/τ) ============
        losses["SL"] = losses["contrast"] = losses["consist"] = losses["CTS"].new_zeros(())
        pixels, queue_was_full, assignments = None, False, []
        if method.uses_queue:
            pixels = self.sampled_pixels(whole.feats)  # (B, P)
            label_pixels = self.queue_labels(label_weak, target, whole, pixels)  # (B, P)
            sampled_feats = F.normalize(take_pixels(whole.feats, pixels), dim=2)  # (B, P, D)
            sampled_logits = F.normalize(take_pixels(whole.logits, pixels), dim=2)  # (B, P, K)
            gathered = map(processes.gather, (sampled_feats, sampled_logits, label_pixels[..., None]))
            own = processes.part(range(processes.size * len(pixels)))  # its images; all fill the queues
            own = own if method.self_labeling_weight > 0 else range(0)
            losses["SL"], queue_was_full, assignments = sl.sampled_loss(*gathered, own, show or self.analysis)
        self._count(target, label_weak, pixels, assignments)

        # ========= contrast, l = cos(f, queue)/τ: L_con = −mean [l_pos − ln(e^l_pos + Σ e^l_neg)] =========
        if method.contrast_weight > 0 and box is None and queue_was_full:  # without pixels of the source
            anchors = self.sampled_pixels(student.feats)  # (B, P)
            anchor_feats = take_pixels(student.feats, anchors).flatten(0, 1)  # (B·P, D)
            of, grid = (label_weak, whole) if self.quirks.unshuffled_labels else (label, student)  # Q4
            label_grid = resize_label(of, grid.feats.shape[2:]).flatten(1)  # (B, h·w)
            anchor_labels = label_grid.gather(1, anchors).flatten()  # (B·P,)
            queue = sl.queues.features.rows, sl.queues.labels.rows[:, 0]  # (N, D), (N,)
            contrast = queue_contrast(anchor_feats, anchor_labels, *queue, tau)
            losses["contrast"] = contrast / processes.size

        # ============ section 3.4, consistency: L_cons = KL(ω ‖ softmax(cos(f_strong, η̄)/τ)) / K ============
        strong = student
        if two_views:  # backward of all terms above, which frees their activations before the strong view's
            self.backward(self.weighted(losses))
            self.add_gradients(source_gradients)
            strong = self.compute(self.student_ddp, target.strong, dropout_strong)
        if method.consistency_weight > 0:
            omega_strong = self.replay(omega, target.strong_records)  # (B, K, H/4, W/4)
            known = omega_strong != IGNORE  # (B, K, H/4, W/4), False where the strong view shows no pixel
            feats_strong = resize_bilinear(strong.feats, quarter(target.strong.shape[2:]))  # (B, D, H/4, W/4)
            cosines = cosines_to_prototypes(feats_strong, sl.prototypes_ema)  # (B, K, H/4, W/4)
            losses["consist"] = prototype_consistency(omega_strong, known, cosines, tau, processes.sum)

        # ========= L = L_CTS + λ_SL·L_SL + λ_con·L_con + λ_cons·L_cons: backward of what is left =========
        if two_views:  # 0·logits completes the gradients for DistributedDataParallel
            self.backward(self.weighted({"consist": losses["consist"]}) + 0 * strong.logits.sum())
        else:
            self.backward(self.weighted(losses))
        self._sum_prototype_gradients()
        losses = detached(losses)
        shown = None
        if show:
            clustered = (omega if method.rectify else None), pixels, whole, assignments
            shown = self._shown(source, source_logits, target, image, label_weak, label, student, clustered)
        return Learned({"total": self.weighted(losses)} | losses | {"source": source_loss}, shown)

    def pseudo_label(self, omega: Tensor | None, soft_label: Tensor) -> Tensor:
        """ŷ = argmax ω·p, or argmax p without `rectify`; omega and soft label p (B, K, h, w) → (B, h, w)."""
        omega = omega if self.method.rectify else soft_label.new_ones(())
        return rectified_label(omega, soft_label, self.method.label_threshold, IGNORE)

    def queue_labels(
        self, label_weak: Tensor, target: TargetBatch, whole: SegmentationOutput, pixels: Tensor
    ) -> Tensor:
        """Labels (B, P) of the sampled pixels, to be stored in the queue; with Q4 those of other pixels."""
        grid = whole.feats.shape[2:]
        if self.quirks.unshuffled_labels:
            return resize_label(label_weak, grid).flatten(1)[:, : self.method.pixels]
        omega = self.self_labeling.omega(whole.feats) if self.method.rectify else None
        label = self.pseudo_label(omega, resize_bilinear(target.soft_grid, grid))  # (B, h̄, w̄)
        return label.flatten(1).gather(1, pixels)

    def _count(self, target: TargetBatch, *labels: Tensor | list[Tensor] | None) -> None:
        """Count labels against the target's true ones, where these are read; see `Tally.add_`."""
        if self.tally is not None:
            self.tally.add_(target, *labels)

    def sampled_pixels(self, maps: Tensor) -> Tensor:
        """(B, P) random flat positions of maps (B, C, h, w), on their device."""
        drawn = self.draws.pixels(len(maps), maps[0, 0].numel(), self.method.pixels)
        return sent(drawn, maps.device)

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """Weighted sum of the losses, but for the source's; a new loss needs its weight here."""
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
        """Add up the prototypes' gradients, which `backward` has scaled for the mean over the processes."""
        prototypes = self.self_labeling.prototypes
        if prototypes.grad is not None and self.processes.size > 1:
            prototypes.grad.div_(self.processes.size)
            self.processes.sum_gradients([prototypes])

    def _shown(
        self,
        source: SourceBatch,
        source_logits: Tensor,
        target: TargetBatch,
        image: Tensor,
        label_weak: Tensor,
        label: Tensor,
        student: SegmentationOutput,
        clustered: tuple[Tensor | None, Tensor | None, SegmentationOutput | None, list[Tensor]],
    ) -> Shown:
        """Tensors of an iteration; copies of those that its update, or a new prior, changes in place."""
        sl = self.self_labeling
        images = {"weak view": target.weak, "strong view": target.strong, "whole image": target.whole}
        images = {title: image for title, image in images.items() if image is not None}
        labels = {"soft label": target.soft_quarter.argmax(dim=1), "rectified label": label_weak}
        queue = sl.queues.labels
        clustering, (omega, pixels, whole, assignments) = None, clustered
        if assignments:
            clustering = Clustering(
                target.soft_quarter,
                omega,
                pixels,
                tuple(whole.feats.shape[2:]),
                assignments,
                sl.prior.clone(),
                queue.newest_first()[: queue.filled, 0].long(),
                len(queue.rows),
                sl.prototypes.detach().clone(),
                sl.prototypes_ema.clone(),
                self.prototypes_start,
            )
        return Shown(
            source,
            source_logits,
            images | {"training image": image},
            labels | {"training label": label},
            {"prediction": student.logits.detach()},
            clustering,
            self.tally,
        )

    def update(self) -> None:
        """SGD, then the EMA model and the EMA prototypes follow."""
        super().update()
        if self.method.uses_teacher:
            momentum = EMA_MOMENTUM if self.method.average else 0.0
            ema_update_(self.ema, self.student, momentum, average_buffers=not self.quirks.ema_train_mode)
        self.self_labeling.update_ema_()

    def advance(self, update: bool = True) -> None:
        """Refresh the prior too when that is due, but not after a skipped iteration."""
        super().advance(update)
        every = self.method.refresh_prior
        self._refreshed = self.counter is not None and update and self.iteration % every == 0
        if self._refreshed:
            self.self_labeling.prior.copy_(self.counter.take_())

    def new_prior(self) -> Tensor | None:
        """The prior (K,) if the last iteration has refreshed it."""
        return self.self_labeling.prior if self._refreshed else None

    @property
    def modules(self) -> dict[str, nn.Module]:
        """Add the EMA model, the self-labeling module, and the counts for the next prior."""
        modules = super().modules | {"ema": self.ema, "self_labeling": self.self_labeling}
        return modules if self.counter is None else modules | {"counter": self.counter}

    def released_state(self) -> dict:
        """Add the EMA prototypes."""
        state = super().released_state()
        state[NETWORK]["prototypes_ema"] = self.self_labeling.prototypes_ema
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


def _paste_quarter(label: Tensor, source_label: Tensor, box: Box | None) -> Tensor:
    """Label (B, H/4, W/4) with the box of the source's label (B, H, W), pasted at full resolution."""
    if box is None:
        return label
    full = label.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)  # (B, H, W)
    return _paste(full, source_label, box)[:, ::4, ::4]
