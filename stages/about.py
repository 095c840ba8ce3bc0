"""What a run's folder says of the run itself, so that a report needs nothing else: `about.json`."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path

import numpy as np
import PIL
import torch
import torchvision
from torch.utils.data import DataLoader

from data.classes import Classes
from data.dataset import DataSet
from data.loaders import image_names
from stages.self_labeling import SelfLabelingStage
from stages.stage import Stage
from utils.files import save_json
from utils.options import Options

FILE = "about.json"


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
    counted = dict(zip(("source", "target"), loaders, strict=True))
    images = {name: len(image_names(x)) for name, x in counted.items() if x is not None}
    prior = stage.self_labeling.prior.tolist() if isinstance(stage, SelfLabelingStage) else None
    starts = _earlier_starts(folder / FILE, stage.iteration)
    content = {
        "name": o.name,
        "stage": o.stage,
        "iterations": total,
        "classes": list(classes.names),
        "colours": classes.palette.tolist(),
        "prior": prior,
        "images": images | ({} if val is None else {"val": len(val)}),
        "own_size": classes.built_in and val is not None and _is_cityscapes_at_its_size(val),
        "parameters": sum(p.numel() for p in stage.student.parameters()),
        "quirks": list(o.quirks_on.active()),
        "starts": [*starts, _start(stage)],
    }
    save_json(content, folder / FILE)


def _is_cityscapes_at_its_size(val: DataSet) -> bool:
    return val.name == "cityscapes" and val.size == val.size_on_disk()


def _start(stage: Stage) -> dict:
    """Where and on what a run begins or goes on."""
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
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
    }


def _earlier_starts(path: Path, iteration: int) -> list:
    """Those of a run that is continued."""
    if iteration == 0:
        return []
    try:
        return list(json.loads(path.read_text(encoding="utf-8"))["starts"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
