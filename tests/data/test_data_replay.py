"""The replay against the augmentation itself, and full → weak against plain chains of resizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from benchmarks import plain_samples as plain
from data.augment.replay import full_to_weak, replay_strong, soft_label_quarter
from data.augment.strong import StrongRecord, strong_image
from data.augment.weak import WeakRecord

IGNORE = 250
H, W = 96, 160


def blocks() -> np.ndarray:
    """(H, W) blocky regions of the ids 0..6 and of void."""
    ids = np.random.default_rng(0).integers(0, 8, (H // 16, W // 16))
    ids[ids == 7] = IGNORE
    return np.kron(ids, np.ones((16, 16), dtype=np.int64)).astype(np.uint8)


def moved_by_pillow(label: np.ndarray, record: StrongRecord) -> np.ndarray:
    """The record's geometry on a picture of ids, nearest, void where nothing came from inside."""
    image = Image.fromarray(label)
    if record.flip:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for name, v in record.operations:
        if name == "Rotate":
            image = image.rotate(v, resample=Image.Resampling.NEAREST, fillcolor=IGNORE)
            continue
        coefficients = {
            "ShearX": (1, v, 0, 0, 1, 0),
            "ShearY": (1, 0, 0, v, 1, 0),
            "TranslateX": (1, 0, v, 0, 1, 0),
            "TranslateY": (1, 0, 0, 0, 1, v),
        }[name]
        image = image.transform(
            image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST, fillcolor=IGNORE
        )
    out = np.array(image)
    if record.cutout is not None:
        x0, y0, x1, y1 = record.cutout
        out[y0:y1, x0:x1] = IGNORE
    return out


def replayed(label: np.ndarray, record: StrongRecord, **flags: bool) -> np.ndarray:
    flags = {"flat": False, "translate_by_height": False} | flags
    maps = torch.from_numpy(label.astype(np.int64))[None]
    return replay_strong(maps, [record], 1, IGNORE, **flags)[0].numpy()


def operations(*named: tuple[str, float]) -> StrongRecord:
    return StrongRecord(operations=named)


RECORDS = [
    StrongRecord(flip=True),
    operations(("ShearX", 0.27)),
    operations(("ShearX", -0.15)),
    operations(("ShearY", 0.21)),
    operations(("ShearY", -0.27)),
    operations(("TranslateX", 33)),
    operations(("TranslateX", -14)),
    operations(("TranslateY", 25)),
    operations(("TranslateY", -11)),
    operations(("Rotate", 27.0)),
    operations(("Rotate", -12.0)),
    operations(("Rotate", 21.0), ("ShearX", 0.27)),
    operations(("ShearX", 0.27), ("Rotate", 21.0)),
    operations(("ShearY", 0.27), ("ShearX", 0.27)),
    operations(("Rotate", -27.0), ("TranslateX", 43)),
    operations(("TranslateY", 20), ("Rotate", 15.0)),
    operations(("Rotate", 27.0), ("Rotate", -9.0)),
    operations(("TranslateX", 43), ("TranslateX", -43)),
    operations(("ShearY", -0.12), ("ShearY", -0.27)),
    StrongRecord(cutout=(40, 50, 72, 82)),
    StrongRecord(flip=True, operations=(("Posterize", 4), ("Rotate", 18.0)), cutout=(140, 80, 160, 96)),
    StrongRecord(flip=True, operations=(("TranslateX", 24), ("ShearY", 0.18)), cutout=(0, 0, 32, 32)),
]
LEVELS = np.array([3, 29, 61, 97, 167, 211, 251], dtype=np.uint8)  # far from the fill, 127


@pytest.mark.parametrize("record", RECORDS, ids=str)
def test_labels_follow_the_pixels(record):
    """Pillow moves labels alike; so does the augmentation move ids as grey levels, where it mixed none."""
    record = StrongRecord(record.flip, operations=record.geometry, cutout=record.cutout)
    expected = moved_by_pillow(blocks(), record)
    assert (expected != blocks()).mean() > 0.05  # a replay that does nothing would fail
    assert (replayed(blocks(), record) == expected).mean() > 0.97
    label = np.where(blocks() == IGNORE, 0, blocks())
    grey = Image.fromarray(np.stack([LEVELS[label]] * 3, axis=-1))
    view = np.asarray(strong_image(grey, record))[..., 0]
    pure = np.isin(view, LEVELS) | (view == 127)
    assert pure.mean() > 0.7
    expected = np.full(256, IGNORE)
    expected[LEVELS] = np.arange(len(LEVELS))
    assert (replayed(label, record)[pure] == expected[view[pure]]).mean() > 0.97


def test_flat_replay_keeps_only_the_last_of_two_equal_draws_in_a_fixed_order():
    twice, last = operations(("Rotate", 27.0), ("Rotate", -9.0)), operations(("Rotate", -9.0))
    np.testing.assert_array_equal(replayed(blocks(), twice, flat=True), replayed(blocks(), last))
    order = ["ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"]
    values = dict(zip(order, (0.27, -0.18, 30, -15, 21.0), strict=True))
    for i, earlier in enumerate(order):
        for later in order[i + 1 :]:
            forward = ((earlier, values[earlier]), (later, values[later]))
            expected = replayed(blocks(), operations(*forward))
            for drawn in (forward, forward[::-1]):
                moved = replayed(blocks(), operations(*drawn), flat=True)
                np.testing.assert_array_equal(moved, expected)


def test_offsets_over_the_height_stretch_horizontal_translations_only():
    """Q7: 2·tx/H instead of 2·tx/W moves by tx·W/H pixels: 24 becomes 40."""
    record = operations(("TranslateX", 24))
    right = replayed(blocks(), record)
    np.testing.assert_array_equal(right[:, :-24], blocks()[:, 24:])
    quirky = replayed(blocks(), record, translate_by_height=True)
    np.testing.assert_array_equal(quirky[:, :-40], blocks()[:, 40:])
    vertical = operations(("TranslateY", 24))
    moved = replayed(blocks(), vertical, translate_by_height=True)
    np.testing.assert_array_equal(moved[:-24], blocks()[24:])


def test_the_quirks_are_the_default():
    maps = torch.from_numpy(blocks().astype(np.int64))[None]
    record = StrongRecord(operations=(("TranslateX", 24), ("Rotate", 9.0), ("TranslateX", 12)))
    default = replay_strong(maps, [record], 1, IGNORE)[0].numpy()
    np.testing.assert_array_equal(default, replayed(blocks(), record, flat=True, translate_by_height=True))


def square_map() -> Tensor:
    return torch.arange(64, dtype=torch.int64).view(1, 8, 8)


@pytest.mark.parametrize(("value", "shift"), [(9, 2), (11, 2), (3, 0), (-9, -3), (-1, -1), (-8, -2)])
def test_translations_move_by_whole_map_pixels_rounded_down(value, shift):
    label = square_map()
    moved = replay_strong(label, [operations(("TranslateX", value))], 4, IGNORE)
    expected = torch.full_like(label, IGNORE)
    if shift >= 0:
        expected[:, :, : 8 - shift] = label[:, :, shift:]
    else:
        expected[:, :, -shift:] = label[:, :, :shift]
    assert torch.equal(moved, expected)


def test_cutout_boxes_are_divided_by_the_scale():
    label = square_map()
    moved = replay_strong(label, [StrongRecord(cutout=(7, 8, 21, 31))], 4, IGNORE)
    expected = square_map()
    assert torch.equal(label, expected)  # the input is not changed
    expected[:, 2:7, 1:5] = IGNORE
    assert torch.equal(moved, expected)


def test_void_and_class_zero_pass_through():
    label = torch.tensor([[[0, IGNORE], [3, 0]]])
    assert torch.equal(replay_strong(label, [StrongRecord()], 4, IGNORE), label)
    flipped = replay_strong(label, [StrongRecord(flip=True)], 4, IGNORE)
    assert torch.equal(flipped, label.flip(2))


def test_probabilities_move_as_labels_do():
    label = torch.from_numpy(np.where(blocks() == IGNORE, 6, blocks()).astype(np.int64))[None]
    probs = F.one_hot(label, 7).permute(0, 3, 1, 2).float()
    for record in RECORDS:
        moved = replay_strong(probs, [record], 1, IGNORE, False, False)
        moved_label = replay_strong(label, [record], 1, IGNORE, False, False)
        outside = (moved == IGNORE).all(dim=1)
        assert torch.equal(outside, (moved == IGNORE).any(dim=1))
        assert torch.equal(torch.where(outside, IGNORE, moved.argmax(dim=1)), moved_label)


def test_each_image_follows_its_own_record():
    label = torch.from_numpy(blocks().astype(np.int64))
    together = replay_strong(torch.stack([label] * 3), RECORDS[9:12], 1, IGNORE, False, False)
    for moved, record in zip(together, RECORDS[9:12], strict=True):
        np.testing.assert_array_equal(moved.numpy(), replayed(blocks(), record))


# --- full → weak ------------------------------------------------------------------------------------------

WEAK_RECORDS = [
    WeakRecord((75, 146), (9, 57, 22, 86), True),
    WeakRecord((57, 113), (6, 54, 35, 99), False),
    WeakRecord((48, 96), (0, 48, 32, 96), True),
]


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=True)


@pytest.mark.parametrize(
    ("grid", "image"), [((9, 17), (64, 128)), ((13, 7), (100, 52)), ((1, 5), (64, 128)), ((9, 3), (4, 8))]
)
def test_full_to_weak_equals_the_plain_chain(grid, image):
    """Grid → image / 4 → (int(h/4), int(w/4)) → crop → flip."""
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 5, *grid, generator=generator)
    weak = full_to_weak(maps, WEAK_RECORDS, image)
    for i, record in enumerate(WEAK_RECORDS):
        quarter = resized(maps[i : i + 1], (image[0] // 4, image[1] // 4))
        scaled = resized(quarter, (int(record.size[0] / 4), int(record.size[1] / 4)))
        y1, y2, x1, x2 = record.crop
        top, left = int(y1 / 4), int(x1 / 4)
        cut = scaled[:, :, top : top + int((y2 - y1) / 4), left : left + int((x2 - x1) / 4)]
        expected = cut.flip(3) if record.flip else cut
        torch.testing.assert_close(weak[i : i + 1], expected, rtol=1e-5, atol=1e-5)
    assert weak.shape == (3, 5, 12, 16)


def test_soft_label_quarter_equals_the_plain_chain():
    """Grid → image → (h, w) → crop → flip → a quarter of the crop."""
    soft = torch.randn(5, 9, 17, generator=torch.Generator().manual_seed(1)).softmax(0)
    for record in WEAK_RECORDS:
        quarter = soft_label_quarter(soft, record, (64, 128))
        expected = plain.soft_quarter(soft.numpy(), record, (128, 64))
        torch.testing.assert_close(quarter, expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(quarter.sum(0), torch.ones(12, 16))


def test_gradients_and_types_pass_through_full_to_weak():
    maps = torch.randn(3, 2, 9, 17, dtype=torch.float64, requires_grad=True)
    weak = full_to_weak(maps, WEAK_RECORDS, (64, 128))
    weak.sum().backward()
    assert weak.dtype == torch.float64 and maps.grad.any()
