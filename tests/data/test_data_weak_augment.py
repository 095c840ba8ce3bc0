"""Random scale, crop and flip: what is drawn and what is done with it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from data.augment.weak import (
    WeakRecord,
    centred_record,
    draw_weak,
    weak_box,
    weak_image,
    weak_index,
)

SIZE, CROP = (200, 100), (48, 32)  # (W, H)


def draws(count: int, resize: int = 200, size=SIZE, crop=CROP, flip: float = 0.5) -> list[WeakRecord]:
    rng = np.random.default_rng(0)
    return [draw_weak(rng, size, resize, crop, flip) for _ in range(count)]


def assert_inside(record: WeakRecord, crop: tuple[int, int]) -> None:
    height, width = record.size
    y1, y2, x1, x2 = record.crop
    assert 0 <= y1 < y2 <= height and 0 <= x1 < x2 <= width
    assert (x2 - x1, y2 - y1) == crop


def test_records_stay_inside_the_scaled_image():
    for record in draws(500):
        assert_inside(record, CROP)


def test_width_is_uniform_from_half_to_one_and_a_half():
    widths = np.array([record.size[1] for record in draws(4000)])
    assert widths.min() >= 100 and widths.max() < 300
    assert widths.min() < 103 and widths.max() > 296
    assert widths.mean() == pytest.approx(200, abs=4)
    assert widths.std() == pytest.approx(200 / 12**0.5, rel=0.05)


def test_height_follows_the_width():
    for record in draws(200, size=(128, 76)):
        assert record.size[0] == int(record.size[1] * 76 / 128)


def test_corners_reach_both_ends():
    """Uniform over all whole positions, the last one included."""
    records = draws(3000, resize=60, size=(60, 30), crop=(56, 24))
    fixed = [r for r in records if r.size[1] == 60]
    assert {r.crop[2] for r in fixed} == set(range(60 - 56 + 1))
    assert {r.crop[0] for r in fixed} == set(range(30 - 24 + 1))


def test_flip_has_its_probability():
    assert np.mean([r.flip for r in draws(4000)]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([r.flip for r in draws(4000, flip=0.2)]) == pytest.approx(0.2, abs=0.03)
    assert not any(r.flip for r in draws(200, flip=0.0))
    assert all(r.flip for r in draws(200, flip=1.0))


@pytest.mark.parametrize("size", [(40, 20), (200, 20), (20, 200), (64, 64), (1280, 760), (101, 37)])
def test_an_image_smaller_than_the_crop_is_enlarged_just_enough(size):
    crop = (896, 512)
    for record in draws(20, resize=30, size=size, crop=crop):
        assert_inside(record, crop)
        height, width = record.size
        assert width == crop[0] or height == crop[1]
        assert abs(width * size[1] - height * size[0]) <= max(size) + 1  # the aspect, to a pixel


def test_an_image_large_enough_is_left_alone():
    assert any(min(r.size) > 60 for r in draws(200))
    record = draw_weak(np.random.default_rng(1), SIZE, 200, CROP, 0.5)
    again = np.random.default_rng(1).uniform(0.5, 1.5) * 200
    assert record.size == (int(int(again) * 100 / 200), int(again))


def test_same_generator_same_record():
    assert draws(10) == draws(10)
    assert len({r.size for r in draws(10)}) > 5


def ramp(size: tuple[int, int]) -> Image.Image:
    rng = np.random.default_rng(7)
    return Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def view(image: Image.Image, record: WeakRecord) -> np.ndarray:
    """The weak view, of no more of the image than it needs."""
    region = image.crop(weak_box(record, image.size))
    return np.asarray(weak_image(np.asarray(region), record, image.size))


def label_view(label: np.ndarray, record: WeakRecord) -> np.ndarray:
    return label[np.ix_(*weak_index(record, label.shape[::-1]))]


RECORD = WeakRecord((50, 120), (5, 37, 60, 108), True)


def test_image_is_scaled_cropped_and_mirrored():
    scaled = np.asarray(ramp(SIZE).resize((120, 50), Image.Resampling.BILINEAR))
    expected = scaled[5:37, 60:108][:, ::-1]
    np.testing.assert_array_equal(view(ramp(SIZE), RECORD), expected)


def test_label_is_scaled_by_its_nearest_pixel():
    label = np.random.default_rng(3).choice(np.array([0, 5, 18, 250], dtype=np.uint8), (100, 200))
    scaled = np.asarray(Image.fromarray(label).resize((120, 50), Image.Resampling.NEAREST))
    out = label_view(label, RECORD)
    np.testing.assert_array_equal(out, scaled[5:37, 60:108][:, ::-1])
    assert set(np.unique(out)) <= {0, 5, 18, 250}


def test_unscaled_unflipped_record_is_a_plain_crop():
    record = WeakRecord((100, 200), (10, 42, 20, 68), False)
    np.testing.assert_array_equal(view(ramp(SIZE), record), np.asarray(ramp(SIZE))[10:42, 20:68])


def test_image_and_label_stay_together():
    """A label drawn as a grey picture and cut as both shows the same regions."""
    blocks = np.kron(np.arange(8, dtype=np.uint8).reshape(2, 4), np.ones((50, 50), dtype=np.uint8)) * 30
    picture = Image.fromarray(np.stack([blocks] * 3, axis=-1))
    for record in draws(20):
        image = view(picture, record)[..., 0]
        assert (image == label_view(blocks, record)).mean() > 0.85


def test_centred_record():
    assert centred_record((200, 100), (48, 32)) == WeakRecord((100, 200), (34, 66, 76, 124), False)
    small = centred_record((20, 20), (48, 32))
    assert small == WeakRecord((48, 48), (8, 40, 0, 48), False)
