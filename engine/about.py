"""Write `about.json`: the facts of a run that its report needs."""

from __future__ import annotations

import json
import os
import platform
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
import PIL
import torch
from torch.utils.data import DataLoader

from data.batches import image_names
from data.classes import Classes
from data.sets.cityscapes import SIZE
from data.sets.dataset import DataSet
from stages.self_labeling import SelfLabelingStage
from stages.stage import Stage
from utils.files.whole import save_json
from utils.options import Options
from utils.published import PublishedRun, published_run

ABOUT_FILE = "about.json"
_VAL_IMAGES = 500  # of Cityscapes


def write_about(
    o: Options,
    folder: Path,
    stage: Stage,
    loaders: tuple[DataLoader, DataLoader | None],
    val: DataSet | None,
    total: int,
    classes: Classes,
) -> None:
    """Write `about.json`. total: iterations of the run."""
    domains = zip(("source", "target"), loaders, strict=True)
    images = {name: len(image_names(x)) for name, x in domains if x is not None}
    clusters = isinstance(stage, SelfLabelingStage) and stage.method.self_labeling_weight > 0
    prior = stage.self_labeling.prior.tolist() if clusters else None
    earlier = _earlier(folder / ABOUT_FILE, stage.iteration)
    content = {
        "stage": o.stage,
        "iterations": total,
        "classes": list(classes.names),
        "colours": classes.palette.tolist(),
        "prior": earlier.get("prior", prior),  # at the start of the run; a refreshed one is in the log
        "images": images | ({} if val is None else {"val": len(val)}),
        "as_published": _val_as_published(o, val),
        "parameters": sum(p.numel() for p in stage.student.parameters()),
        "quirks": list(o.quirks_on.active()),
        "starts": [*earlier.get("starts", []), _start(stage)],
    }
    save_json(content, folder / ABOUT_FILE)


def published_beside(o: Options, val: DataSet | None) -> PublishedRun | None:
    """Return the released run that this training repeats, or None."""
    return published_run(o.values(), _val_as_published(o, val))


def _val_as_published(o: Options, val: DataSet | None) -> bool:
    return val is not None and scored_as_published(o, val, len(val), o.src_dataset)


def scored_as_published(o: Options, val: DataSet, images: int, source: str | None = None) -> bool:
    """True if scores on `images` of val may stand beside the published ones.

    source: the data set that the network was trained on; without it --src_dataset, and if that was not given
    either the usual one.
    """
    usual = {19: "gta5", 16: "synthia"}.get(o.n_class)
    source = source or (o.src_dataset if o.given("src_dataset") else usual)
    if usual is None or source != usual or o.own_classes or o.backbone != "resnet101":
        return False
    return images == _VAL_IMAGES and val.name == "cityscapes" and val.size == val.size_on_disk() == SIZE


def _start(stage: Stage) -> dict:
    """Describe where and on which machine a run begins or goes on."""
    device = next(stage.student.parameters()).device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    return {
        "after": stage.iteration,
        "time": time.strftime("%Y-%m-%d %H:%M:%S"),
        "device": gpu or f"CPU ({platform.machine()}, {torch.get_num_threads()} threads)",
        "processes": stage.processes.size,
        "cores": os.cpu_count(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),  # to import it takes two seconds
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _earlier(path: Path, iteration: int) -> dict:
    """Load the `about.json` of a run that is continued; empty if it is missing or damaged."""
    if iteration:
        with suppress(OSError, ValueError, LookupError, TypeError, RecursionError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(content["starts"], list) and "prior" in content:
                return content
    return {}
