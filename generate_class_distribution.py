"""Class frequencies of the predictions on the target train split: the prior of stage 1.

    python generate_class_distribution.py --class_balance --resume_path CHECKPOINT

Writes SAVE_PATH/class_distribution.npy, (K,) float64 summing to 1. A record beside it keeps runs of
another --name from replacing it.
"""

from __future__ import annotations

from data.build import inference_data, whole_images
from data.inputs import distribution_path, require_own_distribution, save_distribution, shares_of
from data.sets.choose import classes_of
from engine.inference import start
from loss import ClassCounter
from utils.errors import run_script


def main() -> None:
    """Predict, each process its part of the images; the main one counts, writes and prints."""
    with start("distribution", __doc__, file=distribution_path) as trained:
        o, processes = trained.o, trained.processes
        require_own_distribution(o)
        data = inference_data(o, "train", processes)
        counter = ClassCounter(o.n_class).to(trained.device)
        for item in trained.predict(whole_images(o, data, processes), "class distribution"):
            counter.add_(item.output.logits)
        counts = processes.sum(counter.counts.cpu()).numpy()
        if not processes.is_main:
            return
        shares = shares_of(counts, o)
        path, names = save_distribution(shares, o), classes_of(o).names
        width = max(14, *map(len, names))
        for name, frequency in zip(names, shares, strict=True):
            print(f"{name:<{width}}{frequency:9.6f}")
        print(f"wrote the class distribution of {len(data)} images to {path}")


if __name__ == "__main__":
    run_script(main)
