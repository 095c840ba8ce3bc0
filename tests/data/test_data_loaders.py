"""Samples, batches and their order on small files."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from benchmarks import plain_samples as plain
from data.augment.colour_transfer import KeptStatistics
from data.augment.weak import WeakRecord
from data.batches import EpochBatches, inference_loader, read, training_loader
from data.classes import id_format
from data.image_cache import ImageCache
from data.pseudo_labels import PseudoLabels, write_hard, write_soft
from data.samples import Augmentation, SourceSamples, TargetSamples
from data.sets.dataset import DataSet, read_label_image

SIZE, CROP = (64, 32), (32, 16)  # (W, H)
K = 19
AUGMENTATION = Augmentation(resize=64, crop=CROP, flip=0.5, jitter=0.4)
PLAIN = Augmentation(resize=64, crop=CROP, flip=0.5, jitter=0.4, enabled=False)
PARTS = frozenset({"weak", "strong", "whole", "soft_quarter", "soft_grid", "label"})
PARTS |= {"truth_quarter", "truth_grid"}


def make_set(root: Path, name: str, count: int, seed: int, file_size: tuple[int, int] = SIZE) -> DataSet:
    rng = np.random.default_rng(seed)
    folder = root / name
    folder.mkdir()
    images, labels = ([folder / f"{i:03d}{end}.png" for i in range(count)] for end in ("", "_label"))
    for path, label_path in zip(images, labels, strict=True):
        image = rng.integers(0, 256, (SIZE[1] // 8, SIZE[0] // 8, 3), dtype=np.uint8)
        Image.fromarray(image).resize(file_size, Image.Resampling.BICUBIC).save(path)
        ids = np.kron(rng.choice([7, 8, 11, 0], (4, 8)), np.ones((8, 8))).astype(np.uint8)
        Image.fromarray(ids).resize(file_size, Image.Resampling.NEAREST).save(label_path)
    stored = id_format("cityscapes", K, read_label_image)
    return DataSet(name, root, tuple(images), tuple(labels), stored, SIZE)


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


def assert_same(first: object, second: object) -> None:
    a, b = vars(first), vars(second)
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key


def batches(samples, workers: int, count: int, batch: int = 2, seed: int = 3) -> list:
    return list(islice(training_loader(samples, batch, seed, True, True, workers), count))


@pytest.mark.parametrize("domain", ["source", "target"])
def test_batches_do_not_depend_on_the_number_of_workers(domain, source, target, pseudo):
    samples = source_samples(source, target) if domain == "source" else target_samples(target, pseudo)
    alone, together = batches(samples, 0, 4), batches(samples, 2, 4)
    for first, second in zip(alone, together, strict=True):
        assert_same(first, second)


def test_a_sample_depends_on_domain_seed_epoch_and_index_alone(source, target, pseudo):
    samples = source_samples(source, target)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = samples[(0, 2)]
    assert torch.equal(torch.get_rng_state(), before)
    samples[(0, 3)]
    torch.manual_seed(1)
    again = samples[(0, 2)]
    assert torch.equal(first["strong"], again["strong"])
    record = first["strong_records"]
    assert record == again["strong_records"]
    assert record != samples[(1, 2)]["strong_records"]
    assert record != source_samples(source, target, seed=2)[(0, 2)]["strong_records"]
    ours = SourceSamples(target, AUGMENTATION, 1, True, None)[(0, 0)]
    assert ours["strong_records"] != target_samples(target, pseudo)[(0, 0)]["strong_records"]


@pytest.mark.parametrize("key", [(2, 4), (0, 1), (5, 3), (7, 0)])
def test_a_target_sample_is_the_plain_one(key, target, pseudo):
    sample = target_samples(target, pseudo)[key]
    record, index = sample["weak_records"], key[1]
    whole = plain.read_image(target.images[index], SIZE)
    weak = plain.weak(whole, record, Image.Resampling.BILINEAR)
    name = f"{index:03d}"
    assert sample["names"] == name
    np.testing.assert_array_equal(sample["whole"].numpy(), np.asarray(whole))
    np.testing.assert_array_equal(sample["weak"].numpy(), np.asarray(weak))
    strong = plain.strong(weak, sample["strong_records"])
    np.testing.assert_array_equal(sample["strong"].numpy(), np.asarray(strong))
    label = plain.weak(Image.open(pseudo.folder / f"{name}.png"), record, Image.Resampling.NEAREST)
    np.testing.assert_array_equal(sample["label"].numpy(), np.asarray(label))
    soft = np.load(pseudo.folder / f"{name}.npy")
    np.testing.assert_array_equal(sample["soft_grid"].numpy(), soft)
    quarter = plain.soft_quarter(soft, record, SIZE)
    torch.testing.assert_close(sample["soft_quarter"], quarter, rtol=1e-5, atol=1e-5)
    truth = plain.read_label(target.labels[index], SIZE, "cityscapes", K)
    rows, columns = (np.rint(np.linspace(0, n - 1, grid)).astype(int) for n, grid in ((32, 5), (64, 9)))
    np.testing.assert_array_equal(sample["truth_grid"].numpy(), np.asarray(truth)[rows][:, columns])
    weak_truth = np.asarray(plain.weak(truth, record, Image.Resampling.NEAREST))
    rows, columns = (np.rint(np.linspace(0, n - 1, n // 4)).astype(int) for n in (16, 32))
    np.testing.assert_array_equal(sample["truth_quarter"].numpy(), weak_truth[rows][:, columns])


def test_labels_read_for_analysis_leave_the_rest_of_a_sample_as_it_is(target, pseudo):
    truths = {"truth_quarter", "truth_grid"}
    samples, plain_samples = (target_samples(target, pseudo, parts=p) for p in (PARTS, PARTS - truths))
    for key in ((0, 1), (1, 3)):
        sample, bare = samples[key], plain_samples[key]
        assert sample.keys() - bare.keys() == truths
        assert all(torch.equal(bare[k], sample[k]) for k in PARTS - truths)
        assert all(bare[k] == sample[k] for k in ("names", "weak_records", "strong_records"))


@pytest.mark.parametrize("transfer", [False, True])
@pytest.mark.parametrize("file_size", [SIZE, (60, 33)])
def test_a_source_sample_is_the_plain_one(transfer, file_size, target, tmp_path):
    """Also where files have another size than images are read at. Colour transfer may turn a grey level."""
    source = make_set(tmp_path, "gta5", 3, 7, file_size)
    for epoch in range(4):
        sample = source_samples(source, target, transfer=transfer)[(epoch, 2)]
        record = sample_record(target, epoch, transfer)
        image = plain.read_image(source.images[2], SIZE)
        if transfer:
            reference = int(rng_of(epoch).integers(len(target)))
            image = plain.transfer(image, plain.read_image(target.images[reference], SIZE))
        weak = np.asarray(plain.weak(image, record, Image.Resampling.BILINEAR))
        difference = np.abs(sample["image"].numpy().astype(int) - weak)
        assert difference.max() <= (1 if transfer else 0)
        label = plain.read_label(source.labels[2], SIZE, "cityscapes", K)
        label = plain.weak(label, record, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(sample["label"].numpy(), np.asarray(label))


def rng_of(epoch: int) -> np.random.Generator:
    return np.random.default_rng([1, 0, epoch, 2])  # seed, source, epoch, index


def sample_record(target: DataSet, epoch: int, transfer: bool) -> WeakRecord:
    rng = rng_of(epoch)
    if transfer:
        rng.integers(len(target))
    return AUGMENTATION.draw(rng, SIZE)[0]


def test_samples_are_the_same_with_and_without_caches(source, target, pseudo, tmp_path):
    """First filled, then read; images and labels; whatever the number of workers."""
    cache, statistics = ImageCache(tmp_path / "cache", 10**9), KeptStatistics(tmp_path / "statistics.txt")
    kept_source, kept_target = replace(source, cache=cache), replace(target, cache=cache)
    ours = SourceSamples(kept_source, AUGMENTATION, 1, True, kept_target, statistics)
    pairs = [(source_samples(source, target), ours)]
    pairs.append((target_samples(target, pseudo), target_samples(kept_target, pseudo)))
    for bare, kept in pairs:
        wanted = batches(bare, 0, 6)
        for workers in (0, 2):
            for first, second in zip(wanted, batches(kept, workers, 6), strict=True):
                assert_same(first, second)
    assert len(list((tmp_path / "cache").glob("*.image"))) == 2 * len(source) + 2 * len(target)
    assert (tmp_path / "statistics.txt").is_file()


def test_only_the_parts_asked_for_are_read(target, tmp_path):
    absent = PseudoLabels(tmp_path / "none", K)
    loader = training_loader(target_samples(target, absent, parts=frozenset({"weak"})), 2, 0, False, True, 0)
    batch = next(iter(loader))
    assert batch.weak is not None
    for part in PARTS - {"weak"}:
        assert getattr(batch, part) is None


def test_bytes_travel_and_floats_are_made_on_the_device(source, target, pseudo):
    first = batches(source_samples(source, target), 0, 1, batch=3)[0]
    assert {first.image.dtype, first.label.dtype, first.strong.dtype} == {torch.uint8}
    assert first.image.shape == first.strong.shape == (3, 16, 32, 3)
    moved = first.to(torch.device("cpu"))
    assert moved.image.dtype == torch.float32
    torch.testing.assert_close(moved.image, first.image.permute(0, 3, 1, 2) / 255)
    assert 0.5 < float(moved.image.max()) <= 1
    assert moved.label.dtype == torch.int64 and moved.label.shape == (3, 16, 32)
    assert torch.equal(moved.label, first.label.long())
    assert moved.strong_records == first.strong_records
    assert first.image.dtype == torch.uint8  # the batch itself is not changed

    second = batches(target_samples(target, pseudo), 0, 1, batch=3)[0]
    for part in ("weak", "strong", "whole", "label"):
        assert getattr(second, part).dtype == torch.uint8, part
    assert second.weak.shape == second.strong.shape == (3, 16, 32, 3)
    assert second.soft_quarter.shape == (3, K, 4, 8) and second.soft_grid.shape == (3, K, 5, 9)
    moved = second.to(torch.device("cpu"))
    assert moved.label.dtype == torch.int64 and moved.label.shape == (3, 16, 32)
    assert moved.whole.dtype == torch.float32 and moved.whole.shape == (3, 3, 32, 64)
    assert torch.equal(moved.soft_quarter, second.soft_quarter)
    assert moved.names == second.names
    assert len(second.weak_records) == len(second.strong_records) == len(second.names) == 3


def order(count: int, length=10, batch=3, seed=4, domain="target", shuffle=True, drop_last=False) -> list:
    return list(islice(EpochBatches(length, batch, seed, domain, shuffle, drop_last), count))


def test_every_index_comes_once_an_epoch_and_the_last_batch_is_smaller_or_dropped():
    chosen = order(12)
    assert [len(batch) for batch in chosen] == [3, 3, 3, 1] * 3
    for epoch in range(3):
        keys = [key for batch in chosen[4 * epoch : 4 * epoch + 4] for key in batch]
        assert sorted(keys) == [(epoch, i) for i in range(10)]
    dropped = order(6, drop_last=True)
    assert [len(batch) for batch in dropped] == [3] * 6
    assert [{epoch for epoch, _ in batch} for batch in dropped] == [{0}] * 3 + [{1}] * 3
    assert len({key for batch in dropped[:3] for key in batch}) == 9
    assert EpochBatches(10, 3, 0, "source", True, True).per_epoch == 3
    assert EpochBatches(10, 3, 0, "source", True, False).per_epoch == 4


def test_order_depends_on_seed_epoch_and_domain():
    assert order(4) == order(4)
    assert order(4) != order(4, seed=5)
    assert order(4) != order(4, domain="source")
    indices = [[i for batch in order(8)[4 * e : 4 * e + 4] for _, i in batch] for e in range(2)]
    assert indices[0] != indices[1] and indices[0] != list(range(10))
    assert [i for batch in order(4, shuffle=False) for _, i in batch] == list(range(10))


def test_too_few_images_for_a_batch_name_the_options():
    with pytest.raises(ValueError, match=r"2 source images.*4.*--bs.*--no_droplast"):
        EpochBatches(2, 4, 0, "source", True, True)
    assert sorted(order(1, length=2, batch=4)[0]) == [(0, 0), (0, 1)]


@pytest.mark.parametrize("batch", [1, 4])
def test_inference_reads_whole_images_in_order(batch, target):
    seen = list(inference_loader(target, True, 0, batch=batch))
    assert [name for part in seen for name in part.names] == [f"{i:03d}" for i in range(6)]
    images, labels = torch.cat([p.image for p in seen]), torch.cat([p.label for p in seen])
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        np.testing.assert_array_equal(image.numpy(), np.asarray(plain.read_image(target.images[i], SIZE)))
        wanted = plain.read_label(target.labels[i], SIZE, "cityscapes", K)
        np.testing.assert_array_equal(label.numpy(), np.asarray(wanted))
    assert all(part.label is None for part in inference_loader(target, False, 0))


@pytest.mark.parametrize("lost", [ConnectionResetError(104, "reset"), EOFError()])
def test_a_worker_lost_while_it_hands_over_is_named(lost):
    def loader():
        yield 1
        raise lost

    items = read(loader())
    assert next(items) == 1
    with pytest.raises(RuntimeError, match="DataLoader worker"):
        next(items)
