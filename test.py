"""Score a checkpoint on the target's val images.

    python test.py --resume ./logs/NAME/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl
    python test.py --resume CHECKPOINT --images FOLDER_OR_FILE --save_dir OUT [--overlay]

Prints IoU per class; --result FILE also writes the scores, --table FILE a row of a table (.md,
.tex, .csv), --save_pred DIR the predictions. With --images nothing is scored: images of one's own
are predicted, and --zip FILE packs them for Cityscapes' benchmark server (docs/own_images.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from data.build import inference_data, whole_images
from data.sets.choose import classes_of
from data.sets.folder import has_labels
from engine.about import scored_as_published
from engine.inference import Prediction, add_mean_over_13, load_trained
from engine.launch import claimed, joined
from engine.own_images import predict_files
from engine.views import Views
from utils.distributed import Processes
from utils.errors import run_script
from utils.files.whole import save_json
from utils.options import Options, parse
from utils.published import published_rows
from utils.render import save_prediction
from utils.report.tables import plain_table, save_table
from utils.workers import BackgroundWriter


def main() -> None:
    """Parse, predict, print."""
    o = parse("test", __doc__)
    with joined(o) as processes:
        if o.images:
            predict_files(o, processes)
            return
        files = [file for file in (o.result, o.table) if file]
        with claimed(processes, [o.save_pred] if o.save_pred else [], files):
            score(o, processes)


def score(o: Options, processes: Processes) -> None:
    """Score, each process its part of the images; the main one prints and writes."""
    trained = load_trained(o, processes)
    o, classes, views = trained.o, classes_of(trained.o), Views(o.scales, o.flip)
    data = inference_data(o, "val", processes)
    if data.name == "folder" and not has_labels(data):
        raise ValueError(
            f"{data.labels[0]}: missing, as are all labels of val, so nothing can be scored; "
            "--images DIR --save_dir DIR predicts images without labels"
        )
    with BackgroundWriter() as writer:

        def write(item: Prediction, prediction: Tensor) -> None:
            ids = item.on_host(prediction.to(torch.uint8))
            writer.do(save_prediction, o.save_pred, item.name, ids, classes.palette)

        loader = whole_images(o, data, processes, with_labels=True)
        scores = trained.evaluate(loader, views, write if o.save_pred else None)
    add_mean_over_13(scores, classes)
    published = views.is_one and scored_as_published(o, data, scores["images"])
    about = {"checkpoint": str(o.resume_path), **trained.record, "torch": torch.__version__}
    if not views.is_one:
        about["views"] = str(views)
    scores = {**about, "as_published": published, "classes": list(classes.names), **scores}
    rows = published_rows(o.n_class) if published else ()
    processes.print_once(plain_table(scores, rows))
    if o.result and processes.is_main:
        save_json(scores, o.result)
    if o.table and processes.is_main:
        save_table(scores, o.table, rows)


if __name__ == "__main__":
    run_script(main)
