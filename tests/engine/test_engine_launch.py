"""Number of the visible GPUs that take part in a run."""

from __future__ import annotations

import pytest
import torch

from engine import launch
from utils.distributed import ALONE
from utils.options import parse

TRAIN, TEST = ("train", "--stage warm_up --bs 4"), ("test", "")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of copies that were started."""
    counts: list[int] = []
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(launch, "start_copies", lambda count, argv: counts.append(count) or 0)
    return counts


def used(started: list[int], script: str, words: str) -> int:
    o = parse(script, "", words.split())
    try:
        with launch.joined(o, *([o.bs] if script == "train" else [])) as processes:
            assert processes == ALONE
            return 1
    except SystemExit as end:
        assert end.code == 0
        return started.pop()


@pytest.mark.parametrize(
    ("visible", "script", "words", "count", "said"),
    [
        (2, *TRAIN, 2, ""),
        (3, *TRAIN, 2, "uses 2 of 3 GPUs, the most that divide --bs 4\n"),
        (7, *TRAIN, 4, "uses 4 of 7 GPUs, the most that divide --bs 4\n"),
        (8, *TRAIN, 4, "uses 4 of 8 GPUs, the most that divide --bs 4\n"),
        (8, "train", f"{TRAIN[1]} --gpus 3", 2, "uses 2 of 3 GPUs, the most that divide --bs 4\n"),
        (8, "train", f"{TRAIN[1]} --gpus 2", 2, ""),
        (8, "train", "--stage warm_up --bs 8", 8, ""),
        (3, "train", "--stage warm_up --bs 5", 1, "uses 1 of 3 GPUs, the most that divide --bs 5\n"),
        (8, "train", f"{TRAIN[1]} --device cpu", 1, ""),
        (7, *TEST, 7, ""),
        (7, "test", "--gpus 5", 5, ""),
        (1, *TEST, 1, ""),
    ],
)
def test_training_takes_as_many_gpus_as_divide_the_batch(
    monkeypatch, capsys, started, visible, script, words, count, said
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    assert used(started, script, words) == count
    assert capsys.readouterr().out == said
