"""`python -m data.check` as a command, and what training says about the data when it starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml
from cli_tools import MINI, PROJECT, SMALL, TRAINING, refused_here


def look(words: str, cwd: Path) -> subprocess.CompletedProcess:
    """Run the check in a folder."""
    env = {k: v for k, v in os.environ.items() if k != "PYTHONWARNINGS"}
    env |= {"PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "data.check", *words.split()]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)


def test_exit_code_0_without_problems(desk):
    (desk / "small.yaml").write_text(yaml.safe_dump({"stage": "warm_up", "img_size": [256, 128]}))
    done = look("--config small.yaml --num_workers 1", desk)
    assert (done.returncode, done.stderr) == (0, "")
    assert "4 images (4 of 256×128), 4 labels" in done.stdout
    assert done.stdout.endswith("no problem found\n")


def test_exit_code_1_with_problems(own_desk):
    image = sorted((own_desk / "dataset" / "GTA5" / "images").iterdir())[-1]
    image.write_bytes(image.read_bytes()[:500])
    done = look("--stage source_only --img_size 256,128 --num_workers 0", own_desk)
    assert (done.returncode, done.stderr) == (1, "")
    assert "1 damaged images" in done.stdout and f"dataset/GTA5/images/{image.name}" in done.stdout


def test_exit_code_2_for_a_wrong_command_line(tmp_path):
    done = look("--stage stage7", tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1 and "--stage" in done.stderr


def test_training_refuses_val_labels_that_it_would_meet_at_its_first_validation(own_desk, monkeypatch):
    label = sorted((own_desk / "dataset" / "cityscapes" / "gtFine" / "val").glob("*/*.png"))[1]
    label.write_bytes(label.read_bytes()[:100])
    command = f"python train.py --stage source_only {MINI} {SMALL} {TRAINING} --val_interval 1000"
    line = refused_here(command, own_desk, monkeypatch)
    assert label.name in line and line.endswith("python -m data.check, with the same options")
    assert not (own_desk / "logs" / "gta2city" / "log.jsonl").exists()
