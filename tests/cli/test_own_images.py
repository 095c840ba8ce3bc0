"""Images of one's own: what is written of them, how views are averaged, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_tools import (
    PROJECT,
    checkpoint_name,
    ended,
    pixels,
    random_network,
    refused_here,
    run_here,
    write_released,
)
from PIL import Image
from torch.nn import functional as F

from engine.own_images import Predictor
from utils.options import parse
from utils.options.declarations import options_of

SMALL = "--num_workers 0 --device cpu"
RUN = f"python test.py {SMALL} --resume model.pkl"

# Label ids and colours of Cityscapes in the order of the train ids, written by hand.
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
COLOURS = bytes.fromhex(
    "804080 f423e8 464646 66669c be9999 999999 faaa1e dcdc00 6b8e23 98fb98 4682b4 dc143c ff0000 00008e "
    "000046 003c64 005064 0000e6 770b20"
)
CITYSCAPES = {k: (LABEL_IDS[k], tuple(COLOURS[3 * k : 3 * k + 3])) for k in range(19)}


def draw(path: Path, width: int, height: int, seed: int = 0) -> np.ndarray:
    """Patches of random colours; returns the pixels as a reader sees them."""
    patches = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST).save(path)
    return pixels(path)


@pytest.fixture
def place(tmp_path: Path, networks: Path) -> Path:
    """A folder with model.pkl and nothing else: no data set."""
    (tmp_path / "model.pkl").symlink_to(networks / "k19.pkl")
    return tmp_path


@pytest.fixture
def three(place: Path) -> dict[str, np.ndarray]:
    """Pixels by name of a PNG and two JPEGs of odd sizes in place/in."""
    files = {"a.png": (61, 45), "sub/b.jpg": (80, 37), "sub/deep/c.d.JPEG": (33, 70)}
    drawn = {name: draw(place / "in" / name, *size, seed) for seed, (name, size) in enumerate(files.items())}
    return {name.rpartition(".")[0]: image for name, image in drawn.items()}


@pytest.mark.parametrize(("words", "measured"), [("", False), ("--img_size 64,32", True)])
def test_cudnn_measures_no_images_of_many_sizes(place, three, monkeypatch, words, measured):
    seen, plain = [], Predictor.__call__
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setattr(
        Predictor, "__call__", lambda *a: seen.append(torch.backends.cudnn.benchmark) or plain(*a)
    )
    run_here(f"{RUN} --images in --save_dir out {words}", place, monkeypatch)
    assert seen == 3 * [measured] and torch.backends.cudnn.benchmark


@torch.no_grad()
def logits_of(image: np.ndarray) -> torch.Tensor:
    """Return the logits of model.pkl's network for an image (H, W, 3) in 0 to 255, at the grid."""
    network = random_network("mini").eval()
    return network(torch.from_numpy(np.moveaxis(image, 2, 0).astype(np.float32) / 255)[None])[1]


def at(maps: torch.Tensor, height: int, width: int) -> torch.Tensor:
    return F.interpolate(maps, (height, width), mode="bilinear", align_corners=True)


def agree(found: np.ndarray, scores: torch.Tensor) -> None:
    """The label of the largest score everywhere but at ties by rounding, and of several classes."""
    expected = scores[0].argmax(dim=0).numpy()
    assert found.shape == expected.shape and found.dtype == np.uint8
    assert len(np.unique(expected)) > 1
    assert (found == expected).mean() > 0.999


# --- what is written --------------------------------------------------------------------------------------


def test_three_images_in_folders(place, three, monkeypatch, capsys):
    run_here(f"{RUN} --images in --save_dir out --overlay --format cityscapes", place, monkeypatch)
    assert "wrote predictions of 3 images to out\n" in capsys.readouterr().out
    written = {str(p.relative_to(place / "out")) for p in (place / "out").rglob("*") if p.is_file()}
    names = {f"{name}{ending}.png" for name in three for ending in ("", "_color", "_overlay")}
    assert written == names | {f"labelIds/{name}_labelIds.png" for name in three}
    for name, image in three.items():
        label = pixels(place / "out" / f"{name}.png")
        agree(label, at(logits_of(image), *image.shape[:2]))
        colours = np.zeros_like(image)
        ids = np.zeros_like(label)
        for train_id, (label_id, colour) in CITYSCAPES.items():
            colours[label == train_id] = colour
            ids[label == train_id] = label_id
        assert np.isin(label, list(CITYSCAPES)).all()
        np.testing.assert_array_equal(pixels(place / "out" / f"{name}_color.png"), colours)
        np.testing.assert_array_equal(pixels(place / "out" / "labelIds" / f"{name}_labelIds.png"), ids)
        half = (image.astype(int) + colours) // 2
        np.testing.assert_array_equal(pixels(place / "out" / f"{name}_overlay.png"), half)


def test_one_image_beside_itself(place, three, monkeypatch):
    """Its folder is no folder of images: products may lie there, but not over it. One scale of 1 is none."""
    image = three["sub/b"]
    for words in ("--save_dir in/sub", "--save_dir scaled --scales 1"):
        run_here(f"{RUN} --images in/sub/b.jpg {words}", place, monkeypatch)
    assert (place / "in/sub/b.png").read_bytes() == (place / "scaled/b.png").read_bytes()
    assert {p.name for p in (place / "in" / "sub").glob("b*")} == {"b.jpg", "b.png", "b_color.png"}
    agree(pixels(place / "in" / "sub" / "b.png"), at(logits_of(image), *image.shape[:2]))
    line = refused_here(f"{RUN} --images in/a.png --save_dir in", place, monkeypatch)
    assert "in/a.png" in line and "--save_dir" in line
    np.testing.assert_array_equal(pixels(place / "in" / "a.png"), three["a"])


def test_what_is_not_an_image_of_the_user_is_passed_over(place, three, monkeypatch, capsys):
    for name in ("notes.txt", ".hidden.png", ".cache/x.png", "x.gif"):
        path = place / "in" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("no image")
    run_here(f"{RUN} --images in --save_dir out --max_images 2", place, monkeypatch)
    assert "predictions of 2 images" in capsys.readouterr().out
    names = {p.name for p in (place / "out").rglob("*.png")}
    assert names == {"a.png", "a_color.png", "b.png", "b_color.png"}


# --- views ------------------------------------------------------------------------------------------------


def test_a_mirrored_image_has_the_mirrored_prediction(place, monkeypatch):
    image = draw(place / "in" / "image.png", 61, 45)
    Image.fromarray(image[:, ::-1]).save(place / "in" / "mirrored.png")
    run_here(f"{RUN} --images in --save_dir plain", place, monkeypatch)
    run_here(f"{RUN} --images in --save_dir out --flip --scales 1,1.5", place, monkeypatch)
    plain, mirrored = (pixels(place / "plain" / f"{name}.png") for name in ("image", "mirrored"))
    assert (plain != mirrored[:, ::-1]).any()
    image, mirrored = (pixels(place / "out" / f"{name}.png") for name in ("image", "mirrored"))
    assert (image == mirrored[:, ::-1]).mean() > 0.999
    assert (image != plain).any()


@pytest.mark.parametrize(
    ("words", "scales", "mirror"),
    [
        ("--flip --scales 0.75,1.4", (0.75, 1.4), True),
        ("--scales 1,1.3", (1, 1.3), False),
        ("--scales 0.6", (0.6,), False),
        ("--flip", (1,), True),
    ],
)
def test_mean_over_scales_and_mirror(place, three, monkeypatch, words, scales, mirror):
    run_here(f"{RUN} --images in --save_dir out {words}", place, monkeypatch)
    for name, image in three.items():
        height, width = image.shape[:2]
        channels = torch.from_numpy(np.moveaxis(image, 2, 0).astype(np.float32))[None]
        probs = torch.zeros(1, 19, height, width)
        for scale in scales:
            scaled = at(channels, round(scale * height), round(scale * width))[0].permute(1, 2, 0).numpy()
            probs += at(logits_of(scaled).softmax(1), height, width)
            if mirror:
                probs += at(logits_of(scaled[:, ::-1].copy()).softmax(1), height, width).flip(3)
        agree(pixels(place / "out" / f"{name}.png"), probs)


def test_another_size_for_the_network_alone(place, three, monkeypatch):
    run_here(f"{RUN} --images in --save_dir out --overlay --img_size 96,48", place, monkeypatch)
    for name, image in three.items():
        resized = np.asarray(Image.fromarray(image).resize((96, 48), Image.Resampling.BILINEAR))
        agree(pixels(place / "out" / f"{name}.png"), at(logits_of(resized), *image.shape[:2]))
        assert pixels(place / "out" / f"{name}_overlay.png").shape == image.shape


# --- what cannot be predicted -----------------------------------------------------------------------------


def test_the_others_are_predicted_where_some_cannot_be(place, three, monkeypatch, capsys):
    """A torn JPEG and one too small for the network; two processes write the same and say it once."""
    path = place / "in" / "sub" / "b.jpg"
    path.write_bytes(path.read_bytes()[:300])
    draw(place / "in" / "tiny.png", 40, 7)
    line = refused_here(f"{RUN} --images in --overlay --save_dir one", place, monkeypatch)
    assert "2 of 4 images" in line
    message = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(message) == 2
    assert "in/sub/b.jpg" in message[0] and "again" in message[0]
    assert "in/tiny.png: 40×7 pixels" in message[1] and "--img_size" in message[1]
    done = ended(f"{RUN} --images in --overlay --save_dir two".split()[1:], place, 2)
    assert done.returncode != 0
    assert done.stdout.count("wrote predictions of 2 images") == 1
    for line in ("in/sub/b.jpg: ", "in/tiny.png: ", "error: 2 of 4 images"):
        assert done.stderr.count(line) == 1, done.stderr
    one, two = (
        {str(p.relative_to(place / n)): p.read_bytes() for p in (place / n).rglob("*.png")}
        for n in ("one", "two")
    )
    names = {f"{name}{ending}.png" for name in ("a", "sub/deep/c.d") for ending in ("", "_color", "_overlay")}
    assert one == two and one.keys() == names


def test_a_scale_that_is_too_small_is_refused_but_not_at_another_size(place, monkeypatch, capsys):
    draw(place / "in" / "a.png", 40, 20)
    line = refused_here(f"{RUN} --images in --save_dir out --scales 1,0.25", place, monkeypatch)
    assert "1 of 1 images" in line and "in/a.png: 10×5 pixels" in capsys.readouterr().err
    run_here(f"{RUN} --images in --save_dir out --scales 1,0.25 --img_size 80,40", place, monkeypatch)
    assert pixels(place / "out" / "a.png").shape == (20, 40)


@pytest.mark.parametrize(
    ("files", "words", "message"),
    [
        (["a.png", "a.jpg"], "--save_dir out", ["in/a.jpg", "in/a.png", "rename"]),
        (["a.png", "a_color.jpg"], "--save_dir out", ["in/a_color.jpg", "out/a_color.png", "rename"]),
        (["a.png"], "--save_dir in", ["--save_dir", "another place"]),
        (["a.png"], "--save_dir in/out", ["--save_dir", "another place"]),
        ([], "--save_dir out", ["in", "--images"]),
        ([], "--save_dir out --images nowhere", ["nowhere"]),
    ],
)
def test_what_cannot_be_written_or_is_not_there_is_refused(place, monkeypatch, files, words, message):
    (place / "in").mkdir()
    for name in files:
        draw(place / "in" / name, 16, 16)
    line = refused_here(f"{RUN} --images in {words}", place, monkeypatch)
    assert all(word in line for word in message), line
    assert sorted(p.name for p in place.rglob("*") if p.is_file()) == sorted([*files, "model.pkl"])


# --- options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--images in", "--save_dir"),
        ("--save_dir out", "--images"),
        ("--format cityscapes", "--images"),
        ("--zip x.zip", "--images"),
        ("--images in --save_dir out --zip x.tar", "--zip"),
        ("--scales 0,1", "--scales"),
        ("--images in --save_dir out --scales 0,1", "--scales"),
        ("--images in --save_dir out --scales nan", "--scales"),
        ("--images in --save_dir out --scales 1,x", "--scales"),
        ("--images in --save_dir out --format voc", "--format"),
        ("--images in --save_dir out --result x.json", "--result"),
        ("--images in --save_dir out --table x.md", "--table"),
    ],
)
def test_options_that_do_not_go_together(capsys, words, message):
    with pytest.raises(SystemExit) as end:
        parse("test", "", words.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.count("\n") == 1 and message in error


NEW = {"images", "save_dir", "overlay", "flip", "scales", "format", "table", "zip"}


def test_what_was_an_abbreviation_still_is_the_same(capsys):
    def outcome(words: list[str]) -> dict | str:
        try:
            return parse("test", "", words).values()
        except SystemExit:
            return capsys.readouterr().err

    old = {name: option for name, option in options_of("test").items() if name not in NEW}
    checked = 0
    for name, option in old.items():
        for end in range(1, len(name)):
            if sum(other.startswith(name[:end]) for other in [*old, "help"]) > 1:
                continue
            value = [] if option.type is bool else ["64"]
            assert outcome([f"--{name[:end]}", *value]) == outcome([f"--{name}", *value]), name[:end]
            checked += 1
    assert checked > 300
    assert parse("test", "", ["--im", "64,32"]).img_size == (64, 32)
    assert parse("test", "", ["--o", "skip"]).on_nonfinite == "skip"


# --- the page that describes it ---------------------------------------------------------------------------


def test_every_command_of_the_page(tmp_path, networks, monkeypatch):
    page = (PROJECT / "docs" / "own_images.md").read_text()
    commands = [
        line for block in re.findall(r"```bash\n(.*?)```", page, re.DOTALL) for line in block.splitlines()
    ]
    assert len(commands) == 5
    model = tmp_path / "logs" / "gta2citylabv2_stage3" / checkpoint_name()
    write_released(model, random_network("mini"))
    draw(tmp_path / "photographs" / "street.png", 61, 45)
    draw(tmp_path / "photographs" / "sub" / "X.jpg", 80, 37)
    for split, city in (("test", "berlin"), ("val", "munster")):
        draw(tmp_path / f"dataset/cityscapes/leftImg8bit/{split}/{city}/{city}_0_0_leftImg8bit.png", 64, 32)
    for command in commands:
        run_here(f"{command} {SMALL}", tmp_path, monkeypatch)
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.png")}
    assert {"predictions/sub/X.png", "predictions/sub/X_color.png", "predictions/sub/X_overlay.png"} <= made
    assert {"resized/sub/X.png", "averaged/street.png"} <= made
    assert "val_ids/labelIds/munster/munster_0_0_leftImg8bit_labelIds.png" in made
    assert (tmp_path / "submission.zip").is_file()
