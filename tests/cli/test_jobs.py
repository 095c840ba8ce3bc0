"""reproduce.py --jobs: recipes of several seeds side by side, with shell commands in place of the scripts."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from cli_tools import run_here

from engine.about import ABOUT_FILE
from engine.signals import CAN_CONTINUE
from utils.files.whole import save_json
from utils.recipe import Step, read_recipe, read_recipes
from utils.recipe_notes import DONE, NEW, Notes

TEXT = """
folder: runs/seed{seed}
options: {seed: 0, save_path: "{folder}"}
steps:
  - {name: data, module: data.mini, words: [drawn]}
  - {name: first, script: generate_pseudo_label, options: {name: one}}
  - {name: second, script: generate_pseudo_label, options: {name: two}}
"""
COMMAND = "python reproduce.py --config recipe.yaml --seeds 0,1,2 --jobs 2"
WORK = "sleep 0.15"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(TEXT)
    return tmp_path


def replace_steps(monkeypatch: pytest.MonkeyPatch, special: dict[tuple[int, str], str]) -> None:
    """Let each step note its begin and end in events.txt; special: (seed, step) → what it does between."""

    def process(step: Step) -> tuple[list[str], dict[str, str]]:
        seed = step.options.get("seed", "")
        about, work = f"{step.name} {seed}".strip(), special.get((seed, step.name), WORK)
        made = f"mkdir -p {step.product}" if step.product else "true"
        note = "echo {} {} >> events.txt"
        lines = [note.format("begin", about), f"echo output of {about}; echo bar >&2", work, made]
        return ["sh", "-c", "\n".join([*lines, note.format("end", about)])], {"PATH": "/bin:/usr/bin"}

    monkeypatch.setattr(Step, "process", process)


def events(place: Path) -> list[str]:
    return (place / "events.txt").read_text().splitlines()


def most_at_once(lines: list[str], word: str) -> int:
    running = most = 0
    for line in lines:
        if word in line:
            running += 1 if line.startswith("begin") else -1
            most = max(most, running)
    return most


def kinds() -> list[list[str]]:
    """Statuses of the steps of each seed."""
    recipes = read_recipes(Path("recipe.yaml"), [0, 1, 2], {})
    return [[status.kind for status in Notes(recipe).statuses(recipe.steps)] for recipe in recipes]


def test_two_seeds_run_side_by_side_and_draw_their_data_one_after_the_other(place, monkeypatch, capfd):
    replace_steps(monkeypatch, {})
    run_here(COMMAND, place, monkeypatch)
    lines, told = events(place), capfd.readouterr()
    assert most_at_once(lines, "") == 2 and most_at_once(lines, "data") == 1
    for seed in (0, 1, 2):
        own = [line for line in lines if line.endswith(f" {seed}")]
        assert own == [f"{kind} {name} {seed}" for name in ("first", "second") for kind in ("begin", "end")]
        output = (place / f"runs/seed{seed}/output.log").read_text()
        assert output == "".join(
            f"output of {name}\nbar\n" for name in ("data", f"first {seed}", f"second {seed}")
        )
        for i, name in enumerate(("data", "first", "second")):
            begun, ended = re.findall(rf"^seed {seed} \[{i + 1}/3\] {name}: (.*)$", told.out, re.MULTILINE)
            assert begun.startswith("python ") and re.fullmatch(r"done \([\d.]+ s\)", ended)
    assert "bar" not in told.out + told.err and "output of" not in told.out
    run_here(COMMAND, place, monkeypatch)
    assert events(place) == lines and capfd.readouterr().out.count(": done (") == 9


def test_a_failure_lets_the_others_end_their_step_and_begins_nothing_more(place, monkeypatch, capfd):
    failing = "while ! grep -q 'begin first 0' events.txt; do sleep 0.02; done; exit 3"
    replace_steps(monkeypatch, {(1, "first"): failing, (0, "first"): "sleep 0.6"})
    with pytest.raises(SystemExit) as end:
        run_here(COMMAND, place, monkeypatch)
    assert end.value.code.startswith(
        "error: step first ended with exit code 3 (seed 1; runs/seed1/output.log"
    )
    assert end.value.code.endswith(f"mend it, then: {COMMAND}")
    told = capfd.readouterr().out
    assert "seed 1 ended early (error: step first ended" in told and "the others end the step" in told
    assert kinds() == [[DONE, DONE, NEW], [DONE, "goes on", NEW], [NEW, NEW, NEW]]
    assert "begin second 0" not in events(place)
    replace_steps(monkeypatch, {})
    run_here(COMMAND, place, monkeypatch)
    assert kinds() == [[DONE] * 3] * 3 and events(place).count("begin first 0") == 1


def test_a_signal_reaches_all_children_and_each_seed_says_how_to_go_on(place, monkeypatch, capfd):
    waiting = "trap 'echo saved; exit 75' TERM; echo up > {}; while :; do sleep 0.02; done"
    asking = f"while [ ! -e a ]; do sleep 0.02; done; kill -TERM $PPID; {waiting.format('b')}"
    replace_steps(
        monkeypatch,
        {(0, "first"): waiting.format("a"), (1, "first"): asking.replace("kill", "sleep 0.1; kill", 1)},
    )
    with pytest.raises(SystemExit) as end:
        run_here(COMMAND, place, monkeypatch)
    assert end.value.code == CAN_CONTINUE
    told = capfd.readouterr().err.splitlines()
    assert sorted(line.split(" to go on: ")[0] for line in told) == [
        f"seed {seed} step first was interrupted;" for seed in (0, 1)
    ]
    assert all(line.endswith(f" to go on: {COMMAND}") for line in told)
    assert (
        "saved" in (place / "runs/seed0/output.log").read_text() and not (place / "runs/seed2/begun").exists()
    )
    assert kinds()[:2] == [[DONE, "goes on", NEW]] * 2


def test_a_signal_before_the_first_child_also_says_how_to_go_on(place, monkeypatch, capfd):
    replace_steps(monkeypatch, {})
    original = print

    def print_interrupted(text="", *more, **options):
        original(text, *more, **options)
        if "data: " in text:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.2)

    monkeypatch.setattr("builtins.print", print_interrupted)
    with pytest.raises(SystemExit) as end:
        run_here(COMMAND.replace("0,1,2 --jobs 2", "0"), place, monkeypatch)
    assert end.value.code == CAN_CONTINUE
    assert capfd.readouterr().err.startswith("step data was interrupted; to go on: ")
    assert not (place / "events.txt").exists()


def test_a_step_of_all_seeds_that_fails_is_not_started_again(place, monkeypatch):
    replace_steps(monkeypatch, {("", "data"): "exit 3"})
    original = print

    def print_slowly(text="", *more, **options):
        time.sleep(0.3 if "ended early" in text else 0)
        original(text, *more, **options)

    monkeypatch.setattr("builtins.print", print_slowly)
    with pytest.raises(SystemExit, match="exit code 3"):
        run_here(COMMAND, place, monkeypatch)
    assert events(place) == ["begin data"]


def test_what_cannot_be_announced_is_not_started(place, monkeypatch):
    replace_steps(monkeypatch, {})
    monkeypatch.setattr("builtins.print", Mock(side_effect=BrokenPipeError))
    with pytest.raises((SystemExit, BrokenPipeError)):
        run_here(COMMAND.replace("0,1,2 --jobs 2", "0"), place, monkeypatch)
    time.sleep(0.2)
    assert not (place / "events.txt").exists()


def test_after_an_interruption_no_other_seed_is_looked_at(place, monkeypatch, capfd):
    replace_steps(monkeypatch, {})
    run_here(COMMAND, place, monkeypatch)
    capfd.readouterr()
    Path("runs/seed0/done/second.json").unlink()
    replace_steps(monkeypatch, {(0, "second"): f"exit {CAN_CONTINUE}"})
    with pytest.raises(SystemExit):
        run_here(COMMAND.replace("--jobs 2", ""), place, monkeypatch)
    assert capfd.readouterr().out.count("done (") == 2  # seed 0's data and first step


def test_scores_of_a_checkpoint_that_is_replaced_go(place, monkeypatch):
    """So that no table has them beside the new one where --only leaves out the tests."""
    training = '{name: base, script: train, options: {name: base, log_dir: "{folder}"}, test: last}'
    Path("recipe.yaml").write_text(f"folder: runs/seed{{seed}}\nsteps:\n  - {training}\n")
    recipe = read_recipe(Path("recipe.yaml"), None, {})
    for which in ("last", "best"):
        save_json({}, recipe.result_path("base", which))
    about = recipe.trainings[0].run_folder / ABOUT_FILE
    replace_steps(monkeypatch, {(6523, "base"): "exit 3", ("", "base"): "exit 3"})
    for there in (True, False):  # a run that this recipe has begun is begun anew where no state is left
        save_json({}, about)
        with pytest.raises(SystemExit):
            run_here("python reproduce.py --config recipe.yaml", place, monkeypatch)
        assert about.is_file() is there and not list(Path("runs").rglob("results/*.json"))


@pytest.mark.parametrize("number", ["0", "-1", "two", "1.5"])
def test_jobs_are_a_number(place, monkeypatch, capsys, number):
    with pytest.raises(SystemExit) as end:
        run_here(f"python reproduce.py --config recipe.yaml --jobs {number}", place, monkeypatch)
    assert end.value.code == 2 and "is not a number of at least 1" in capsys.readouterr().err
