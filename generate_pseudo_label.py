"""Write pseudo labels of the target train split.

    python generate_pseudo_label.py --name gta2citylabv2_warmup_soft --soft --resume_path CHECKPOINT
    python generate_pseudo_label.py --name gta2citylabv2_stage1Denoise --flip --resume_path CHECKPOINT

Writes SAVE_PATH/NAME/: with --soft X.npy probabilities, else X.png, X_color.png, X_conf.npy. Started again
after an interruption it keeps what is whole and made by the same checkpoint and options.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.build import inference_data, whole_images
from data.kept_labels import DAMAGED, WHOLE, KeptLabels, file_digest, images_digest, states
from data.pseudo_labels import PseudoLabels, write_hard, write_soft
from data.sets.choose import classes_of
from data.sets.dataset import DataSet
from engine.inference import Prediction, mean_probabilities, predict
from engine.launch import joined
from engine.trained import load_for_inference, prepare_device
from stages.build import computing
from utils.distributed import Processes
from utils.errors import run_script
from utils.files.background import BackgroundWriter
from utils.grid import grid_size
from utils.options import Options, parse


def main() -> None:
    """Parse, predict, write."""
    o = parse("pseudo_label", __doc__)
    with joined(o) as processes:
        generate(o, processes)


def generate(o: Options, processes: Processes) -> None:
    """Every process its share of the images."""
    device = prepare_device(o)
    o, network, compute = load_for_inference(o, device, processes)
    data = left_to_do(o, inference_data(o, "train", processes), computing(o, device)[1], processes)
    if not len(data):
        return
    loader = whole_images(o, data, processes)
    folder, colours, mirror = o.save_path / o.name, classes_of(o).palette, o.flip and not o.soft
    with BackgroundWriter() as writer:
        for item in predict(network, loader, device, "pseudo labels", mirror, processes, compute):
            if o.soft:
                probs = item.output.logits.softmax(dim=1)[0].cpu().numpy()
                writer.do(write_soft, folder, item.name, probs, o.soft_dtype)
            else:
                confidence, label = hard_scores(item, o.quirks_on.grid_hard_labels)[0].max(dim=0)
                label, confidence = label.to(torch.uint8).cpu().numpy(), confidence.half().cpu().numpy()
                writer.do(write_hard, folder, item.name, label, confidence, colours, o.conf_dtype)
    processes.wait()
    processes.print_once(
        f"wrote {'soft' if o.soft else 'hard'} pseudo labels of {len(data)} images to {folder}"
    )


def left_to_do(o: Options, data: DataSet, told: str, processes: Processes) -> DataSet:
    """The images whose labels an earlier run has not left whole. told: how the network is computed."""
    kept = kept_labels(o, data, told)
    names = [data.image_name(i) for i in range(len(data))]
    if processes.is_main and (why := kept.begin(names)):
        processes.print_once(why)
    processes.wait()
    found = states(kept, names, o.num_workers, processes)
    whole, damaged = (int((found == state).sum()) for state in (WHOLE, DAMAGED))
    if whole == len(names):
        processes.print_once(f"{kept.labels.folder}: all {whole} labels are there and whole")
    elif whole or damaged:
        counts = {"damaged": damaged, "missing": len(names) - whole - damaged}
        rest = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
        told_of = f"{whole} of {len(names)} labels are there and whole"
        processes.print_once(f"{kept.labels.folder}: {told_of}; {rest} ones are made")
    return data.only((found != WHOLE).nonzero().flatten().tolist())


def kept_labels(o: Options, data: DataSet, told: str) -> KeptLabels:
    """Describe the labels of this command: an earlier run's labels stay only if all of this is equal."""
    mirror = o.flip and not o.soft
    raw = not o.soft and not mirror and o.quirks_on.grid_hard_labels
    dtype = o.soft_dtype if o.soft else o.conf_dtype
    made_by = {
        "checkpoint": file_digest(o.resume_path),
        "labels": "soft" if o.soft else "hard",
        "dtype": dtype,
        "flip": mirror,
        "quirks": ["grid_hard_labels"] if raw else [],
        "n_class": o.n_class,
        "img_size": data.size and list(data.size),
        "precision": told,
        "data set": f"{data.name} train",
        "images": images_digest(data),
    }
    sizes = {data.image_name(i): data.size_of(i) for i in range(len(data))}
    if o.soft or raw:
        sizes = {name: grid_size(*size) for name, size in sizes.items()}
    labels, colours = PseudoLabels(o.save_path / o.name, o.n_class), classes_of(o).palette
    return KeptLabels(labels, o.soft, sizes, dtype, made_by, colours)


def hard_scores(item: Prediction, grid: bool) -> Tensor:
    """Scores (1, K, h, w) whose argmax is the label and whose maximum the confidence.

    With a mirrored view the mean of both views' probabilities, each brought to full size. Otherwise
    probabilities at full size, or with `grid` (quirk Q9) the logits as they are.
    """
    if item.mirrored is None and grid:
        return item.output.logits
    views = [(item.output.logits, False)]
    if item.mirrored is not None:
        views.append((item.mirrored.logits, True))
    return mean_probabilities(views, item.image.shape[2:])


if __name__ == "__main__":
    run_script(main)
