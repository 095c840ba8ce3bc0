"""Labels whose ids are legal one by one, but of another coding, are refused, and so are other shapes."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.build import inference_data, whole_images
from data.check import check, check_sample
from data.label_coding import _contradicts_palette
from data.mini import write_mini
from data.pseudo_labels import PseudoLabels
from utils.distributed import ALONE, Processes
from utils.options import Options, parse

W, H = 64, 32
LABEL_IDS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]  # cityscapesScripts
COLOURS = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153)]
COLOURS += [(250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60)]
COLOURS += [(255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32)]
SYNTHIA_IDS = [3, 4, 2, 21, 5, 7, 15, 9, 6, 16, 1, 10, 17, 8, 18, 19, 20, 12, 11]
VAL, GTA5 = "dataset/cityscapes/gtFine/val/*/*.png", "dataset/GTA5/labels/*.png"
Change = Callable[[np.ndarray], Image.Image]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("coded")
    write_mini(root / "dataset", (W, H), 0, 8, 1, 8)
    return root


def options(script: str = "check", words: str = "--stage warm_up") -> Options:
    return parse(script, "", f"{words} --img_size {W},{H} --num_workers 0".split())


def score() -> None:
    """Do what test.py does before it predicts."""
    o = options("test", "--resume_path x")
    whole_images(o, inference_data(o, "val", ALONE), ALONE, with_labels=True)


def rewrite(pattern: str, change: Change, count: int = 8) -> list[Path]:
    """Save the first labels anew; `change` gets train ids (H, W), 255 for no class."""
    table = np.full(256, 255, np.uint8)
    table[LABEL_IDS] = np.arange(19)
    paths = sorted(Path().glob(pattern))[:count]
    for path in paths:
        with Image.open(path) as image:
            change(table[np.asarray(image)]).save(path)
    return paths


def look_up(ids: list[int], void: int) -> Change:
    table = np.full(256, void, np.uint8)
    table[: len(ids)] = ids
    return lambda train: Image.fromarray(table[train])


def with_palette(ids: np.ndarray, colours: dict[int, tuple[int, int, int]]) -> Image.Image:
    image = Image.frombytes("P", (W, H), ids.astype(np.uint8).tobytes())
    image.putpalette([value for i in range(256) for value in colours.get(i, (0, 0, 0))])
    return image


def quantised(train: np.ndarray) -> Image.Image:
    colours = np.zeros((256, 3), np.uint8)
    colours[:19] = COLOURS
    return Image.fromarray(colours[train]).quantize(32)


TRAIN_IDS = look_up(list(range(19)), 255)
OTHER: dict[str, tuple[Change, str]] = {
    "train ids": (TRAIN_IDS, "are these train ids"),
    "train ids, void is road": (look_up(list(range(19)), 0), "are these train ids"),
    "SYNTHIA's ids": (look_up(SYNTHIA_IDS, 0), "are these train ids, or ids of another"),
    "palette of train ids": (lambda t: with_palette(t, dict(enumerate(COLOURS))), "their palette"),
    "colours behind a palette": (quantised, "their palette"),
}


@pytest.mark.parametrize(("change", "words"), OTHER.values(), ids=OTHER)
def test_another_coding_is_refused_by_every_script(tree, change, words):
    first, *_ = rewrite(VAL, change)
    for rank in range(2):  # all processes come to the same end
        with pytest.raises(ValueError, match=words) as raised:
            check_sample(options(), Processes(rank, 2))
        assert str(first) in str(raised.value) and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=words):
        score()
    text, problems = check(options())
    assert problems == 1 and "1 labels of another coding" in text and f"    {first}: " in text


def test_another_coding_of_the_source(tree):
    rewrite(GTA5, TRAIN_IDS)
    with pytest.raises(ValueError, match="GTA5/labels/00001"):
        check_sample(options())


DOUBTFUL: dict[str, tuple[Change, int, str]] = {
    "3 of 8 labels": (TRAIN_IDS, 3, "(so in 3 of 8 labels)"),
    "no class": (lambda t: Image.fromarray(t % 5), 8, "no pixel of 8 labels has a class"),
    "one value": (lambda t: Image.fromarray(np.full_like(t, 7)), 8, "one value in all pixels"),
}


@pytest.mark.parametrize(("change", "count", "words"), DOUBTFUL.values(), ids=DOUBTFUL)
def test_a_doubt_is_printed_and_no_problem(tree, capsys, change, count, words):
    rewrite(VAL, change, count)
    check_sample(options())
    score()
    assert capsys.readouterr().out.count(words) == 2
    text, problems = check(options())
    assert problems == 0 and words in text


def test_two_classes_of_one_colour_do_not_contradict_a_palette(tmp_path):
    path, ids, counts = tmp_path / "x.png", np.array([0, 1]), np.array([6, 4])
    colours = np.array([[9, 9, 9], [9, 9, 9], [7, 7, 7]], np.uint8)
    for second, contradicted in (((9, 9, 9), False), ((7, 7, 7), True)):
        with_palette(np.zeros((H, W)), {0: second, 1: second}).save(path)
        assert _contradicts_palette(path, ids, counts, ids, colours) == contradicted


def test_good_labels_raise_no_doubt(tree, capsys):
    """A palette of the right or of foreign colours, and a few labels of one value, are good."""
    colours = dict(zip(LABEL_IDS, COLOURS, strict=True))
    as_ids = np.full(256, 4, np.uint8)
    as_ids[:19] = LABEL_IDS
    for palette in (colours, {i: (7 * i % 256, i, 9) for i in range(40)}):
        shutil.copytree(tree / "dataset", tree / "again" / "dataset", dirs_exist_ok=True)
        rewrite(f"again/{VAL}", lambda train, palette=palette: with_palette(as_ids[train], palette))
        rewrite(f"again/{VAL}", lambda train: Image.fromarray(np.zeros_like(train)), 3)
        root = "--stage warm_up --tgt_rootpath again/dataset/cityscapes"
        check_sample(options(words=root))
        assert "warning" not in check(options(words=root)).text and capsys.readouterr().out == ""


def packed(bits: int, colour: int) -> Change:
    """A PNG of 1, 2 or 4 bits a pixel, which Pillow writes of palettes only. colour: 0 grey, 3 palette."""

    def change(train: np.ndarray) -> Image.Image:
        steps = np.arange(bits - 1, -1, -1)
        rows = np.packbits((train[..., None] % 2**bits >> steps & 1).reshape(H, -1).astype(np.uint8), axis=1)
        header = struct.pack(">2I5B", W, H, bits, colour, 0, 0, 0)
        chunks = [(b"IHDR", header), *[(b"PLTE", bytes(3 * 2**bits))] * (colour == 3)]
        chunks += [(b"IDAT", zlib.compress(np.pad(rows, ((0, 0), (1, 0))).tobytes())), (b"IEND", b"")]
        content = b"\x89PNG\r\n\x1a\n"
        for kind, body in chunks:
            content += struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

        class Saved:
            def save(self, path: Path) -> None:
                path.write_bytes(content)

        return Saved()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        *((packed(bits, 0), "one 8-bit channel of ids") for bits in (1, 2, 4)),
        (lambda t: Image.fromarray(t.astype(np.uint16)), "one 8-bit channel of ids"),
        (lambda t: Image.fromarray(t).convert("RGB"), "one 8-bit channel of ids"),
    ],
)
def test_other_depths_are_refused(tree, change, words):
    rewrite(VAL, change)
    with pytest.raises(ValueError, match=words):
        score()


def test_a_palette_of_four_bits_holds_its_ids(tree):
    (path,) = rewrite(VAL, lambda t: packed(4, 3)(np.where(t == 0, 7, 11)), 1)
    data = inference_data(options("test", "--resume_path x"), "val", ALONE)
    with Image.open(path) as image:
        np.testing.assert_array_equal(data.read_label(0), np.where(np.asarray(image) == 7, 0, 2))


def test_a_jpeg_is_no_label(tree):
    path = next(Path().glob(VAL))
    Image.new("L", (W, H), 7).save(path, "JPEG")
    with pytest.raises(ValueError, match="no PNG"):
        score()


def test_the_check_prints_the_share_of_each_class(tree):
    rewrite(
        VAL,
        lambda t: Image.fromarray(
            np.where(np.arange(W) < 16, 7, 26).repeat(H).reshape(W, H).T.astype(np.uint8)
        ),
    )
    lines = check(options()).text.splitlines()
    (line,) = [line for line in lines if line.startswith("target val: pixels: ")]
    assert line.startswith("target val: pixels: road 25.00%, car 75.00%, no class 0.00%; never: sidewalk, ")


# --- shape ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "good"), [((32, 32), False), ((32, 64), False), ((128, 64), True), ((65, 32), True)]
)
def test_a_label_has_the_shape_of_its_image(tree, size, good):
    path = sorted(Path().glob(VAL))[1]
    Image.new("L", size, 7).save(path)
    data = inference_data(options("test", "--resume_path x"), "val", ALONE)
    if good:
        assert (data.read_label(1) == 0).all()
        return
    for read in (data.read_label, lambda i: data.read_label_at(i, np.arange(3), np.arange(4))):
        with pytest.raises(ValueError, match=r"size \(32, \d\d\), its image \(64, 32\); take") as raised:
            read(1)
        assert path.name in str(raised.value)


def test_a_hard_pseudo_label_has_the_shape_of_its_image_or_the_grid(tmp_path):
    labels, rows = PseudoLabels(tmp_path, 19), np.arange(4)
    for size, good in (
        ((W, H), True),
        ((2 * W, 2 * H), True),
        ((9, 5), True),
        ((H, H), False),
        ((H, W), False),
    ):
        Image.new("L", size, 7).save(tmp_path / "x.png")
        if good:
            assert (labels.hard("x", (W, H), rows, rows) == 7).all()
        else:
            with pytest.raises(ValueError, match=r"x\.png: size .* its image is read at \(64, 32\)"):
                labels.hard("x", (W, H), rows, rows)
