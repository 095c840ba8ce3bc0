"""Data sets of one's own: docs/own_data.md line by line, and what its commands leave."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli_tools import MINI, PROJECT, SMALL, TRAINING, end_after, load, pixels, refused_here, run_here

from data.build import training_data, training_loaders
from data.check import check
from data.labels import IGNORE
from data.sets.choose import classes_of, source_data, target_data
from utils.distributed import ALONE
from utils.options import Options, parse

PAGE = PROJECT / "docs" / "own_data.md"
NAMES = ["road", "pavement", "building", "sky", "vehicle"]
COLOURS = [(128, 64, 128), (244, 35, 232), (70, 70, 70), (70, 130, 180)]  # of the first four
IDS = [(7,), (8,), (11, 12, 13), (23,), (26, 27, 28, 31, 32)]  # in the town's labels
SIZES = {"a": (250, 131), "b": (161, 201)}
CURRENT = "from_folder_to_folder_on_deeplabv2_current_model.pkl"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command of the page has been run."""
    folder = tmp_path_factory.mktemp("page")
    threads, variables, shell = torch.get_num_threads(), {}, []
    blocks = re.findall(r"```bash\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 10
    (folder / "configs").symlink_to(PROJECT / "configs")
    for line in [*"".join(blocks).splitlines(), "python"]:
        if found := re.fullmatch(r"([A-Z]+)=(\S+)", line):
            variables[found[1]] = found[2]
        elif not line.startswith("python"):
            shell.append(line)
        else:
            subprocess.run(["bash", "-e", "-c", "\n".join(shell)], cwd=folder, check=True)
            shell.clear()
            if line != "python":  # the last shell lines have been run
                run_python(re.sub(r"\$([A-Z]+)", lambda name: variables[name[1]], line), folder)
    torch.set_num_threads(threads)
    return folder


def run_python(command: str, folder: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        try:
            run_here(command, folder, patch)
        except SystemExit as end:
            assert end.code in (0, None)


def train_images(page: Path) -> dict[str, tuple[int, int]]:
    """Names and sizes of the town's training images."""
    files = (page / "town" / "images" / "train").glob("*/*.png")
    return {f"{f.parent.name}/{f.name.removesuffix('_leftImg8bit.png')}": SIZES[f.parent.name] for f in files}


@pytest.mark.parametrize("stage", ["source_only", "warm_up", "stage1", "stage2", "stage3"])
def test_every_stage_trains_five_classes(page, stage):
    content = load(page / "logs" / stage / CURRENT)
    assert content["classes"] == NAMES and content["iter"] == 4
    assert content["ResNet101"]["model_state"]["layer5.head.1.weight"].shape[0] == 5
    lines = [json.loads(line) for line in (page / "logs" / stage / "log.jsonl").read_text().splitlines()]
    assert [f"val/iou/{name}" for name in NAMES] == [k for k in lines[-1] if k.startswith("val/iou/")]
    assert (page / "logs" / stage / CURRENT.replace("current", "best")).is_file()


def test_soft_labels_fit_each_image_and_there_are_five_classes(page):
    names = train_images(page)
    assert len(names) == 8
    for name, (width, height) in names.items():
        soft = np.load(page / "Pseudo" / "soft" / f"{name}.npy")
        # Half, half in ceil mode, half: written out for the two sizes.
        assert soft.shape == (5, *{(250, 131): (17, 32), (161, 201): (26, 21)}[width, height])
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)
    assert load(page / "logs" / "warm_up" / "prototypes_on_folder_from_deeplabv2").shape == (5, 64)
    shares = np.load(page / "Pseudo" / "class_distribution.npy")
    assert shares.shape == (5,) and shares.sum() == pytest.approx(1)


@pytest.mark.parametrize("labels", ["Pseudo/hard1", "Pseudo/hard2", "seen"])
def test_labels_have_the_images_sizes_and_the_files_colours(page, labels):
    endings = (".png", "_color.png") if labels != "seen" else ("_leftImg8bit.png", "_leftImg8bit_color.png")
    paths = [path for path in (page / labels).glob(f"*/*{endings[0]}") if "_color" not in path.name]
    assert len(paths) == (2 if labels == "seen" else len(train_images(page)))
    for path in paths:
        label = pixels(path)
        assert label.shape == SIZES[path.parent.name][::-1] and label.max() < 5
        coloured = pixels(path.with_name(path.name.replace(*endings)))
        assert coloured.shape == (*label.shape, 3)
        for train_id, colour in enumerate(COLOURS):
            assert (coloured[label == train_id] == colour).all()


def test_scores_are_those_of_the_predictions_at_the_labels_own_size(page):
    """Counted pixel by pixel from the predictions on disk and the labels, by the page's ids."""
    right, union = np.zeros(5), np.zeros(5)
    labels = sorted((page / "town" / "labels" / "val").glob("*/*.png"))
    assert len(labels) == 2
    for path in labels:
        name = path.name.removesuffix("_gtFine_labelIds.png")
        prediction, label = pixels(page / "predictions" / path.parent.name / f"{name}.png"), pixels(path)
        assert label.shape == prediction.shape == SIZES[path.parent.name][::-1]
        known = np.isin(label, sum(IDS, ()))
        for k, ids in enumerate(IDS):
            is_class, said = np.isin(label, ids), (prediction == k) & known
            right[k] += (is_class & said).sum()
            union[k] += (is_class | said).sum()
    scores = json.loads((page / "scores.json").read_text())
    assert scores["classes"] == NAMES and "miou_13" not in scores and scores["images"] == 2
    np.testing.assert_allclose(scores["iou"], right / union)
    assert scores["miou"] == pytest.approx((right / union).mean())
    head = (page / "scores.md").read_text().splitlines()[0]
    assert head == "| checkpoint | road | pavement | building | sky | vehicle | mIoU (5) |"
    assert "published" not in (page / "scores.md").read_text()


# --- what goes wrong, and what is missing -----------------------------------------------------------------


@pytest.fixture
def desk(page: Path, tmp_path: Path) -> Path:
    """A copy of the page's folder, without its runs, that a test may spoil."""
    for name in ("game", "town"):
        shutil.copytree(page / name, tmp_path / name)
    for name in ("streets.yaml", "toy.yaml"):
        shutil.copy(page / name, tmp_path)
    return tmp_path


WARM_UP = "python train.py --config toy.yaml --stage warm_up --name warm_up --no_resume"


def said(capsys: pytest.CaptureFixture, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the output of a command that ends well."""
    capsys.readouterr()
    run_here(command, folder, monkeypatch)
    return capsys.readouterr().out


def report_of_check(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        return check(parse("check", "", ["--config", "toy.yaml", "--stage", "warm_up", *words])).text


def test_check_tells_what_is_there_and_what_is_wrong(desk, monkeypatch):
    text = report_of_check(desk, monkeypatch)
    assert "source: folder in game: 8 images (4 of 250×131, 4 of 161×201), 8 labels" in text
    assert "target train: folder in town: 8 images (4 of 250×131, 4 of 161×201)," in text
    assert "target val: folder in town: 2 images (1 of 250×131, 1 of 161×201), 2 labels" in text
    assert text.endswith("no problem found")
    image = next((desk / "town" / "images" / "train" / "a").iterdir())
    twin = shutil.copy(image, image.with_name(image.name.replace("_left", "_color_left")))
    assert "would share a file of pseudo labels with" in report_of_check(desk, monkeypatch)
    twin.unlink()
    text = (desk / "streets.yaml").read_text().replace("Ids.png\n  ignore: rest", "Ids.png")
    (desk / "streets.yaml").write_text(text)
    (desk / "town/labels/val/a/extra_gtFine_labelIds.png").write_bytes(b"")
    (desk / "game/labels/a/00001.png").unlink()
    text = report_of_check(desk, monkeypatch)
    assert "1 missing labels" in text and "game/labels/a/00001.png: missing" in text
    assert re.search(
        r"val/a/eichwald_.*_gtFine_labelIds\.png: label ids \[.*\] do not exist in this data set", text
    )
    assert "extra_gtFine_labelIds.png: has no image" in text


def test_what_is_wrong_ends_the_run_in_a_line(desk, monkeypatch):
    """Values of no class, a missing label of val, and no image of val, which is no missing split."""
    text = (desk / "streets.yaml").read_text()
    (desk / "streets.yaml").write_text(text.replace("kind: colours\n  ignore: rest", "kind: colours"))
    line = refused_here(WARM_UP, desk, monkeypatch)
    assert re.search(r"game/labels/a/0000\d\.png: colours #.*'ignore'", line)
    assert "'source' in streets.yaml" in line
    (desk / "streets.yaml").write_text(text)
    next((desk / "town" / "labels" / "val" / "a").iterdir()).unlink()
    line = refused_here(WARM_UP, desk, monkeypatch)
    assert "1 of 2 labels of val" in line and "town/labels/val/a/" in line
    for image in (desk / "town/images/val").glob("*/*.png"):
        image.unlink()
    assert "images/val: no file ends in _leftImg8bit.png" in refused_here(WARM_UP, desk, monkeypatch)


def test_a_target_without_labels(desk, monkeypatch, capsys):
    shutil.rmtree(desk / "town/labels")
    output = said(capsys, WARM_UP, desk, monkeypatch)
    why = "_gtFine_labelIds.png: missing, as are all labels of val"
    assert re.search(f"no validation, and no 'best' checkpoint: town/.*{why}\n", output)
    assert "mIoU" not in output and "Iter [4/4]  loss_source" in output
    content = load(desk / "logs" / "warm_up" / CURRENT)
    assert content["iter"] == 4 and content["best_iou"] == 0.0
    assert not (desk / "logs" / "warm_up" / CURRENT.replace("current", "best")).exists()
    score = f"python test.py --config toy.yaml --resume_path logs/warm_up/{CURRENT}"
    line = refused_here(score, desk, monkeypatch)
    assert re.search(r"town/labels/val/.*: missing, as are all labels of val.*; --images DIR", line)
    for place, why in (("labels/val/", "missing, as are all labels"), ("images/val", "no such folder")):
        text = report_of_check(desk, monkeypatch)
        assert re.search(f"target val: not there, trainings are not validated: town/{place}.*: {why}", text)
        assert text.endswith("no problem found")
        shutil.rmtree(desk / "town/images/val", ignore_errors=True)
    assert "town/images/val: no such folder" in refused_here(score, desk, monkeypatch)


def test_an_interrupted_run_goes_on_with_the_same_classes_only(page, desk, monkeypatch):
    with monkeypatch.context() as patch:
        end_after(2, patch)
        with pytest.raises(SystemExit) as end:
            run_here(WARM_UP, desk, monkeypatch)
        assert end.value.code == 75
    text = (desk / "streets.yaml").read_text()
    (desk / "streets.yaml").write_text(text.replace("target: 23", "target: [22, 23]"))
    assert "was begun with other options (--classes of content" in refused_here(
        f"{WARM_UP} --continue", desk, monkeypatch
    )
    (desk / "streets.yaml").rename(desk / "moved.yaml")
    (desk / "moved.yaml").write_text(text.replace('colour: "#804080"', 'colour: "#000000"'))
    run_here(f"{WARM_UP} --continue --classes moved.yaml", desk, monkeypatch)
    ours, whole = (load(folder / "logs" / "warm_up" / CURRENT) for folder in (desk, page))
    ours, whole = (content["ResNet101"]["model_state"] for content in (ours, whole))
    assert ours.keys() == whole.keys() and all(torch.equal(ours[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "predicts 5 classes; ids are known for 13, 16, 19; give the file of its classes as --classes"),
        ("--classes three.yaml", "predicts 5 classes, three.yaml has 3"),
        ("--classes five.yaml", "was trained on the classes ['road', 'pavement', 'building', 'sky', "),
        ("--classes streets.yaml --format cityscapes", "class 'pavement' is none of Cityscapes'"),
    ],
)
def test_a_checkpoint_of_other_classes(page, tmp_path, monkeypatch, words, message):
    (tmp_path / "three.yaml").write_text("classes: [road, sky, lane]")
    (tmp_path / "five.yaml").write_text("classes: [road, sky, a, b, c]")
    shutil.copy(page / "streets.yaml", tmp_path)
    model = page / "logs" / "stage3" / CURRENT
    command = f"python test.py --resume_path {model} {words} --images {page}/town/images/val --save_dir out"
    assert message in refused_here(command, tmp_path, monkeypatch)


def test_a_recipe_with_classes_of_ones_own(desk, monkeypatch, capfd):
    """Its val has the images of train, which is said where it learns from them."""
    text = (desk / "streets.yaml").read_text()
    layout = "target:\n  images: images/val\n  labels: labels/val\n"
    (desk / "streets.yaml").write_text(text.replace("target:\n", layout))
    options = yaml.safe_load((desk / "toy.yaml").read_text())
    steps = [{"name": "base", "script": "train", "options": {"name": "base", "stage": "warm_up"}}]
    steps[0]["options"]["no_resume"] = True
    recipe = {"folder": "runs", "options": options, "steps": [steps[0] | {"test": "last"}]}
    (desk / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run_here("python reproduce.py --config recipe.yaml", desk, monkeypatch)
    table = (desk / "runs/table.md").read_text()
    assert "| iteration | road | pavement | building | sky | vehicle | mIoU (5) |" in table
    assert json.loads((desk / "runs/results/base_last.json").read_text())["classes"] == NAMES
    assert (desk / "runs/predictions/base/a").is_dir() and (desk / "runs/pictures.png").is_file()
    assert "val has the images of train" in capfd.readouterr().out
    run_here("python reproduce.py --config recipe.yaml", desk, monkeypatch)
    assert capfd.readouterr().out.count(": done (") == 3


# --- mixed with the known data sets -----------------------------------------------------------------------


def options_of(words: str) -> Options:
    return parse("train", "", shlex.split(f"{words} --stage source_only"))


@pytest.fixture(scope="module")
def like_cityscapes(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn Cityscapes as folders: a name is an image's and its label's."""
    out = tmp_path_factory.mktemp("like")
    for image in (dataset / "cityscapes" / "leftImg8bit").rglob("*.png"):
        split, name = image.parts[-3], image.name.removesuffix("_leftImg8bit.png")
        label = dataset / "cityscapes" / "gtFine" / split / image.parts[-2] / f"{name}_gtFine_labelIds.png"
        for kind, path in (("images", image), ("labels", label)):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, out / kind / split / f"{name}.png")
    return out


@pytest.mark.parametrize("n_class", [19, 16, 13])
def test_a_folder_of_cityscapes_is_cityscapes(dataset, like_cityscapes, n_class):
    words = f"--n_class {n_class} --tgt_rootpath"
    known = target_data(options_of(f"{words} {dataset}/cityscapes --img_size 256,128"), "val")
    ours = target_data(options_of(f"{words} {like_cityscapes} --tgt_dataset folder"), "val")
    assert len(ours) == len(known) == 2 and {name + "_leftImg8bit" for name in ours.names} == {
        image.stem for image in known.images
    }
    for i in range(2):
        np.testing.assert_array_equal(ours.read_image(i), known.read_image(i))
        np.testing.assert_array_equal(ours.read_label(i), known.read_label(i))


def test_own_classes_of_a_game_and_a_city(dataset, tmp_path):
    (tmp_path / "my.yaml").write_text("classes: [sky, {name: wheels, source: [26, 27], target: 26}, person]")
    o = options_of(
        f"--classes {tmp_path}/my.yaml --img_size 256,128 --src_rootpath {dataset}/GTA5 "
        f"--tgt_rootpath {dataset}/cityscapes"
    )
    assert o.n_class == 3 and classes_of(o).names == ("sky", "wheels", "person")
    for data, meaning in (
        (source_data(o), {23: 0, 26: 1, 27: 1, 24: 2}),
        (target_data(o, "val"), {23: 0, 26: 1, 24: 2}),
    ):
        ids = pixels(data.labels[0])
        expected = [[meaning.get(value, IGNORE) for value in row] for row in ids.tolist()]
        assert data.read_label(0).tolist() == expected


@pytest.mark.parametrize(
    "words",
    [
        "--src_dataset gta5 --src_rootpath dataset/GTA5 --tgt_dataset folder --tgt_rootpath like",
        "--src_dataset folder --src_rootpath like --classes where.yaml --tgt_rootpath dataset/cityscapes",
    ],
)
def test_folders_and_known_data_sets_train_together(dataset, like_cityscapes, tmp_path, monkeypatch, words):
    (tmp_path / "dataset").symlink_to(dataset)
    (tmp_path / "like").symlink_to(like_cityscapes)
    (tmp_path / "where.yaml").write_text("source: {images: 'images/{split}', labels: 'labels/{split}'}")
    run_here(
        f"{WARM_UP.replace('--config toy.yaml', words)} {MINI} {SMALL} {TRAINING}", tmp_path, monkeypatch
    )
    (model,) = (tmp_path / "logs" / "warm_up").glob("*current_model.pkl")
    assert load(model)["ResNet101"]["model_state"]["layer5.head.1.weight"].shape[0] == 19
    assert model.name.startswith("from_gta5_to_folder" if "gta5" in words else "from_folder_to_cityscapes")


def test_colours_are_transferred_where_asked_for(page, monkeypatch):
    monkeypatch.chdir(page)
    words = ["--config", "toy.yaml", "--stage", "warm_up", "--name", "colours"]
    o = parse("train", "", words)
    for wanted in (True, False):
        own = o.replaced(colour_transfer=wanted)
        source, _ = training_loaders(own, training_data(own), frozenset({"weak"}), ALONE)
        assert (source.dataset.samples.colours_of is not None) == wanted


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--classes my.yaml --n_class 4", "--n_class 4: my.yaml has 3 classes; leave --n_class out"),
        ("--n_class 5", "give others as --classes FILE"),
        ("--classes none.yaml", "none.yaml: not a readable YAML file"),
        ("--colour_transfer", "--colour_transfer is for --src_dataset folder"),
    ],
)
def test_options_that_cannot_be(tmp_path, monkeypatch, capsys, words, message):
    (tmp_path / "my.yaml").write_text("classes: [a, b, c]")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        parse("train", "", ["--stage", "source_only", *words.split()])
    line = capsys.readouterr().err
    assert end.value.code == 2 and message in line and line.count("\n") == 1
    with pytest.raises(ValueError, match="give --tgt_rootpath DIR"):
        target_data(options_of("--tgt_dataset folder"), "val")


def test_stage1_needs_crops_no_larger_than_the_images(page, monkeypatch):
    model = f"logs/warm_up/{CURRENT}"
    command = f"python train.py --config toy.yaml --name big --resume_path {model} --ema --proto_rectify"
    line = refused_here(f"{command} --path_soft Pseudo/soft --rcrop 320,256", page, monkeypatch)
    assert "--rcrop 320,256: larger than the images" in line
