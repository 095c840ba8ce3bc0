"""A run that is interrupted, killed or out of room goes on as if nothing had happened."""

from __future__ import annotations

import ctypes
import os
import re
import resource
import shlex
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from cli_tools import (
    PIPES,
    PROJECT,
    begin,
    checkpoint_name,
    draw_mini,
    end_after,
    ended,
    finish,
    run_here,
    two_copies,
)

from engine.inference import evaluate
from engine.signals import CAN_CONTINUE, Interrupted
from tests.cli.killed_runs import (
    COMMON,
    STAGES,
    START,
    descendants,
    differences,
    killed_training,
    left_by,
    prepare,
    training_words,
)

ITERATIONS = 14


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A small world, and in logs/STAGE_whole a run of each stage that nobody disturbed."""
    folder = tmp_path_factory.mktemp("world")
    prepare(folder)
    with pytest.MonkeyPatch.context() as patch:
        for stage in STAGES:
            run_here(
                " ".join(["python", *training_words(stage, f"{stage}_whole", ITERATIONS)]), folder, patch
            )
    return folder


@pytest.fixture
def desk(world, tmp_path) -> Path:
    """A folder with what trainings read, and no run in it."""
    for name in ("dataset", "Pseudo"):
        (tmp_path / name).symlink_to(world / name)
    shutil.copytree(world / "logs" / "start", tmp_path / "logs" / "start")
    return tmp_path


@pytest.fixture
def half(desk, monkeypatch) -> Path:
    """A folder with a warm-up in logs/run that was interrupted after iteration 9."""
    interrupt_after(9, command(), desk, monkeypatch)
    return desk


def words(stage: str = "warm_up", *more: str, iterations: int = ITERATIONS, workers: int = 0) -> list[str]:
    """A training of this file."""
    return [*training_words(stage, "run", iterations, workers), *more]


def command(stage: str = "warm_up", *more: str) -> str:
    """The same as a user types it."""
    return f"python {' '.join(words(stage, *more))}"


def exit_of(typed: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """Return the exit code of a command, or the line of its error."""
    with pytest.raises(SystemExit) as end:
        run_here(typed, folder, monkeypatch)
    return end.value.code


def interrupt_after(iteration: int, typed: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a training that is asked to end when it has done so many iterations."""
    with monkeypatch.context() as patch:
        end_after(iteration, patch)
        assert exit_of(typed, folder, monkeypatch) == CAN_CONTINUE


def states(folder: Path) -> list[str]:
    """Names of the states of the run."""
    return sorted(path.name for path in (folder / "logs" / "run" / "state").glob("*.pt"))


def assert_whole(folder: Path, world: Path, stage: str = "warm_up") -> None:
    """logs/run holds bit for bit what the undisturbed run left."""
    assert differences(left_by(world, f"{stage}_whole", ITERATIONS), left_by(folder, "run", ITERATIONS)) == []


def wait_for(text: str, child: subprocess.Popen) -> str:
    """Return the output of a process up to a line with `text`."""
    told = ""
    while text not in told:
        line = child.stdout.readline()
        assert line, told
        told += line
    return told


# --- going on ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGES)
def test_interrupted_anywhere_goes_on_exactly(world, desk, stage, monkeypatch):
    interrupt_after(1, command(stage), desk, monkeypatch)
    interrupt_after(9, command(stage, "--continue", "--num_workers", "1"), desk, monkeypatch)  # validating
    interrupt_after(10, command(stage, "--continue"), desk, monkeypatch)
    run_here(command(stage, "--continue"), desk, monkeypatch)
    assert_whole(desk, world, stage)


def test_a_refreshed_class_distribution_goes_on(world, desk, monkeypatch, capsys):
    """Interrupted between two refreshes, with counts that have not been used yet."""
    more = ("--refresh_distribution", "4", "--class_distribution", "uniform")
    monkeypatch.chdir(world)
    run_here(" ".join(["python", *training_words("stage1", "refreshed", 9), *more]), world, monkeypatch)
    typed = " ".join(["python", *words("stage1", *more, iterations=9)])
    interrupt_after(6, typed, desk, monkeypatch)
    run_here(f"{typed} --continue", desk, monkeypatch)
    whole = left_by(world, "refreshed", 9)
    assert differences(whole, left_by(desk, "run", 9)) == []
    roads = [line["prior/road"] for line in whole["log"] if "prior/road" in line]
    assert len(set(roads)) == 2
    assert "class distribution refreshed: road " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("stage", "workers", "processes"),
    [
        ("warm_up", 1, 1),
        pytest.param("stage1", 0, 1, marks=pytest.mark.slow),
        pytest.param("stage1", 1, 2, marks=pytest.mark.slow),
    ],
)
def test_killed_and_continued_is_never_killed(world, stage, workers, processes):
    killed, whole = f"{stage}_killed_{processes}", f"{stage}_whole"
    if processes > 1:
        whole += f"_{processes}"
        finish(training_words(stage, whole, ITERATIONS, workers), world, processes)
    assert killed_training(stage, world, killed, 2, 0, ITERATIONS, workers, processes)
    assert differences(left_by(world, whole, ITERATIONS), left_by(world, killed, ITERATIONS)) == []


def test_signals_end_a_run_that_goes_on(world, desk):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP):
        child = begin(words("warm_up", "--continue", iterations=2000), desk, **PIPES)
        wait_for("Iter [", child)
        child.send_signal(number)
        told, complaints = child.communicate(timeout=60)
        assert (child.returncode, complaints) == (CAN_CONTINUE, "")
        assert f"{number.name}: interrupted after iteration" in told
    lines = (desk / "logs" / "run" / "run.log").read_text().splitlines()
    ends = [line.split("after iteration ")[1].split()[0] for line in lines if "interrupted" in line]
    begins = [line.split("after iteration ")[1].split()[0] for line in lines if "continues" in line]
    assert begins == ends[:-1]  # not one iteration was lost


def test_a_second_interrupt_ends_at_once(tmp_path):
    program = (
        "import os, signal, time\n"
        "from engine.signals import Interruption\n"
        "with Interruption() as asked:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"  # at once: both come from one Ctrl-C
        "    print(asked.asked_by, flush=True)\n"
        "    time.sleep(1.1)\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "program.py").write_text(program)
    done = ended([str(tmp_path / "program.py")], tmp_path)
    assert (done.returncode, done.stdout) == (130, "SIGINT\n")


def test_two_processes_end_together_when_one_is_asked(desk):
    child = begin(words("stage2", "--continue"), desk, 2, **PIPES)
    told = wait_for("Iter [", child)
    second = next(pid for pid in descendants(child.pid) if "RANK=1" in environment_of(pid))
    os.kill(second, signal.SIGUSR1)
    rest, _ = child.communicate(timeout=120)
    assert child.returncode != 0 and "another process: interrupted after iteration" in told + rest
    assert "continues after iteration" in finish(words("stage2", "--continue"), desk, 2)


def recipe_of_two_stages(released: bool) -> dict:
    """Warm-up → hard labels → student → its labels; the warm-up is only there as a checkpoint."""
    words = COMMON.replace("--", "").split()
    common = dict(zip(words[::2], words[1::2], strict=True)) | {"num_workers": 0, "max_images": 2}
    labels = {"script": "generate_pseudo_label"}
    training = {"stage": "stage2", "path_LP": "Pseudo/hard", "no_resume": True, "train_iters": ITERATIONS}
    steps = [
        {"name": "warm_up", "script": "train", "options": {"name": "start", "stage": "warm_up"}},
        {"name": "labels", "options": {"name": "hard", "resume_path": "{warm_up}"}} | labels,
        {"name": "student", "script": "train", "options": {"name": "run"} | training},
        {"name": "its_labels", "options": {"name": "its", "resume_path": "{student}"}} | labels,
    ]
    steps[0] |= {"released": START} if released else {}
    return {"title": "small", "folder": "recipe", "options": common, "steps": steps}


@pytest.mark.parametrize("released", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_recipe_goes_on_by_the_command_that_it_prints(world, desk, released):
    """Interrupted in three steps; the warm-up, of which there is only a checkpoint, is never trained."""
    (desk / "small.yaml").write_text(yaml.safe_dump(recipe_of_two_stages(released)))
    shutil.copy(desk / START, desk / START.replace("current", "best"))
    typed = ["reproduce.py", "--config", "small.yaml", *([] if released else ["--from", "labels"])]
    told = ""
    for place in ("labels", "Iter [3/", "its_labels"):
        child = begin(typed, desk, **PIPES)
        told += wait_for(place if "Iter" in place else f" {place}: python", child)
        child.send_signal(signal.SIGTERM)
        rest, complaints = child.communicate(timeout=60)
        told += rest
        assert child.returncode == CAN_CONTINUE, complaints
        typed = shlex.split(complaints.splitlines()[-1].partition("to go on: ")[2])[1:]
        assert typed == ["reproduce.py", "--config", "small.yaml"]
    told += finish(typed, desk)
    trained = [line for line in told.splitlines() if "train.py" in line]
    assert len(trained) == 2 and all(" student: " in line for line in trained)  # begun, and gone on with
    assert "continues after iteration" in told
    kept = {path: path.stat().st_mtime_ns for path in desk.rglob("*.pkl")}

    machine = ["num_workers=1", "precision=fp32", "infer_bs=2", "student.save_interval=9"]
    words = [word for option in machine for word in ("--set", option)]
    assert finish([*typed, *words], desk).count(": done (") == 4
    refused = ended([*typed, "--set", "student.lr=1e-3"], desk)
    assert refused.returncode == 1 and "student (lr" in refused.stderr and "--redo student" in refused.stderr
    assert "its_labels (follows student)" in refused.stderr and refused.stdout == ""
    assert {path: path.stat().st_mtime_ns for path in desk.rglob("*.pkl")} == kept


def test_a_signal_that_another_thread_takes_interrupts_a_recipe(world, desk):
    """The kernel may choose any thread of the process; only the main one runs Python's handlers."""
    (desk / "small.yaml").write_text(yaml.safe_dump(recipe_of_two_stages(True)))
    shutil.copy(desk / START, desk / START.replace("current", "best"))
    child = begin(["reproduce.py", "--config", "small.yaml"], desk, **PIPES)
    wait_for("Iter [3/", child)
    threads = {int(task.name) for task in Path(f"/proc/{child.pid}/task").iterdir()}
    assert ctypes.CDLL(None).tgkill(child.pid, max(threads - {child.pid}), signal.SIGTERM) == 0
    _, complaints = child.communicate(timeout=60)
    assert child.returncode == CAN_CONTINUE, complaints
    assert "step student was interrupted" in complaints


def environment_of(pid: int) -> list[str]:
    """NAME=VALUE of a process."""
    return Path(f"/proc/{pid}/environ").read_text().split("\0")


@pytest.mark.parametrize("last", [False, True])
def test_an_interrupted_validation_is_made_up_for(world, desk, monkeypatch, last):
    """The first one, or the last one, after which nothing is left to train."""
    whole = evaluate

    def interrupted(*arguments: object, **named: object) -> dict:
        if not last or (desk / "logs" / "run" / "state" / "0000011.pt").is_file():
            raise Interrupted
        return whole(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr("engine.validation.evaluate", interrupted)
        assert exit_of(command(), desk, monkeypatch) == CAN_CONTINUE
    run_here(command("warm_up", "--continue"), desk, monkeypatch)
    assert_whole(desk, world)


def test_the_process_that_starts_copies_passes_signals_on(desk):
    script = [str(PROJECT / "train.py"), *words("warm_up", "--continue", iterations=2000)[1:]]
    child = begin([two_copies(desk), *script], desk, **PIPES)
    wait_for("Iter [", child)
    child.send_signal(signal.SIGINT)
    told, complaints = child.communicate(timeout=60)
    assert (child.returncode, complaints) == (CAN_CONTINUE, "")
    assert told.count("interrupted after iteration") == 1


# --- what is found in the folder --------------------------------------------------------------------------


def test_a_damaged_state_gives_way_to_the_one_before(world, half, monkeypatch, capsys):
    assert states(half) == ["0000007.pt", "0000009.pt"]  # the last two are kept
    newest = half / "logs" / "run" / "state" / "0000009.pt"
    content = bytearray(newest.read_bytes())
    content[len(content) // 2] ^= 1
    newest.write_bytes(content)
    newest.with_name(".0000011.pt.1.tmp").write_bytes(b"half a state")
    run_here(command("warm_up", "--continue"), half, monkeypatch)
    assert not list(newest.parent.glob(".*.tmp"))
    told = capsys.readouterr().out
    assert "0000009.pt: is damaged" in told and "continues after iteration 7" in told
    assert_whole(half, world)


def test_another_run_is_refused_until_it_may_be_overwritten(world, half, monkeypatch):
    def refused(*more: str) -> str:
        line = exit_of(command("warm_up", *more), half, monkeypatch)
        assert "--overwrite" in line and states(half) == ["0000007.pt", "0000009.pt"]
        return line

    line = refused()
    assert "logs/run: holds a run at iteration 9" in line and "--continue" in line
    assert "--lr 0.0001 → 0.5" in refused("--continue", "--lr", "0.5")

    step = {"name": "run", "script": "train", "options": {"name": "run", "stage": "warm_up"}}
    recipe = {"title": "small", "folder": "recipe", "options": {}, "steps": [step]}
    (half / "small.yaml").write_text(yaml.safe_dump(recipe))
    done = ended(["reproduce.py", "--config", "small.yaml"], half)
    assert "holds a run that this recipe has not begun" in done.stderr
    assert done.returncode == 1 and states(half) == ["0000007.pt", "0000009.pt"]

    (half / "dataset").rename(half / "right")
    draw_mini("dataset --size 256,128 --source 14 --target 12 --val 3", half)
    assert "begun on other images" in refused("--continue")
    shutil.rmtree(half / "dataset")
    (half / "right").rename(half / "dataset")

    for path in half.glob("logs/run/state/*.pt"):
        path.write_bytes(b"")
    assert "no saved state is good" in refused("--continue")
    run_here(command("warm_up", "--overwrite"), half, monkeypatch)
    assert_whole(half, world)


def test_continue_begins_what_was_not_begun_and_leaves_what_is_finished(world, desk, monkeypatch, capsys):
    run_here(command("warm_up", "--continue"), desk, monkeypatch)
    assert "nothing has been saved yet" in capsys.readouterr().out
    assert_whole(desk, world)
    run_here(command("warm_up", "--continue"), desk, monkeypatch)
    assert f"the run is finished: {ITERATIONS} iterations are done" in capsys.readouterr().out
    assert_whole(desk, world)
    run_here(command("warm_up", "--continue", "--epsilon", "0.1"), desk, monkeypatch)  # of another stage

    shutil.rmtree(desk / "logs" / "run" / "state")  # as docs/running.md allows
    files = sorted((path, path.stat().st_mtime) for path in (desk / "logs" / "run").iterdir())
    for more in ((), ("--continue",)):
        line = exit_of(command("warm_up", *more), desk, monkeypatch)
        assert (
            "logs/run: holds a finished run, whose state/ has been deleted" in line and "--overwrite" in line
        )
        (desk / "logs" / "run" / "state").rmdir()
    kept = {path for path, _ in files} - {desk / "logs" / "run" / "state"}
    assert files == sorted((path, path.stat().st_mtime) for path in kept)
    current = desk / "logs" / "run" / checkpoint_name(which="current")
    current.write_bytes(current.read_bytes()[:-100])  # it may be of a finished run all the same
    line = exit_of(command("warm_up", "--continue"), desk, monkeypatch)
    assert f"{current.name}: not a readable checkpoint" in line and line.endswith("with --overwrite")


def test_the_checkpoint_that_a_run_starts_from_is_not_deleted(desk, monkeypatch):
    (start,) = (desk / "logs" / "start").glob("*.pkl")
    shutil.copytree(start.parent, desk / "logs" / "run")
    own = desk / "logs" / "run" / start.name
    more = ("--overwrite", "--resume_path", f"logs/run/{own.name}")
    interrupt_after(1, command("stage1", *more), desk, monkeypatch)
    assert own.is_file()


def test_an_overwritten_run_leaves_no_checkpoint(half, monkeypatch):
    (half / "logs" / "run" / checkpoint_name()).touch()
    interrupt_after(1, command("warm_up", "--overwrite"), half, monkeypatch)
    assert not list((half / "logs" / "run").glob("*.pkl")) and states(half) == ["0000001.pt"]


def test_another_teacher_is_another_run(desk, monkeypatch):
    interrupt_after(2, command("stage2"), desk, monkeypatch)
    model = next((desk / "logs" / "start").glob("*.pkl"))
    content = torch.load(model, weights_only=True)
    content["ResNet101"]["model_state"]["conv1.weight"] *= 2
    torch.save(content, model)
    line = exit_of(command("stage2", "--continue"), desk, monkeypatch)
    assert "another teacher" in line and "--resume_path" in line


def test_a_downloaded_checkpoint_is_kept(world, desk, monkeypatch, capsys):
    downloaded = desk / "logs" / "run" / "from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl"
    downloaded.parent.mkdir(parents=True)
    downloaded.write_bytes(b"from elsewhere")
    run_here(command(), desk, monkeypatch)
    kept = downloaded.with_name("from_gta5_to_cityscapes_on_deeplabv2_best_model.kept1.pkl")
    assert kept.read_bytes() == b"from elsewhere" and kept.name in capsys.readouterr().out
    kept.unlink()
    assert_whole(desk, world)


def test_a_folder_has_one_run_at_a_time(desk):
    child = begin(words("warm_up", "--continue", iterations=2000), desk, **PIPES)
    try:
        wait_for("options", child)  # it has the folder
        second = ended(words("warm_up", "--continue", iterations=2000), desk)
        assert second.returncode == 1 and f"process {child.pid} on " in second.stderr
    finally:
        child.kill()
        child.communicate()


# --- what machines do -------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_written_leaves_the_last_state(world, half):
    def limit() -> None:  # states have 17 MB, checkpoints 8
        resource.setrlimit(resource.RLIMIT_FSIZE, (12_000_000, 12_000_000))

    child = begin(words("warm_up", "--continue"), half, **PIPES, preexec_fn=limit)
    _, complaint = child.communicate(timeout=120)
    assert child.returncode == 1 and complaint.count("\n") == 1, complaint
    assert "0000009.pt: could not be written (File too large); make room and start again" in complaint
    assert states(half) == ["0000007.pt", "0000009.pt"] and not list(half.glob("logs/run/**/.*.tmp"))
    finish(words("warm_up", "--continue"), half)
    assert_whole(half, world)


def test_a_killed_loading_process_ends_the_run_in_one_line(desk):
    child = begin(words("warm_up", "--continue", iterations=2000, workers=1), desk, **PIPES)
    wait_for("Iter [6/", child)
    os.kill(descendants(child.pid)[1], signal.SIGKILL)
    _, complaint = child.communicate(timeout=60)
    assert child.returncode == 1 and complaint.count("\n") == 1, complaint
    assert "DataLoader worker" in complaint and "--num_workers" in complaint


def test_numbers_that_go_wrong_end_the_run_with_the_names_of_the_files(desk, monkeypatch):
    line = exit_of(command("warm_up", "--lr", "1e12"), desk, monkeypatch)
    pattern = (
        r"error: iteration (\d+): .* not finite \((.*)\); source: .*png, .*png; target: (\S+), (\S+); .*"
    )
    found = re.fullmatch(pattern, line)
    assert found and 2 <= int(found[1]) <= ITERATIONS and "source " in found[2]
    assert found[3].endswith("_leftImg8bit.png") and "--on_nonfinite skip" in line


def test_skipped_iterations_are_counted_until_too_many(desk, monkeypatch, capsys):
    typed = command("warm_up", "--lr", "1e12", "--on_nonfinite", "skip", "--nonfinite_limit", "2")
    typed += " --save_interval 100"
    line = exit_of(typed, desk, monkeypatch)
    assert "3 iterations in a row were bad" in line
    assert capsys.readouterr().out.count("; skipped") >= 2


def test_a_folder_that_vanishes_is_made_again(desk):
    child = begin(words(), desk, **PIPES)
    wait_for("Iter [3/", child)
    shutil.rmtree(desk / "logs" / "run")
    _, complaint = child.communicate(timeout=120)
    assert (child.returncode, complaint) == (0, "")
    left = torch.load(desk / "logs" / "run" / "state" / f"{ITERATIONS:07d}.pt", weights_only=True)
    assert left["iteration"] == ITERATIONS
