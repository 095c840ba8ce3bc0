"""The strong augmentation: what is drawn, and what is done with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import plain_samples as plain
from data.augment.replay import replay_strong
from data.augment.strong import StrongRecord, affine_coefficients, draw_strong, strong_image

CROP = (160, 96)  # (W, H)
MAGNITUDES = range(1, 10)
ENHANCED = {round(v * 0.09 + 0.05, 6) for v in MAGNITUDES}
VALUES = {
    "Brightness": ENHANCED,
    "Color": ENHANCED,
    "Contrast": ENHANCED,
    "Sharpness": ENHANCED,
    "Posterize": {4, 5, 6, 7},
    "Rotate": {sign * 3 * v for v in MAGNITUDES for sign in (1, -1)},
    "ShearX": {round(sign * 0.03 * v, 6) for v in MAGNITUDES for sign in (1, -1)},
    "ShearY": {round(sign * 0.03 * v, 6) for v in MAGNITUDES for sign in (1, -1)},
    "Solarize": {25, 51, 76, 102, 128, 153, 179, 204, 230},
    "TranslateX": {sign * x for x in (4, 9, 14, 19, 24, 28, 33, 38, 43) for sign in (1, -1)},
    "TranslateY": {sign * y for y in (2, 5, 8, 11, 14, 17, 20, 23, 25) for sign in (1, -1)},
}
NAMES = {*VALUES, "AutoContrast", "Equalize", "Identity"}


@pytest.fixture(scope="module")
def records() -> list[StrongRecord]:
    rng = np.random.default_rng(0)
    return [draw_strong(rng, CROP, 0.4) for _ in range(8000)]


def test_flip_blur_and_jitter_are_drawn_half_the_time_and_independent(records):
    drawn = np.array([(r.flip, r.blur, r.jitter is not None) for r in records])
    np.testing.assert_allclose(drawn.mean(axis=0), 0.5, atol=0.025)
    assert drawn.all(axis=1).mean() == pytest.approx(0.125, abs=0.02)


def test_jitter_ranges(records):
    jitters = [r.jitter for r in records if r.jitter is not None]
    factors = np.array([j[1:4] for j in jitters])
    assert factors.min() >= 0.6 and factors.max() <= 1.4
    assert (factors.min(axis=0) < 0.605).all() and (factors.max(axis=0) > 1.395).all()
    hues = np.array([j[4] for j in jitters])
    assert -0.4 <= hues.min() < -0.395 and 0.395 < hues.max() <= 0.4
    orders = {j[0] for j in jitters}
    assert len(orders) == 24 and all(sorted(order) == [0, 1, 2, 3] for order in orders)


def test_a_strong_jitter_stays_in_the_range_of_colours():
    rng = np.random.default_rng(0)
    jitters = [r.jitter for r in (draw_strong(rng, CROP, 0.9) for _ in range(500)) if r.jitter]
    assert max(abs(j[4]) for j in jitters) <= 0.5
    assert min(min(j[1:4]) for j in jitters) >= 0.1 - 1e-9


def test_two_draws_with_replacement_each_applied_half_the_time(records):
    counts = np.bincount([len(r.operations) for r in records], minlength=3) / len(records)
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.025)
    drawn = [name for r in records for name, _ in r.operations]
    shares = {name: drawn.count(name) / len(drawn) for name in set(drawn)}
    assert shares.keys() == NAMES
    np.testing.assert_allclose(list(shares.values()), 1 / 14, atol=0.01)
    assert any(len(r.operations) == 2 and r.operations[0][0] == r.operations[1][0] for r in records)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_values_and_their_signs(records, name):
    drawn = [round(value, 6) for r in records for n, value in r.operations if n == name]
    assert set(drawn) == VALUES[name]
    if min(drawn) < 0:
        assert np.mean([v > 0 for v in drawn]) == pytest.approx(0.5, abs=0.08)


def test_cutout_boxes(records):
    """Side 96 // 3 = 32; boxes are cut short at the right and lower edge only."""
    boxes = np.array([r.cutout for r in records])
    x0, y0, x1, y1 = boxes.T
    assert (x0 >= 0).all() and (y0 >= 0).all() and (x1 <= 160).all() and (y1 <= 96).all()
    assert ((x1 - x0 == 32) | (x1 == 160)).all() and ((y1 - y0 == 32) | (y1 == 96)).all()
    assert (x0 == 0).mean() == pytest.approx(17 / 160, abs=0.015)  # int() joins (15, 17) to 0
    assert (x1 - x0 < 32).mean() == pytest.approx(15 / 160, abs=0.015)
    assert (y1 - y0 < 32).mean() == pytest.approx(15 / 96, abs=0.02)
    assert x0.max() == 143 and y0.max() == 79


def test_same_generator_same_records():
    first, second, other = ([draw_strong(np.random.default_rng(s), CROP, 0.4)] for s in (3, 3, 4))
    assert first == second != other


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (CROP[1], CROP[0], 3), dtype=np.uint8))


def test_views_are_those_of_torchvision_and_pillow(records):
    """Applying draws nothing and leaves the image alone."""
    before = np.random.get_state()[1].copy()
    for record in [StrongRecord(), *records[:500]]:
        image = picture()
        view = np.asarray(strong_image(image, record))
        np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))
        np.testing.assert_array_equal(view, np.asarray(plain.strong(image, record)), err_msg=str(record))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_coefficients_are_in_pillows_sense():
    assert affine_coefficients("ShearX", 0.3) == (1, 0.3, 0, 0, 1, 0)
    assert affine_coefficients("ShearY", 0.3) == (1, 0, 0, 0.3, 1, 0)
    assert affine_coefficients("TranslateX", 7) == (1, 0, 7, 0, 1, 0)
    assert affine_coefficients("TranslateY", 7) == (1, 0, 0, 0, 1, 7)


@pytest.mark.parametrize("box", [(10, 20, 42, 52), (0, 0, 32, 32), (140, 80, 160, 96)])
def test_cutout_is_grey_inside_and_untouched_outside(box):
    """Column x1 and row y1 are inside, where the image has them."""
    x0, y0, x1, y1 = box
    expected = np.asarray(picture()).copy()
    assert expected.shape == (96, 160, 3)
    expected[y0 : y1 + 1, x0 : x1 + 1] = 127
    view = strong_image(picture(), StrongRecord(cutout=box))
    np.testing.assert_array_equal(np.asarray(view), expected)


def test_cutout_of_the_papers_crop():
    """171×171 pixels of the image are grey, 170×170 of the map are ignored."""
    grey = np.asarray(strong_image(Image.new("RGB", (896, 512)), StrongRecord(cutout=(100, 200, 270, 370))))
    assert (grey == 127).all(axis=2).sum() == 171 * 171
    maps = torch.zeros(1, 512, 896, dtype=torch.int64)
    replayed = replay_strong(maps, [StrongRecord(cutout=(100, 200, 270, 370))], 1, 250)
    assert (replayed == 250).sum() == 170 * 170


def test_geometry_lists_what_moves_pixels():
    record = StrongRecord(operations=(("Posterize", 4), ("ShearY", 0.3), ("ShearY", -0.3)))
    assert record.geometry == (("ShearY", 0.3), ("ShearY", -0.3))
