"""Reading logs in the released form and drawing them beside the published milestones."""

from __future__ import annotations

import logging
import os

import pytest
import torch
from PIL import Image

from engine.log import RunLog, get_logger
from utils.milestones import compare, read_log
from utils.published import RUNS

RELEASED = """some heading
2022-01-01 INFO Epochs [1/128] Iter [20/90000]  loss: 7.04  loss_CTS: 6.40  loss_consist: 0.059
2022-01-01 INFO Epochs [1/128] Iter [40/90000]  loss: 4.74e+00  loss_CTS: 4.33  loss_consist: .036
"""


def test_a_released_log_is_read(tmp_path):
    path = tmp_path / "published.log"
    path.write_text(RELEASED + f"Iter [{'9' * 400}/9]  loss: 3\n")  # no counter has so many digits
    series = read_log(path)
    assert series["loss"] == [(20, 7.04), (40, 4.74)]
    assert series["loss_consist"] == [(20, 0.059), (40, 0.036)]


@pytest.mark.parametrize(("text", "size"), [("nothing here", 12), ("Iter [20/90]  loss: 7\n", 30 * 10**9)])
def test_another_file_or_one_of_many_zeros_is_named(tmp_path, text, size):
    (tmp_path / "other.txt").write_text(text)
    os.truncate(tmp_path / "other.txt", size)
    with pytest.raises(ValueError, match=r"other\.txt"):
        read_log(tmp_path / "other.txt")


def test_our_log_has_the_released_form(tmp_path):
    with RunLog(tmp_path, get_logger(tmp_path), total=90000, per_epoch=30, epochs=128) as log:
        for value in (7.0, 5.0):
            log.add({"total": torch.tensor(value), "CTS": torch.tensor(value - 1)})
        log.write(39, {"head": 4.95e-4})
        log.write_scores(999, {"miou": 0.448, "iou": [0.448]}, 0.5, ["road"])
    for handler in logging.getLogger("cpsl").handlers[:]:
        logging.getLogger("cpsl").removeHandler(handler)
        handler.close()
    text = (tmp_path / "run.log").read_text()
    assert "Epochs [2/128] Iter [40/90000]  loss: 6  loss_CTS: 5  lr_head: 0.000495" in text
    series = read_log(tmp_path / "run.log")
    assert series["loss"] == [(40, 6.0)] and series["mIoU"] == [(1000, 44.8)]


def test_lines_that_a_continued_run_wrote_again_count_once(tmp_path):
    lines = [f"Iter [{i}/90000]  loss: {v}\n" for i, v in ((20, 7), (40, 6), (60, 5), (40, 4), (60, 3))]
    (tmp_path / "run.log").write_text("".join(lines))
    assert read_log(tmp_path / "run.log") == {"loss": [(20, 7.0), (40, 4.0), (60, 3.0)]}


@pytest.mark.parametrize("stage", list(RUNS))
def test_a_picture_with_both(tmp_path, stage):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.log").write_text(RELEASED + "Epochs [1/128] Iter [1000/90000]  mIoU: 44.10  best: 44.10\n")
    (tmp_path / "published.log").write_text(RELEASED)
    picture = compare(run, stage, tmp_path / "published.log")
    with Image.open(picture) as image:
        assert image.size == (1100, 400)
