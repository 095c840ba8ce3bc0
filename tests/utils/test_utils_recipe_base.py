"""Recipes that build on the steps of another one, steps that follow another than the one before."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from utils.options.declarations import RESULT, options_of
from utils.quirks import Quirks
from utils.recipe import PROJECT, Recipe, read_recipe, read_recipes
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


def test_a_test_of_its_own_stands_between_no_steps(place):
    own = '  - {name: own, script: test, options: {resume_path: "{warm_up}"}}\n  - name: labels\n'
    base = place / "base.yaml"
    base.write_text(base.read_text().replace("  - name: labels\n", own))
    study = read_recipe(place / "study.yaml", 3, {})
    assert study.previous(study.steps[3]).name == "warm_up" and study.steps[3].name == "labels"


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


# --- the studies of the project ----------------------------------------------------------------------------


def training_options(name: str) -> dict[str, dict]:
    """Training step → its options that decide the results."""
    recipe = read_recipe(PROJECT / "configs" / f"{name}.yaml", 0, {})
    table = {name: option.default for name, option in options_of("train").items() if option.decides == RESULT}
    known = table.keys() | {"class_distribution"}
    return {
        step.name: table | {option: value for option, value in step.options.items() if option in known}
        for step in recipe.trainings
    }


def test_the_ablation_has_the_trainings_of_the_demo():
    ablation, demo = training_options("ablation"), training_options("mini")
    rows = {"source_only": "source_only", "warm_up": "warm_up", "stage1": "full"}
    for name, row in (rows | {"stage2": "kd1", "stage3": "kd2"}).items():
        assert ablation[row] == demo[name]
    for step in read_recipe(PROJECT / "configs" / "ablation.yaml", 0, {}).trainings:
        assert step.options["val_interval"] == step.options["train_iters"] and step.options["threads"] == 1


def changes(row: dict, of: dict) -> dict:
    """Option → its value where two rows differ in it."""
    return {name: row.get(name) for name in row | of if row.get(name) != of.get(name)}


def test_each_row_of_the_ablation_has_one_part_more():
    rows = training_options("ablation")
    names = ["self_training", "rectified", "uniform", "balanced", "consistent", "full"]
    assert [changes(rows[new], rows[old]) for old, new in pairwise(names)] == [
        {"proto_rectify": True},
        {"SL_lambda": 0.1, "class_distribution": "uniform"},
        {"class_distribution": None},
        {"proto_consistW": 1},
        {"contrast_lambda": 0.001},
    ]
    assert changes(rows["no_cutmix"], rows["full"]) == {"no_cutmix": True}
    assert changes(rows["no_ema"], rows["full"]) == {"ema": False}


@pytest.mark.parametrize("name", ["prior_study", "quirk_study"])
def test_a_study_trains_only_what_the_ablation_does_not(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    base = read_recipe(PROJECT / "configs" / "ablation.yaml", 4, {})
    finish(Notes(base), {step.name for step in base.steps})
    study = kinds(read_recipe(PROJECT / "configs" / f"{name}.yaml", 4, {}))
    assert {name for name, kind in study.items() if kind == DONE} == {
        *("data", "warm_up", "test_warm_up_last", "soft_labels", "prototypes", "class_distribution"),
        *("full", "test_full_last"),
    }
    assert AGAIN not in study.values()


def test_rows_of_the_studies_differ_from_the_whole_method_in_one_thing():
    prior, quirk = training_options("prior_study"), training_options("quirk_study")
    named = {"uniform": "uniform", "source": "source_labels", "oracle": "labels"}
    named |= {f"mixed_{n}": f"runs/ablation/seed0/Pseudo/mixture_{n}.npy" for n in (25, 50, 75)}
    for name, value in named.items():
        assert changes(prior[f"prior_{name}"], prior["full"]) == {"class_distribution": value}
    assert changes(prior["prior_refreshed"], prior["full"]) == {"refresh_distribution": 50}
    every = Quirks().active()
    for number in (1, 2, 4, 5, 6, 7):
        found = changes(quirk[f"without_q{number}"], quirk["full"])
        assert found.keys() == {"quirks"}
        assert set(every) - set(Quirks.parse(found["quirks"]).active()) == {every[number - 1]}
    assert changes(quirk["none"], quirk["full"]) == {"quirks": "none"}
    assert changes(quirk["none_fast"], quirk["none"]) == {"backbone_lr_multiple": 3}
