"""Pseudo labels written and read again, and what is said about broken ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.pseudo_labels import PseudoLabels, write_hard, write_soft

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


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
def test_labels_of_at_most_the_threshold_become_void(folder, threshold):
    read = PseudoLabels(folder, K, threshold).hard("a_leftImg8bit", *whole(W, H))
    expected = label()
    expected[confidence() <= threshold] = IGNORE
    assert (expected == IGNORE).any() and (expected != IGNORE).any()
    np.testing.assert_array_equal(read, expected)


def test_threshold_is_applied_before_resizing(folder):
    read = PseudoLabels(folder, K, 0.5).hard("a_leftImg8bit", *whole(2 * W, 2 * H))
    expected = label()
    expected[confidence() <= 0.5] = IGNORE
    np.testing.assert_array_equal(read, expected.repeat(2, axis=0).repeat(2, axis=1))


def test_void_in_the_file_stays_void(tmp_path):
    void = label()
    void[0] = IGNORE
    write_hard(tmp_path, "v", void, confidence(), COLOURS)
    np.testing.assert_array_equal(PseudoLabels(tmp_path, K).hard("v", *whole(W, H)), void)


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


def test_missing_folder_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="make them so") as raised:
        PseudoLabels(tmp_path / "none", K).require(["a"], ".png", "make them so")
    assert str(tmp_path / "none") in str(raised.value)


def test_missing_files_are_counted_and_named(folder):
    labels = PseudoLabels(folder, K)
    labels.require(["a_leftImg8bit"], ".png", "make them so")
    with pytest.raises(FileNotFoundError, match=r"2 of 3.*make them so") as raised:
        labels.require(["a_leftImg8bit", "b", "c"], ".png", "make them so")
    assert str(folder / "b.png") in str(raised.value)


def test_confidences_are_required_with_a_threshold_only(folder):
    (folder / "a_leftImg8bit_conf.npy").unlink()
    PseudoLabels(folder, K).require(["a_leftImg8bit"], ".png", "make")
    with pytest.raises(FileNotFoundError) as raised:
        PseudoLabels(folder, K, 0.5).require(["a_leftImg8bit"], ".png", "make")
    assert str(folder / "a_leftImg8bit_conf.npy") in str(raised.value)


def test_a_part_is_read_as_from_the_whole(folder):
    rows, columns = np.array([0, 3, 3, 7]), np.array([9, 2, 1])
    pseudo = PseudoLabels(folder, K, 0.5)
    everything = pseudo.hard("a_leftImg8bit", *whole(2 * W, 2 * H))
    part = pseudo.hard("a_leftImg8bit", (2 * W, 2 * H), rows, columns)
    np.testing.assert_array_equal(part, everything[np.ix_(rows, columns)])


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
