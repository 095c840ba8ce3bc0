"""The scripts with several processes: the same files, and how a run ends."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli_tools import MINI, PIPES, PROJECT, begin, draw_mini, ended, load, start, start_together, two_copies

from tests.cli.killed_runs import descendants

SMALL = "--img_size 256,128 --num_workers 0 --device cpu"
CHECKPOINT = "from_gta5_to_cityscapes_on_deeplabv2_current_model.pkl"


def shared(processes: int, command: str, cwd: Path) -> str:
    """Return the output of a command with several processes that ends well; only the first one prints."""
    done = start_together(processes, f"python {command}", cwd)
    assert [one.returncode for one in done] == [0] * processes, done[0].stderr[-3000:]
    assert [one.stdout for one in done[1:]] == [""] * (processes - 1)
    return done[0].stdout


@pytest.fixture(scope="module")
def seven(tmp_path_factory, networks) -> Path:
    """A folder with seven target images, seven of val, and what one process makes of them, in ./one."""
    folder = tmp_path_factory.mktemp("seven")
    draw_mini("dataset --size 256,128 --source 8 --target 8 --val 7", folder)
    (folder / "model.pkl").symlink_to(networks / "k19.pkl")
    for command in commands("one"):
        done = start(f"python {command}", folder)
        assert done.returncode == 0, done.stderr
    return folder


def commands(out: str) -> list[str]:
    """Every inference script on seven images; what they make goes to the folder `out`."""
    common = f"--resume_path model.pkl --max_images 7 {SMALL}"
    return [
        f"generate_pseudo_label.py --soft --name soft --save_path {out} {common}",
        f"generate_pseudo_label.py --flip --name hard --save_path {out} {common}",
        f"calc_prototype.py --prototypes {out}/prototypes {common}",
        f"generate_class_distribution.py --save_path {out} {common}",
        f"test.py --result {out}/scores.json --table {out}/row.md --save_pred {out}/seen {common}",
    ]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("processes", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_same_files_and_figures(seven, processes):
    out = f"by_{processes}"
    for command in commands(out):
        printed = shared(processes, command, seven)
        if command.startswith("test.py"):  # said once, and the same
            assert printed == start(f"python {command}", seven).stdout
    one, several = files(seven / "one"), files(seven / out)
    assert one.keys() == several.keys()
    # Files of tensors hold a name; their content is compared below.
    different = [name for name in one if one[name] != several[name] and name != "prototypes"]
    assert different == []
    assert np.array_equal(load(seven / "one" / "prototypes"), load(seven / out / "prototypes"))
    assert json.loads(several["scores.json"])["images"] == 7


TRAIN = f"train.py --stage warm_up --no_resume --freeze_bn {MINI} {SMALL} --train_iters 3 --bs 4 "
TRAIN += "--rcrop 64,32 --resize 256 --val_interval 100 --print_interval 1"


def test_training_with_two_processes_is_training_with_one(seven):
    shared(2, f"{TRAIN} --name two", seven)
    assert start(f"python {TRAIN} --name one", seven).returncode == 0
    logs = [
        [json.loads(line) for line in (seven / "logs" / name / "log.jsonl").read_text().splitlines()]
        for name in ("one", "two")
    ]
    for one, two in zip(*logs, strict=True):
        losses = {k: v for k, v in one.items() if k.startswith(("loss/", "lr/"))}
        assert {k: two[k] for k in losses} == pytest.approx(losses, rel=1e-5)
        drawn = {k: v for k, v in one.items() if k.startswith(("classes/", "confidence/"))}
        assert {k: two[k] for k in drawn} == pytest.approx(drawn, rel=1e-3, abs=1e-3)  # of the whole batch
    assert any("classes/prediction/road" in line for line in logs[0])
    assert len(list((seven / "logs" / "two" / "tensorboard").iterdir())) == 1  # the first alone writes
    states = [load(seven / "logs" / n / CHECKPOINT)["ResNet101"]["model_state"] for n in ("one", "two")]
    for key, value in states[0].items():
        assert float((value - states[1][key]).double().norm()) <= 1e-5 * float(value.double().norm()), key
    one, two = ((seven / "logs" / name / "run.log").read_text().count("\n") for name in ("one", "two"))
    assert one == two


def test_a_batch_that_does_not_divide_is_refused_once(seven):
    done = ended(f"{TRAIN} --name odd --bs 3".split(), seven, 2)
    assert done.returncode != 0
    assert done.stderr.count("--bs 3 does not divide among 2 processes; start 1 or give another --bs") == 1
    assert 'Traceback (most recent call last):\n  File "' + str(PROJECT) not in done.stderr


def test_an_error_of_one_process_is_said_once_and_ends_all(seven, tmp_path):
    shutil.copytree(seven / "dataset" / "cityscapes", tmp_path / "dataset" / "cityscapes")
    bad = sorted((tmp_path / "dataset" / "cityscapes" / "leftImg8bit" / "val").rglob("*.png"))[1]
    bad.write_bytes(bad.read_bytes()[:500])  # the first of the second process
    (tmp_path / "model.pkl").symlink_to(seven / "model.pkl")
    began = time.monotonic()
    done = ended(f"test.py --resume_path model.pkl {SMALL}".split(), tmp_path, 2)
    assert done.returncode != 0 and time.monotonic() - began < 60
    assert "error: another process" not in done.stderr
    assert done.stderr.count(bad.name) == 1


@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other(seven, monkeypatch, victim):
    """Without torchrun, whose own watch would end the others."""
    port = str(20000 + os.getpid() % 20000 + victim)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    running = []
    for rank in ("0", "1"):
        for name, value in (shared | {"RANK": rank, "LOCAL_RANK": rank}).items():
            monkeypatch.setenv(name, value)
        running.append(begin(f"{TRAIN} --name dying --train_iters 5000".split(), seven, **PIPES))
    log = seven / "logs" / "dying" / "log.jsonl"
    wait_for_lines(log, running[0])
    running[victim].send_signal(signal.SIGKILL)
    _, said = running[1 - victim].communicate(timeout=30)
    running[victim].communicate()
    assert running[1 - victim].returncode not in (0, None)
    assert "error: another process of this run ended without a word" in said
    assert "Traceback" not in said
    log.unlink()


def start_copies(folder: Path, command: str, cwd: Path) -> subprocess.Popen:
    script, *options = command.split()
    return begin([two_copies(folder), str(PROJECT / script), *options], cwd, **PIPES)


def test_copies_share_a_run_and_end_well(seven, tmp_path):
    running = start_copies(tmp_path, f"test.py --resume_path model.pkl --max_images 7 {SMALL}", seven)
    said, complaints = running.communicate(timeout=120)
    assert running.returncode == 0, complaints
    assert said.count("images: 7") == 1


def test_an_error_of_the_first_copy_is_said_once(seven, tmp_path):
    words = f"--prototypes model.pkl/prototypes --resume_path model.pkl --max_images 7 {SMALL}"
    running = start_copies(
        tmp_path, f"calc_prototype.py {words}", seven
    )  # only the first writes, into no folder
    _, complaints = running.communicate(timeout=120)
    assert running.returncode == 1
    assert complaints.count("error: ") == 1 and "model.pkl" in complaints


def wait_for_lines(log: Path, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().count("\n") > 3):
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.2)


@pytest.mark.parametrize("how", ["a copy is killed", "the starter is asked to end"])
def test_copies_end_together(seven, tmp_path, how):
    running = start_copies(tmp_path, f"{TRAIN} --name copies --train_iters 5000 --log_dir {tmp_path}", seven)
    wait_for_lines(tmp_path / "copies" / "log.jsonl", running)
    pids = descendants(running.pid)[1:]
    assert len(pids) == 2
    if how == "a copy is killed":
        os.kill(pids[1], signal.SIGKILL)
    else:
        running.terminate()
    _, complaints = running.communicate(timeout=30)
    assert running.returncode not in (0, None)
    assert "Traceback" not in complaints
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
