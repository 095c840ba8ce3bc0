"""Score a checkpoint on Cityscapes val.

    python test.py --resume ./logs/NAME/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl

Prints IoU per class; --result FILE also writes the scores, --save_pred DIR the predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from data.labels import class_names, palette, thirteen_of_sixteen
from stages.build import inference_data, load_for_inference, prepare_device, whole_images
from stages.predict import evaluate
from utils.background import BackgroundWriter
from utils.files import save_image, save_json
from utils.launch import joined
from utils.metrics import nan_mean
from utils.options import Options, parse, run_script
from utils.processes import Processes
from utils.render import palette_picture


def main() -> None:
    """Parse, predict, print."""
    o = parse("test", __doc__)
    with joined(o) as processes:
        score(o, processes)


def score(o: Options, processes: Processes) -> None:
    """Every process its share of the images; the first tells."""
    device = prepare_device(o)
    o, network, compute = load_for_inference(o, device, processes)
    data = inference_data(o, "val", processes)
    loader = whole_images(o, data, processes, with_labels=True)
    with BackgroundWriter() as writer:
        write = _on_prediction(o, writer)
        scores = evaluate(network, loader, o.n_class, device, write, processes, compute)
    if o.n_class == 16:
        scores["miou_13"] = nan_mean([scores["iou"][i] for i in thirteen_of_sixteen()])
    scores = {"checkpoint": str(o.resume_path), "classes": class_names(o.n_class)} | scores
    processes.say(_table(scores))
    if o.result and processes.first:
        save_json(scores, o.result)


def _on_prediction(o: Options, writer: BackgroundWriter) -> Callable[[str, np.ndarray], None] | None:
    """Writes each prediction under --save_pred."""
    if o.save_pred is None:
        return None
    return lambda name, prediction: writer.do(_write, o.save_pred, name, prediction, palette(o.n_class))


def _write(folder: Path, name: str, prediction: np.ndarray, colours: np.ndarray) -> None:
    save_image(Image.fromarray(prediction), folder / f"{name}.png")
    save_image(palette_picture(prediction, colours), folder / f"{name}_color.png")


def _table(scores: dict) -> str:
    """Scores in percent, for people."""
    lines = [
        f"{name:<14}{100 * iou:6.2f}" for name, iou in zip(scores["classes"], scores["iou"], strict=True)
    ]
    summary = {
        f"mIoU over {len(scores['classes'])}": "miou",
        "mIoU over 13": "miou_13",
        "overall accuracy": "overall_accuracy",
        "mean accuracy": "mean_accuracy",
        "frequency-weighted IoU": "frequency_weighted_iou",
    }
    lines += [f"{title:<24}{100 * scores[key]:6.2f}" for title, key in summary.items() if key in scores]
    return "\n".join([*lines, f"images: {scores['images']}"])


if __name__ == "__main__":
    run_script(main)
