"""Stage 1's class prior: its sources, and its refreshing."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data.mini import write_mini
from engine.guard import Guard
from loss import prior as prior_module
from stages.build import starting_prior
from stages.self_labeling import SelfLabelingStage
from stages.stage import BatchDraws
from tests.distributed.shared_cases import METHOD, RATE, D, batches, network
from tests.golden import inputs
from utils.distributed import ALONE, Processes
from utils.options import parse
from utils.quirks import Quirks

SIZE = (256, 128)
# Cityscapes' table of classes: label id of each train id.
IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    write_mini(folder, SIZE, 0, 4, 3, 1)
    return folder


def options(drawn: Path, name: str, *more: str):
    places = ["--src_rootpath", str(drawn / "GTA5"), "--tgt_rootpath", str(drawn / "cityscapes")]
    words = ["--ema", "--proto_rectify", "--img_size", "256,128", "--rcrop", "192,96", "--num_workers", "0"]
    return parse("train", "", [*words, *places, "--class_distribution", name, *more])


def counted(files: list[Path]) -> np.ndarray:
    """Shares of the classes in label files of ids."""
    counts = np.zeros(len(IDS))
    for file in files:
        with Image.open(file) as image:
            ids = np.array(image)
        counts += [(ids == i).sum() for i in IDS]
    assert counts.sum() > 0
    return counts / counts.sum()


# --- the start ----------------------------------------------------------------------------------------------


def test_uniform(drawn):
    prior, told = starting_prior(options(drawn, "uniform", "--n_class", "16"), ALONE)
    np.testing.assert_allclose(prior.numpy(), np.full(16, 1 / 16), rtol=1e-6)
    assert told == "class distribution: 16 equal shares"


@pytest.mark.parametrize(
    ("name", "pattern", "said"),
    [
        ("labels", "cityscapes/gtFine/train/*/*_labelIds.png", "labels of the target train split, an oracle"),
        ("source_labels", "GTA5/labels/*.png", "labels of the source (4 images)"),
    ],
)
def test_labels_are_counted(drawn, name, pattern, said):
    files = sorted(drawn.glob(pattern))
    expected, (prior, told) = counted(files), starting_prior(options(drawn, name), ALONE)
    np.testing.assert_allclose(prior.numpy(), np.maximum(expected, 1e-6), rtol=1e-4)
    assert said in told
    if absent := int((expected == 0).sum()):
        assert f"({absent} classes without a pixel are raised to 1e-06)" in told


def test_processes_share_the_counting(drawn, monkeypatch):
    """Each reads every second label; the sums are those of one."""
    alone, _ = starting_prior(options(drawn, "labels"), ALONE)
    seen = []
    monkeypatch.setattr(Processes, "sum", lambda self, counts: seen.append(counts) or counts)
    for rank in range(2):
        starting_prior(options(drawn, "labels"), Processes(rank, 2))
    assert all(int(counts.sum()) > 0 for counts in seen)
    assert torch.equal(prior_module.class_frequencies(sum(seen), 1e-6), alone)


def test_missing_labels_are_named(drawn, tmp_path):
    write_mini(tmp_path / "own", SIZE, 0, 1, 2, 1)
    label = sorted(tmp_path.glob("own/cityscapes/gtFine/train/*/*_labelIds.png"))[1]
    label.unlink()
    with pytest.raises(
        FileNotFoundError, match=f"{label.name}: missing.*--class_distribution labels reads all"
    ):
        starting_prior(options(tmp_path / "own", "labels"), ALONE)


def test_what_is_no_file_decides_about_a_continued_run(drawn):
    assert options(drawn, "labels").decisive()["class_distribution"] == "labels"
    assert "class_distribution" not in options(drawn, "shares.npy").decisive()  # it may have moved
    assert options(drawn, "uniform", "--refresh_distribution", "9").decisive()["refresh_distribution"] == 9


def test_the_script_that_writes_a_file_wants_one(capsys):
    with pytest.raises(SystemExit) as end:
        parse("distribution", "", ["--class_distribution", "uniform"])
    assert end.value.code == 2
    assert "--class_distribution uniform: is for train.py" in capsys.readouterr().err
    for name in ("shares.txt", "shares.json"):  # train.py would read numbers there, not what numpy writes
        with pytest.raises(SystemExit):
            parse("distribution", "", ["--class_distribution", name])
        assert "let it end in .npy" in capsys.readouterr().err


# --- refreshing ---------------------------------------------------------------------------------------------


def stage(every: int | None) -> SelfLabelingStage:
    method, prototypes = replace(METHOD, refresh_prior=every), inputs.normal("objective", inputs.K, D)
    draws = BatchDraws(1)
    return SelfLabelingStage(network("", ALONE), prototypes, inputs.PRIOR, RATE, method, Quirks(), draws)


def test_the_prior_is_that_of_the_predictions_since_the_last_time():
    """Every second of five iterations, by plain loops over what the EMA model gave."""
    learner, predicted = stage(2), []
    learner.ema.register_forward_hook(lambda _, __, output: predicted.append(output.logits))
    given = inputs.PRIOR.clone()
    expected = given.double().numpy()
    for iteration in range(1, 6):
        learner.step(*batches(iteration))
        if iteration % 2 == 0:
            counts = np.zeros(inputs.K)
            for logits in predicted:
                for b, y, x in np.ndindex(len(logits), *logits.shape[2:]):
                    counts[logits[b, :, y, x].numpy().argmax()] += 1
            predicted.clear()
            raised = np.maximum(counts / counts.sum(), 1e-4)
            expected = raised / raised.sum()
        np.testing.assert_allclose(learner.self_labeling.prior.numpy(), expected, rtol=1e-5)
        assert (learner.new_prior() is not None) == (iteration % 2 == 0)
    assert torch.equal(inputs.PRIOR, given)  # what was given is left alone


def test_without_the_option_nothing_is_counted():
    learner = stage(None)
    for iteration in range(2):
        learner.step(*batches(iteration))
    assert torch.equal(learner.self_labeling.prior, inputs.PRIOR)
    assert "counter" not in learner.state()["modules"] and learner.new_prior() is None


def test_an_iteration_that_is_skipped_neither_counts_nor_refreshes():
    learner = stage(1)
    guard = Guard(learner, True, 5, lambda iteration: "files", logging.getLogger("test"))
    source, target = batches(0)
    assert guard.step(replace(source, image=source.image * torch.nan), target) is None
    assert torch.equal(learner.self_labeling.prior, inputs.PRIOR) and learner.new_prior() is None
    assert not learner.counter.counts.any()
    assert guard.step(source, target) is not None
    assert learner.new_prior() is not None and bool(learner.new_prior().isfinite().all())
