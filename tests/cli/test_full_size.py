"""Every inference script on a 2048×1024 image with the whole ResNet-101: shapes, types and names."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_tools import draw_mini, load, pixels, random_network, succeed, write_released

pytestmark = pytest.mark.slow
WORDS = "--resume_path model.pkl --num_workers 0 --device cpu"
FULL, GRID = (1024, 2048), (129, 257)  # H, W; h, w


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each split at full size, and a network that nobody trained."""
    path = tmp_path_factory.mktemp("full")
    draw_mini("dataset --size 2048,1024 --source 1 --target 1 --val 1", path)
    write_released(path / "model.pkl", random_network("resnet101"))
    return path


def test_scores(folder):
    succeed(f"python test.py {WORDS} --result scores.json --save_pred seen", folder, OMP_NUM_THREADS="2")
    assert json.loads((folder / "scores.json").read_text())["images"] == 1
    for path in (folder / "seen").iterdir():
        assert pixels(path).shape[:2] == FULL


def test_soft_labels(folder):
    succeed(f"python generate_pseudo_label.py --soft --name soft {WORDS}", folder, OMP_NUM_THREADS="2")
    (path,) = (folder / "Pseudo" / "soft").glob("*.npy")
    soft = np.load(path)
    assert path.name.endswith("_leftImg8bit.npy")
    assert (soft.dtype, soft.shape) == (np.float32, (19, *GRID))


def test_hard_labels(folder):
    succeed(f"python generate_pseudo_label.py --flip --name hard {WORDS}", folder, OMP_NUM_THREADS="2")
    files = {p.name.split("_leftImg8bit")[1]: p for p in (folder / "Pseudo" / "hard").glob("*leftImg8bit*")}
    assert set(files) == {".png", "_color.png", "_conf.npy"}
    label, confidence = pixels(files[".png"]), np.load(files["_conf.npy"])
    assert (label.dtype, label.shape) == (np.uint8, FULL) and label.max() < 19
    assert (confidence.dtype, confidence.shape) == (np.float16, FULL)
    assert pixels(files["_color.png"]).shape == (*FULL, 3)


def test_prototypes(folder):
    succeed(f"python calc_prototype.py {WORDS}", folder, OMP_NUM_THREADS="2")
    prototypes = load(folder / "prototypes_on_cityscapes_from_deeplabv2")
    assert prototypes.shape == (19, 256) and prototypes.dtype.is_floating_point


def test_class_distribution(folder):
    succeed(f"python generate_class_distribution.py --class_balance {WORDS}", folder, OMP_NUM_THREADS="2")
    shares = np.load(folder / "Pseudo" / "class_distribution.npy")
    assert shares.shape == (19,) and shares.sum() == pytest.approx(1)
