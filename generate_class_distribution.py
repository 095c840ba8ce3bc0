"""Shares of the classes in the predictions on the target train split: the prior of stage 1.

    python generate_class_distribution.py --class_balance --resume_path CHECKPOINT

Writes SAVE_PATH/class_distribution.npy, (K,) float64 summing to 1.
"""

from __future__ import annotations

import numpy as np

from data.labels import class_names
from stages.build import load_for_inference, prepare_device, target_data
from stages.predict import predict
from stages.products import distribution_path, save_distribution
from utils.options import parse, run_script


def main() -> None:
    """Parse, predict, count, write."""
    o = parse("distribution", __doc__)
    device = prepare_device(o)
    o, network = load_for_inference(o, device)
    data = target_data(o, "train")
    counts = np.zeros(o.n_class, dtype=np.int64)
    for item in predict(network, data, device, o.num_workers, title="class distribution"):
        counts += np.bincount(item.output.logits.argmax(dim=1).flatten().cpu().numpy(), minlength=o.n_class)
    path = distribution_path(o)
    save_distribution(counts, path)
    for name, share in zip(class_names(o.n_class), counts / counts.sum(), strict=True):
        print(f"{name:<14}{share:9.6f}")
    print(f"wrote the class distribution of {len(data)} images to {path}")


if __name__ == "__main__":
    run_script(main)
