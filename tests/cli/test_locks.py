"""A folder or file that one program writes is refused to a second one, and to no program after a death."""

from __future__ import annotations

import errno
import fcntl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_tools import PROJECT, SMALL, checkpoint_name, refused_here, run_here

from engine.launch import claimed
from utils.distributed import Processes
from utils.files.lock import LOCK, locked

HOLDER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from utils.files.lock import locked
with locked(Path(sys.argv[2]), sys.argv[3]):
    print("has it", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def held(folder: Path, file: str = "") -> Iterator[subprocess.Popen]:
    """Another process holds a lock in the block; it is killed at the end."""
    words = [sys.executable, "-c", HOLDER, str(PROJECT), str(folder), file]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "has it\n"
    try:
        yield child
    finally:
        child.kill()
        child.communicate()


def test_a_second_program_is_refused_until_the_first_is_dead(tmp_path):
    for file, path in (("", tmp_path / "new" / LOCK), ("x.npy", tmp_path / "new" / ".x.npy.lock")):
        with (
            held(tmp_path / "new", file) as other,
            pytest.raises(ValueError) as raised,
            locked(tmp_path / "new", file),
        ):
            pass
        target = str(tmp_path / "new" / file)
        for part in (f"{target}: process {other.pid} on ", "-c", "give another place"):
            assert part in str(raised.value)
        assert path.is_file()  # of the killed one
        with locked(tmp_path / "new", "other"), locked(tmp_path / "new", file):
            pass
        assert not path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_system_without_locks_warns(tmp_path, monkeypatch, capsys, number):
    def none(*_: object) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(fcntl, "lockf", none)
    with locked(tmp_path):
        assert capsys.readouterr().err == (
            f"warning: {tmp_path}: cannot be locked (not here); let no second program write there\n"
        )


def test_what_another_user_or_program_left_does_not_block(tmp_path, capsys):
    (tmp_path / LOCK).mkdir()  # cannot be opened for writing
    with locked(tmp_path):
        assert "cannot be locked" in capsys.readouterr().err
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / LOCK).write_bytes(b"\xff\n" * 9)
    with locked(tmp_path / "a"):
        assert b"process" in (tmp_path / "a" / LOCK).read_bytes()


def test_only_the_main_process_of_a_run_locks(tmp_path, monkeypatch):
    """The others wait for it: no folder is locked by them, or used before it is."""
    waits = []
    monkeypatch.setattr(Processes, "wait", lambda self: waits.append((tmp_path / LOCK).exists()))
    with claimed(Processes(1, 2), [tmp_path], [tmp_path / "x"]):
        assert not any(tmp_path.iterdir())
    with claimed(Processes(0, 2), [tmp_path], [tmp_path / "x"]):
        assert len(list(tmp_path.iterdir())) == 2
    assert waits == [False, False, True, True] and not any(tmp_path.iterdir())


MODEL = f"--resume_path models/{checkpoint_name()}"
WRITERS = {
    f"generate_pseudo_label.py --name labels {MODEL}": ("Pseudo/labels", ""),
    f"calc_prototype.py {MODEL}": ("models", "prototypes_on_cityscapes_from_deeplabv2"),
    f"generate_class_distribution.py {MODEL}": ("Pseudo", "class_distribution.npy"),
    f"test.py {MODEL} --save_pred out": ("out", ""),
    f"test.py {MODEL} --result scores/a.json": ("scores", "a.json"),
    f"test.py {MODEL} --table scores/a.md": ("scores", "a.md"),
    f"test.py {MODEL} --images dataset/cityscapes --save_dir out": ("out", ""),
    "train.py --stage source_only --name x --backbone mini": ("logs/x/state", ""),
}


@pytest.mark.parametrize("command", WRITERS)
def test_every_script_locks_what_it_writes(desk, monkeypatch, command):
    folder, file = WRITERS[command]
    with held(desk / folder, file) as other:
        line = refused_here(f"python {command} {SMALL}", desk, monkeypatch)
        assert f"{Path(folder, file)}: process {other.pid} on " in line
    assert {path.name for path in (desk / folder).iterdir()} <= {LOCK, f".{file}.lock", checkpoint_name()}


def test_small_data_sets_and_recipes_are_locked(tmp_path, monkeypatch, capsys):
    words = "-m data.mini drawn --size 64,32 --source 2 --target 2 --val 1"
    step = "{name: a, script: train, options: {stage: source_only, name: a, log_dir: 'logs/{seed}'}}"
    (tmp_path / "recipe.yaml").write_text(f"folder: runs/{{seed}}\nsteps: [{step}]\n")
    with held(tmp_path / "drawn") as other:
        with pytest.raises(SystemExit) as end:
            run_here(f"python {words}", tmp_path, monkeypatch)
        assert end.value.code == 2 and f"drawn: process {other.pid} on " in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:  # the lock of the killed one is no foreign file
        run_here(f"python {words}", tmp_path, monkeypatch)
    assert end.value.code == 0 and not (tmp_path / "drawn" / LOCK).exists()
    with held(tmp_path / "runs" / "0") as other:
        line = refused_here("python reproduce.py --config recipe.yaml --seeds 1,0", tmp_path, monkeypatch)
    assert f"runs/0: process {other.pid} on " in line and not (tmp_path / "runs" / "1" / "begun").exists()
