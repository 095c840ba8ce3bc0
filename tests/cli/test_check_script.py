"""`python -m data.check` as a command, and what training says about the data when it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from cli_tools import MINI, SMALL, TRAINING, refused_here, run_here


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run the check in a folder; returns its exit code, output and errors."""

    def run(words: str, cwd: Path) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            run_here(f"python -m data.check {words}", cwd, monkeypatch)
        return end.value.code, *capsys.readouterr()

    return run


def test_exit_code_says_if_there_are_problems(own_desk, look):
    (own_desk / "small.yaml").write_text(yaml.safe_dump({"stage": "warm_up", "img_size": [256, 128]}))
    code, out, err = look("--config small.yaml --num_workers 1", own_desk)
    assert (code, err) == (0, "")
    assert "4 images (4 of 256×128), 4 labels" in out and out.endswith("no problem found\n")
    image = sorted((own_desk / "dataset" / "GTA5" / "images").iterdir())[-1]
    image.write_bytes(image.read_bytes()[:500])
    code, out, err = look("--stage source_only --img_size 256,128 --num_workers 0", own_desk)
    assert (code, err) == (1, "")
    assert "1 damaged images" in out and f"dataset/GTA5/images/{image.name}" in out


def test_exit_code_2_for_a_wrong_command_line(tmp_path, look):
    code, out, err = look("--stage stage7", tmp_path)
    assert code == 2 and out == "" and err.count("\n") == 1 and "--stage" in err


def test_training_refuses_val_labels_that_it_would_meet_at_its_first_validation(own_desk, monkeypatch):
    label = sorted((own_desk / "dataset" / "cityscapes" / "gtFine" / "val").glob("*/*.png"))[1]
    label.write_bytes(label.read_bytes()[:100])
    command = f"python train.py --stage source_only {MINI} {SMALL} {TRAINING} --val_interval 1000"
    line = refused_here(command, own_desk, monkeypatch)
    assert label.name in line and line.endswith("python -m data.check, with the same options")
    assert not (own_desk / "logs" / "gta2city" / "log.jsonl").exists()
