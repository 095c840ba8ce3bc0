"""Combinations of options that cannot work, each as one line that names the options."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from utils.files.yaml_file import leads_out
from utils.grid import crop_problem, grid_size
from utils.options.values import Options
from utils.quirks import Quirks
from utils.report.tables import FORMATS


def problems(o: Options, script: str) -> Iterator[str]:
    """Yield what cannot work in a script, as one line each; the first may be the reason for the others."""
    if o.n_class not in (19, 16, 13) and not o.own_classes:
        yield f"--n_class {o.n_class}: ids are known for 19, 16 and 13 classes; give others as --classes FILE"
    if any(side < 8 or side % 8 for side in o.rcrop):
        yield f"--rcrop {o.rcrop[0]},{o.rcrop[1]}: both must be multiples of 8"
    if o.img_size and min(o.img_size) < 8:
        yield "--img_size: both sides must be at least 8"
    if o.device == "cuda" and not torch.cuda.is_available():
        yield "--device cuda: no GPU is visible; use --device cpu"
    for name in ("name", "model_name"):
        if leads_out(getattr(o, name)):
            yield f"--{name} {getattr(o, name)!r}: give a name, not a path that leads out of the folder"
    try:
        quirks = Quirks.parse(o.quirks)
    except ValueError as error:
        yield f"--quirks: {error}"
    if o.colour_transfer and o.src_dataset != "folder":
        yield "--colour_transfer is for --src_dataset folder: GTA5 always has it, SYNTHIA never"
    if o.compile and o.recompute:
        yield "--compile and --recompute cannot go together: leave one out"
    if o.fbs > o.queue_length:
        yield f"--fbs {o.fbs} rows do not fit --queue_length {o.queue_length}"
    if script in ("train", "check") and o.continue_run and o.overwrite:
        yield "--continue and --overwrite: give one or the other"
    if script == "train" and o.stage == "source_only" and o.given("resume_path"):
        yield f"--resume_path {o.resume_path}: --stage source_only starts from no checkpoint; leave it out"
    if script == "train" and o.stage == "stage1":
        yield from _problems_of_stage1(o)
    uint8 = script == "pseudo_label" and o.conf_dtype == "uint8"
    if uint8 and not (o.flip or o.soft) and quirks.grid_hard_labels:
        yield "--conf_dtype uint8 needs --flip: without it the released behaviour (Q9) writes raw logits"
    if script == "prototypes" and o.soft and o.source:
        yield "--soft and --source cannot go together: leave one out"
    if script == "distribution" and o.named_distribution:
        yield f"--class_distribution {o.named_distribution}: is for train.py; here it is the file to write"
    if script == "distribution" and o.class_distribution and o.class_distribution.suffix in (".txt", ".json"):
        yield f"--class_distribution {o.class_distribution}: numpy's format is written; let it end in .npy"
    if script == "test":
        yield from _problems_of_test(o)


def _problems_of_stage1(o: Options) -> Iterator[str]:
    if o.bn_clr != o.ema_bn:
        yield "the EMA model of stage 1 equals the student: give both --bn_clr and --ema_bn, or neither"
    crop = math.prod(grid_size(*o.rcrop))
    if crop < o.fbs:
        yield f"--fbs {o.fbs}: more pixels than the grid of a crop has ({crop}); lower it"
    if o.img_size or o.tgt_dataset != "folder":  # else the size is known where the images are
        problem = crop_problem(o.rcrop, o.img_size or (2048, 1024))
        if problem:
            yield problem


def _problems_of_test(o: Options) -> Iterator[str]:
    if o.table is not None and o.table.suffix.lower() not in FORMATS:
        yield f"--table {o.table}: the ending sets the format; give one of {', '.join(FORMATS)}"
    if not all(0 < scale < math.inf for scale in o.scales):
        yield f"--scales {','.join(map(str, o.scales))}: each must be above 0"
    if o.zip is not None and (o.zip.suffix.lower() != ".zip" or o.zip.is_dir()):
        yield f"--zip {o.zip}: give a file whose name ends in .zip"
    if o.images is None:
        for name in ("save_dir", "overlay", "format", "zip"):
            if getattr(o, name) not in (None, False, "train_ids"):
                yield f"--{name} is for --images: give that too, or leave it out"
        return
    if o.save_dir is None:
        yield "--images needs --save_dir DIR, the folder for the predictions"
    for name in ("result", "save_pred", "table"):
        if getattr(o, name) is not None:
            yield f"--{name} is for labelled images, not for --images: leave one out"
