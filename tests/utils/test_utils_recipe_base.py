"""Recipes that build on the steps of another one, steps that follow another than the one before."""

from __future__ import annotations

from pathlib import Path

import pytest

from utils.recipe import Recipe, read_recipe, read_recipes
from utils.recipe_notes import AGAIN, DONE, NEW, Notes

BASE = """
folder: "{tmp}/seed{{seed}}"
options: {{seed: 0, log_dir: "{{folder}}/logs"}}
steps:
  - {{name: data, module: data.mini, words: ["{{folder}}/data"]}}
  - {{name: other, script: train, options: {{name: other, stage: warm_up}}, test: last}}
  - {{name: warm_up, after: data, script: train, options: {{name: warm_up, stage: warm_up}}, test: [last]}}
  - name: labels
    script: generate_pseudo_label
    options: {{name: hard, resume_path: "{{warm_up}}", save_path: "{{folder}}/Pseudo"}}
  - {{name: kd, script: train, options: {{name: kd, stage: stage2}}, test: [best]}}
"""
STUDY = """
base: {recipe: base.yaml, steps: [warm_up, labels, data]}
steps:
  - {name: long, after: labels, script: train, options: {name: long, resume_path: "{warm_up}"}, test: [last]}
  - {name: longer, script: train, options: {name: longer}}
"""


@pytest.fixture
def place(tmp_path) -> Path:
    (tmp_path / "base.yaml").write_text(BASE.format(tmp=tmp_path / "runs"))
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path


def finish(notes: Notes, names: set[str]) -> None:
    for step in notes.recipe.steps:
        if step.name in names:
            if step.product is not None:
                step.product.parent.mkdir(parents=True, exist_ok=True)
                step.product.touch()
            notes.write_begun(step)
            notes.write_done(step, 0.0, float(len(step.name)))


def kinds(recipe: Recipe) -> dict[str, str]:
    notes = Notes(recipe)
    statuses = notes.statuses(recipe.steps)
    return {step.name: status.kind for step, status in zip(recipe.steps, statuses, strict=True)}


def test_what_the_base_has_done_is_done(place):
    base = read_recipe(place / "base.yaml", 3, {})
    study = read_recipe(place / "study.yaml", 3, {"long.lr": 0.5})
    assert [step.name for step in study.steps] == [
        *("data", "warm_up", "test_warm_up_last", "labels", "long", "test_long_last", "longer")
    ]
    assert (study.folder, study.title, study.seed) == (base.folder, "study", 3)
    commands = {step.name: step.shell() for step in base.steps}
    assert all(step.shell() == commands[step.name] for step in study.steps[:4])
    assert str(base.trainings[1].product) in study.steps[4].shell()
    finish(Notes(base), {step.name for step in base.steps})
    assert list(kinds(study).values()) == [DONE] * 4 + [NEW] * 3
    finish(Notes(study), {"long", "test_long_last", "longer"})
    assert set(kinds(study).values()) == set(kinds(base).values()) == {DONE}
    read_recipes(place / "study.yaml", [0, 1], {})


def test_a_step_is_done_again_only_where_the_one_that_it_follows_is(place):
    recipe = read_recipe(place / "base.yaml", None, {})
    finish(Notes(recipe), {step.name for step in recipe.steps})
    names = {step.name: step for step in recipe.steps}
    assert recipe.previous(names["warm_up"]) is names["data"]
    assert recipe.previous(names["test_warm_up_last"]) is recipe.previous(names["labels"]) is names["warm_up"]
    again = kinds(read_recipe(place / "base.yaml", None, {"other.lr": 0.5}))
    assert {name for name, kind in again.items() if kind == AGAIN} == {
        *("other", "test_other_last", "test_other_best")
    }
    again = kinds(read_recipe(place / "base.yaml", None, {"warm_up.lr": 0.5}))
    assert [name for name, kind in again.items() if kind == DONE] == [
        *("data", "other", "test_other_last", "test_other_best")
    ]


def test_one_checkpoint_may_be_scored_alone(place):
    names = [step.name for step in read_recipe(place / "base.yaml", None, {}).steps]
    assert [name for name in names if name.startswith("test_")] == [
        *("test_other_last", "test_other_best", "test_warm_up_last", "test_kd_best")
    ]


@pytest.mark.parametrize(
    ("file", "old", "new", "words"),
    [
        ("study", "steps: [warm_up, labels, data]", "steps: [labels, data]", "labels follows warm_up"),
        ("study", "labels, data]", "labels, dta]", "no step is called 'dta'; it has data, other"),
        ("study", "labels, data]", "labels, [data]]", ""),
        ("study", "base.yaml", "../base.yaml", "beside this one"),
        ("study", "base.yaml", "study.yaml", "has a base itself"),
        ("study", "base.yaml", "none.yaml", "none.yaml"),
        (
            "study",
            "base: {recipe: base.yaml, steps: [warm_up, labels, data]}",
            "base: base.yaml",
            "'base' is",
        ),
        ("study", "steps:\n", "folder: x\nsteps:\n", "folder: a recipe with a base"),
        ("study", "name: longer, script", "name: labels, script", "two steps are called labels"),
        ("study", "after: labels", "after: longer", "long: no earlier step is called 'longer'"),
        ("base", "after: data", "after: test_other_last", "warm_up: no earlier step is called"),
        ("base", "test: [last]", "test: [last, best]", "warm_up: test is"),
        ("base", "test: [last]", "test: []", "warm_up: test is"),
        ("base", "test: [last]", "test: [[last]]", "warm_up: test is"),
    ],
)
def test_mistakes_are_named(place, file, old, new, words):
    path = place / f"{file}.yaml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError) as raised:
        read_recipe(path, None, {})
    assert str(path) in str(raised.value) and words in str(raised.value) and "\n" not in str(raised.value)
