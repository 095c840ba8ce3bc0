"""Number of the visible GPUs that take part in a run, and signals that come while copies are started."""

from __future__ import annotations

import signal
import subprocess
import time

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


@pytest.mark.parametrize("when", [0, 1, 2])
def test_a_signal_between_the_starts_of_two_copies_reaches_all(monkeypatch, when):
    """The signal comes before the first copy, or after a copy's start, when it is not yet in the list."""
    began: list[subprocess.Popen] = []
    monkeypatch.setattr(launch, "_GRACE", 0.1)

    def start(words: list[str], environment: dict[str, str]) -> subprocess.Popen:
        if when == 0:
            signal.raise_signal(signal.SIGTERM)
        began.append(subprocess.Popen(words, env=environment))
        if when == len(began):
            signal.raise_signal(signal.SIGTERM)
        return began[-1]

    monkeypatch.setattr(launch, "start_apart", start)
    since = time.monotonic()
    try:
        assert launch.start_copies(2, ["-c", "import time; time.sleep(60)"]) == 128 + signal.SIGTERM
        assert time.monotonic() - since < 30
        assert [copy.poll() for copy in began] == [-signal.SIGTERM] * max(1, when)
    finally:
        for copy in began:
            copy.kill()
            copy.wait()
