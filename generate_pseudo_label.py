"""Write pseudo labels of the target train split.

    python generate_pseudo_label.py --name gta2citylabv2_warmup_soft --soft --resume_path CHECKPOINT
    python generate_pseudo_label.py --name gta2citylabv2_stage1Denoise --flip --resume_path CHECKPOINT

Writes SAVE_PATH/NAME/: with --soft X.npy probabilities, else X.png, X_color.png, X_conf.npy.
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.labels import palette
from data.pseudo_labels import write_hard, write_soft
from stages.build import inference_data, load_for_inference, prepare_device, whole_images
from stages.predict import Prediction, predict
from stages.stage import resize_logits
from utils.background import BackgroundWriter
from utils.launch import joined
from utils.options import Options, parse, run_script
from utils.processes import Processes


def main() -> None:
    """Parse, predict, write."""
    o = parse("pseudo_label", __doc__)
    with joined(o) as processes:
        generate(o, processes)


def generate(o: Options, processes: Processes) -> None:
    """Every process its share of the images."""
    device = prepare_device(o)
    o, network, compute = load_for_inference(o, device, processes)
    data = inference_data(o, "train", processes)
    loader = whole_images(o, data, processes)
    folder, colours, mirror = o.save_path / o.name, palette(o.n_class), o.flip and not o.soft
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
    processes.say(f"wrote {'soft' if o.soft else 'hard'} pseudo labels of {len(data)} images to {folder}")


def hard_scores(item: Prediction, grid: bool) -> Tensor:
    """Scores (1, K, h, w) whose argmax is the label and whose maximum the confidence.

    With a mirrored view the mean of both views' probabilities, each brought to full size. Otherwise
    probabilities at full size, or with `grid` (quirk Q9) the logits as they are.
    """
    size = item.image.shape[2:]
    if item.mirrored is None and grid:
        return item.output.logits
    probs = resize_logits(item.output.logits.softmax(dim=1), size)
    if item.mirrored is not None:
        probs = (probs + resize_logits(item.mirrored.logits.softmax(dim=1), size).flip(3)) / 2
    return probs


if __name__ == "__main__":
    run_script(main)
