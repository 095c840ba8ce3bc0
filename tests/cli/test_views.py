"""--flip and --scales on scored images, checked by numpy, and the zip for Cityscapes' server."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_tools import IMAGE_SIZE, pixels, random_network, refused_here, run_here
from PIL import Image

RUN = "python test.py --num_workers 0 --device cpu --resume model.pkl"
LABEL_IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33])


def resized(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """(…, h, w) → (…, height, width), bilinear with the corners in their places."""
    for axis, size in ((-2, height), (-1, width)):
        own = maps.shape[axis]
        place = np.arange(size) * ((own - 1) / (size - 1))
        low = np.minimum(place.astype(int), own - 2)
        part = (place - low).reshape((-1, 1) if axis == -2 else -1)
        maps = np.take(maps, low, axis) * (1 - part) + np.take(maps, low + 1, axis) * part
    return maps


@torch.no_grad()
def averaged(image: np.ndarray, scales: tuple[float, ...], mirror: bool) -> np.ndarray:
    """Mean probabilities (K, H, W) of model.pkl's network for an image (H, W, 3) in 0 to 255."""
    network = random_network("mini").eval()
    height, width = image.shape[:2]
    channels, views = np.moveaxis(image, 2, 0) / 255, []
    for scale in scales:
        scaled = resized(channels, round(scale * height), round(scale * width))
        for step in (1, -1) if mirror else (1,):
            view = torch.from_numpy(scaled[:, :, ::step].astype(np.float32))[None]
            logits = network(view).logits[0].double().numpy()
            exponentials = np.exp(logits - logits.max(axis=0))
            views.append(resized(exponentials / exponentials.sum(axis=0), height, width)[:, :, ::step])
    return np.mean(views, axis=0)


@pytest.fixture
def place(tmp_path: Path, networks: Path) -> Path:
    """A folder with model.pkl and nothing else."""
    (tmp_path / "model.pkl").symlink_to(networks / "k19.pkl")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "scales", "mirror"),
    [("--flip --scales 0.75,1 --infer_bs 2", (0.75, 1), True), ("--scales 1.2", (1.2,), False)],
)
def test_scores_of_averaged_probabilities_are_those_of_numpy(
    place, dataset, monkeypatch, capsys, words, scales, mirror
):
    (place / "dataset").symlink_to(dataset)
    files = f"--img_size {IMAGE_SIZE[0]},{IMAGE_SIZE[1]} --save_pred pred --result r.json --table t.csv"
    run_here(f"{RUN} {files} {words}", place, monkeypatch)
    assert "views: mean of the probabilities at scale" in capsys.readouterr().out
    matrix = np.zeros((19, 19))
    for path in sorted(dataset.glob("cityscapes/leftImg8bit/val/*/*.png")):
        probs, found = averaged(pixels(path), scales, mirror), pixels(place / "pred" / path.name)
        two = np.sort(probs, axis=0)[-2:]
        assert (found == probs.argmax(axis=0))[two[1] - two[0] > 1e-5].all()
        assert (found == probs.argmax(axis=0)).mean() > 0.999 and len(np.unique(found)) > 1
        label = pixels(Path(str(path).replace("leftImg8bit", "gtFine").replace(".png", "_labelIds.png")))
        known = np.isin(label, LABEL_IDS)
        np.add.at(matrix, (np.searchsorted(LABEL_IDS, label[known]), found[known]), 1)
    hits, union = matrix.diagonal(), matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    scores = json.loads((place / "r.json").read_text())
    expected = [hit / of if of else None for hit, of in zip(hits, union, strict=True)]
    assert scores["iou"] == pytest.approx(expected) and hits.sum() > 0
    (row,) = csv.DictReader((place / "t.csv").read_text().splitlines())
    assert row["views"] == scores["views"] and ("mirrored" in row["views"]) is mirror

    images = f"--images dataset/cityscapes/leftImg8bit/val --save_dir own {words.partition(' --infer')[0]}"
    run_here(f"{RUN} {images}", place, monkeypatch)  # predicts the same
    pairs = [
        (path, next((place / "own").rglob(path.name))) for path in (place / "pred").glob("*leftImg8bit.png")
    ]
    assert len(pairs) == 2
    assert all((pixels(one) == pixels(other)).mean() > 0.999 for one, other in pairs)


def test_one_view_is_scored_as_without_the_options(place, dataset, monkeypatch, capsys):
    (place / "dataset").symlink_to(dataset)
    size = f"--img_size {IMAGE_SIZE[0]},{IMAGE_SIZE[1]} --max_images 1"
    for name, words in (("plain", ""), ("one", "--scales 1")):
        run_here(f"{RUN} {size} --result {name}.json {words}", place, monkeypatch)
    assert (place / "plain.json").read_bytes() == (place / "one.json").read_bytes()
    assert "views" not in capsys.readouterr().out
    line = refused_here(f"{RUN} {size} --scales 1,0.05", place, monkeypatch)
    assert "leftImg8bit" in line and "13×6 pixels" in line and "--scales" in line


def draw(path: Path, seed: int) -> None:
    """Patches of random colours."""
    patches = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(patches).resize((64, 32), Image.Resampling.NEAREST).save(path)


def test_the_zip_holds_the_label_ids_and_nothing_else(place, monkeypatch, capsys):
    stems = [f"{city}_00000{i}_000019" for i, city in enumerate(("berlin", "berlin", "bonn"))]
    for i, stem in enumerate(stems):
        draw(place / "test" / stem.partition("_")[0] / f"{stem}_leftImg8bit.png", i)
    command = f"{RUN} --images test --save_dir out --zip hand/in.zip"
    run_here(f"{command} --overlay", place, monkeypatch)
    assert "packed label ids of 3 images into hand/in.zip\n" in capsys.readouterr().out
    archive = zipfile.ZipFile(place / "hand" / "in.zip")
    assert archive.testzip() is None
    names = [f"{stem}_leftImg8bit_labelIds.png" for stem in stems]
    assert archive.namelist() == names  # flat; the evaluator looks for CITY_SEQUENCE_FRAME*.png
    for name in names:
        content = archive.read(name)
        (written,) = (place / "out" / "labelIds").rglob(name)
        assert content == written.read_bytes() and np.isin(pixels(written), LABEL_IDS).all()
    first = (place / "hand" / "in.zip").read_bytes()
    run_here(command, place, monkeypatch)
    assert (place / "hand" / "in.zip").read_bytes() == first
    run_here(f"{command} --max_images 2 --save_dir two --zip two.ZIP", place, monkeypatch)
    assert zipfile.ZipFile(place / "two.ZIP").namelist() == names[:2]

    torn = place / "test" / "bonn" / f"{stems[2]}_leftImg8bit.png"
    torn.write_bytes(torn.read_bytes()[:60])
    line = refused_here(f"{command} --zip torn.zip", place, monkeypatch)
    assert "1 of 3 images" in line and "torn.zip is not written" in line
    with monkeypatch.context() as patch:  # interrupted while it packs
        patch.setattr(zipfile.ZipFile, "writestr", lambda *a: (_ for _ in ()).throw(OSError(28, "no room")))
        line = refused_here(f"{command} --max_images 2 --zip full.zip", place, monkeypatch)
    assert "full.zip: could not be written" in line
    assert not [path for path in place.rglob("*") if path.name in ("torn.zip", "full.zip")]
    assert not list(place.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["berlin_1_2_leftImg8bit.png", "street.png"], ["in/street.png", "CITY_SEQUENCE_FRAME", "--zip"]),
        (["a/bonn_1_2_x.png", "b/bonn_1_2_x.png"], ["in/a/bonn_1_2_x.png", "in/b/bonn_1_2_x.png", "rename"]),
    ],
)
def test_images_whose_names_the_server_does_not_take_are_refused_before_any_work(
    place, monkeypatch, files, message
):
    for i, name in enumerate(files):
        draw(place / "in" / name, i)
    line = refused_here(f"{RUN} --images in --save_dir out --zip x.zip", place, monkeypatch)
    assert all(word in line for word in message), line
    assert not (place / "out").exists() and not (place / "x.zip").exists()
