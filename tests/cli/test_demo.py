"""The demo in a few minutes: every step of configs/mini.yaml with fewer images and iterations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_tools import PROJECT, finish

STAGES = ("source_only", "warm_up", "stage1", "stage2", "stage3")
ENOUGH = {"source_only": 40, "warm_up": 60, "stage1": 40, "stage2": 60, "stage3": 4}  # to see an improvement
TESTED = ("warm_up", "stage2")  # by test.py; the others are scored while they train
RUN = ["reproduce.py", "--config", "short.yaml"]


def shorten(folder: Path, images: int, val: int, iterations: dict[str, int]) -> Path:
    """Write the demo's recipe with fewer images and iterations; where its results will be."""
    content = yaml.safe_load((PROJECT / "configs" / "mini.yaml").read_text())
    content["options"] |= {"num_workers": 0, "threads": 1}
    for step in content["steps"]:
        if step["name"] == "data":
            words = step["words"]
            for option, count in {"--source": images, "--target": images, "--val": val}.items():
                words[words.index(option) + 1] = count
        if step["name"] in iterations:
            count = iterations[step["name"]]
            step["options"] |= {"train_iters": count, "val_interval": count}
            if step["name"] not in TESTED:
                del step["test"]
    (folder / "short.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "runs" / "mini" / "seed0"


def test_every_step_runs_and_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    results = shorten(tmp_path, 8, 2, dict.fromkeys(STAGES, 2))
    finish(RUN, tmp_path)
    table = (results / "table.md").read_text()
    assert all(f"| {name} | {which} |" in table for name in TESTED for which in ("last", "best"))
    for picture in ("pictures.png", "curves.png"):
        assert (results / picture).stat().st_size > 10_000
    line = json.loads((results / "logs" / "stage1" / "log.jsonl").read_text().splitlines()[0])
    assert {"loss/CTS", "loss/SL", "loss/contrast", "loss/consist"} <= line.keys()
    second = finish(RUN, tmp_path)
    assert second.count(": done (") == 15 and "train.py" not in second


@pytest.mark.slow
def test_the_method_improves(tmp_path: Path) -> None:
    results = shorten(tmp_path, 60, 16, ENOUGH)
    finish(RUN, tmp_path)
    scores = {name: results / "logs" / name / "scores_current.json" for name in STAGES}
    miou = {name: json.loads(path.read_text())["miou"] for name, path in scores.items()}
    assert miou["stage1"] > miou["warm_up"], miou
    assert miou["stage2"] > 1.5 * miou["source_only"], miou
