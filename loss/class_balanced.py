"""The method as one module for any training loop (paper, sections 3.2 and 3.3; docs/method_as_a_part.md).

Letters: B images of this process, K classes, D feature channels, h×w grid, P pixels sampled per image,
N queue rows.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from loss.prototypes import cosines_to_prototypes, rectified_label
from loss.self_labeling import SelfLabeling, take_pixels
from loss.together import gathered, place, summed


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


class ClassBalancedSelfLabeling(nn.Module):
    """Prototypes, queues and class prior behind one loss and one correction of pseudo labels.

    centroids (K, D): where the prototypes start, none of them 0; normalised here. prior (K,): share of each
    class in the target, positive, of sum 1. pixels: P. queue_length: N. temperature: τ of the softmax over
    cosines. epsilon, iterations: of Sinkhorn. momentum: of the EMA prototypes per `update_ema_`.
    raw_queue_scores: score queue rows by prototypes that are not normalised, as the released code does.
    ignore_index: the label of pixels that `rectify` gives none. seed: of the sampled pixels, the same on all
    processes. process_group: who shares a batch; by default all, where torch.distributed is initialised.

    `prototypes` (K, D) is a parameter for your optimiser, `prototypes_ema` (K, D) a buffer that follows it.
    `queues` keeps the features, predictions and labels of sampled pixels. ValueError if sizes do not fit.
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
    ):
        super().__init__()
        _check_start(centroids, prior)
        _check_constants(pixels, queue_length, temperature, epsilon, momentum)
        start = F.normalize(centroids.detach().float(), dim=1)
        self.prototypes = nn.Parameter(start)
        self.register_buffer("prototypes_ema", start.clone())
        self.queues = SelfLabeling(
            prior.to(start.device),
            start.shape[1],
            queue_length,
            temperature,
            epsilon,
            iterations,
            raw_queue_scores,
        ).to(start.device)
        self.pixels, self.temperature, self.momentum = pixels, temperature, momentum
        self.ignore_index, self.process_group = ignore_index, process_group
        self.generator = torch.Generator().manual_seed(seed)  # on the CPU: the same draws on any device

    def forward(self, feats: Tensor, logits: Tensor, labels: Tensor | None = None) -> Tensor:
        """L_SL (section 3.3) of pixels drawn at random; a scalar whose gradient reaches the prototypes only.

        feats (B, D, h, w), logits (B, K, h, w): of whole target images by the EMA teacher. labels (B, h, w):
        pseudo labels to keep beside the features in the queue, for `loss.queue_contrast`; by default the
        largest logit. With several processes it is the loss of all their images, the same number and the same
        gradient everywhere, so that nothing is left to add up. ValueError if shapes do not fit.
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
        pixels = self._draw(len(feats), feats[0, 0].numel())
        pixels = pixels.pin_memory() if feats.is_cuda else pixels  # a copy of other memory waits for the GPU
        pixels = pixels.to(feats.device, non_blocking=True)
        feats, logits, labels = (
            gathered(take_pixels(maps, pixels), self.process_group)
            for maps in (feats.to(self.prototypes), logits.to(self.prototypes), labels[:, None])
        )
        with torch.autocast(feats.device.type, enabled=False):
            return self.queues(feats, logits, labels[..., 0], self.prototypes)[0]

    def _draw(self, images: int, positions: int) -> Tensor:
        """(B, P) different flat positions of each image of this process; drawn for those of all."""
        if positions < self.pixels:
            raise ValueError(
                f"a grid of {positions} positions has no {self.pixels} pixels to sample; lower `pixels`"
            )
        rank, size = place(self.process_group)
        drawn = [
            torch.randperm(positions, generator=self.generator)[: self.pixels] for _ in range(images * size)
        ]
        return torch.stack(drawn[rank * images : (rank + 1) * images])

    @property
    def prior(self) -> Tensor:
        """The class prior (K,), a buffer; write to it by `prior.copy_` (see loss.ClassCounter)."""
        return self.queues.prior

    @torch.no_grad()
    def prototype_probs(self, feats: Tensor) -> Tensor:
        """ω (section 3.2): feats (B, D, h, w) → softmax (B, K, h, w) of the cosines to the EMA prototypes."""
        _check_map("feats", feats, self.prototypes.shape[1])
        with torch.autocast(feats.device.type, enabled=False):
            cosines = cosines_to_prototypes(feats.to(self.prototypes_ema), self.prototypes_ema)
            return (cosines / self.temperature).softmax(dim=1)

    @torch.no_grad()
    def rectify(self, feats: Tensor, soft_label: Tensor, threshold: float = 0.0) -> Tensor:
        """Pseudo labels (B, H, W) int64, the largest of ω·p (section 3.2).

        feats (B, D, h, w) are resized to the soft label p (B, K, H, W), bilinear; D·H·W numbers an image are
        in memory then, so that a quarter of the image's size is a good H×W. Where the largest ω·p, normalised
        to sum 1, is below the threshold the label is `ignore_index`. ValueError if shapes do not fit.
        """
        if soft_label.ndim != 4 or soft_label.shape[:2] != (len(feats), len(self.prototypes)):
            raise ValueError(
                f"soft_label {tuple(soft_label.shape)}: expected (B, K, H, W) with B = {len(feats)} "
                f"and K = {len(self.prototypes)}"
            )
        resized = F.interpolate(
            feats.to(self.prototypes_ema), soft_label.shape[2:], mode="bilinear", align_corners=True
        )
        weights = self.prototype_probs(resized)
        return rectified_label(weights, soft_label.to(weights), threshold, self.ignore_index)

    @torch.no_grad()
    def update_ema_(self) -> None:
        """Let the EMA prototypes follow; to be called after each step of the optimiser."""
        self.prototypes_ema.lerp_(self.prototypes, 1.0 - self.momentum)

    def get_extra_state(self) -> Tensor:
        """What the next draw of pixels starts from, as part of `state_dict`."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on drawing where a saved module stood."""
        self.generator.set_state(state.cpu())


def _check_start(centroids: Tensor, prior: Tensor) -> None:
    if centroids.ndim != 2:
        raise ValueError(f"centroids {tuple(centroids.shape)}: expected (K, D)")
    if not bool((centroids.isfinite().all(dim=1) & (centroids != 0).any(dim=1)).all()):
        raise ValueError(
            "centroids: a row is 0 or not finite and has no direction; see loss.class_statistics"
        )
    if prior.shape != centroids.shape[:1]:
        raise ValueError(f"prior {tuple(prior.shape)}: expected (K,) with K = {len(centroids)}")
    if not bool((prior > 0).all()) or abs(float(prior.sum()) - 1) > 1e-3:
        raise ValueError("prior: expected a positive share of every class, of sum 1")


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
