"""Label generation that was interrupted continues: the same files, and none written twice."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from cli_tools import PIPES, begin, draw_mini, pixels, random_network, run_here, write_released
from PIL import Image
from test_processes import files, shared

IMAGES = 30
FORMS = {"soft": "--soft", "hard": "--flip", "steps": "--flip --conf_dtype uint8"}
COMMON = "--resume_path model.pkl --img_size 256,128 --num_workers 0 --device cpu"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with target images, two models, and the labels of an uninterrupted run in whole/FORM."""
    folder = tmp_path_factory.mktemp("labels")
    draw_mini(f"dataset --size 256,128 --source 1 --target {IMAGES} --val 1", folder)
    write_released(folder / "model.pkl", random_network("mini"))
    write_released(folder / "other.pkl", random_network("mini", seed=1))
    with pytest.MonkeyPatch.context() as patch:
        for name in FORMS:
            generate(folder, name, patch, "--save_path whole")
    return folder


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """The same to work in; whole/FORM is copied to Pseudo/FORM."""
    for name in ("dataset", "model.pkl", "other.pkl", "whole"):
        (tmp_path / name).symlink_to(whole / name)
    shutil.copytree(whole / "whole", tmp_path / "Pseudo")  # with the times of change
    return tmp_path


def generate(cwd: Path, form: str, monkeypatch: pytest.MonkeyPatch, words: str = "") -> None:
    """Make the labels of one form, in this process."""
    run_here(
        f"python generate_pseudo_label.py --name {form} {FORMS[form]} {COMMON} {words}", cwd, monkeypatch
    )


def times(folder: Path) -> dict[str, int]:
    """When each file was written."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def labels(folder: Path) -> list[Path]:
    """The files that vouch for a label, sorted."""
    ending = ".npy" if (folder / "made_by_soft.json").is_file() else "8bit.png"
    return sorted(path for path in folder.glob(f"*{ending}") if not path.name.startswith("."))


def generating(form: str, cwd: Path, words: str = "") -> subprocess.Popen:
    """Start the script in a process group of its own."""
    options = f"--name {form} {FORMS[form]} {COMMON} {words}".split()
    return begin(["generate_pseudo_label.py", *options], cwd, **PIPES, start_new_session=True)


def wait_for_labels(folder: Path, count: int, running: subprocess.Popen) -> None:
    deadline = time.monotonic() + 120
    while len(labels(folder)) < count:
        assert time.monotonic() < deadline and running.poll() is None, running.communicate()
        time.sleep(0.001)


# --- interrupted ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["soft", "hard"])
def test_killed_at_any_moment_it_ends_with_the_same_files(folder, monkeypatch, capsys, form):
    out, chance = folder / "Pseudo" / form, random.Random(0)
    shutil.rmtree(out)
    finished, stems = {}, []
    for _ in range(2):
        running = generating(form, folder)
        wait_for_labels(out, len(stems) + chance.randint(2, IMAGES // 3), running)
        time.sleep(chance.random() / 100)
        os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        now = times(out)
        assert {name: now[name] for name in finished} == finished  # the second run wrote none of them again
        stems = [path.name.removesuffix(path.suffix) for path in labels(out)]
        assert len(stems) < IMAGES
        finished = {name: now[name] for name in now if name.startswith(tuple(stems))}
    capsys.readouterr()
    generate(folder, form, monkeypatch)
    assert f"Pseudo/{form}: {len(stems)} of {IMAGES} labels are there and whole; " in capsys.readouterr().out
    assert files(out) == files(folder / "whole" / form)  # no unfinished file is left either
    now = times(out)
    assert {name: now[name] for name in finished} == finished


def test_interrupted_by_the_keyboard_it_ends_at_once(folder):
    out = folder / "Pseudo" / "hard"
    shutil.rmtree(out)
    running = generating("hard", folder, "--num_workers 1")
    wait_for_labels(out, 3, running)
    os.killpg(running.pid, signal.SIGINT)  # as a terminal sends it
    _, said = running.communicate(timeout=20)
    assert running.returncode in (1, 130) and said == "interrupted\n"
    expected = files(folder / "whole" / "hard")
    written = files(out)
    assert (
        len(written) < len(expected) and [name for name in written if written[name] != expected[name]] == []
    )


def test_a_full_disk_interrupts(folder, monkeypatch):
    out = folder / "Pseudo" / "soft"
    shutil.rmtree(out)
    save, count = np.save, 0

    def full(*words, **named):
        nonlocal count
        count += 1
        if count > 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*words, **named)

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(SystemExit, match="No space left on device"):
            generate(folder, "soft", monkeypatch)
    before = times(out)
    assert len(before) == 6  # five labels and the record
    generate(folder, "soft", monkeypatch)
    assert files(out) == files(folder / "whole" / "soft")
    assert times(out).items() >= before.items()


# --- continued --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_whole_labels_are_left_alone(folder, monkeypatch, capsys, form):
    before = times(folder / "Pseudo" / form)
    words = "--infer_bs 2 --threads 1 --num_workers 1"  # what does not change the labels
    generate(folder, form, monkeypatch, words)
    assert f"all {IMAGES} labels are there and whole" in capsys.readouterr().out
    assert times(folder / "Pseudo" / form) == before


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE = {
    # name: (form, ending of the file, what is done to it)
    "soft cut": ("soft", ".npy", cut),
    "soft empty": ("soft", ".npy", lambda p: p.write_bytes(b"")),
    "soft of another dtype": ("soft", ".npy", lambda p: np.save(p, np.load(p).astype(np.float64))),
    "soft of another grid": ("soft", ".npy", lambda p: np.save(p, np.load(p)[:, :-1])),
    "soft not finite": ("soft", ".npy", lambda p: np.save(p, np.load(p) * np.inf)),
    "label cut": ("hard", ".png", cut),
    "label of another image": ("hard", ".png", lambda p: Image.fromarray((pixels(p) + 1) % 19).save(p)),
    "colours cut": ("hard", "_color.png", cut),
    "no colours": ("hard", "_color.png", Path.unlink),
    "no confidence": ("hard", "_conf.npy", Path.unlink),
    "confidence cut": ("hard", "_conf.npy", cut),
    "confidence of another dtype": ("hard", "_conf.npy", lambda p: np.save(p, np.load(p).astype(np.float32))),
    "confidence not finite": ("hard", "_conf.npy", lambda p: np.save(p, np.load(p) * np.float16(np.nan))),
    "confidence of both forms": ("hard", "_conf.png", lambda p: p.touch()),
    "no confidence in steps": ("steps", "_conf.png", Path.unlink),
    "confidence in steps cut": ("steps", "_conf.png", cut),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_label_is_made_again(folder, monkeypatch, capsys, name):
    form, ending, damage = DAMAGE[name]
    out = folder / "Pseudo" / form
    stem = labels(out)[3].name.removesuffix(labels(out)[3].suffix)
    damage(out / f"{stem}{ending}")
    before = times(out)
    generate(folder, form, monkeypatch)
    told = f"{IMAGES - 1} of {IMAGES} labels are there and whole; 1 damaged ones are made"
    assert told in capsys.readouterr().out
    assert files(out) == files(folder / "whole" / form)
    now = times(out)
    assert {n for n in now if now[n] != before.get(n)} == {n for n in now if n.startswith(stem)}


def test_processes_share_what_is_left(folder):
    out = folder / "Pseudo" / "hard"
    redone = [labels(out)[i] for i in (4, 7, 8)]
    cut(redone[0])
    for path in redone[1:]:
        path.unlink()
    before = times(out)
    told = shared(2, f"generate_pseudo_label.py --name hard {FORMS['hard']} {COMMON}", folder)
    assert told.count(f"{IMAGES - 3} of {IMAGES} labels are there and whole") == 1
    assert told.count("1 damaged and 2 missing ones are made") == 1
    assert files(out) == files(folder / "whole" / "hard")
    now, stems = times(out), tuple(path.stem for path in redone)
    assert {n for n in now if now[n] != before.get(n)} == {n for n in now if n.startswith(stems)}


# --- made by something else -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "words", "why"),
    [
        ("soft", "--resume_path other.pkl", "checkpoint"),
        ("soft", "--soft_dtype float16", "dtype"),
        ("soft", "--img_size 128,64", "img_size"),
        ("soft", "--channels_last", "precision"),
        ("soft", "--max_images 8", "images"),
        ("hard", "--resume_path other.pkl", "checkpoint"),
        ("hard", "--conf_dtype uint8", "dtype"),
    ],
)
def test_labels_of_something_else_are_all_made_anew(folder, monkeypatch, capsys, form, words, why):
    out = folder / "Pseudo" / form
    before = times(out)
    generate(folder, form, monkeypatch, words)
    said = capsys.readouterr().out
    assert f"Pseudo/{form}: the labels there were made otherwise ({why}); all are made anew" in said
    count = 8 if "max_images" in words else IMAGES
    assert f"wrote {form} pseudo labels of {count} images" in said
    now = times(out)
    stems = [path.stem for path in sorted((folder / "dataset" / "cityscapes").glob("leftImg8bit/train/*/*"))]
    redone = {n for n in now if n.startswith(tuple(stems[:count]))}
    assert all(now[n] != before.get(n) for n in redone)
    assert all(now[n] == before[n] for n in now.keys() - redone if not n.startswith("made_by"))
    generate(folder, form, monkeypatch, f"{words} --save_path apart")
    expected = files(folder / "apart" / form)
    assert {n: c for n, c in files(out).items() if n in expected} == expected


def test_without_a_record_all_are_made_anew_and_nothing_else_is_removed(folder, monkeypatch, capsys):
    out = folder / "Pseudo" / "soft"
    shutil.copy(labels(out)[0], out / "of_another_data_set.npy")
    (out / "made_by_soft.json").unlink()
    (out / "notes.txt").write_text("mine")
    shutil.copytree(folder / "whole" / "hard", out, dirs_exist_ok=True)
    foreign = times(folder / "whole" / "hard") | times(out)
    generate(folder, "soft", monkeypatch)
    told = "no made_by_soft.json says what made the labels there; all are made anew"
    assert told in capsys.readouterr().out
    now, made = times(out), times(folder / "whole" / "soft")
    assert {n for n in now if now[n] != foreign.get(n)} == set(made)
    assert files(out).items() >= files(folder / "whole" / "soft").items()


def test_the_record_says_what_made_the_labels(whole):
    record = json.loads((whole / "whole" / "hard" / "made_by_hard.json").read_text())
    digest = subprocess.run(["sha256sum", whole / "model.pkl"], capture_output=True, text=True, check=True)
    assert record["checkpoint"] == digest.stdout.split()[0]
    expected = {"labels": "hard", "dtype": "float16", "flip": True, "quirks": [], "n_class": 19}
    expected |= {"img_size": [256, 128], "precision": "networks in fp32", "data set": "cityscapes train"}
    assert record.items() >= expected.items()
