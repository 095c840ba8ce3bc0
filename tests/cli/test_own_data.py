"""Data sets of one's own: docs/own_data.md line by line, and what its commands leave."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_tools import PROJECT, load, pixels, run_here
from PIL import Image

PAGE = PROJECT / "docs" / "own_data.md"
NAMES = ["road", "pavement", "building", "sky", "vehicle"]
COLOURS = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (70, 130, 180)]  # of the first four
IDS = [(7,), (8,), (11, 12, 13), (23,), (26, 27, 28, 31, 32)]  # in the town's labels
SIZES = {"a": (250, 131), "b": (161, 201)}
CURRENT = "from_folder_to_folder_on_deeplabv2_current_model.pkl"


def run_block(block: str, folder: Path, variables: dict[str, str]) -> None:
    """Run a block of commands as a user types it, Python in this process, which saves its start."""
    shell: list[str] = []

    def flush() -> None:
        subprocess.run(["bash", "-e", "-c", "\n".join(shell)], cwd=folder, check=True)
        shell.clear()

    for line in block.splitlines():
        if found := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            variables[found[1]] = found[2]
        elif line.startswith("python "):
            flush()
            command = re.sub(r"\$([A-Z]+)", lambda name: variables[name[1]], line)
            run_python(command, folder)
        else:
            shell.append(line)
    flush()


def run_python(command: str, folder: Path) -> None:
    words = shlex.split(command)
    if words[1] != "-m":
        with pytest.MonkeyPatch.context() as patch:
            run_here(command, folder, patch)
        return
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.chdir(folder)
        patch.setattr(sys, "argv", words[2:])
        runpy.run_module(words[2], run_name="__main__", alter_sys=False)
    assert end.value.code == 0


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the page has been run."""
    folder = tmp_path_factory.mktemp("page")
    threads, variables = torch.get_num_threads(), {}
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 7
    for block in blocks:
        run_block(block, folder, variables)
    torch.set_num_threads(threads)
    return folder


def train_images(page: Path) -> dict[str, tuple[int, int]]:
    """Names and sizes of the town's training images."""
    files = (page / "town" / "images" / "train").glob("*/*.png")
    return {f"{f.parent.name}/{f.name.removesuffix('_leftImg8bit.png')}": SIZES[f.parent.name] for f in files}


@pytest.mark.parametrize("stage", ["source_only", "warm_up", "stage1", "stage2", "stage3"])
def test_every_stage_trains_five_classes(page, stage):
    content = load(page / "logs" / stage / CURRENT)
    assert content["classes"] == NAMES and content["iter"] == 4
    assert content["ResNet101"]["model_state"]["layer5.head.1.weight"].shape[0] == 5
    lines = [json.loads(line) for line in (page / "logs" / stage / "log.jsonl").read_text().splitlines()]
    assert [f"val/iou/{name}" for name in NAMES] == [k for k in lines[-1] if k.startswith("val/iou/")]
    assert (page / "logs" / stage / CURRENT.replace("current", "best")).is_file()


def test_soft_labels_fit_each_image(page):
    names = train_images(page)
    assert len(names) == 8
    for name, (width, height) in names.items():
        soft = np.load(page / "Pseudo" / "soft" / f"{name}.npy")
        # Half, half in ceil mode, half: written out for the two sizes.
        assert soft.shape == (5, *{(250, 131): (17, 32), (161, 201): (26, 21)}[width, height])
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)


@pytest.mark.parametrize("folder", ["hard1", "hard2"])
def test_hard_labels_have_the_images_sizes_and_the_files_colours(page, folder):
    for name, size in train_images(page).items():
        label = pixels(page / "Pseudo" / folder / f"{name}.png")
        assert label.shape == size[::-1] and label.max() < 5
        with Image.open(page / "Pseudo" / folder / f"{name}_color.png") as picture:
            assert picture.mode == "P"
            coloured = np.asarray(picture.convert("RGB"))
        for train_id, colour in enumerate(COLOURS):
            assert (coloured[label == train_id] == colour).all()


def test_prototypes_and_class_distribution_of_five(page):
    prototypes = load(page / "logs" / "warm_up" / "prototypes_on_folder_from_deeplabv2")
    assert prototypes.shape == (5, 64)
    shares = np.load(page / "Pseudo" / "class_distribution.npy")
    assert shares.shape == (5,) and shares.sum() == pytest.approx(1)


def test_scores_are_those_of_the_predictions_at_the_labels_own_size(page):
    """Counted pixel by pixel from the predictions on disk and the labels, by the page's ids."""
    right, union = np.zeros(5), np.zeros(5)
    labels = sorted((page / "town" / "labels" / "val").glob("*/*.png"))
    assert len(labels) == 2
    for path in labels:
        name = path.name.removesuffix("_gtFine_labelIds.png")
        prediction, label = pixels(page / "predictions" / path.parent.name / f"{name}.png"), pixels(path)
        assert label.shape == prediction.shape == SIZES[path.parent.name][::-1]
        known = np.isin(label, sum(IDS, ()))
        for k, ids in enumerate(IDS):
            is_class, said = np.isin(label, ids), (prediction == k) & known
            right[k] += (is_class & said).sum()
            union[k] += (is_class | said).sum()
    scores = json.loads((page / "scores.json").read_text())
    assert scores["classes"] == NAMES and "miou_13" not in scores and scores["images"] == 2
    np.testing.assert_allclose(scores["iou"], right / union)
    assert scores["miou"] == pytest.approx((right / union).mean())
    head = (page / "scores.md").read_text().splitlines()[0]
    assert head == "| checkpoint | road | pavement | building | sky | vehicle | mIoU (5) |"
    assert "published" not in (page / "scores.md").read_text()


def test_own_images_get_the_files_colours(page):
    predictions = [p for p in (page / "seen").glob("*/*_leftImg8bit.png")]
    assert len(predictions) == 2
    for path in predictions:
        label = pixels(path)
        with Image.open(path.with_name(f"{path.stem}_color.png")) as picture:
            coloured = np.asarray(picture.convert("RGB"))
        for train_id, colour in enumerate(COLOURS):
            assert (coloured[label == train_id] == colour).all()
