"""The demo in a few minutes: every step of configs/mini.yaml with fewer images and iterations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from cli_tools import PROJECT, finish

ITERATIONS = {"source_only": 40, "warm_up": 60, "stage1": 40, "stage2": 60, "stage3": 4}
TESTED = ("warm_up", "stage2")  # by test.py; the others are scored while they train


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's recipe, shortened, in an empty working directory."""
    content = yaml.safe_load((PROJECT / "configs" / "mini.yaml").read_text())
    content["options"] |= {"num_workers": 0, "threads": 1}
    for step in content["steps"]:
        if step["name"] == "data":
            words = step["words"]
            for option, count in {"--source": 60, "--target": 60, "--val": 16}.items():
                words[words.index(option) + 1] = count
        if step["name"] in ITERATIONS:
            iterations = ITERATIONS[step["name"]]
            step["options"] |= {"train_iters": iterations, "val_interval": iterations}
            if step["name"] not in TESTED:
                del step["test"]
    path = tmp_path_factory.mktemp("demo") / "short.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def test_the_method_improves_and_a_second_run_continues(recipe: Path) -> None:
    command = ["reproduce.py", "--config", recipe.name]
    finish(command, recipe.parent)
    folder = recipe.parent / "runs" / "mini" / "seed0"
    miou = {
        name: json.loads((folder / "logs" / name / "scores_current.json").read_text())["miou"]
        for name in ITERATIONS
    }
    assert miou["stage1"] > miou["warm_up"], miou
    assert miou["stage2"] > 1.5 * miou["source_only"], miou

    table = (folder / "table.md").read_text()
    assert all(f"| {name} | {which} |" in table for name in TESTED for which in ("last", "best"))
    for picture in ("pictures.png", "curves.png"):
        assert (folder / picture).stat().st_size > 10_000
    log = [json.loads(line) for line in (folder / "logs" / "stage1" / "log.jsonl").read_text().splitlines()]
    assert {"loss/CTS", "loss/SL", "loss/contrast", "loss/consist"} <= log[0].keys()

    second = finish(command, recipe.parent)
    assert second.count(": done (") == 15 and "train.py" not in second
