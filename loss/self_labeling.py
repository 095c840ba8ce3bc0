"""Online class-balanced self-labeling of pixels (paper, section 3.3).

Letters: K classes, D feature channels, P pixels sampled per image, N queue rows, M = N + P.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from loss.shares import alone
from loss.sinkhorn import sinkhorn


def take_pixels(maps: Tensor, pixels: Tensor) -> Tensor:
    """maps (B, C, h, w) at flat positions (B, P) → (B, P, C)."""
    index = pixels[:, None].expand(-1, maps.shape[1], -1)
    return maps.flatten(2).gather(2, index).transpose(1, 2)


class RingQueue(nn.Module):
    """The newest N rows of a stream, as buffers: `rows` (N, C), write position and count of rows seen."""

    def __init__(self, length: int, channels: int):
        super().__init__()
        self.register_buffer("rows", torch.zeros(length, channels))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self._host = None  # (position, seen) mirrored on the host, so that no step waits for the device

    def _counters(self) -> tuple[int, int]:
        if self._host is None:
            self._host = (int(self.position), int(self.seen))
        return self._host

    @property
    def filled(self) -> int:
        """How many rows have been written."""
        return self._counters()[1]

    @property
    def is_full(self) -> bool:
        """Whether every row has been written."""
        return self.filled >= len(self.rows)

    @torch.no_grad()
    def enqueue_(self, new: Tensor) -> None:
        """Overwrite the oldest rows by `new` (P, C), P ≤ N."""
        position, seen = self._counters()
        length = len(self.rows)
        if len(new) > length:
            raise ValueError(
                f"{len(new)} rows do not fit a queue of {length}; make it longer, or sample fewer pixels"
            )
        start = (position - len(new)) % length  # backwards, so that `newest_first` is one roll
        before_wrap = min(len(new), length - start)
        self.rows[start : start + before_wrap] = new[:before_wrap]
        self.rows[: len(new) - before_wrap] = new[before_wrap:]
        self._host = (start, min(seen + len(new), length))
        self.position.fill_(self._host[0])
        self.seen.fill_(self._host[1])

    @torch.no_grad()
    def fill_(self, rows: Tensor) -> None:
        """Take `rows` (N, C), newest first, as the whole content."""
        self.rows.copy_(rows)
        self.position.zero_()
        self.seen.fill_(len(self.rows))
        self._host = None

    def newest_first(self) -> Tensor:
        """(N, C): the rows of the last `enqueue_` first, each call's rows in their own order."""
        return self.rows.roll(-self._counters()[0], dims=0)

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._host = None
        super()._load_from_state_dict(*args, **kwargs)


class SelfLabeling(nn.Module):
    """L_SL: pixels of the EMA model against prototypes, targets by Sinkhorn over pixels and queue.

    prior (K,): the class marginal that the assignments follow. temperature: τ; epsilon, iterations: of
    Sinkhorn. raw_queue_scores: score queue rows by the prototypes as they are instead of normalised (Q6).
    gather, rank: where several processes share a batch, what brings their parts together, (b, …) → (B, …),
    and which part is this one's; the queues are then equal everywhere and the loss is a share (loss.shares).
    State: a ring queue each of features, labels and predictions. Gradients reach the prototypes only.
    kept: a list to which the assignments (M, K) of queue and pixels are added, where somebody looks at them.
    """

    def __init__(
        self,
        prior: Tensor,
        feat_channels: int,
        queue_length: int = 65536,
        temperature: float = 0.08,
        epsilon: float = 0.05,
        iterations: int = 3,
        raw_queue_scores: bool = True,
        gather: Callable[[Tensor], Tensor] = alone,
        rank: int = 0,
    ):
        super().__init__()
        self.register_buffer("prior", prior.detach().float().clone())  # it may be refreshed in place
        self.features = RingQueue(queue_length, feat_channels)
        self.labels = RingQueue(queue_length, 1)
        self.predictions = RingQueue(queue_length, len(prior))
        self.temperature, self.epsilon, self.iterations = temperature, epsilon, iterations
        self.raw_queue_scores = raw_queue_scores
        self.gather, self.rank = gather, rank
        self.kept: list[Tensor] | None = None

    def forward(
        self, feats: Tensor, logits: Tensor, labels: Tensor, prototypes: Tensor
    ) -> tuple[Tensor, bool]:
        """feats (B, P, D), logits (B, P, K), labels (B, P) of the sampled pixels; prototypes (K, D).

        Images enter the queues one after the other, so that an image sees those before it in the batch.
        Returns the loss and whether an image of the batch found the feature queue full.
        """
        own = range(self.rank * len(feats), (self.rank + 1) * len(feats))  # of the images of all processes
        feats = self.gather(F.normalize(feats.detach(), dim=2))
        predictions = self.gather(F.normalize(logits.detach(), dim=2))
        labels = self.gather(labels).to(self.labels.rows.dtype)[..., None]  # (B, P, 1)

        centres = F.normalize(prototypes, dim=1)  # (K, D)
        queue_centres = (prototypes if self.raw_queue_scores else centres).detach()

        total = prototypes.new_zeros(())
        found_full = False
        for i in range(len(feats)):
            found_full |= self.features.is_full
            if i in own:
                total = total + self._image_loss(feats[i], predictions[i], centres, queue_centres)
            self.features.enqueue_(feats[i])
            self.labels.enqueue_(labels[i])
            self.predictions.enqueue_(predictions[i])
        return total / len(feats), found_full

    def _image_loss(
        self, feats: Tensor, predictions: Tensor, centres: Tensor, queue_centres: Tensor
    ) -> Tensor:
        """feats (P, D) and predictions (P, K), both normalised, of one image before it enters the queues.

        centres, queue_centres (K, D): what the image's and the queue's features are scored by.
        """
        scores = feats @ centres.t()  # (P, K)
        queued_scores = queued_predictions = None
        if self.features.is_full:
            queued_scores = self.features.rows @ queue_centres.t()  # (N, K)
        if self.predictions.is_full:
            queued_predictions = self.predictions.rows
        targets = self._assign(queued_scores, scores.detach())  # (P, K)
        targets = targets + self._assign(queued_predictions, predictions)
        return -(targets * (scores / self.temperature).log_softmax(dim=1)).sum(dim=1).mean()

    def _assign(self, queued: Tensor | None, scores: Tensor) -> Tensor:
        """Assignments (P, K) of the last rows of [queued; scores]."""
        rows = scores if queued is None else torch.cat([queued, scores])  # (M, K)
        assigned = sinkhorn(rows, self.prior, self.epsilon, self.iterations)  # (M, K)
        if self.kept is not None:
            self.kept.append(assigned)
        return assigned[-len(scores) :]
