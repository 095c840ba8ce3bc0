"""Shares of the classes in the predictions on the target train split: the prior of stage 1.

    python generate_class_distribution.py --class_balance --resume_path CHECKPOINT

Writes SAVE_PATH/class_distribution.npy, (K,) float64 summing to 1.
"""

from __future__ import annotations

import numpy as np

from data.build import inference_data, whole_images
from data.inputs import distribution_path, save_distribution
from data.sets.choose import classes_of
from engine.inference import predict
from engine.launch import joined
from engine.trained import load_for_inference, prepare_device
from loss import ClassCounter
from utils.distributed import Processes
from utils.errors import run_script
from utils.options import Options, parse


def main() -> None:
    """Parse, predict, count, write."""
    o = parse("distribution", __doc__)
    with joined(o) as processes:
        count(o, processes)


def count(o: Options, processes: Processes) -> None:
    """Every process its share of the images; the first writes."""
    device = prepare_device(o)
    o, network, compute = load_for_inference(o, device, processes)
    data = inference_data(o, "train", processes)
    counter = ClassCounter(o.n_class).to(device)
    loader = whole_images(o, data, processes)
    for item in predict(network, loader, device, "class distribution", processes=processes, compute=compute):
        counter.add_(item.output.logits)
    counts = processes.sum(counter.counts.cpu()).numpy()
    if processes.is_main:
        write(o, counts, len(data))


def write(o: Options, counts: np.ndarray, images: int) -> None:
    """Save the shares and print them."""
    path = distribution_path(o)
    save_distribution(counts, path)
    names = classes_of(o).names
    width = max(14, *map(len, names))
    for name, share in zip(names, counts / counts.sum(), strict=True):
        print(f"{name:<{width}}{share:9.6f}")
    print(f"wrote the class distribution of {images} images to {path}")


if __name__ == "__main__":
    run_script(main)
