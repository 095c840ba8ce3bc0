"""Score a checkpoint on the target's val images.

    python test.py --resume ./logs/NAME/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl
    python test.py --resume CHECKPOINT --images FOLDER_OR_FILE --save_dir OUT [--overlay]

Prints IoU per class; --result FILE also writes the scores, --table FILE a row of a table (.md, .tex, .csv),
--save_pred DIR the predictions. With --images nothing is scored: images of one's own are predicted
(docs/own_images.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from data.build import inference_data, whole_images
from data.classes import Classes
from data.own_images import own_images, own_loader
from data.sets.choose import classes_of
from data.sets.folder import has_labels
from engine.about import scored_as_published
from engine.inference import Prediction, add_mean_over_13, evaluate, shapes
from engine.launch import joined
from engine.own_images import Predictor, Products, predict_own_images
from engine.trained import load_for_inference, load_with_record, prepare_device
from utils.distributed import Processes
from utils.errors import run_script
from utils.files.background import BackgroundWriter
from utils.files.whole import save_json
from utils.options import Options, parse
from utils.render import save_prediction
from utils.report.published import published_rows
from utils.report.tables import plain_table, save_table


def main() -> None:
    """Parse, predict, print."""
    o = parse("test", __doc__)
    with joined(o) as processes:
        if o.images is None:
            score(o, processes)
        else:
            predict_files(o, processes)


def score(o: Options, processes: Processes) -> None:
    """Every process its share of the images; the first tells."""
    device = prepare_device(o)
    o, network, compute, trained = load_with_record(o, device, processes)
    classes, data = classes_of(o), inference_data(o, "val", processes)
    if data.name == "folder" and not has_labels(data):
        raise ValueError(
            f"{data.labels[0]}: missing, as are all labels of val, so nothing can be scored; "
            "--images DIR --save_dir DIR predicts images without labels"
        )
    loader = whole_images(o, data, processes, with_labels=True)
    with BackgroundWriter() as writer:
        write = _on_prediction(o, classes, writer)
        scores = evaluate(network, loader, o.n_class, device, write, processes, compute)
    add_mean_over_13(scores, classes)
    about = {"checkpoint": str(o.resume_path), **trained, "torch": torch.__version__}
    about["as_published"] = scored_as_published(o, data, scores["images"])
    scores = about | {"classes": list(classes.names)} | scores
    published = published_rows(o.n_class) if about["as_published"] else ()
    processes.print_once(plain_table(scores, published))
    if o.result and processes.is_main:
        save_json(scores, o.result)
    if o.table and processes.is_main:
        save_table(scores, o.table, published)


def predict_files(o: Options, processes: Processes) -> None:
    """Every process its share of the user's own images; ValueError in the end if any was left out."""
    device = prepare_device(o)
    images = own_images(o.images, o.img_size, o.max_images)
    o, network, compute = load_for_inference(o, device, processes)
    classes = classes_of(o)
    ids = classes.cityscapes_ids() if o.format == "cityscapes" else None
    products = Products(o.save_dir, classes.palette, o.overlay, ids)
    products.require_room(images, o.images)
    predictor = Predictor(network, device, o.scales, o.flip, compute)
    loader = own_loader(images, o.num_workers, processes, o.on_gpu)
    with shapes(one=o.img_size is not None):
        failed = predict_own_images(predictor, loader, products, processes)
    processes.print_once(f"wrote predictions of {len(images) - failed} images to {o.save_dir}")
    if failed:
        raise ValueError(f"{failed} of {len(images)} images could not be predicted; each is named above")


def _on_prediction(
    o: Options, classes: Classes, writer: BackgroundWriter
) -> Callable[[Prediction, Tensor], None] | None:
    """Writes each prediction under --save_pred."""
    if o.save_pred is None:
        return None
    colours = classes.palette

    def write(item: Prediction, prediction: Tensor) -> None:
        writer.do(save_prediction, o.save_pred, item.name, prediction.to(torch.uint8).cpu().numpy(), colours)

    return write


if __name__ == "__main__":
    run_script(main)
