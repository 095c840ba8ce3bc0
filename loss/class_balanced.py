"""The method as one module for any training loop (paper, sections 3.2 and 3.3; docs/method_as_a_part.md).

Letters: B images of all processes, K classes, D feature channels, h×w grid, P pixels sampled per image,
N queue rows, M = N + P rows that Sinkhorn balances.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from loss.prototypes import cosines_to_prototypes, label_with_confidence
from loss.queue import RingQueue, take_pixels
from loss.sinkhorn import sinkhorn


class SampledLoss(NamedTuple):
    """The loss of sampled pixels, and if asked for, the assignments behind it."""

    loss: Tensor  # scalar
    queue_was_full: bool  # before one of the images at least
    assignments: list[Tensor]  # (M, K), for each image by features, then by predictions


class ClassBalancedSelfLabeling(nn.Module):
    """Prototypes, queues and class prior behind one loss and one correction of pseudo labels.

    centroids (K, D): start of the prototypes, none of them 0; normalised here. prior (K,): frequency of each
    class in the target, positive, of sum 1. pixels: P. queue_length: N. temperature: τ of the softmax over
    cosines. epsilon, iterations: of Sinkhorn. momentum: of the EMA prototypes per `update_ema_`.
    raw_queue_scores: score queue rows by prototypes that are not normalised, as the released code does.
    ignore_index: the label of pixels that `rectify` gives none. seed: of the sampled pixels, the same on all
    processes. process_group: the processes that split a batch; by default all, where torch.distributed is
    initialised. absent_classes: accept centroids of 0, of classes that no pixel was predicted as.

    `prototypes` η (K, D) is a parameter for your optimiser, `prototypes_ema` η̄ (K, D) a buffer that follows.
    `prior` r (K,) is a buffer; write to it by `prior.copy_` (see loss.ClassCounter). `queues` holds features,
    labels and predictions of sampled pixels, a ring queue each. ValueError if sizes do not fit.
    """

    def __init__(
        self,
        centroids: Tensor,
        prior: Tensor,
        pixels: int = 256,
        queue_length: int = 65536,
        temperature: float = 0.08,
        epsilon: float = 0.05,
        iterations: int = 3,
        momentum: float = 0.999,
        raw_queue_scores: bool = False,
        ignore_index: int = 255,
        seed: int = 0,
        process_group: dist.ProcessGroup | None = None,
        absent_classes: bool = False,
    ):
        super().__init__()
        _check_start(centroids, prior, absent_classes)
        _check_constants(pixels, queue_length, temperature, epsilon, momentum)
        start = F.normalize(centroids.detach().float(), dim=1)
        n_class, channels = start.shape
        self.prototypes = nn.Parameter(start)
        self.register_buffer("prototypes_ema", start.clone())
        self.register_buffer("prior", prior.detach().to(start, copy=True))
        widths = {"features": channels, "labels": 1, "predictions": n_class}
        queues = {name: RingQueue(queue_length, width) for name, width in widths.items()}
        self.queues = nn.ModuleDict(queues).to(start.device)
        self.pixels, self.temperature, self.momentum = pixels, temperature, momentum
        self.epsilon, self.iterations, self.raw_queue_scores = epsilon, iterations, raw_queue_scores
        self.ignore_index, self.process_group = ignore_index, process_group
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on any device

    def forward(self, feats: Tensor, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """L_SL (section 3.3) of pixels drawn at random; a scalar whose gradient reaches the prototypes only.

        feats (b, D, h, w), logits (b, K, h, w): of this process's b whole target images by the EMA teacher.
        labels (b, h, w): pseudo labels to store beside the features in the queue, for `loss.queue_contrast`;
        by default the largest logit. With several processes it is the loss of all their images, the same
        number and the same gradient everywhere: there is nothing to add up. ValueError if shapes do not fit.
        """
        n_class, channels = self.prototypes.shape
        _check_map("feats", feats, channels)
        _check_map("logits", logits, n_class, feats)
        labels = logits.argmax(dim=1) if labels is None else labels
        if labels.shape != logits[:, 0].shape:
            raise ValueError(
                f"labels {tuple(labels.shape)} and logits {tuple(logits.shape)} differ in grid or "
                "images; resize the labels to the grid of the features, nearest"
            )
        pixels = self._draw(len(feats), feats[0, 0].numel())  # (b, P)
        pixels = pixels.pin_memory() if feats.is_cuda else pixels  # a copy of other memory waits for the GPU
        pixels = pixels.to(feats.device, non_blocking=True)
        maps = (feats.to(self.prototypes), logits.to(self.prototypes), labels[:, None])
        feats, logits, labels = (gathered(take_pixels(x, pixels), self.process_group) for x in maps)
        with torch.autocast(feats.device.type, enabled=False):
            return self.sampled_loss(F.normalize(feats, dim=2), F.normalize(logits, dim=2), labels).loss

    def sampled_loss(
        self, feats: Tensor, predictions: Tensor, labels: Tensor, own: range | None = None, show: bool = False
    ) -> SampledLoss:
        """L_SL of pixels that were sampled, and gathered from all processes, by the caller.

        feats (B, P, D) and predictions (B, P, K): features and logits, normalised over the last dimension.
        labels (B, P, 1). Images enter the queues one after the other: an image meets those before it in the
        batch. own: the images whose loss is added up, by default all; the losses of the processes, each of
        its own images, add up to that of all. show: return assignments.
        """
        feats, predictions = feats.detach(), predictions.detach()
        labels = labels.to(self.queues.labels.rows.dtype)
        centres = F.normalize(self.prototypes, dim=1)  # (K, D)
        queue_centres = (self.prototypes if self.raw_queue_scores else centres).detach()  # Q6

        total, queue_was_full, assignments = self.prototypes.new_zeros(()), False, []
        for i in range(len(feats)):
            queue_was_full |= self.queues.features.is_full
            if own is None or i in own:
                scores = feats[i] @ centres.t()  # (P, K): cosines of f̄ to η
                queued = (
                    self.queues.features.rows @ queue_centres.t() if self.queues.features.is_full else None
                )
                by_feats = self._assign(queued, scores.detach())  # (M, K)
                queued = self.queues.predictions.rows if self.queues.predictions.is_full else None
                by_predictions = self._assign(queued, predictions[i])  # (M, K)
                q = by_feats[-len(scores) :] + by_predictions[-len(scores) :]  # (P, K)
                log_probs = (scores / self.temperature).log_softmax(dim=1)  # (P, K)
                total = total - (q * log_probs).sum(dim=1).mean()
                assignments += [by_feats, by_predictions] if show else []
            self.queues.features.enqueue_(feats[i])
            self.queues.labels.enqueue_(labels[i])
            self.queues.predictions.enqueue_(predictions[i])
        return SampledLoss(total / len(feats), queue_was_full, assignments)

    def _assign(self, queued: Tensor | None, scores: Tensor) -> Tensor:
        """Balanced assignments (M, K) of the rows of the queue, if it is full, and of scores (P, K)."""
        rows = scores if queued is None else torch.cat([queued, scores])  # (M, K)
        return sinkhorn(rows, self.prior, self.epsilon, self.iterations)

    def _draw(self, images: int, positions: int) -> Tensor:
        """(b, P) different flat positions of each image of this process; drawn for those of all."""
        if positions < self.pixels:
            raise ValueError(
                f"a grid of {positions} positions has no {self.pixels} pixels to sample; lower `pixels`"
            )
        rank, size = _place(self.process_group)
        drawn = [
            torch.randperm(positions, generator=self.generator)[: self.pixels] for _ in range(images * size)
        ]
        return torch.stack(drawn[rank * images : (rank + 1) * images])

    @torch.no_grad()
    def omega(self, feats: Tensor) -> Tensor:
        """ω (section 3.2): feats (B, D, h, w) → softmax (B, K, h, w) of the cosines to the EMA prototypes."""
        _check_map("feats", feats, self.prototypes.shape[1])
        with torch.autocast(feats.device.type, enabled=False):
            cosines = cosines_to_prototypes(feats.to(self.prototypes_ema), self.prototypes_ema)
            return (cosines / self.temperature).softmax(dim=1)

    def rectify(self, feats: Tensor, soft_label: Tensor, threshold: float = 0.0) -> Tensor:
        """Pseudo labels (B, H, W) int64, the largest of ω·p (section 3.2).

        feats (B, D, h, w) are resized to the soft label p (B, K, H, W), bilinear; D·H·W numbers an image are
        in memory then, so that a quarter of the image's size is a good H×W. Where the largest ω·p, normalised
        to sum 1, is below the threshold the label is `ignore_index`. ValueError if shapes do not fit.
        """
        return self.rectify_with_confidence(feats, soft_label, threshold)[0]

    @torch.no_grad()
    def rectify_with_confidence(
        self, feats: Tensor, soft_label: Tensor, threshold: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """The labels of `rectify` and their confidences (B, H, W) float: the largest ω·p, normalised.

        A confidence is given where the label is `ignore_index`, too. It may weight the loss of each pixel.
        """
        if soft_label.ndim != 4 or soft_label.shape[:2] != (len(feats), len(self.prototypes)):
            raise ValueError(
                f"soft_label {tuple(soft_label.shape)}: expected (B, K, H, W) with B = {len(feats)} "
                f"and K = {len(self.prototypes)}"
            )
        size = soft_label.shape[2:]
        feats = F.interpolate(feats.to(self.prototypes_ema), size, mode="bilinear", align_corners=True)
        omega = self.omega(feats)  # (B, K, H, W)
        return label_with_confidence(omega, soft_label.to(omega), threshold, self.ignore_index)

    @torch.no_grad()
    def update_ema_(self) -> None:
        """Let the EMA prototypes follow; call it after each step of the optimiser."""
        self.prototypes_ema.lerp_(self.prototypes, 1.0 - self.momentum)

    def get_extra_state(self) -> Tensor:
        """State of the generator of pixels, as part of `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on drawing where a saved module stood."""
        self.generator.set_state(state.cpu())


@torch.no_grad()
def class_statistics(
    feats: Tensor, logits: Tensor, process_group: dist.ProcessGroup | None = None
) -> tuple[Tensor, Tensor]:
    """Centroids (K, D) and prior (K,) to start from where no others are known, without labels.

    feats (B, D, h, w), logits (B, K, h, w) of target images, as many as fit. Every pixel counts for a class
    by its softmax probability, so that a class which is nowhere the largest has a centroid too. The prior is
    the mean probability: positive, of sum 1. The same on all processes of torch.distributed.
    """
    _check_map("feats", feats, None)
    _check_map("logits", logits, None, feats)
    with torch.autocast(feats.device.type, enabled=False):
        probs = logits.float().softmax(dim=1)
        sums = torch.einsum("bkhw,bdhw->kd", probs, F.normalize(feats.float(), dim=1))
        sums, mass = (summed(x, process_group) for x in (sums, probs.sum(dim=(0, 2, 3))))  # (K, D), (K,)
    return F.normalize(sums, dim=1), mass / mass.sum()


# --- processes of torch.distributed: each calls these, with the same number of images ---------------------


def _place(group: dist.ProcessGroup | None) -> tuple[int, int]:
    """(rank, size) of this process in the group; (0, 1) where torch.distributed is not initialised."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


@torch.no_grad()
def gathered(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """(b, …) of each process → (b·size, …) in the order of the ranks, without gradient."""
    _, size = _place(group)
    if size == 1:
        return x.detach()
    own = x.detach().contiguous()
    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own, group=group)
    return torch.cat(parts)


def summed(x: Tensor, group: dist.ProcessGroup | None = None) -> Tensor:
    """x of any shape, added up over the processes, without gradient; for `ClassCounter(K, total=summed)`."""
    return gathered(x[None], group).sum(dim=0)


# --- checks -----------------------------------------------------------------------------------------------


def _check_start(centroids: Tensor, prior: Tensor, absent_classes: bool) -> None:
    if centroids.ndim != 2:
        raise ValueError(f"centroids {tuple(centroids.shape)}: expected (K, D)")
    if not absent_classes and not bool((centroids.isfinite().all(dim=1) & (centroids != 0).any(dim=1)).all()):
        raise ValueError(
            "centroids: a row is 0 or not finite and has no direction; see loss.class_statistics"
        )
    if prior.shape != centroids.shape[:1]:
        raise ValueError(f"prior {tuple(prior.shape)}: expected (K,) with K = {len(centroids)}")
    if not bool((prior > 0).all()) or abs(float(prior.sum()) - 1) > 1e-3:
        raise ValueError("prior: expected a positive frequency of every class, of sum 1")


def _check_constants(
    pixels: int, queue_length: int, temperature: float, epsilon: float, momentum: float
) -> None:
    if not 1 <= pixels <= queue_length:
        raise ValueError(f"pixels {pixels}: expected 1 to queue_length, which is {queue_length}")
    if min(temperature, epsilon) <= 0:
        raise ValueError(f"temperature {temperature} and epsilon {epsilon} must be positive")
    if not 0 <= momentum <= 1:
        raise ValueError(f"momentum {momentum}: expected 0 to 1")


def _check_map(name: str, maps: Tensor, channels: int | None, like: Tensor | None = None) -> None:
    """maps (B, channels, h, w), None: of any number; images and grid those of `like`."""
    if maps.ndim != 4 or channels not in (None, maps.shape[1]):
        raise ValueError(f"{name} {tuple(maps.shape)}: expected (B, {channels or 'channels'}, h, w)")
    if like is not None and (len(maps), maps.shape[2:]) != (len(like), like.shape[2:]):
        raise ValueError(
            f"{name} {tuple(maps.shape)} and feats {tuple(like.shape)} differ in grid or images; "
            "both come from the same forward pass, before anything is resized"
        )
