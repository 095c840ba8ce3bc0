"""Recipes: commands of an experiment read from YAML."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from utils.options import parse
from utils.recipe import PROJECT, Done, Recipe, read_recipe

TEXT = """
title: small
folder: "{tmp}/seed{{seed}}"
options:
  seed: 3
  n_class: 16
  src_dataset: synthia
  log_dir: "{{folder}}/logs"
  lr: 1.0e-3
steps:
  - name: data
    module: data.mini
    words: ["{{folder}}/data", --seed, "{{seed}}", --source, 8]
  - name: first
    script: train
    options: {{name: one, stage: warm_up, lr: 2.5e-3, no_resume: true, finetune: false}}
    test: last
  - name: labels
    script: generate_pseudo_label
    options: {{soft: true, name: with space, save_path: "{{folder}}/Pseudo"}}
"""


@pytest.fixture
def path(tmp_path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(TEXT.format(tmp=tmp_path / "runs"))
    return path


def steps(recipe: Recipe) -> dict:
    return {step.name: step for step in recipe.steps}


def test_steps_in_order_with_names_filled_in(path, tmp_path):
    recipe = read_recipe(path, None, {})
    names = ["data", "first", "test_first_last", "test_first_best", "labels"]
    assert [step.name for step in recipe.steps] == names
    assert (recipe.title, recipe.seed, recipe.trainings) == ("small", 3, [recipe.steps[1]])
    folder = tmp_path / "runs" / "seed3"
    words = ("python", "-m", "data.mini", f"{folder}/data", "--seed", "3", "--source", "8")
    assert recipe.folder == folder and recipe.steps[0].words == words
    assert recipe.result_path("first", "last").is_relative_to(folder)
    assert recipe.prediction_folder("first").is_relative_to(folder)


def test_a_step_follows_the_last_one_that_makes_files(path):
    data, first, last, best, labels = (recipe := read_recipe(path, None, {})).steps
    assert [recipe.previous(step) for step in recipe.steps] == [None, data, first, first, first]
    assert recipe.chosen(None, None) == list(recipe.steps)
    assert recipe.chosen("test_first_best", None) == [best, labels]
    assert recipe.chosen(None, "test_first_last") == [last]


def test_commands_parse_into_the_recipes_options(path, tmp_path):
    found = steps(read_recipe(path, None, {}))
    words = list(found["first"].words)
    assert words[:2] == ["python", "train.py"]
    options = parse("train", "", words[2:])
    assert (options.name, options.stage, options.lr, options.n_class) == ("one", "warm_up", 2.5e-3, 16)
    assert options.no_resume and not options.finetune
    assert options.log_dir == tmp_path / "runs/seed3/logs"
    assert parse("pseudo_label", "", list(found["labels"].words)[2:]).name == "with space"
    assert shlex.split(found["labels"].shell()) == list(found["labels"].words)


@pytest.mark.parametrize(("which", "word"), [("last", "current"), ("best", "best")])
def test_both_checkpoints_of_a_training_are_scored(path, tmp_path, which, word):
    recipe = read_recipe(path, None, {})
    options = parse("test", "", list(steps(recipe)[f"test_first_{which}"].words)[2:])
    logs = tmp_path / "runs/seed3/logs/one"
    assert options.resume_path == logs / f"from_synthia_to_cityscapes_on_deeplabv2_{word}_model.pkl"
    assert options.result == recipe.result_path("first", which)
    assert options.save_pred == (recipe.prediction_folder("first") if which == "last" else None)
    assert options.lr == 1e-3  # the training's own options are not the test's


def test_seed_and_overrides_win(path, tmp_path):
    recipe = read_recipe(path, 7, {"lr": 0.5, "num_workers": 0})
    assert recipe.folder == tmp_path / "runs" / "seed7"
    options = parse("train", "", list(steps(recipe)["first"].words)[2:])
    assert (options.seed, options.lr, options.num_workers) == (7, 0.5, 0)
    assert "7" in steps(recipe)["data"].words


def test_empty_options_are_no_options(path):
    path.write_text("folder: x\noptions:\nsteps:\n  - {name: a, script: test}\n")
    assert [step.words for step in read_recipe(path, None, {}).steps] == [("python", "test.py")]


def test_recipes_of_the_project_can_be_read():
    for path in (PROJECT / "configs").glob("*.yaml"):
        recipe = read_recipe(path, 1, {})
        assert len({step.name for step in recipe.steps}) == len(recipe.steps) > 0
        if path.stem == "mini":  # the demo computes on the CPU wherever it runs
            assert all(("--device cpu" in step.shell()) == bool(step.script) for step in recipe.steps)


def test_a_step_is_done_while_its_command_and_what_came_before_stay(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, first, *_ = read_recipe(path, None, {}).steps
    done = Done(tmp_path / "state")
    assert not done.holds(data, None)
    done.write(data, None, 10.0, 20.0)
    done.write(first, data, 20.0, 50.0)
    assert not done.holds(first, data)  # its checkpoint is not there
    first.product.parent.mkdir(parents=True)
    first.product.touch()
    assert done.holds(data, None) and done.holds(first, data)
    assert done.read(first)["seconds"] == 30.0
    other = read_recipe(path, None, {"lr": 0.5}).steps[1]
    assert not done.holds(other, data)  # another command
    done.write(data, None, 60.0, 70.0)
    assert done.holds(data, None) and not done.holds(first, data)  # what came before was done again


def refusal(path: Path) -> str:
    """The one line with which a recipe is refused; it names the file."""
    with pytest.raises(ValueError) as raised:
        read_recipe(path, None, {})
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ("lr: 2.5e-3", "learning_rate: 2.5e-3", "learning_rate"),
        ("script: train", "script: trian", "trian"),
        ("test: last", "test: latest", "latest"),
        ("  - name: data\n", "  - nme: data\n", "name"),
        ("folder: ", "fodler: ", "folder"),
        ("no_resume: true", "no_resume: 3", "no_resume"),
        *((f"{{folder}}/{name}", f"{{fodler}}/{name}", "fodler") for name in ("Pseudo", "logs")),
        ("{tmp}", "{fodler}", "fodler"),
        *(
            ("module: data.mini", f"module: {name}", name.strip("[]"))
            for name in ("http.server", "-c", "[data.mini]")
        ),
        *(("name: data\n", f"name: {n}\n", "name") for n in ("../../data", ".data", "a/b", '"a\\nb"', "[a]")),
        *(("name: one", f"name: {name}", "name") for name in ("../../../one", "/one", "[one]")),
        ("stage: warm_up", "model_name: ../../x", "model_name"),
        ('"{seed}"', '"{seed.__class__}"', "seed"),
        ("{folder}/data", "{folder:>99999999}/data", "folder"),
        ("title: small", "title: [small]", "title"),
        ("seed: 3", "seed: three", "seed"),
        ("--source, 8]", "--source, [8]]", "data.mini"),
    ],
)
def test_a_misspelt_or_hostile_recipe_is_refused_with_file_and_word(path, tmp_path, old, new, word):
    text, old = path.read_text(), str(tmp_path / "runs") if old == "{tmp}" else old
    assert old in text
    path.write_text(text.replace(old, new))
    assert word in refusal(path)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        *(
            (text, "")
            for text in ("", "- a\n", "a: [1\n", "folder: x\nsteps: 3\n", "folder: x\nsteps: [train]\n")
        ),
        *(("folder: 3\nsteps: []\n", "folder"), ("folder: x\noptions: [a]\nsteps: []\n", "options")),
        ("folder: x\nsteps:\n" + "  - {name: a, script: test}\n" * 101, "100 steps"),
        (None, ""),
    ],
)
def test_other_files_are_named(path, text, word):
    """None: no file at all."""
    path.unlink() if text is None else path.write_text(text)
    assert word in refusal(path)


def test_a_note_of_another_kind_is_none(path):
    recipe = read_recipe(path, None, {})
    step, done = recipe.steps[0], Done(recipe.folder)
    done.path("done", step).parent.mkdir(parents=True)
    for content in ("[1]", "3", '{"command": "x"}', "[" * 10**5, "\xff"):
        done.path("done", step).write_text(content, encoding="latin1")
        assert done.read(step) is None and not done.holds(step, None)


def test_a_step_is_done_only_with_the_classes_it_was_done_with(path, tmp_path):
    classes = tmp_path / "my.yaml"
    classes.write_text("classes: [a, b]")
    path.write_text(path.read_text().replace("  n_class: 16\n", f"  classes: {classes}\n"))
    recipe = read_recipe(path, None, {})
    done, step = Done(recipe.folder), steps(recipe)["test_first_last"]
    step.product.parent.mkdir(parents=True)
    step.product.write_text("{}")
    done.write_begun(step, None)
    done.write(step, None, 0.0, 1.0)
    assert done.holds(step, None)
    classes.write_text("classes: [b, a]")
    assert not done.holds(step, None)
    done.write_begun(step, None)
    classes.write_text("classes: [a, b]")
    assert not done.begun(step, None)
