"""Every kind of problem of a data tree is found and named, and nothing else is."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.check import REMEDIES, check, check_sample
from data.labels import palette
from data.mini import write_mini
from data.pseudo_labels import write_hard, write_soft
from data.sets.choose import target_data
from utils.distributed import Processes
from utils.options import Options, parse

W, H, GRID, K = 64, 32, (9, 5), 19
STAGES = {"source_only": "", "warm_up": "", "stage1": "--path_soft soft", "stage2": "--path_LP hard"}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """12 source images, 10 of the target, 3 of val, and pseudo labels of both kinds."""
    root = tmp_path_factory.mktemp("drawn")
    write_mini(root / "dataset", (W, H), 0, 12, 10, 3)
    rng = np.random.default_rng(0)
    for image in sorted((root / "dataset" / "cityscapes" / "leftImg8bit" / "train").glob("*/*.png")):
        write_soft(root / "soft", image.stem, rng.dirichlet(np.ones(K), GRID[::-1]).transpose(2, 0, 1))
        label = rng.integers(0, K, (H, W)).astype(np.uint8)
        write_hard(root / "hard", image.stem, label, rng.random((H, W)), palette(K))
    return root


def options(stage: str, words: str = "") -> Options:
    common = f"--stage {stage} --img_size {W},{H} --num_workers 0 {STAGES[stage]}"
    return parse("check", "", f"{common} {words}".split())


def nth(tree: Path, pattern: str, n: int = 0) -> Path:
    return sorted(tree.glob(pattern))[n]


def cut(path: Path, share: float = 0.6) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def save(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def change(path: Path, value: float) -> None:
    """One number of an array or one pixel of a picture."""
    values = np.load(path) if path.suffix == ".npy" else pixels(path)
    values[-1, -1] = value
    np.save(path, values) if path.suffix == ".npy" else save(path, values)


# --- whole trees ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["gta5", "synthia"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_clean_tree_has_no_problem(drawn, monkeypatch, stage, source):
    monkeypatch.chdir(drawn)
    check_sample(options(stage, f"--src_dataset {source} --threshold 0.5"))
    text, problems = check(options(stage, f"--src_dataset {source} --threshold 0.5"))
    assert problems == 0 and text.endswith("\nno problem found")
    folder = "GTA5" if source == "gta5" else "SYNTHIA"
    assert text.startswith(f"source: {source} in dataset/{folder}: 12 images (12 of 64×32), 12 labels, ")
    assert "target val: cityscapes in dataset/cityscapes: 3 images (3 of 64×32), 3 labels, " in text
    trained = "target train: cityscapes in dataset/cityscapes: 10 images (10 of 64×32), " in text
    assert trained == (stage != "source_only")
    assert ("soft pseudo labels in soft: 10, " in text) == (stage == "stage1")
    assert ("hard pseudo labels in hard: 10, " in text) == (stage == "stage2")


def test_what_training_does_not_read_is_not_checked(tree):
    shutil.rmtree(tree / "dataset" / "cityscapes" / "gtFine" / "train")
    (tree / "dataset" / "cityscapes" / "gtFine" / "train").write_text("no folder")
    nth(tree, "hard/*_conf.npy").unlink()  # no threshold needs it
    assert check(options("stage2")).problems == 0
    cut(nth(tree, "dataset/GTA5/images/*.png", 2))
    assert check(options("stage2")).problems == 1
    assert check(options("stage2", "--max_images 2")).problems == 0


# --- single problems --------------------------------------------------------------------------------------

TRAIN, VAL = "dataset/cityscapes/leftImg8bit/train/*/*.png", "dataset/cityscapes/leftImg8bit/val/*/*.png"
VAL_LABEL = "dataset/cityscapes/gtFine/val/*/*.png"
GTA5, GTA5_LABEL = "dataset/GTA5/images/*.png", "dataset/GTA5/labels/*.png"
SOFT, HARD, CONFIDENCE = "soft/*.npy", "hard/*8bit.png", "hard/*_conf.npy"


def fill(shape: tuple[int, ...], value: float, dtype: type = np.uint8) -> Callable[[Path], None]:
    """Write another array or picture over a file."""

    def write(path: Path) -> None:
        values = np.full(shape, value, dtype)
        np.save(path, values) if path.suffix == ".npy" else save(path, values)

    return write


def write_square_label(path: Path) -> None:
    name = nth(path.parents[1], TRAIN).stem
    write_hard(path.parent, name, np.ones((H, H)), np.ones((H, H)), palette(K))


def count_201_steps(path: Path) -> None:
    path.unlink()
    save(path.with_suffix(".png"), np.full((H, W), 201, np.uint8))


IMAGES, LABELS, PSEUDO = "damaged images", "damaged labels", "damaged pseudo labels"
SHAPE, PSEUDO_SHAPE = (f"{what} of another shape than their image" for what in ("labels", "pseudo labels"))
UNKNOWN_ID, EXTRA = "labels with ids that do not exist", "labels without an image"
SPOILT: list[tuple[str, str, Callable[[Path], object], str, str]] = [
    # (stage, file, what is done to it, kind of problem, words of its line)
    ("warm_up", GTA5, Path.unlink, "missing images", "no such image"),
    ("warm_up", GTA5, cut, IMAGES, "not a readable image"),
    ("warm_up", TRAIN, lambda p: p.write_bytes(b""), IMAGES, "readable"),
    ("warm_up", VAL, lambda p: p.write_text("text"), IMAGES, "not a readable"),
    ("warm_up", TRAIN, fill((H, W), 0, np.uint16), IMAGES, "8 bits a channel"),
    ("source_only", GTA5_LABEL, Path.unlink, "missing labels", "missing"),
    ("warm_up", VAL_LABEL, Path.unlink, "missing labels", "missing"),
    ("warm_up", VAL_LABEL, cut, LABELS, "not a readable image"),
    ("source_only", GTA5_LABEL, fill((H, W, 3), 0), LABELS, "one 8-bit channel"),
    ("warm_up", VAL_LABEL, lambda p: change(p, 77), UNKNOWN_ID, "label ids [77]"),
    ("warm_up", VAL_LABEL, fill((H, H), 0), SHAPE, "size (32, 32), its image (64, 32)"),
    ("warm_up", VAL, Path.unlink, EXTRA, "has no image"),
    ("stage1", SOFT, Path.unlink, "missing pseudo labels", "missing"),
    ("stage1", SOFT, cut, PSEUDO, "not a readable .npy"),
    ("stage1", SOFT, fill((16, *GRID[::-1]), 1 / 16, float), PSEUDO, "expected (19, h, w)"),
    ("stage1", SOFT, fill((K, 5, 8), 1 / K, float), PSEUDO, "(19, 5, 8), expected (19, 5, 9)"),
    ("stage1", SOFT, lambda p: change(p, np.nan), PSEUDO, "not finite"),
    ("stage1", SOFT, fill((K, *GRID[::-1]), 0, float), PSEUDO, "sums differ from 1 by 1"),
    ("stage1", SOFT, lambda p: np.save(p, 2 / K - np.load(p)), PSEUDO, "lowest -"),
    ("stage2", HARD, Path.unlink, "missing pseudo labels", "missing"),
    ("stage2", HARD, cut, PSEUDO, "not a readable image"),
    ("stage2", HARD, lambda p: change(p, 19), PSEUDO, "label 19 with 19 classes"),
    ("stage2", HARD, write_square_label, PSEUDO_SHAPE, "size (32, 32)"),
    ("stage2", CONFIDENCE, Path.unlink, "missing pseudo labels", "missing"),
    ("stage2", CONFIDENCE, cut, PSEUDO, "not a readable .npy"),
    ("stage2", CONFIDENCE, lambda p: change(p, np.inf), PSEUDO, "no confidence"),
    ("stage2", CONFIDENCE, fill((W, H), 1, np.float16), PSEUDO, "size (32, 64), label (64, 32)"),
    ("stage2", CONFIDENCE, count_201_steps, PSEUDO, "no confidence"),
]


@pytest.mark.parametrize(("stage", "pattern", "spoil", "kind", "words"), SPOILT)
def test_a_problem_is_found_and_named(tree, stage, pattern, spoil, kind, words):
    path = nth(tree, pattern)
    spoil(path)
    text, problems = check(options(stage, "--threshold 0.5"))
    assert problems == 1
    lines = text.splitlines()
    at = lines.index("problems: 1")
    assert lines[at + 1] == f"1 {kind}; {REMEDIES[kind]}"
    file = "gtFine" if kind == "labels without an image" else path.name.partition("_conf")[0]
    assert len(lines) == at + 3 and file in lines[at + 2] and words in lines[at + 2]


@pytest.mark.parametrize("damage", [lambda b: b[: int(0.9 * len(b))], lambda b: b[:-12]])
def test_damage_is_found_that_reading_a_crop_does_not_notice(tree, damage):
    """Without its last rows, or without the chunk that ends a PNG."""
    path = nth(tree, VAL)
    path.write_bytes(damage(path.read_bytes()))
    data = target_data(options("warm_up"), "val")
    assert data.read_region(0, (0, 0, W, H // 2)).shape == (H // 2, W, 3)
    assert "1 damaged images" in check(options("warm_up")).text


@pytest.mark.parametrize(("pattern", "what"), [(TRAIN, "images"), (VAL_LABEL, "labels")])
def test_missing_rows_are_found_where_every_checksum_is_right(tree, pattern, what):
    """The compressed rows break off inside a chunk whose checksum is of what is left."""
    path = nth(tree, pattern)
    save(path, np.random.default_rng(0).integers(0, 9, pixels(path).shape).astype(np.uint8))
    content = path.read_bytes()
    at = content.index(b"IDAT")
    rows = content[at : at + 4 + int.from_bytes(content[at - 4 : at]) - 40]
    chunk = (len(rows) - 4).to_bytes(4) + rows + zlib.crc32(rows).to_bytes(4)
    path.write_bytes(content[: at - 4] + chunk + content[-12:])
    text, problems = check(options("warm_up"))
    assert problems == 1 and f"1 damaged {what}" in text


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda p: save(p, np.zeros((H, W, 3), np.uint8)), "damaged labels"),
        (cut, "damaged labels"),
        (Path.unlink, "missing labels"),
    ],
)
def test_problems_of_synthia(tree, spoil, kind):
    spoil(nth(tree, "dataset/SYNTHIA/GT/LABELS/*.png", 3))
    text, problems = check(options("warm_up", "--src_dataset synthia --n_class 16"))
    assert problems == 1 and f"1 {kind}; " in text and "LABELS/0000003.png" in text


@pytest.mark.parametrize(
    ("pattern", "old", "words"),
    [
        ("cityscapes/gtFine/*/*/*.png", "labelIds.png", ""),
        ("GTA5/labels/*.png", ".png", ""),
        ("SYNTHIA/GT/LABELS/*.png", ".png", "--src_dataset synthia --n_class 16"),
        ("GTA5/labels/*.png", ".png", "--src_dataset folder --src_rootpath dataset/GTA5"),
    ],
)
@pytest.mark.parametrize("ending", ["png", "PNG"])
def test_train_ids_of_another_program_beside_the_labels_are_no_labels(tree, pattern, old, words, ending):
    before = check(options("warm_up", words))
    for path in (tree / "dataset").glob(pattern):
        new = "labelTrainIds" if old.startswith("label") else "_labelTrainIds"
        shutil.copy(path, path.with_name(path.name.replace(old, f"{new}.{ending}")))
    check_sample(options("warm_up", words))
    assert check(options("warm_up", words)) == before and before.problems == 0


def test_names_that_occur_twice_and_data_sets_that_are_not_there(tree):
    first = nth(tree, TRAIN)
    shutil.copy(first, first.parents[1] / "birkenau" / first.name)
    with pytest.raises(ValueError, match=r"has the name of .*rename one"):
        check_sample(options("stage1"))
    shutil.rmtree(tree / "dataset" / "cityscapes" / "leftImg8bit" / "val")
    (tree / "dataset" / "GTA5" / "split.mat").write_text("nothing")
    text, problems = check(options("stage1"))
    assert problems == 3 and "1 image names that occur twice" in text
    assert f"birkenau/{first.name}: has the name of " in text
    assert "2 data sets that are not there; " in text
    assert "GTA5/split.mat" in text and "leftImg8bit/val" in text
    assert "target train: cityscapes in dataset/cityscapes: 11 images" in text


# --- the report -------------------------------------------------------------------------------------------


def test_other_sizes_are_told_and_no_problem(tree):
    save(nth(tree, GTA5), np.zeros((2 * H, 2 * W, 3), np.uint8))
    save(nth(tree, TRAIN), np.zeros((5 * H, 4 * W, 3), np.uint8))
    hard = nth(tree, TRAIN).stem
    write_hard(tree / "hard", hard, np.ones((2 * H, 2 * W)), np.ones((2 * H, 2 * W)), palette(K))
    grid = nth(tree, TRAIN, 1).stem  # so the released code writes them without --flip: no remark
    write_hard(tree / "hard", grid, np.ones(GRID[::-1]), np.full(GRID[::-1], 7.5), palette(K))
    text, problems = check(options("stage2", "--threshold 0.5"))
    assert problems == 0
    assert "12 images (11 of 64×32, 1 of 128×64, read at 64×32)" in text
    assert "10 images (9 of 64×32, 1 of 256×160, read at 64×32)" in text
    assert "source: 1 labels of another size than their image" in text
    assert "target train: 1 pseudo labels of another size than images are read at" in text


def test_all_problems_are_counted_and_the_first_named_for_any_number_of_workers(tree):
    for label in (tree / "soft").iterdir():
        cut(label)
    nth(tree, GTA5_LABEL).unlink()
    alone, several = (check(options("stage1", f"--num_workers {n}")) for n in (0, 2))
    assert alone == several and alone.problems == 11 and "problems: 11" in alone.text.splitlines()
    assert "1 missing labels; " in alone.text and "10 damaged pseudo labels; " in alone.text
    assert alone.text.count("not a readable .npy") == 5 and "    and 5 more" in alone.text.splitlines()


# --- the sample at the start of training ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "pattern", "n"),
    [
        ("source_only", GTA5, 0),
        ("source_only", GTA5_LABEL, 11),
        ("warm_up", TRAIN, 9),
        ("warm_up", VAL, 1),
        ("warm_up", VAL_LABEL, 2),
        ("stage1", SOFT, 0),
        ("stage2", "hard/*_conf.npy", 9),
    ],
)
def test_the_sample_names_the_first_problem_and_the_command(tree, stage, pattern, n):
    path = nth(tree, pattern, n)
    cut(path)
    with pytest.raises(ValueError, match=r"python -m data\.check, with the same options") as raised:
        check_sample(options(stage, "--threshold 0.5"))
    assert path.name in str(raised.value) and "\n" not in str(raised.value)


def test_the_sample_is_spread_over_the_data_set(tree):
    """8 of 12 images: each of them but four."""
    missed = []
    for n in range(12):
        path = nth(tree, GTA5, n)
        content = path.read_bytes()
        cut(path)
        with suppress(ValueError):
            check_sample(options("source_only"))
            missed.append(n)
        path.write_bytes(content)
    assert len(missed) == 4 and {0, 11}.isdisjoint(missed)
    assert all(after - before > 1 for before, after in pairwise(missed))


def test_processes_share_the_sample(tree):
    cut(nth(tree, VAL, 2))
    refused = 0
    for rank in range(2):
        try:
            check_sample(options("warm_up"), Processes(rank, 2))
        except ValueError as error:
            refused += nth(tree, VAL, 2).name in str(error)
    assert refused == 1
