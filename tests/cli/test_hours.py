"""benchmarks/step.py says how long the trainings of a recipe take (docs/before_you_start.md)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import yaml
from cli_tools import refused_here, run_here

from benchmarks import step
from stages import self_labeling

OPTIONS = {"backbone": "mini", "bs": 1, "rcrop": "64,32", "img_size": "128,64", "fbs": 32, "queue_length": 64}
OPTIONS |= {"ema": True, "proto_rectify": True}
COMMAND = "python benchmarks/step.py --config small.yaml --iterations 1 --warm_up 1 --only fp32"


def recipe(*stages: str) -> str:
    steps = [
        {
            "name": f"my_{stage}",
            "script": "train",
            "options": {"name": stage, "stage": stage, "train_iters": 7200},
        }
        for stage in stages
    ]
    return yaml.safe_dump({"title": "small", "folder": "recipe", "options": OPTIONS, "steps": steps})


@pytest.fixture(autouse=True)
def settings_of_torch() -> Iterator[None]:
    """The script sets these for its process."""
    before = torch.backends.cuda.matmul.allow_tf32
    with torch.backends.cudnn.flags():
        yield
    torch.backends.cuda.matmul.allow_tf32 = before


def test_hours_are_ms_times_iterations(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(recipe("source_only", "warm_up", "stage2", "stage3"))
    run_here(COMMAND, tmp_path, monkeypatch)
    first, _, _, _, *rows, _, last = capsys.readouterr().out.splitlines()
    assert "mini, batch 1, crop (64, 32), image (128, 64)" in first
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in rows]
    assert [(row[0], row[2]) for row in cells] == [
        (f"my_{s}", "fp32") for s in ("warm_up", "stage2", "stage3")
    ]
    hours = [float(row[4]) for row in cells]
    assert hours == pytest.approx([float(row[3]) * int(row[1]) / 3.6e6 for row in cells], abs=0.006)
    assert float(last.split()[-1]) == pytest.approx(sum(hours), abs=0.02)
    assert cells[1][3] == cells[2][3]  # stage 3 computes what stage 2 does
    line = refused_here(f"{COMMAND} --stage stage1", tmp_path, monkeypatch)
    assert "small.yaml: has no training of stage1" in line


@pytest.mark.slow
def test_one_stage_by_part(tmp_path, monkeypatch, capsys):
    (tmp_path / "small.yaml").write_text(recipe("stage1"))
    for _, function, _ in step.PARTS:  # the script replaces them
        monkeypatch.setattr(self_labeling, function.__name__, function)
    run_here(f"{COMMAND} --stage stage1", tmp_path, monkeypatch)
    told = capsys.readouterr().out
    assert "| stage1 | ms | hours |" in told and "| self-labeling |" in told


def test_too_little_memory_is_said_in_the_row(tmp_path, monkeypatch, capsys):
    def measure(o: object, *_: object, **__: object) -> dict:
        if o.stage == "warm_up":
            raise torch.cuda.OutOfMemoryError
        return {"iteration": 1000.0, "peak GB": 1.0}

    (tmp_path / "small.yaml").write_text(recipe("warm_up", "stage1"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(step, "measure", measure)
    monkeypatch.setattr("sys.argv", COMMAND.split()[1:])
    step.main()
    told = capsys.readouterr().out
    assert "| my_warm_up | 7200 | fp32 | out of memory |" in told
    assert "| my_stage1 | 7200 | fp32 | 1000.0 | 2.00 |" in told
