"""Colour transfer against the formula computed with skimage."""

from __future__ import annotations

import numpy as np
import pytest
from skimage import color

from data.augment.colour_transfer import colour_statistics, transfer_colours


def image(seed: int, low: int = 0, high: int = 256, size: tuple[int, int] = (24, 31)) -> np.ndarray:
    return np.random.default_rng(seed).integers(low, high, (*size, 3), dtype=np.uint8)


def smooth(seed: int, size: tuple[int, int] = (24, 31)) -> np.ndarray:
    """Few levels near each other, as in a dark photograph."""
    rng = np.random.default_rng(seed)
    base = np.linspace(10, 90, size[0] * size[1]).reshape(*size, 1) * np.array([1.0, 0.8, 0.5])
    return (base + rng.normal(0, 4, (*size, 3))).clip(0, 255).astype(np.uint8)


def skimage_transfer(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    ours, theirs = color.rgb2lab(source), color.rgb2lab(target)
    for channel in range(3):
        x = ours[..., channel]
        x = (x - x.mean()) / x.std(ddof=0)
        ours[..., channel] = x * theirs[..., channel].std(ddof=0) + theirs[..., channel].mean()
    return (color.lab2rgb(ours).clip(0, 1) * 255).astype(np.uint8)


EVERY_LEVEL = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 40)], -1).astype(np.uint8)[None]


def moved_to(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    return transfer_colours(source, colour_statistics(source), colour_statistics(target))


@pytest.mark.parametrize("picture", [image(0), smooth(1), EVERY_LEVEL])
def test_statistics_are_those_of_skimage(picture):
    mean, std = colour_statistics(picture)
    lab = color.rgb2lab(picture)
    np.testing.assert_allclose(mean, lab.mean(axis=(0, 1)), atol=1e-4)
    np.testing.assert_allclose(std, lab.std(axis=(0, 1)), atol=1e-4)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [((0, 0, 0), (0, 0, 0)), ((255, 255, 255), (100, 0, 0)), ((255, 0, 0), (53.24, 80.09, 67.20))],
)
def test_known_colours(colour, lab):
    mean, std = colour_statistics(np.full((2, 3, 3), colour, dtype=np.uint8))
    np.testing.assert_allclose(mean, lab, atol=2e-2)
    np.testing.assert_allclose(std, 0, atol=1e-2)


def test_an_images_own_statistics_leave_it_alone():
    for picture in (image(2), EVERY_LEVEL):
        difference = moved_to(picture, picture).astype(int) - picture
        assert difference.min() >= -1 and difference.max() <= 0  # truncated, not rounded


def test_a_part_is_moved_as_in_the_whole():
    whole, wanted = image(3, size=(60, 700)), colour_statistics(smooth(1))
    own = colour_statistics(whole)
    part = transfer_colours(whole[20:45, 300:611], own, wanted)
    difference = part.astype(int) - transfer_colours(whole, own, wanted)[20:45, 300:611]
    assert np.abs(difference).max() <= 1 and (difference != 0).mean() < 1e-3


def test_statistics_are_of_the_population():
    """Half black, half white: L is 0 or 100, its population deviation 50, whatever the number of pixels."""
    halves = np.zeros((1, 2, 3), dtype=np.uint8)
    halves[0, 1] = 255
    mean, std = colour_statistics(halves)
    assert mean[0] == pytest.approx(50, abs=1e-3)
    assert std[0] == pytest.approx(50, abs=1e-3)


NARROW = {
    "grey": np.repeat(image(8)[..., :1], 3, axis=2),
    "black with few white pixels": np.where(image(9)[..., :1] > 250, 255, 0).repeat(3, 2).astype(np.uint8),
    "two near colours": np.where(image(9)[..., :1] > 120, 91, 90).repeat(3, 2).astype(np.uint8),
}


PAIRS = {
    "wide to narrow": (image(0), smooth(1)),
    "narrow to wide": (smooth(1), image(0)),
    "dark to bright": (smooth(2), image(4, 100, 180)),
    "as GTA5 is read": (image(5, size=(1024, 2048)), smooth(6, (1024, 2048))),
    **{name: (picture, image(5)) for name, picture in NARROW.items()},
}


@pytest.mark.parametrize(("source", "target"), PAIRS.values(), ids=PAIRS)
def test_transfer_agrees_with_skimage_to_a_grey_level(source, target):
    ours = moved_to(source, target)
    assert ours.dtype == np.uint8 and ours.shape == source.shape
    difference = np.abs(ours.astype(int) - skimage_transfer(source, target).astype(int))
    assert difference.max() <= 1
    assert np.abs(ours.astype(int) - source.astype(int)).max() > 10  # it does something


@pytest.mark.parametrize("colour", [(0, 0, 0), (255, 255, 255), (120, 33, 200)])
def test_an_image_of_one_colour_takes_the_targets_mean_colour(colour):
    target = image(5)
    moved = moved_to(np.full((4, 5, 3), colour, dtype=np.uint8), target)
    mean = color.rgb2lab(target).mean(axis=(0, 1))
    wanted = (color.lab2rgb(mean[None, None])[0, 0] * 255).astype(int)
    assert np.abs(moved.astype(int) - wanted).max() <= 1
