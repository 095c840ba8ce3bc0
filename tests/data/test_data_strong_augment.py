"""The strong augmentation: what is drawn, and what is done with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms import functional as TF

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


def test_flip_blur_and_jitter_are_drawn_half_the_time(records):
    for share in (
        np.mean([r.flip for r in records]),
        np.mean([r.blur for r in records]),
        np.mean([r.jitter is not None for r in records]),
    ):
        assert share == pytest.approx(0.5, abs=0.025)


def test_flip_blur_and_jitter_are_independent(records):
    together = np.mean([r.flip and r.blur and r.jitter is not None for r in records])
    assert together == pytest.approx(0.125, abs=0.02)


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


def test_two_draws_each_applied_half_the_time(records):
    counts = np.bincount([len(r.operations) for r in records], minlength=3) / len(records)
    np.testing.assert_allclose(counts, [0.25, 0.5, 0.25], atol=0.025)


def test_every_operation_is_as_likely_as_the_others(records):
    drawn = [name for r in records for name, _ in r.operations]
    shares = {name: drawn.count(name) / len(drawn) for name in set(drawn)}
    assert shares.keys() == NAMES
    for share in shares.values():
        assert share == pytest.approx(1 / 14, abs=0.01)


def test_draws_are_with_replacement(records):
    assert any(len(r.operations) == 2 and r.operations[0][0] == r.operations[1][0] for r in records)


@pytest.mark.parametrize("name", sorted(VALUES))
def test_values_of(records, name):
    drawn = {round(value, 6) for r in records for n, value in r.operations if n == name}
    assert drawn == VALUES[name]


@pytest.mark.parametrize("name", ["Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"])
def test_signs_are_random(records, name):
    values = [value for r in records for n, value in r.operations if n == name]
    assert np.mean([v > 0 for v in values]) == pytest.approx(0.5, abs=0.08)


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
    first, second = (
        [draw_strong(rng, CROP, 0.4) for _ in range(10)] for rng in map(np.random.default_rng, (3, 3))
    )
    assert first == second
    assert first != [draw_strong(np.random.default_rng(4), CROP, 0.4) for _ in range(10)]


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (CROP[1], CROP[0], 3), dtype=np.uint8))


def pixels(record: StrongRecord) -> np.ndarray:
    return np.asarray(strong_image(picture(), record))


def test_applying_draws_nothing(records):
    before = np.random.get_state()[1].copy()
    for record in records[:20]:
        np.testing.assert_array_equal(pixels(record), pixels(record))
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_the_empty_record_changes_nothing():
    np.testing.assert_array_equal(pixels(StrongRecord()), np.asarray(picture()))
    np.testing.assert_array_equal(pixels(StrongRecord(operations=(("Identity", 3),))), np.asarray(picture()))


def test_the_image_given_is_not_changed():
    image = picture()
    strong_image(image, StrongRecord(operations=(("Rotate", 9),), cutout=(3, 3, 30, 30)))
    np.testing.assert_array_equal(np.asarray(image), np.asarray(picture()))


def test_flip_and_blur():
    np.testing.assert_array_equal(pixels(StrongRecord(flip=True)), np.asarray(picture())[:, ::-1])
    blurred = picture().filter(ImageFilter.GaussianBlur(1))
    np.testing.assert_array_equal(pixels(StrongRecord(blur=True)), np.asarray(blurred))


def test_jitter_applies_its_adjustments_in_its_order():
    for order in ((0, 1, 2, 3), (3, 2, 0, 1)):
        expected = picture()
        for index in order:
            change, factor = (
                (TF.adjust_brightness, 0.7),
                (TF.adjust_contrast, 1.3),
                (TF.adjust_saturation, 0.8),
                (TF.adjust_hue, 0.1),
            )[index]
            expected = change(expected, factor)
        record = StrongRecord(jitter=(order, 0.7, 1.3, 0.8, 0.1))
        np.testing.assert_array_equal(pixels(record), np.asarray(expected))


def affine(coefficients: tuple[float, ...]) -> Image.Image:
    return picture().transform(
        CROP, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=(127, 127, 127)
    )


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (("AutoContrast", 0), lambda x: ImageOps.autocontrast(x)),
        (("Equalize", 0), lambda x: ImageOps.equalize(x)),
        (("Posterize", 5), lambda x: ImageOps.posterize(x, 5)),
        (("Solarize", 102), lambda x: ImageOps.solarize(x, 154)),
        (("Brightness", 0.32), lambda x: ImageEnhance.Brightness(x).enhance(0.32)),
        (("Color", 0.32), lambda x: ImageEnhance.Color(x).enhance(0.32)),
        (("Contrast", 0.32), lambda x: ImageEnhance.Contrast(x).enhance(0.32)),
        (("Sharpness", 0.32), lambda x: ImageEnhance.Sharpness(x).enhance(0.32)),
        (
            ("Rotate", -12),
            lambda x: x.rotate(-12, resample=Image.Resampling.BILINEAR, fillcolor=(127, 127, 127)),
        ),
        (("ShearX", 0.21), lambda _: affine((1, 0.21, 0, 0, 1, 0))),
        (("ShearY", -0.12), lambda _: affine((1, 0, 0, -0.12, 1, 0))),
        (("TranslateX", 14), lambda _: affine((1, 0, 14, 0, 1, 0))),
        (("TranslateY", -8), lambda _: affine((1, 0, 0, 0, 1, -8))),
    ],
    ids=lambda x: x[0] if isinstance(x, tuple) else "",
)
def test_operations(operation, expected):
    np.testing.assert_array_equal(
        pixels(StrongRecord(operations=(operation,))), np.asarray(expected(picture()))
    )


def test_operations_come_one_after_the_other():
    turned_first = pixels(StrongRecord(operations=(("Rotate", 15), ("TranslateX", 20))))
    moved_first = pixels(StrongRecord(operations=(("TranslateX", 20), ("Rotate", 15))))
    assert (turned_first != moved_first).any()
    expected = picture().rotate(15, resample=Image.Resampling.BILINEAR, fillcolor=(127, 127, 127))
    np.testing.assert_array_equal(turned_first[:, :-20], np.asarray(expected)[:, 20:])


def test_a_positive_translation_brings_pixels_from_the_right():
    moved = pixels(StrongRecord(operations=(("TranslateX", 10),)))
    np.testing.assert_array_equal(moved[:, :-10], np.asarray(picture())[:, 10:])
    assert (moved[:, -10:] == 127).all()


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
    np.testing.assert_array_equal(pixels(StrongRecord(cutout=box)), expected)


def test_cutout_of_the_papers_crop():
    """171×171 pixels of the image are grey, 170×170 of the map are ignored."""
    grey = np.asarray(strong_image(Image.new("RGB", (896, 512)), StrongRecord(cutout=(100, 200, 270, 370))))
    assert (grey == 127).all(axis=2).sum() == 171 * 171
    maps = torch.zeros(1, 512, 896, dtype=torch.int64)
    replayed = replay_strong(maps, [StrongRecord(cutout=(100, 200, 270, 370))], 1, 250)
    assert (replayed == 250).sum() == 170 * 170


def test_cutout_comes_last():
    out = pixels(StrongRecord(flip=True, operations=(("Solarize", 230),), cutout=(0, 0, 32, 32)))
    assert (out[:32, :32] == 127).all()


def test_geometry_lists_what_moves_pixels():
    record = StrongRecord(operations=(("Posterize", 4), ("ShearY", 0.3), ("ShearY", -0.3)))
    assert record.geometry == (("ShearY", 0.3), ("ShearY", -0.3))
