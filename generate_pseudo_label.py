"""Write pseudo labels of the target train split.

    python generate_pseudo_label.py --name gta2citylabv2_warmup_soft --soft --resume CHECKPOINT
    python generate_pseudo_label.py --name gta2citylabv2_stage1Denoise --flip --resume CHECKPOINT

Writes SAVE_PATH/NAME/: with --soft X.npy probabilities, else X.png, X_color.png, X_conf.npy.
Started again it keeps what is whole and made by the same checkpoint and options.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.build import inference_data, whole_images
from data.kept_labels import KeptLabels, file_digest, images_digest, left_to_do
from data.pseudo_labels import PseudoLabels, shared_files, write_hard, write_soft
from data.sets.choose import classes_of
from data.sets.dataset import DataSet
from engine.inference import Prediction, Trained, start
from engine.views import mean_probabilities
from utils.errors import run_script
from utils.grid import grid_size
from utils.workers import BackgroundWriter


def main() -> None:
    """Predict and write, each process its part of the images."""
    with start("pseudo_label", __doc__, folder=lambda o: o.save_path / o.name) as trained:
        o, processes = trained.o, trained.processes
        data = inference_data(o, "train", processes)
        kept = kept_labels(trained, data)
        data = data.only(left_to_do(kept, list(kept.sizes), o.num_workers, processes))
        if not len(data):
            return
        folder, colours, mirror = o.save_path / o.name, classes_of(o).palette, o.flip and not o.soft
        with BackgroundWriter() as writer:
            for item in trained.predict(whole_images(o, data, processes), "pseudo labels", mirror):
                if o.soft:
                    probs = item.on_host(item.output.logits.softmax(dim=1)[0])
                    writer.do(write_soft, folder, item.name, probs, o.soft_dtype)
                else:
                    confidence, label = hard_scores(item, o.quirks_on.grid_hard_labels)[0].max(dim=0)
                    label, confidence = item.on_host(label.to(torch.uint8)), confidence.half().cpu().numpy()
                    writer.do(write_hard, folder, item.name, label, confidence, colours, o.conf_dtype)
        processes.wait()
        processes.print_once(
            f"wrote {kept.made_by['labels']} pseudo labels of {len(data)} images to {folder}"
        )


def kept_labels(trained: Trained, data: DataSet) -> KeptLabels:
    """Describe the labels of this command: an earlier run's labels stay only if all of this is equal."""
    o = trained.o
    if shared := shared_files(data):
        raise ValueError(f"{shared[0]}; rename one of the two images")
    mirror = o.flip and not o.soft
    raw = not o.soft and not mirror and o.quirks_on.grid_hard_labels
    made_by = {
        "checkpoint": file_digest(o.resume_path),
        "labels": "soft" if o.soft else "hard",
        "dtype": o.soft_dtype if o.soft else o.conf_dtype,
        "flip": mirror,
        "quirks": ["grid_hard_labels"] if raw else [],
        "n_class": o.n_class,
        "img_size": data.size and list(data.size),
        "precision": trained.computing,
        "data set": f"{data.name} train",
        "images": images_digest(data),
    }
    sizes = {data.image_name(i): data.size_of(i) for i in range(len(data))}
    if o.soft or raw:
        sizes = {name: grid_size(*size) for name, size in sizes.items()}
    labels = PseudoLabels(o.save_path / o.name, o.n_class)
    return KeptLabels(labels, o.soft, sizes, made_by["dtype"], made_by, classes_of(o).palette)


def hard_scores(item: Prediction, grid: bool) -> Tensor:
    """Scores (1, K, h, w) whose argmax is the label and whose maximum the confidence.

    Mean probabilities of the views at full size; with `grid` (quirk Q9) the logits of a single view.
    """
    views = [(item.output.logits, False)]
    if item.mirrored is not None:
        views.append((item.mirrored.logits, True))
    elif grid:
        return item.output.logits
    return mean_probabilities(views, item.image.shape[2:])


if __name__ == "__main__":
    run_script(main)
