"""Score a checkpoint on Cityscapes val.

    python test.py --resume ./logs/NAME/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl

Prints IoU per class; --result FILE also writes the scores, --table FILE a row of a table (.md, .tex, .csv),
--save_pred DIR the predictions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.cityscapes import SIZE
from data.dataset import DataSet
from data.labels import class_names, palette, thirteen_of_sixteen
from stages.build import inference_data, load_with_quirks, prepare_device, whole_images
from stages.predict import evaluate
from utils.background import BackgroundWriter
from utils.files import save_image, save_json
from utils.launch import joined
from utils.metrics import nan_mean
from utils.options import Options, parse, run_script
from utils.processes import Processes
from utils.published import PublishedRow, published_rows
from utils.render import palette_picture
from utils.tables import plain_table, save_table


def main() -> None:
    """Parse, predict, print."""
    o = parse("test", __doc__)
    with joined(o) as processes:
        score(o, processes)


def score(o: Options, processes: Processes) -> None:
    """Every process its share of the images; the first tells."""
    device = prepare_device(o)
    o, network, compute, quirks = load_with_quirks(o, device, processes)
    data = inference_data(o, "val", processes)
    loader = whole_images(o, data, processes, with_labels=True)
    with BackgroundWriter() as writer:
        write = _on_prediction(o, writer)
        scores = evaluate(network, loader, o.n_class, device, write, processes, compute)
    if o.n_class == 16:
        scores["miou_13"] = nan_mean([scores["iou"][i] for i in thirteen_of_sixteen()])
    about = {"checkpoint": str(o.resume_path), "quirks": quirks, "torch": torch.__version__}
    scores = about | {"classes": class_names(o.n_class)} | scores
    published = _published(o, data, scores["images"])
    processes.say(plain_table(scores, published))
    if o.result and processes.first:
        save_json(scores, o.result)
    if o.table and processes.first:
        save_table(scores, o.table, published)


def _on_prediction(o: Options, writer: BackgroundWriter) -> Callable[[str, np.ndarray], None] | None:
    """Writes each prediction under --save_pred."""
    if o.save_pred is None:
        return None
    return lambda name, prediction: writer.do(_write, o.save_pred, name, prediction, palette(o.n_class))


def _write(folder: Path, name: str, prediction: np.ndarray, colours: np.ndarray) -> None:
    save_image(Image.fromarray(prediction), folder / f"{name}.png")
    save_image(palette_picture(prediction, colours), folder / f"{name}_color.png")


def _published(o: Options, data: DataSet, images: int) -> Sequence[PublishedRow]:
    """The figures that this scoring repeats, if it does."""
    return published_rows(o.n_class, o.backbone, images, data.size == data.size_on_disk() == SIZE)


if __name__ == "__main__":
    run_script(main)
