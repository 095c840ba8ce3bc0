"""Compare labels of the largest logit with labels that prototypes rectify, before any training.

    python benchmarks/rectified_labels.py CHECKPOINT [CHECKPOINT …] --tgt_rootpath runs/mini/data/cityscapes \
        --img_size 256,128

Labels the target's train images, whose true labels must be there. The prototypes are those of
`loss.class_statistics`, one for each class. Prints mIoU and mean accuracy of the labels in percent, for each
temperature of the rectification. All features are in memory at once. Takes the options of test.py.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from data.batches import inference_loader
from data.sets.choose import target_data
from engine.inference import load_trained
from loss import ClassBalancedSelfLabeling, class_statistics
from stages.stage import resize_bilinear
from utils.distributed import ALONE
from utils.errors import run_script
from utils.metrics import ConfusionMatrix
from utils.options import parse

TEMPERATURES = (0.04, 0.08, 0.16, 0.3)


@torch.no_grad()
def label_scores(checkpoint: str, options: list[str]) -> list[dict]:
    """Scores of the labels of the largest logit, then of those rectified at each temperature."""
    trained = load_trained(parse("test", "", [*options, "--resume_path", checkpoint]), ALONE)
    loader = inference_loader(target_data(trained.o, "train"), with_labels=True, workers=0)
    found = list(trained.predict(loader, "labels"))
    feats, logits = (torch.cat([item.output[i] for item in found]) for i in (0, 1))
    statistics = class_statistics(feats, logits)
    parts = [ClassBalancedSelfLabeling(*statistics, temperature=tau) for tau in TEMPERATURES]
    counts = [ConfusionMatrix(trained.o.n_class, logits.device) for _ in range(1 + len(parts))]
    for item in found:
        soft = resize_bilinear(item.output.logits, item.label.shape).softmax(dim=1)
        labels = [soft.argmax(dim=1), *(part.rectify(item.output.feats, soft) for part in parts)]
        for count, label in zip(counts, labels, strict=True):
            count.update(item.label[None], label)
    return [count.scores() for count in counts]


def main() -> None:
    """Parse, label, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("checkpoints", nargs="+", metavar="CHECKPOINT")
    own, options = parser.parse_known_args()
    table_row("mIoU / mean accuracy", "largest logit", *(f"τ = {tau}" for tau in TEMPERATURES))
    table_row("---", *["---:"] * (1 + len(TEMPERATURES)))
    for checkpoint in own.checkpoints:
        scores = label_scores(checkpoint, options)
        table_row(checkpoint, *(f"{100 * s['miou']:.1f} / {100 * s['mean_accuracy']:.1f}" for s in scores))


def table_row(*cells: str) -> None:
    """Print a row of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    run_script(main)
