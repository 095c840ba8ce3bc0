"""Compare labels of the largest logit with labels that prototypes rectify, before any training.

    python benchmarks/rectified_labels.py CHECKPOINT [CHECKPOINT …] --tgt_rootpath runs/mini/data/cityscapes \
        --img_size 256,128

Labels the target's train images, whose true labels must be there. The prototypes are those of
`loss.class_statistics`, one for each class. Prints mIoU and mean accuracy of the labels in percent, for each
temperature of the rectification. All features are in memory at once. The options of test.py come last.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

from data.batches import inference_loader
from data.labels import IGNORE
from data.sets.choose import target_data
from engine.inference import load_trained
from loss import class_statistics, cosines_to_prototypes, rectified_label
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
    prototypes, _ = class_statistics(feats, logits)
    counts = [ConfusionMatrix(trained.o.n_class, logits.device) for _ in (None, *TEMPERATURES)]
    for item in found:
        feats, logits = (resize_bilinear(x, item.label.shape) for x in item.output)
        cosines, soft = cosines_to_prototypes(feats, prototypes), logits.softmax(dim=1)
        omegas = [(cosines / tau).softmax(dim=1) for tau in TEMPERATURES]
        labels = [soft.argmax(dim=1), *(rectified_label(omega, soft, 0.0, IGNORE) for omega in omegas)]
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
