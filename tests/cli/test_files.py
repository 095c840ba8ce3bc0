"""docs/files.md: its commands, and what they say of files that fit and of files that do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_tools import MINI, PROJECT, backbone_of, checkpoint_name, random_network, run_here, write_released
from test_documents import commands

from engine.log import silent_logger
from stages.build import build_student
from utils.options import parse

SHORTER = {"data.check": "--img_size 256,128 --num_workers 0 --max_images 2", "stages.check": MINI}
SIMCLR = "pretrained_models/r101_1x_sk0.pth"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable:
    """Run a command in a folder; returns its exit code, output and errors."""

    def ended(command: str, cwd: Path) -> tuple[int, str, str]:
        more = next(words for module, words in SHORTER.items() if module in command)
        with pytest.raises(SystemExit) as end:
            run_here(f"{command} {more}", cwd, monkeypatch)
        return end.value.code, *capsys.readouterr()

    return ended


@pytest.fixture
def downloaded(desk: Path) -> Path:
    """A folder with the files of the page; their networks are small and random."""
    write_released(desk / "pretrained_models" / checkpoint_name(), random_network("mini"))
    stage3 = desk / "logs" / "gta2citylabv2_stage3" / checkpoint_name()
    write_released(stage3, random_network("mini", norm=True))
    content = {"resnet": backbone_of(random_network("mini", seed=1)), "head": {"0.weight": torch.zeros(1)}}
    torch.save(content, desk / SIMCLR)
    return desk


def test_commands_of_the_page(downloaded, run):
    found = commands(PROJECT / "docs" / "files.md")
    printed = []
    for command in found:
        code, out, err = run(command, downloaded)
        assert (code, err) == (0, ""), err
        printed.append(out)
    assert len(found) == 4 and all("no problem found" in out for out in printed[:2])
    warm_up, simclr = printed[2].splitlines()
    wanted = r"checkpoint \(entry 'ResNet101'\): mini, 19 classes, {} bn_pretrain, .* iter 1, best_iou 0\.25$"
    assert re.search(wanted.format("without"), warm_up) and re.search(wanted.format("with"), printed[3])
    assert f"{SIMCLR}: SimCLR weights: loaded 100 backbone tensors" in simclr


def test_files_that_do_not_fit_are_named_and_the_others_described(downloaded, run):
    torch.save({"model": {}}, downloaded / "other.pth")
    code, out, err = run(f"python -m stages.check none.pkl other.pth {SIMCLR}", downloaded)
    assert code == 1 and out.startswith(f"{SIMCLR}: ") and err.count("\n") == 2
    assert re.search(r"^error: none\.pkl: no such file; ", err)
    assert re.search(r"\nerror: other\.pth: has no entry 'state_dict' or 'resnet' .*\(found 'model'\); ", err)


@pytest.mark.parametrize("form", ["{'state_dict'}", "{'resnet', 'head'}"])
def test_a_student_starts_from_simclr_files_of_both_forms(tmp_path, monkeypatch, form):
    simclr = backbone_of(random_network("mini", seed=1))
    content = {"state_dict": simclr} if "state" in form else {"resnet": simclr, "head": {}}
    (tmp_path / SIMCLR).parent.mkdir()
    torch.save(content, tmp_path / SIMCLR)
    monkeypatch.chdir(tmp_path)
    words = f"{MINI} --device cpu --stage stage2 --no_resume --student_init simclr"
    student = build_student(parse("train", "", words.split()), silent_logger()).state_dict()
    assert [key for key, value in simclr.items() if not student[key].equal(value)] == []
