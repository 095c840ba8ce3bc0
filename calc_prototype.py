"""Class centroids of features, from which the prototypes of stage 1 start.

    python calc_prototype.py --resume_path CHECKPOINT

Writes a (K, D) tensor beside the checkpoint: prototypes_on_cityscapes_from_deeplabv2, from which
stage 1 starts; with --source prototypes_on_gta5_from_deeplabv2, from which it starts only if that
is given as --prototypes. With --soft each pixel counts for every class by its probability, so
that a class which is hardly predicted has a prototype, too; the released code has no such option.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from data.build import inference_data, whole_images
from data.inputs import prototype_path
from data.sets.choose import source_data
from data.sets.dataset import DataSet
from engine.inference import start
from loss import occurrences
from utils.errors import run_script
from utils.files.whole import replace_when_whole

PASSES, MIN_PIXELS, MAX_COUNT = 4, 10, 3000
_TINY = torch.finfo(torch.float32).tiny  # below any sum of probabilities but 0


def main() -> None:
    """Average each image's features by class, each process its part; the main one joins and writes them."""
    with start("prototypes", __doc__, file=prototype_path) as trained:
        o, processes, device = trained.o, trained.processes, trained.device
        data: DataSet = source_data(o) if o.source else inference_data(o, "train", processes)
        loader = whole_images(o, data, processes, with_labels=o.source)
        own = len(loader.dataset)
        means = torch.zeros(own, o.n_class, trained.network.feat_channels, device=device)  # --soft: sums
        weights = torch.zeros(own, o.n_class, device=device)
        for i, item in enumerate(trained.predict(loader, "prototypes")):
            maps = item.output.feats, item.output.logits
            means[i], weights[i] = soft_sums(*maps) if o.soft else class_means(*maps, item.label)
        every_mean, every_weight = (processes.gather_dealt(x.cpu(), len(data)) for x in (means, weights))
        if not processes.is_main:
            return
        centroids, counts = (soft_centroids if o.soft else running_centroids)(every_mean, every_weight)
        path, absent = prototype_path(o), int((counts == 0).sum())
        if not centroids.isfinite().all():
            raise ValueError(f"{o.resume_path}: its features overflow when averaged; take another checkpoint")
        with replace_when_whole(path) as file:
            torch.save(centroids, file)
        note = f"; {absent} classes are too rarely predicted and stay 0" if absent else ""
        print(f"wrote prototypes {tuple(centroids.shape)} from {len(data)} images to {path}{note}")


@torch.no_grad()
def class_means(feats: Tensor, logits: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
    """Mean feature of each predicted class of one image.

    feats (1, D, h, w), logits (1, K, h, w); label (H, W): only pixels that it agrees with, or None
    → (K, D) means and (K,) bool, whether the class has at least 10 grid pixels.
    """
    n_class = logits.shape[1]
    predicted = logits.argmax(dim=1).flatten()  # (h·w,)
    flat = feats[0].flatten(1).t()  # (h·w, D)
    if label is not None:
        small = F.interpolate(label[None, None].float(), size=logits.shape[2:], mode="nearest").flatten()
        predicted = predicted.where(small.long() == predicted, n_class)  # the others: one class more
    counts = occurrences(predicted, n_class + 1)[:n_class]
    sums = flat.new_zeros(n_class + 1, flat.shape[1]).index_add_(0, predicted, flat)[:n_class]
    return sums / counts.clamp(min=1)[:, None], counts >= MIN_PIXELS


@torch.no_grad()
def soft_sums(feats: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the features of one image for each class, weighted by the pixels' probabilities.

    feats (1, D, h, w), logits (1, K, h, w) → (K, D), and sums of the weights (K,).
    """
    probs = logits[0].float().softmax(dim=0).flatten(1)  # (K, h·w)
    return probs @ feats[0].float().flatten(1).t(), probs.sum(dim=1)


def soft_centroids(sums: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Means over all images: sums (images, K, D), weights (images, K) → (K, D), and total weights (K,)."""
    sums, total = sums.double().sum(dim=0), weights.double().sum(dim=0)
    return (sums / total.clamp(min=_TINY)[:, None]).float(), total


def running_centroids(means: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Running means over four passes: v ← (v·n + x)/(n + 1), n ← min(n + 1, 3000).

    means (images, K, D), present (images, K), 0 or 1 → (K, D), (K,). The images are read once: their class
    means are the same in every pass.
    """
    centroids = torch.zeros(means.shape[1:])
    counts = torch.zeros(means.shape[1])
    for _ in range(PASSES):
        for mean, found in zip(means, present, strict=True):
            moved = (centroids * counts[:, None] + mean) / (counts[:, None] + 1)
            centroids = torch.where(found[:, None] > 0, moved, centroids)
            counts = torch.where(found > 0, (counts + 1).clamp(max=MAX_COUNT), counts)
    return centroids, counts


if __name__ == "__main__":
    run_script(main)
