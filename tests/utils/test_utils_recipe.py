"""Recipes: commands of an experiment read from YAML."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from reproduce import require_files
from utils.files.whole import save_json
from utils.options import parse
from utils.recipe import PROJECT, Recipe, Step, read_recipe, read_recipes
from utils.recipe_notes import AGAIN, ASKED, DONE, GOES_ON, NEW, Notes

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
    assert recipe.chosen(None) == list(recipe.steps)
    assert recipe.chosen("test_first_best") == [best, labels]
    assert recipe.chosen(None, ["test_first_last"]) == [last]
    assert recipe.chosen(None, ["test_first_best", "test_first_last"]) == [last, best]


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
    assert not options.given("lr")


def test_a_command_has_the_common_options_that_act_in_it(path):
    found = steps(read_recipe(path, None, {}))
    assert {"--lr", "--seed", "--src_dataset"} <= set(found["first"].words)
    assert not {"--lr", "--seed", "--log_dir"} & set(found["labels"].words)
    assert not parse("pseudo_label", "", list(found["labels"].words)[2:]).without_effect
    path.write_text(TEXT.format(tmp="runs").replace("soft: true", "soft: true, lr: 1.0"))
    own = steps(read_recipe(path, None, {}))["labels"]  # an option of the step itself stays, and is named
    assert "--lr" in parse("pseudo_label", "", list(own.words)[2:]).without_effect


@pytest.mark.parametrize("weight", [0, "'0'"])
def test_common_options_of_a_part_that_is_off(path, weight):
    path.write_text(
        "folder: x\noptions: {fbs: 128}\nsteps:\n  - {name: a, script: train, options: "
        f"{{name: a, SL_lambda: {weight}, contrast_lambda: 0, proto_consistW: 0}}}}\n"
    )
    (step,) = read_recipe(path, None, {}).steps
    # With a text where a number belongs nothing is left out.
    assert ("--fbs" in step.words) == isinstance(weight, str)


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


def finished(notes: Notes, step: Step, at: float = 1.0) -> None:
    """The step's product is there, and the note on it."""
    if step.product is not None:
        step.product.parent.mkdir(parents=True, exist_ok=True)
        step.product.touch()
    notes.write_begun(step)
    notes.write_done(step, at, at + 30)


def kinds(notes: Notes, **more: bool) -> list[str]:
    return [status.kind for status in notes.statuses(notes.recipe.steps, **more)]


def test_a_step_is_done_while_what_decides_it_and_what_came_before_stay(path, tmp_path):
    recipe = read_recipe(path, None, {})
    notes, (data, first, _, _, labels) = Notes(recipe), recipe.steps
    assert kinds(notes) == [NEW] * 5
    for number, step in enumerate(recipe.steps):
        finished(notes, step, 100.0 * number)
    assert kinds(notes) == [DONE] * 5 and notes.read(first)["seconds"] == 30.0

    notes.write_begun(labels)
    assert kinds(notes) == [DONE] * 4 + [GOES_ON]
    finished(notes, labels, 900.0)
    first.product.unlink()
    statuses = notes.statuses(recipe.steps)
    assert [status.kind for status in statuses] == [DONE, AGAIN, AGAIN, AGAIN, AGAIN]
    assert str(first.product) in statuses[1].why and statuses[4].why == "follows first"
    first.product.touch()
    finished(notes, data, 1000.0)
    assert notes.statuses([first])[0] == (AGAIN, "what it reads was made again")


MACHINE = {"num_workers": 4, "precision": "bf16", "gpus": 2, "infer_bs": 3, "threads": 1, "compile": True}
MACHINE |= {"device": "cpu", "save_interval": 7, "val_interval": 9, "recompute": True, "cache_dir": "x"}


def test_options_of_the_machine_leave_what_is_done_and_others_name_what_they_change(path):
    notes = Notes(read_recipe(path, None, {}))
    for step in notes.recipe.steps:
        finished(notes, step)
    for name, value in MACHINE.items():
        assert kinds(Notes(read_recipe(path, None, {name: value}))) == [DONE] * 5, name
    other = Notes(read_recipe(path, None, {"first.lr": 0.5}))
    statuses = other.statuses(other.recipe.steps)
    assert [status.kind for status in statuses] == [DONE, AGAIN, AGAIN, AGAIN, AGAIN]
    assert statuses[1].why == "lr 0.0025 → 0.5"
    begun = other.recipe.steps[1]
    other.write_begun(begun)  # and not done any more
    assert kinds(other)[:2] == [DONE, NEW]  # nothing has been saved, so nothing can be lost
    (begun.run_folder / "state").mkdir()
    (begun.run_folder / "state" / "0000001.pt").touch()
    assert kinds(other)[:2] == [DONE, GOES_ON] and kinds(notes)[1] == AGAIN


def test_an_option_that_does_nothing_in_a_step_leaves_it_done(path):
    notes = Notes(read_recipe(path, None, {}))
    for step in notes.recipe.steps:
        finished(notes, step)
    assert kinds(Notes(read_recipe(path, None, {"lr": 0.5, "queue_length": 64})))[:2] == [DONE, AGAIN]
    assert kinds(Notes(read_recipe(path, None, {"queue_length": 64}))) == [DONE] * 5  # a warm-up has no queue
    first = notes.recipe.steps[1]
    note = notes.read(first)
    note["start"]["options"]["queue_length"] = "32"  # as an earlier version noted it
    save_json(note, notes.path("done", first))
    assert kinds(Notes(read_recipe(path, None, {"queue_length": 64}))) == [DONE] * 5


def test_a_file_of_classes_that_changes_while_a_step_runs(path, tmp_path):
    file = tmp_path / "classes.yaml"
    file.write_text("classes: [a, b]")
    notes = Notes(read_recipe(path, None, {"first.classes": str(file)}))
    first = notes.recipe.steps[1]
    finished(notes, first)
    assert notes.statuses([first])[0].kind == DONE
    notes.write_begun(first)
    file.write_text("classes: [a, c]")
    notes.write_done(first, 1.0, 2.0)
    assert notes.statuses([first])[0] == (AGAIN, "its classes changed")


def test_an_option_of_one_step(path):
    overrides = {"first.bs": 5, "test_first_best.infer_bs": 3, "bs": 6, "labels.lr": 1}
    found = steps(read_recipe(path, None, overrides))
    assert "--bs 5" in found["first"].shell() and "--lr 1" in found["labels"].shell()
    assert "infer_bs" in found["test_first_best"].shell()
    assert "infer_bs" not in found["test_first_last"].shell()
    found = steps(read_recipe(path, None, {"soft_dtype": "float16"}))  # which label generation alone has
    assert [name for name, step in found.items() if "soft_dtype" in step.shell()] == ["labels"]
    with pytest.raises(ValueError, match="no option is called 'cnof_dtype'"):
        read_recipe(path, None, {"cnof_dtype": "uint8"})
    for step in ("frist", "data"):  # data is drawn by a module, by its words
        with pytest.raises(ValueError, match=f"no step that takes options is called '{step}'"):
            read_recipe(path, None, {f"{step}.seed": 5})


def test_a_seed_that_is_asked_for_wins_over_an_override(path):
    for seed in (3, 4):  # 3 is the recipe's own
        recipe = read_recipe(path, seed, {"seed": 5})
        assert f"--seed {seed}" in steps(recipe)["first"].shell() and recipe.folder.name == f"seed{seed}"
    assert read_recipe(path, None, {"seed": 5}).folder.name == "seed5"


def test_what_is_asked_for_stays_asked_for(path):
    notes = Notes(read_recipe(path, None, {}))
    for step in notes.recipe.steps:
        finished(notes, step)
    _, first, *tests, labels = notes.recipe.steps
    notes.ask([first, *tests, labels])
    assert kinds(notes) == [DONE, AGAIN, AGAIN, AGAIN, AGAIN]
    finished(notes, first, 500.0)  # interrupted after it
    assert kinds(notes)[1] == DONE and kinds(notes)[4] == AGAIN
    notes.write_begun(labels)
    notes.path("begun", first).unlink()
    notes.path("done", first).unlink()  # the recipe knows nothing of it, but --from names it
    notes.ask([first])
    assert notes.statuses([first])[0] == (AGAIN, ASKED)
    finished(notes, first, 500.0)
    notes.ask([labels])  # what was interrupted goes on even where it is named
    assert kinds(notes)[4] == GOES_ON


def test_a_step_that_is_done_again_needs_its_files_again(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path.write_text(path.read_text().replace("no_resume: true", "no_resume: true, student_init: simclr"))
    recipe = read_recipe(path, None, {})
    for step in recipe.steps:
        finished(Notes(recipe), step)
    require_files(recipe, list(recipe.steps), forced=False)
    with pytest.raises(FileNotFoundError, match="step first needs it"):
        require_files(recipe, list(recipe.steps), forced=True)


def test_from_takes_what_stands_before_it_and_the_command_without_it_goes_on(path):
    notes = Notes(read_recipe(path, None, {}))
    data, first, *tests, labels = notes.recipe.steps
    for number, step in enumerate(notes.recipe.steps):
        finished(notes, step, 100.0 * number)
    moved = Notes(read_recipe(path, None, {"first.lr": 0.5}))  # which would repeat first and all after it
    for _ in range(2):
        moved.take(moved.recipe.steps[:4])
        assert kinds(moved) == [DONE] * 5
    finished(notes, first)
    notes.write_begun(first)  # a training that was stopped half-way, whose checkpoint is good enough
    (first.run_folder / "state").mkdir()
    (first.run_folder / "state" / "0000001.pt").touch()
    notes.ask([labels])
    notes.take([data, first, *tests])
    assert kinds(notes)[:2] == [DONE, DONE] and kinds(notes)[4] == AGAIN


def test_what_the_user_made_is_taken_as_it_is(path):
    notes = Notes(read_recipe(path, None, {}))
    data, first, *_ = notes.recipe.steps
    notes.take([data, first])
    assert kinds(notes)[:2] == [DONE, NEW]  # a module's files are not known, and there is no checkpoint
    best = first.products[0]
    best.parent.mkdir(parents=True)
    best.touch()
    notes.take([data, first])
    assert kinds(notes)[:2] == [DONE, DONE]
    best.unlink()
    assert kinds(notes)[1] == NEW


def test_a_released_checkpoint_takes_the_place_of_a_training(path, tmp_path):
    released = tmp_path / "released.pkl"
    text = path.read_text().replace("    test: last\n", f"    test: best\n    released: {released}\n")
    path.write_text(text.replace("soft: true", 'soft: true, resume_path: "{first}"'))
    own = steps(read_recipe(path, None, {}))
    assert "first" in own and "test_first_last" in own and "_best_model.pkl" in own["labels"].shell()
    released.touch()
    taken = read_recipe(path, None, {})
    assert [step.name for step in taken.steps] == ["data", "first", "test_first_best", "labels"]
    assert str(released) in steps(taken)["labels"].shell()
    assert str(released) in steps(taken)["test_first_best"].shell()
    assert kinds(Notes(taken)) == [NEW, DONE, NEW, NEW]
    released.unlink()
    Notes(read_recipe(path, None, {})).write_begun(own["first"])  # once begun, the own training is meant
    released.touch()
    assert "test_first_last" in steps(read_recipe(path, None, {}))


@pytest.mark.parametrize("name", ["gta5_to_cityscapes", "synthia_to_cityscapes", "own_data"])
def test_full_size_recipes_take_seeds(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = PROJECT / "configs" / f"{name}.yaml"
    own, same, other = read_recipes(file, [None], {}), *read_recipes(file, [6523, 7], {})
    assert [step.words for step in own[0].steps] == [step.words for step in same.steps]
    written = ("name", "save_path")
    for ours, theirs in zip(same.steps, other.steps, strict=True):
        for option in written:
            if option in ours.options:
                assert theirs.options[option] != ours.options[option]
        assert ("--seed 7" in theirs.shell()) == (theirs.script == "train")
    assert "_seed7/from_" in steps(other)["stage2"].shell()
    released = Path("pretrained_models") / own[0].steps[0].products[0].name
    released.parent.mkdir()
    released.touch()  # one file for all seeds
    found = [recipe.steps[0].released for recipe in read_recipes(file, [6523, 7], {})]
    assert found == [None if name == "own_data" else released] * 2


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
    notes = Notes(read_recipe(path, None, {}))
    step = notes.recipe.steps[0]
    notes.path("done", step).parent.mkdir(parents=True)
    for content in ("[1]", "3", '{"command": "x"}', "[" * 10**5, "\xff"):
        notes.path("done", step).write_text(content, encoding="latin1")
        assert notes.read(step) is None and kinds(notes)[0] == NEW


def test_a_step_is_done_only_with_the_classes_it_was_done_with(path, tmp_path):
    classes = tmp_path / "my.yaml"
    classes.write_text("classes: [a, b]")
    path.write_text(path.read_text().replace("  n_class: 16\n", f"  classes: {classes}\n"))
    notes = Notes(read_recipe(path, None, {}))
    step = steps(notes.recipe)["test_first_last"]
    finished(notes, step)
    assert notes.statuses([step])[0].kind == DONE
    classes.write_text("classes: [b, a]")
    assert notes.statuses([step])[0] == (AGAIN, "its classes changed")
    notes.write_begun(step)
    assert notes.statuses([step])[0].kind == GOES_ON
