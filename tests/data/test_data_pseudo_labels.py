"""Pseudo labels written and read again, broken ones, and those of an interrupted run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.kept_labels import DAMAGED, MISSING, WHOLE, KeptLabels, states
from data.labels import palette
from data.pseudo_labels import PseudoLabels, write_hard, write_soft
from utils.distributed import ALONE

K, H, W = 4, 6, 8
IGNORE = 250
COLOURS = np.array([[1, 2, 3], [40, 50, 60], [0, 255, 0], [9, 9, 9]], dtype=np.uint8)


def label() -> np.ndarray:
    return np.random.default_rng(0).integers(0, K, (H, W)).astype(np.uint8)


def confidence() -> np.ndarray:
    """Halves and quarters, which float16 holds exactly."""
    return np.random.default_rng(1).choice(np.array([0.25, 0.5, 0.75, 1.0], dtype=np.float32), (H, W))


def whole(width: int, height: int) -> tuple:
    return (width, height), np.arange(height), np.arange(width)


@pytest.fixture
def folder(tmp_path) -> Path:
    write_hard(tmp_path / "lp", "a_leftImg8bit", label(), confidence(), COLOURS)
    return tmp_path / "lp"


@pytest.mark.parametrize(("dtype", "error"), [("float32", 2**-24), ("float16", 2**-11)])
def test_soft_round_trip(tmp_path, dtype, error):
    probs = np.random.default_rng(2).dirichlet(np.ones(K), (3, 5)).transpose(2, 0, 1)
    write_soft(tmp_path, "x.y_leftImg8bit", probs, dtype)
    file = np.load(tmp_path / "x.y_leftImg8bit.npy")
    assert file.dtype == dtype and file.shape == (K, 3, 5)
    read = PseudoLabels(tmp_path, K).soft("x.y_leftImg8bit")
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, probs, rtol=error, atol=2**-24)


def test_hard_files_have_the_released_form(folder):
    with Image.open(folder / "a_leftImg8bit.png") as image:
        assert image.mode == "L"
        np.testing.assert_array_equal(np.asarray(image), label())
    stored = np.load(folder / "a_leftImg8bit_conf.npy")
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, confidence().astype(np.float16))
    with Image.open(folder / "a_leftImg8bit_color.png") as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), COLOURS[label()])


def test_hard_round_trip_without_threshold_needs_no_confidence(folder):
    (folder / "a_leftImg8bit_conf.npy").unlink()
    read = PseudoLabels(folder, K).hard("a_leftImg8bit", *whole(W, H))
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, label())
    void = np.where(np.arange(H)[:, None] == 0, IGNORE, label())  # in the file it stays void
    write_hard(folder, "v", void, confidence(), COLOURS)
    np.testing.assert_array_equal(PseudoLabels(folder, K).hard("v", *whole(W, H)), void)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_labels_of_at_most_the_threshold_become_void(folder, threshold):
    pseudo = PseudoLabels(folder, K, threshold)
    expected = np.where(confidence() <= threshold, IGNORE, label())
    assert (expected == IGNORE).any() and (expected != IGNORE).any()
    np.testing.assert_array_equal(pseudo.hard("a_leftImg8bit", *whole(W, H)), expected)
    doubled = pseudo.hard("a_leftImg8bit", *whole(2 * W, 2 * H))  # before resizing
    np.testing.assert_array_equal(doubled, expected.repeat(2, axis=0).repeat(2, axis=1))
    rows, columns = np.array([0, 3, 3, 7]), np.array([9, 2, 1])
    part = pseudo.hard("a_leftImg8bit", (2 * W, 2 * H), rows, columns)
    np.testing.assert_array_equal(part, doubled[np.ix_(rows, columns)])


def pickle(path: Path) -> None:
    np.save(path, np.array([{"a": 1}]), allow_pickle=True)


LABEL, CONFIDENCE, SOFT = "a_leftImg8bit.png", "a_leftImg8bit_conf.npy", "a_leftImg8bit.npy"
WRONG = [
    # (file, what is done to it, word of the message)
    (LABEL, lambda path: Image.fromarray(label() + 9).save(path), "--n_class"),
    (LABEL, lambda path: path.write_bytes(path.read_bytes()[:40]), "not a readable image"),
    (LABEL, lambda path: Image.fromarray(COLOURS[label()]).save(path), "one 8-bit channel"),
    (CONFIDENCE, lambda path: path.write_bytes(b"\x93NUMPY"), "not a readable"),
    (CONFIDENCE, lambda path: np.save(path, np.ones((2, 2), dtype=np.float16)), "size"),
    (SOFT, lambda path: np.save(path, np.ones((19, 2, 2)) / 19), "--n_class"),
    (SOFT, lambda path: path.write_bytes(b""), "not a readable"),
    (SOFT, pickle, "not a readable"),
]


@pytest.mark.parametrize(("file", "spoil", "word"), WRONG)
def test_wrong_files_are_named(folder, file, spoil, word):
    spoil(folder / file)
    labels = PseudoLabels(folder, K, 0.5)
    with pytest.raises(ValueError, match=word) as raised:
        labels.soft("a_leftImg8bit") if file == SOFT else labels.hard("a_leftImg8bit", *whole(W, H))
    assert str(folder / file) in str(raised.value)


def test_missing_files_are_counted_and_named_with_the_command(folder):
    def refuses(labels: PseudoLabels, names: list[str], missing: Path, words: str) -> None:
        with pytest.raises(FileNotFoundError, match=words) as raised:
            labels.require(names, ".png", "make them so")
        assert str(missing) in str(raised.value)

    labels = PseudoLabels(folder, K)
    labels.require(["a_leftImg8bit"], ".png", "make them so")
    refuses(labels, ["a_leftImg8bit", "b", "c"], folder / "b.png", r"2 of 3.*make them so")
    refuses(PseudoLabels(folder / "none", K), ["a"], folder / "none", "make them with: make them so")
    (folder / CONFIDENCE).unlink()  # needed with a threshold only
    labels.require(["a_leftImg8bit"], ".png", "make them so")
    refuses(PseudoLabels(folder, K, 0.5), ["a_leftImg8bit"], folder / CONFIDENCE, "1 of 2")


@pytest.mark.parametrize("threshold", [0.005, 0.5, 0.7, 0.95, 0.995])
def test_confidences_in_steps_void_the_same_pixels(threshold, tmp_path):
    """Every float16 in [0, 1], among them those next to the threshold."""
    every = np.arange(0x3C01, dtype=np.uint16).view(np.float16)
    confidence = np.resize(every, (124, 124)).astype(np.float32)
    label = np.ones(confidence.shape, dtype=np.uint8)
    for dtype in ("float16", "uint8"):
        write_hard(tmp_path / dtype, "x", label, confidence, COLOURS, dtype)
    assert {p.name for p in (tmp_path / "uint8").iterdir()} == {"x.png", "x_color.png", "x_conf.png"}
    folders = (tmp_path / "float16", tmp_path / "uint8")
    first, second = (PseudoLabels(folder, K, threshold).hard("x", *whole(124, 124)) for folder in folders)
    assert (first == IGNORE).any() and (first != IGNORE).any()
    np.testing.assert_array_equal(first, second)


def test_a_threshold_between_the_steps_is_refused(tmp_path):
    write_hard(tmp_path, "x", label(), confidence(), COLOURS, "uint8")
    PseudoLabels(tmp_path, K, 0.7).require(["x"], ".png", "command")
    with pytest.raises(ValueError, match="--threshold") as raised:
        PseudoLabels(tmp_path, K, 0.7012).hard("x", *whole(W, H))
    assert str(tmp_path / "x_conf.png") in str(raised.value)


def test_writing_again_in_another_form_leaves_one_form(tmp_path):
    for dtype, ending in (("uint8", ".png"), ("float16", ".npy"), ("uint8", ".png")):
        write_hard(tmp_path, "x", label(), confidence(), COLOURS, dtype)
        assert [p.name for p in tmp_path.glob("x_conf*")] == [f"x_conf{ending}"]


# --- labels of an interrupted run -------------------------------------------------------------------------

NAMES = ["a", "b", "c"]
SIZE = (8, 6)


def kept(folder: Path, soft: bool, model: str) -> KeptLabels:
    sizes, dtype = dict.fromkeys(NAMES, SIZE), "float32" if soft else "float16"
    return KeptLabels(PseudoLabels(folder, 19), soft, sizes, dtype, {"model": model}, palette(19))


def write(folder: Path, soft: bool, name: str) -> None:
    if soft:
        write_soft(folder, name, np.full((19, SIZE[1], SIZE[0]), 1 / 19))
    else:
        label = np.random.default_rng(ord(name)).integers(0, 19, (SIZE[1], SIZE[0]))
        write_hard(folder, name, label, np.ones((SIZE[1], SIZE[0])), palette(19))


@pytest.mark.parametrize("soft", [True, False])
def test_states(tmp_path, soft):
    labels = kept(tmp_path, soft, "one")
    assert labels.begin(NAMES) is None
    for name in NAMES[:2]:
        write(tmp_path, soft, name)
    last = labels.labels.files("b", soft)[0]
    last.write_bytes(last.read_bytes()[:-20])
    for workers in (0, 1):
        assert states(labels, NAMES, workers, ALONE).tolist() == [WHOLE, DAMAGED, MISSING]


def test_colours_are_those_of_the_label_in_rgb(tmp_path):
    """A palette picture, as earlier versions wrote, is made again."""
    labels = kept(tmp_path, False, "one")
    write(tmp_path, False, "a")
    label, colours = labels.labels.files("a", False)[:2]
    assert labels.state("a") == WHOLE
    with Image.open(label) as first, Image.open(colours) as second:
        ids, picture = first.copy(), second.copy()
    as_palette = ids.copy()
    as_palette.putpalette(palette(19).tobytes())
    for other in (as_palette, picture.rotate(180), ids):
        other.save(colours)
        assert labels.state("a") == DAMAGED
    picture.save(colours)
    assert labels.state("a") == WHOLE


@pytest.mark.parametrize("soft", [True, False])
def test_begun_again_by_the_same_nothing_changes(tmp_path, soft):
    labels = kept(tmp_path, soft, "one")
    labels.begin(NAMES)
    write(tmp_path, soft, "a")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert labels.begin(NAMES) is None
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


class Killed(BaseException):
    """An exception that no handler expects."""


@pytest.mark.parametrize("soft", [True, False])
def test_wherever_it_is_killed_no_old_label_passes_for_a_new_one(tmp_path, monkeypatch, soft):
    """Killed before the nth change to the folder, for every n."""
    moments = 0
    while True:
        folder = tmp_path / str(moments)
        old, new = kept(folder, soft, "old"), kept(folder, soft, "new")
        old.begin(NAMES)
        for name in NAMES:
            write(folder, soft, name)
        left = moments

        def counted(change):
            def changed(*words, **named):
                nonlocal left
                if left == 0:
                    raise Killed
                left -= 1
                return change(*words, **named)

            return changed

        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", counted(Path.unlink))
            patch.setattr("data.kept_labels.save_json", counted(lambda value, path: write_plain(value, path)))
            try:
                new.begin(NAMES)
                break
            except Killed:
                pass
        made_by = json.loads(new.record.read_text())
        there = [file for name in NAMES for file in new.labels.files(name, soft) if file.exists()]
        assert made_by == {"model": "old"} or there == []
        assert new.begin(NAMES) is not None or there == []
        assert states(new, NAMES, 0, ALONE).tolist() == [MISSING] * 3
        moments += 1
    assert moments == (4 if soft else 10)  # the files of three labels and the record


def write_plain(value: object, path: Path) -> None:
    """Without the removal of a temporary file, which is counted."""
    path.write_text(json.dumps(value))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model": "two"}'])
def test_a_record_that_says_something_else_or_nothing(tmp_path, content):
    labels = kept(tmp_path, True, "one")
    labels.begin(NAMES)
    write(tmp_path, True, "a")
    labels.record.write_text(content)
    assert "all are made anew" in labels.begin(NAMES)
    assert list(tmp_path.iterdir()) == [labels.record]
    assert json.loads(labels.record.read_text()) == {"model": "one"}


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_neither_read_nor_written(tmp_path, value):
    """A confidence of NaN is not above a threshold; it once passed for a sure one."""
    soft = np.full((2, 3, 4), 0.5)
    soft[1, 2, 3] = value
    np.save(tmp_path / "a.npy", soft)
    with pytest.raises(ValueError, match=r"a\.npy: .*not finite"):
        PseudoLabels(tmp_path, 2).soft("a")
    write_hard(tmp_path, "b", np.zeros((3, 4), np.uint8), np.ones((3, 4)), np.zeros((2, 3), np.uint8))
    confidence = np.ones((3, 4), np.float16)
    confidence[2, 3] = value
    np.save(tmp_path / "b_conf.npy", confidence)
    with pytest.raises(ValueError, match=r"b_conf\.npy: .*not finite"):
        PseudoLabels(tmp_path, 2, threshold=0.9).hard("b", (4, 3), np.arange(3), np.arange(4))
    with pytest.raises(ValueError, match=r"c_conf\.npy: .*not finite"):
        write_hard(tmp_path, "c", np.zeros((3, 4), np.uint8), confidence, np.zeros((2, 3), np.uint8))
    assert not list(tmp_path.glob("c*"))
