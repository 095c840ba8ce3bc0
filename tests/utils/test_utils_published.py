"""Published figures beside those of a run: in its log, on its page, and for which runs."""

from __future__ import annotations

import html
import math
import re
from pathlib import Path

import pytest
import torch

from engine.about import published_beside
from engine.log import RunLog, silent_logger
from utils.options import parse
from utils.published import RUNS, published_rows
from utils.report.page import beside_published, page
from utils.report.run import About, Run, read_log

DOCS = Path(__file__).parents[2] / "docs"
STAGE1 = "--ema --proto_rectify --rce --proto_consistW 5"
STAGE2 = "--stage stage2 --S_pseudo 1 --distillation 1 --finetune --lr 6e-4"
FAR = {"total": 10.6, "CTS": 9.5, "SL": 2.27, "consist": 0.04}  # a little more or less than a factor of 1.5
NEAR = {"total": 4.74, "CTS": 4.3, "SL": 3.4, "consist": 0.03, "source": 0.9}
CLASSES = [(f"class {k}", "#102030") for k in range(19)]


class Val(list):
    """Images of Cityscapes val in their own size."""

    name, size = "cityscapes", (2048, 1024)

    def size_on_disk(self) -> tuple[int, int]:
        return self.size


def options(words: str):
    return parse("train", "", words.split())


class Made:
    """A made-up run: its RunLog, all that it says, and its page."""

    def __init__(self, folder: Path, words: str, images: int = 500):
        self.folder, self.words, self.images, self.said = folder, words, Val([0] * images), []

    def log(self, start: int = 0, state: dict | None = None, total: int = 90000) -> RunLog:
        released = published_beside(options(self.words), self.images)
        log = RunLog(self.folder, silent_logger(), total, 743, 128, start=start, published=released)
        log.message = self.said.append
        if state is not None:
            log.load_state(state)
        return log

    def run(self) -> Run:
        about = About("stage1", 90000, CLASSES, None, {"val": 500}, len(self.images) == 500, 1, [], [])
        lines = read_log(self.folder / "log.jsonl")
        return Run(self.folder, about, options(self.words).values(), lines, 0.0)


def line(log: RunLog, began: int, iteration: int, losses: dict[str, float]) -> None:
    """Iterations began + 1 … iteration, all with these losses, and their line."""
    for _ in range(iteration - began):
        log.add({name: torch.tensor(value) for name, value in losses.items()})
    log.write(iteration, {"head": 1e-4})


def validate(log: RunLog, iteration: int, percent: float, best: float | None = None) -> None:
    scores = {"miou": percent / 100, "iou": [percent / 100]}
    log.write_scores(iteration, scores, (best or percent) / 100, ["class 0"])


def test_a_run_that_is_near_and_far_off(tmp_path):
    """In its log, and in the table and as stars on its page."""
    made = Made(tmp_path, STAGE1)
    with made.log() as log:
        line(log, 0, 19, FAR)
        line(log, 19, 39, NEAR)
        validate(log, 999, 44.1)
        validate(log, 1999, 20.0)  # no published figure
        validate(log, 4999, 46.6)
        validate(log, 12999, 55.5)
        validate(log, 69999, 57.0)
        validate(log, 90000, 51.0, best=57.0)
    hour, validations = "docs/healthy.md, 'First hour of stage 1'", "docs/healthy.md, 'mIoU on val'"
    assert made.said == [
        "published stage1, Iter 20: loss total 7.04, this run 10.6: far above; loss CTS 6.4, this run 9.5: "
        "near; loss SL 3.42, this run 2.27: far below; loss consist 0.059, this run 0.04: near; "
        f"see {hour}",
        "published stage1, Iter 40: loss total 4.74, this run 4.74: near; loss CTS 4.33, this run 4.3: near; "
        "loss SL 2.3, this run 3.4: near; loss consist 0.036, this run 0.03: near",
        "published stage1, Iter 1000: mIoU 44.8, this run 44.1: near",
        f"published stage1, Iter 5000: mIoU 49.7, this run 46.6: far below; see {validations}",
        f"published stage1, Iter 13000: mIoU 52.4, this run 55.5: far above; see {validations}",
        "published stage1, best (Iter 70000): mIoU 55.66, this run 57: near",
        f"published stage1, last (Iter 81000): mIoU 54.69, this run 51: far below; see {validations}",
    ]
    text = html.unescape(page(made.run()))
    table = text.partition("<h2>Beside the published run</h2>")[2].partition("</tbody>")[0]
    rows = [re.findall(r">([^<\n]*)</t[hd]>", row.replace("</b>", "")) for row in table.split("<tr>")[2:]]
    assert rows[0] == ["Iter 20", "loss total", "7.04", "10.6", "far above", hour]
    assert [row[4] for row in rows] == re.findall(r": (near|far \w+)", " ".join(made.said))
    assert [row[0] for row in rows[-2:]] == ["best (Iter 70000)", "last (Iter 81000)"]
    labels = re.findall(r'aria-label="[^"]*stars: ([^"]*)"', text)
    miou = "44.8 at 999, 49.7 at 4999, 52.4 at 12999, 55.66 at 69999, 54.69 at 80999"
    assert labels[0].replace("published ", "") == miou
    assert labels[1:] == [
        *("published 7.04 at 19, published 4.74 at 39", "published 6.4 at 19, published 4.33 at 39"),
        *("published 3.42 at 19, published 2.3 at 39", "published 0.059 at 19, published 0.036 at 39"),
    ]
    assert text.count("★") == len(labels)


def test_a_continued_run_says_the_same(tmp_path):
    """Stopped within a line, and after the validation at Iter 1000."""
    made = Made(tmp_path, STAGE1)
    with made.log() as log:
        line(log, 0, 19, NEAR)
        for _ in range(5):
            log.add({name: torch.tensor(value) for name, value in FAR.items()})
        state = log.state()
    with made.log(24, state) as log:
        line(log, 24, 39, FAR)
        validate(log, 999, 40.0)
        state = log.state()
    with made.log(999, state) as log:
        validate(log, 4999, 49.0)
    assert [said.partition(":")[0][-9:].strip(", ") for said in made.said] == [
        "Iter 20",
        "Iter 40",
        "Iter 1000",
        "Iter 5000",
    ]
    assert len(beside_published(made.run())) == 4 + 4 + 1 + 1


def test_what_falls_on_other_iterations_is_not_compared(tmp_path):
    """Lines of other lengths, a validation without labels, and a run that ends early."""
    made = Made(tmp_path, STAGE1)
    with made.log(total=5000) as log:
        line(log, 0, 9, FAR)
        line(log, 9, 19, FAR)  # Iter 20, but the mean of ten
        line(log, 19, 29, FAR)
        validate(log, 499, 10.0)
        validate(log, 999, math.nan)
        validate(log, 5000, 10.0)
    assert (
        not [said for said in made.said if said.startswith("published")]
        and beside_published(made.run()) == []
    )


@pytest.mark.parametrize(
    ("words", "images"),
    [
        ("--stage warm_up --no_resume", 500),
        (f"{STAGE1} --src_dataset synthia --n_class 16", 500),
        (STAGE1, 499),
        *((f"{STAGE1} --{more}", 500) for more in ("n_class 16", "n_class 13", "backbone mini", "bs 2")),
        *((f"{STAGE1} --{more}", 500) for more in ("rcrop 448,256", "resize 1100", "max_images 9")),
        *((f"{STAGE1} --{more}", 500) for more in ("train_iters 900", "quirks none", "src_dataset synthia")),
    ],
)
def test_a_run_of_another_setting_has_nothing_beside(words, images):
    assert published_beside(options(words), Val([0] * images)) is None


def test_without_published_figures_the_log_and_the_page_say_nothing(tmp_path):
    made = Made(tmp_path, f"{STAGE1} --bs 2")
    with made.log() as log:
        line(log, 0, 19, FAR)
        validate(log, 999, 10.0)
        validate(log, 90000, 10.0)
    text = page(made.run())
    assert made.said == [] and "Beside the published run" not in text and "★" not in text


def test_options_that_may_be_the_mistake_do_not_hide_it():
    """Rates, parts of the method, seeds and intervals."""
    for more in ("--lr 1e-2", "--SL_lambda 0", "--seed 1", "--val_interval 500", "--precision bf16"):
        assert published_beside(options(f"{STAGE1} {more}"), Val([0] * 500)) is RUNS["stage1"]
    assert published_beside(options(STAGE2), Val([0] * 500)) is RUNS["stage2"]
    assert published_beside(options(STAGE1), None) is None


def test_one_table_holds_the_published_best():
    means = {row.title: row.means[19] for row in published_rows(19)}
    assert {stage: run.best[1] for stage, run in RUNS.items()} == {x: means[x] for x in RUNS}
    for row in published_rows(19)[1:]:
        assert sum(row.iou) / 19 == pytest.approx(row.means[19], abs=0.05)


def test_what_to_look_at_is_there():
    import utils.published as module  # the names of pages and their headings

    found = re.findall(r"(\w+\.md), '([^']+)'", Path(module.__file__).read_text())
    assert len(found) == 2
    for file, heading in found:
        assert f"\n## {heading}\n" in (DOCS / file).read_text()
