"""Samples, batches and their order on small files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.colour_transfer import colour_statistics, transfer_colours
from data.dataset import DataSet, read_label_image
from data.loaders import (
    Augmentation,
    EpochBatches,
    SourceSamples,
    TargetSamples,
    inference_loader,
    training_loader,
)
from data.pseudo_labels import PseudoLabels, write_hard, write_soft
from data.strong_augment import strong_image
from data.weak_augment import weak_image, weak_label

SIZE, CROP = (64, 32), (32, 16)  # (W, H)
K = 19
AUGMENTATION = Augmentation(resize=64, crop=CROP, flip=0.5, jitter=0.4)
PLAIN = Augmentation(resize=64, crop=CROP, flip=0.5, jitter=0.4, enabled=False)
PARTS = frozenset({"weak", "strong", "whole", "soft_quarter", "soft_grid", "label"})


def make_set(root: Path, name: str, count: int, seed: int) -> DataSet:
    rng = np.random.default_rng(seed)
    images, labels = [], []
    for i in range(count):
        image = rng.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
        path, label_path = root / name / f"{i:03d}.png", root / name / f"{i:03d}_label.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).resize(SIZE, Image.Resampling.BICUBIC).save(path)
        ids = np.kron(rng.choice([7, 8, 11, 0], (4, 8)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(ids).save(label_path)
        images.append(path)
        labels.append(label_path)
    return DataSet(name, root, tuple(images), tuple(labels), "cityscapes", K, SIZE, read_label_image)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> DataSet:
    return make_set(tmp_path_factory.mktemp("source"), "gta5", 5, 0)


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> DataSet:
    return make_set(tmp_path_factory.mktemp("target"), "cityscapes", 6, 1)


@pytest.fixture(scope="module")
def pseudo(tmp_path_factory, target) -> PseudoLabels:
    folder, rng = tmp_path_factory.mktemp("pseudo"), np.random.default_rng(5)
    for path in target.images:
        write_soft(folder, path.stem, rng.dirichlet(np.ones(K), (5, 9)).transpose(2, 0, 1))
        label = np.kron(rng.integers(0, K, (4, 8)), np.ones((8, 8))).astype(np.uint8)
        write_hard(folder, path.stem, label, np.ones(label.shape), np.zeros((K, 3), dtype=np.uint8))
    return PseudoLabels(folder, K)


def source_samples(source, target, seed=1, augmentation=AUGMENTATION, transfer=True) -> SourceSamples:
    return SourceSamples(source, augmentation, seed, True, target if transfer else None)


def target_samples(target, pseudo, seed=1, augmentation=AUGMENTATION, parts=PARTS) -> TargetSamples:
    return TargetSamples(target, augmentation, seed, parts, pseudo)


def flat(batch: object) -> dict:
    return dict(vars(batch))


def assert_same(first: object, second: object) -> None:
    a, b = flat(first), flat(second)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


def batches(samples, workers: int, count: int, batch: int = 2, seed: int = 3) -> list:
    loader = training_loader(samples, batch, seed, True, True, workers)
    iterator: Iterator = iter(loader)
    return list(islice(iterator, count))


@pytest.mark.parametrize("domain", ["source", "target"])
def test_batches_do_not_depend_on_the_number_of_workers(domain, source, target, pseudo):
    samples = source_samples(source, target) if domain == "source" else target_samples(target, pseudo)
    alone, together = batches(samples, 0, 4), batches(samples, 2, 4)
    for first, second in zip(alone, together, strict=True):
        assert_same(first, second)


def test_a_sample_depends_on_epoch_index_and_seed_alone(source, target):
    samples = source_samples(source, target)
    first = samples[(0, 2)]
    samples[(0, 3)]
    again = samples[(0, 2)]
    assert torch.equal(first["strong"], again["strong"])
    assert first["strong_records"] == again["strong_records"]
    other_epoch, other_seed = samples[(1, 2)], source_samples(source, target, seed=2)[(0, 2)]
    assert first["strong_records"] != other_epoch["strong_records"]
    assert first["strong_records"] != other_seed["strong_records"]


def test_source_and_target_draw_differently(target, pseudo):
    ours = SourceSamples(target, AUGMENTATION, 1, True, None)[(0, 0)]
    theirs = target_samples(target, pseudo)[(0, 0)]
    assert ours["strong_records"] != theirs["strong_records"]


def test_global_generators_neither_matter_nor_move(source, target):
    samples = source_samples(source, target)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = samples[(0, 1)]["strong"]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first, samples[(0, 1)]["strong"])


def as_image(tensor: Tensor) -> np.ndarray:
    return tensor.permute(1, 2, 0).numpy()


def test_a_target_sample_is_what_its_records_say(target, pseudo):
    sample = target_samples(target, pseudo)[(2, 4)]
    weak_record, strong_record = sample["weak_records"], sample["strong_records"]
    whole = target.read_image(4)
    weak = weak_image(whole, weak_record)
    assert sample["names"] == "004"
    np.testing.assert_array_equal(as_image(sample["whole"]), np.asarray(whole))
    np.testing.assert_array_equal(as_image(sample["weak"]), np.asarray(weak))
    np.testing.assert_array_equal(as_image(sample["strong"]), np.asarray(strong_image(weak, strong_record)))
    label = weak_label(pseudo.hard("004", SIZE), weak_record)
    np.testing.assert_array_equal(sample["label"].numpy(), label)
    soft = torch.from_numpy(pseudo.soft("004"))
    assert torch.equal(sample["soft_grid"], soft)
    y1, y2, x1, x2 = weak_record.crop
    chain = soft[None]
    for size in ((SIZE[1], SIZE[0]), weak_record.size):
        chain = F.interpolate(chain, size=size, mode="bilinear", align_corners=True)
    chain = chain[:, :, y1:y2, x1:x2]
    chain = chain.flip(3) if weak_record.flip else chain
    chain = F.interpolate(chain, scale_factor=0.25, mode="bilinear", align_corners=True)[0]
    torch.testing.assert_close(sample["soft_quarter"], chain, rtol=1e-5, atol=1e-5)


def test_only_the_parts_asked_for_are_read(target, tmp_path):
    absent = PseudoLabels(tmp_path / "none", K)
    loader = training_loader(target_samples(target, absent, parts=frozenset({"weak"})), 2, 0, False, True, 0)
    batch = next(iter(loader))
    assert batch.weak is not None
    for part in PARTS - {"weak"}:
        assert getattr(batch, part) is None


def test_a_source_sample_carries_the_targets_colours(source, target):
    """The transferred image is that of one of the target images, and not always the same one."""
    plain, chosen = source_samples(source, target, augmentation=PLAIN), set()
    statistics = [colour_statistics(np.asarray(target.read_image(i))) for i in range(len(target))]
    for epoch in range(8):
        sample = plain[(epoch, 1)]
        candidates = [
            Image.fromarray(transfer_colours(np.asarray(source.read_image(1)), *s)) for s in statistics
        ]
        seen = [as_image(sample["image"]) == np.asarray(c.crop((16, 8, 48, 24))) for c in candidates]
        matches = [i for i, same in enumerate(seen) if same.all()]
        assert len(matches) == 1
        chosen.add(matches[0])
    assert len(chosen) > 2


def test_without_transfer_colours_stay(source, target):
    sample = source_samples(source, target, augmentation=PLAIN, transfer=False)[(0, 1)]
    expected = np.asarray(source.read_image(1))[8:24, 16:48]
    np.testing.assert_array_equal(as_image(sample["image"]), expected)
    np.testing.assert_array_equal(sample["label"].numpy(), source.read_label(1)[8:24, 16:48])
    np.testing.assert_array_equal(as_image(sample["strong"]), expected)


def test_bytes_travel_and_floats_are_made_on_the_device(source, target, pseudo):
    first = batches(source_samples(source, target), 0, 1)[0]
    assert {first.image.dtype, first.label.dtype, first.strong.dtype} == {torch.uint8}
    moved = first.to(torch.device("cpu"))
    assert moved.image.dtype == torch.float32
    torch.testing.assert_close(moved.image, first.image / 255)
    assert float(moved.image.min()) >= 0
    assert 0.5 < float(moved.image.max()) <= 1
    assert moved.label.dtype == torch.int64
    assert torch.equal(moved.label, first.label.long())
    assert moved.strong_records == first.strong_records
    assert first.image.dtype == torch.uint8  # the batch itself is not changed

    second = batches(target_samples(target, pseudo), 0, 1)[0]
    for part in ("weak", "strong", "whole", "label"):
        assert getattr(second, part).dtype == torch.uint8, part
    moved = second.to(torch.device("cpu"))
    assert moved.label.dtype == torch.int64 and moved.whole.dtype == torch.float32
    assert torch.equal(moved.soft_quarter, second.soft_quarter)
    assert moved.names == second.names


def test_batch_shapes(source, target, pseudo):
    first = batches(source_samples(source, target), 0, 1, batch=3)[0]
    assert first.image.shape == first.strong.shape == (3, 3, 16, 32)
    assert first.label.shape == (3, 16, 32)
    second = batches(target_samples(target, pseudo), 0, 1, batch=3)[0]
    assert second.weak.shape == second.strong.shape == (3, 3, 16, 32)
    assert second.whole.shape == (3, 3, 32, 64)
    assert second.soft_quarter.shape == (3, K, 4, 8)
    assert second.soft_grid.shape == (3, K, 5, 9)
    assert second.label.shape == (3, 16, 32)
    assert len(second.weak_records) == len(second.strong_records) == len(second.names) == 3


def order(count: int, length=10, batch=3, seed=4, domain="target", shuffle=True, drop_last=False) -> list:
    return list(islice(EpochBatches(length, batch, seed, domain, shuffle, drop_last), count))


def test_every_index_comes_once_an_epoch():
    chosen = order(12)
    for epoch in range(3):
        keys = [key for batch in chosen[4 * epoch : 4 * epoch + 4] for key in batch]
        assert sorted(keys) == [(epoch, i) for i in range(10)]


def test_the_last_batch_is_smaller_or_dropped():
    assert [len(batch) for batch in order(8)] == [3, 3, 3, 1] * 2
    dropped = order(6, drop_last=True)
    assert [len(batch) for batch in dropped] == [3] * 6
    assert {epoch for batch in dropped[:3] for epoch, _ in batch} == {0}
    assert {epoch for batch in dropped[3:] for epoch, _ in batch} == {1}
    assert len({key for batch in dropped[:3] for key in batch}) == 9
    assert EpochBatches(10, 3, 0, "source", True, True).per_epoch == 3
    assert EpochBatches(10, 3, 0, "source", True, False).per_epoch == 4


def test_order_depends_on_seed_epoch_and_domain():
    assert order(4) == order(4)
    assert order(4) != order(4, seed=5)
    assert order(4) != order(4, domain="source")
    indices = [[i for batch in order(8)[4 * e : 4 * e + 4] for _, i in batch] for e in range(2)]
    assert indices[0] != indices[1]
    assert indices[0] != list(range(10))


def test_no_shuffle_keeps_the_files_order():
    assert [i for batch in order(4, shuffle=False) for _, i in batch] == list(range(10))


def test_too_few_images_for_a_batch_name_the_options():
    with pytest.raises(ValueError, match=r"2 source images.*4.*--bs.*--no_droplast"):
        EpochBatches(2, 4, 0, "source", True, True)
    assert sorted(order(1, length=2, batch=4)[0]) == [(0, 0), (0, 1)]


def test_inference_reads_whole_images_in_order(target):
    seen = list(inference_loader(target, True, 0))
    assert [name for name, _, _ in seen] == [f"{i:03d}" for i in range(6)]
    for i, (_, image, label) in enumerate(seen):
        np.testing.assert_array_equal(as_image(image), np.asarray(target.read_image(i)))
        np.testing.assert_array_equal(label.numpy(), target.read_label(i))
    assert all(label is None for _, _, label in inference_loader(target, False, 0))
