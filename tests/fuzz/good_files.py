"""A good file of every kind that the project reads, small, from the same numbers each time."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy.io import savemat

from data.image_cache import encode
from data.labels import IGNORE
from data.mini.world import encode_png, encode_png16
from models import deeplabv2

SIZE = (48, 40)  # W, H of images and labels
CLASSES, FEATURES = 19, 64  # of the mini network
IDS = np.array([0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], dtype=np.uint8)
SYNTHIA_IDS = np.array(
    [0, 3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11], dtype=np.uint16
)

RECIPE = """title: small
folder: "{tmp}/seed{seed}"
options: {seed: 3, n_class: 16, src_dataset: synthia, log_dir: "{folder}/logs", lr: 1.0e-3, rcrop: [64, 32]}
steps:
  - name: data
    module: data.mini
    words: ["{folder}/data", --seed, "{seed}", --source, 8]
  - name: first
    script: train
    options: {name: one, stage: warm_up, lr: 2.5e-3, no_resume: true, resume_path: &model "{folder}/m.pkl"}
    test: last
  - name: labels
    script: generate_pseudo_label
    options: {soft: true, name: labels, save_path: "{folder}/Pseudo", resume_path: *model}
""".replace("{tmp}", "runs")
OPTIONS = """# options of a training
name: small
stage: warm_up
lr: 2.5e-4
rcrop: [64, 32]
img_size: 256,128
freeze_bn: true
no_resume: false
tgt_rootpath: &root ./dataset/cityscapes
src_rootpath: *root
"""
CLASSES_FILE = """# classes of one's own
classes:
  - {name: road, colour: "#804080", source: 7, target: [[128, 64, 128], "#000001"]}
  - {name: lane marking, colour: [1, 2, 3], source: [8, 9, 0], target: []}
source: {images: rgb, labels: "ids/{split}", list: "{split}.txt", train: all, ignore: rest}
target: {label_suffix: _id.png, kind: colours, ignore: &void [[0, 0, 0], "#ffffff"], val: test}
"""
LOG = "".join(f"Epochs [0/3] Iter [{20 * i}/90000]  loss: {7 / i:.4f}  loss_CTS: 0.5\n" for i in range(1, 30))


def _array(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def cycling(ids: np.ndarray) -> np.ndarray:
    """Label ids (H, W) in turn."""
    return np.resize(ids, (SIZE[1], SIZE[0]))


def picture() -> np.ndarray:
    """An image (H, W, 3)."""
    return _rng().integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)


@cache
def checkpoint(zipped: bool) -> bytes:
    """A mini network in the released layout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = deeplabv2("mini", CLASSES, False)
    prototypes = torch.zeros(CLASSES, FEATURES, requires_grad=True)
    content = {
        "ResNet101": {"model_state": network.state_dict(), "prototypes_ema": prototypes},
        "iter": 70000,
        "best_iou": np.float64(0.55),
    }
    return torch_bytes(content, zipped)


def torch_bytes(content: object, zipped: bool = True) -> bytes:
    """The bytes that torch.save writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def mat(**options: object) -> bytes:
    """GTA5's split.mat."""
    ids = np.arange(1, 41, dtype=np.uint16)
    buffer = io.BytesIO()
    parts = {"trainIds": ids[:20, None], "valIds": ids[20:30, None], "testIds": ids[30:, None]}
    savemat(buffer, parts, **options)
    return buffer.getvalue()


def _saved(form: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture()).save(buffer, form)
    return buffer.getvalue()


def _synthia() -> bytes:
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint16)
    pixels[..., 0], pixels[..., 1] = cycling(SYNTHIA_IDS), 1000
    return encode_png16(pixels)


def _hard() -> bytes:
    return encode_png(Image.fromarray(cycling(np.array([*range(CLASSES), IGNORE], np.uint8))))


def _shares() -> np.ndarray:
    return np.arange(1.0, CLASSES + 1) / 190


def _statistics() -> bytes:
    lines = []
    for key in ("0123456789abcdef01234567", "89abcdef0123456701234567"):
        numbers = " ".join(float(v).hex() for v in (50.0, 1.5, -3.0, 20.0, 5.0, 6.0))
        content = f"{key} {numbers}".encode()
        lines.append(b"\n%08x %s\n" % (zlib.crc32(content), content))
    return b"".join(lines)


def _text(content: str) -> Callable[[], bytes]:
    return content.encode


def _scores() -> bytes:
    scores = {"classes": ["road", "sky"], "iou": [0.5, 0.25], "miou": 0.375, "images": 3}
    scores |= {"quirks": "none", "torch": "2.0", "iteration": 400, "as_published": False}
    return json.dumps(scores, indent=2).encode()


def _about() -> bytes:
    about = {"stage": "stage1", "iterations": 9, "classes": ["road", "sky"], "as_published": True}
    about |= {"colours": [[1, 2, 3], [4, 5, 6]], "prior": [0.5, 0.5], "images": {"val": 3}, "parameters": 7}
    return json.dumps(about | {"quirks": ["x"], "starts": [{"after": 0, "torch": "2"}]}).encode()


def _confusion() -> bytes:
    return json.dumps({"iteration": 9, "images": 3, "confusion": [[5, 1], [0, 3]]}).encode()


def _lines() -> bytes:
    lines = [{"iteration": i, "loss/total": 2.0 / i, "val/miou": 0.1 * i} for i in (1, 2, 3)]
    return "".join(
        json.dumps(line | {"val/iou/road": 0.5, "val/iou/sky": 0.1}) + "\n" for line in lines
    ).encode()


def _sheet() -> bytes:
    info = PngInfo()
    info.add_text("sheet", json.dumps({"iteration": 9, "columns": ["a", "b"], "names": ["x"]}))
    file = io.BytesIO()
    Image.fromarray(picture()).save(file, format="PNG", pnginfo=info)
    return file.getvalue()


# kind → (name of the file, how it is made)
GOOD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "checkpoint_zip": ("model.pkl", lambda: checkpoint(True)),
    "checkpoint_legacy": ("model.pkl", lambda: checkpoint(False)),
    "prototypes": ("prototypes", lambda: torch_bytes(torch.ones(CLASSES, FEATURES))),
    "soft": ("x.npy", lambda: _array(np.full((CLASSES, 5, 7), 1 / 19, np.float32))),
    "confidence": ("x_conf.npy", lambda: _array(np.full((SIZE[1], SIZE[0]), 0.75, np.float16))),
    "confidence_png": (
        "x_conf.png",
        lambda: encode_png(Image.fromarray(cycling(np.arange(200, dtype=np.uint8)))),
    ),
    "hard_label": ("x.png", _hard),
    "image": ("x.png", lambda: encode_png(Image.fromarray(picture()))),
    "image_jpeg": ("x.png", partial(_saved, "JPEG")),
    "image_bmp": ("bmp.png", partial(_saved, "BMP")),
    "image_tiff": ("tiff.png", partial(_saved, "TIFF")),
    "image_webp": ("webp.png", partial(_saved, "WEBP")),
    "label_ids": ("x.png", lambda: encode_png(Image.fromarray(cycling(IDS)))),
    "label_synthia": ("x.png", _synthia),
    "split_compressed": ("split.mat", lambda: mat(do_compression=True)),
    "split_plain": ("split.mat", mat),
    "split_v4": ("split.mat", lambda: mat(format="4")),
    "options": ("options.yaml", _text(OPTIONS)),
    "recipe": ("recipe.yaml", _text(RECIPE)),
    "classes": ("classes.yaml", _text(CLASSES_FILE)),
    "name_list": ("train.txt", _text("".join(f"part{i % 3}/{i:04d}.png\n" for i in range(40)))),
    "label_colours": ("x.png", lambda: encode_png(Image.fromarray(picture() & 128))),
    "distribution": ("class_distribution.npy", lambda: _array(_shares())),
    "distribution_text": ("shares.txt", lambda: "\n".join(map(str, _shares())).encode()),
    "cache_entry": ("entry.image", lambda: encode(picture())),
    "colour_statistics": ("colour_statistics.txt", _statistics),
    "run_log": ("run.log", _text(LOG)),
    "scores": ("scores.json", _scores),
    "run_about": ("about.json", _about),
    "run_confusion": ("scores_best.json", _confusion),
    "run_lines": ("log.jsonl", _lines),
    "run_sheet": ("pictures/target.png", _sheet),
}
