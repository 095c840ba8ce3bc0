"""Promises of each script beyond the README: equal runs, sizes, extra products, configurations, recipes."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli_tools import (
    GRID,
    IMAGE_SIZE,
    MINI,
    PROJECT,
    SMALL,
    TRAINING,
    checkpoint_name,
    load,
    pixels,
    refused,
    refused_here,
    run_here,
    start,
    succeed,
    train_stems,
)

from calc_prototype import class_means, soft_centroids, soft_sums
from data.labels import palette
from utils.options import parse

MODEL = f"--resume_path models/{checkpoint_name()}"
WARM_UP = f"python train.py --stage warm_up --no_resume {MINI} {SMALL} {TRAINING} --bs 2 --train_iters 3"
LABELS = f"python generate_pseudo_label.py {MODEL} {MINI} {SMALL} --name labels"


# --- train.py ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Path:
    """A folder in which three iterations of warm-up have run."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "dataset").symlink_to(dataset)
    succeed(f"{WARM_UP} --name first", folder)
    return folder


def tensors(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """Every tensor of a run's checkpoint."""
    content = load(folder / "logs" / name / checkpoint_name(which="current"))
    parts = ("ResNet101", "FCDiscriminator")
    return {f"{part}.{k}": v for part in parts for k, v in content[part]["model_state"].items()}


def assert_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """Bit for bit."""
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def test_equal_seeds_give_equal_checkpoints_with_workers_and_a_cache(trained):
    """An empty cache is filled by two workers, a full one is read by none."""
    for name, workers in (("filling", 2), ("filled", 0)):
        succeed(f"{WARM_UP} --name {name} --cache_dir cache --num_workers {workers}", trained)
        assert_equal(tensors(trained, "first"), tensors(trained, name))
    assert any((trained / "cache").glob("*.image"))
    assert (trained / "logs" / "colour_statistics.txt").is_file()


def test_recomputing_and_the_order_in_memory_change_nothing_but_rounding(trained):
    succeed(f"{WARM_UP} --name small --recompute --channels_last", trained)
    first, other = tensors(trained, "first"), tensors(trained, "small")
    for key, value in first.items():
        torch.testing.assert_close(other[key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_a_run_says_how_it_computes(trained):
    succeed(f"{WARM_UP} --name half --precision bf16", trained)
    assert "networks in bf16" in (trained / "logs" / "half" / "run.log").read_text()
    assert "networks in fp32" in (trained / "logs" / "first" / "run.log").read_text()
    first, half = tensors(trained, "first"), tensors(trained, "half")
    weight = "ResNet101.layer1.0.conv2.weight"
    assert half[weight].dtype == torch.float32 and not torch.equal(first[weight], half[weight])


def test_another_seed_another_checkpoint(trained):
    succeed(f"{WARM_UP} --name other --seed 1", trained)
    first, other = tensors(trained, "first"), tensors(trained, "other")
    assert not torch.equal(first["ResNet101.conv1.weight"], other["ResNet101.conv1.weight"])


def test_a_run_leaves_its_options_and_its_losses(trained):
    folder = trained / "logs" / "first"
    options = yaml.safe_load((folder / "options.yaml").read_text())
    assert options["stage"] == "warm_up" and options["train_iters"] == 3 and options["rcrop"] == [64, 32]
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "loss/source" in line]
    assert [line["iteration"] for line in losses] == [1, 2, 3]
    assert [line["iteration"] for line in lines if "val/miou" in line] == [1, 3]
    assert {"loss/adversarial", "loss/discriminator", "time/step", "time/data"} <= losses[0].keys()
    rates = [line["lr/backbone"] for line in losses]
    assert rates[0] == pytest.approx(1e-4) and rates == sorted(rates, reverse=True)
    told = (folder / "run.log").read_text()
    assert "Epochs [1/128] Iter [2/3]  loss_source: " in told and "Epochs [3/128] Iter [3/3]  mIoU: " in told
    assert any((folder / "tensorboard").iterdir())


def test_configuration_file(desk):
    values = {"stage": "source_only", "name": "from_file", "backbone": "mini", "img_size": [256, 128]}
    values |= {"rcrop": "64,32", "resize": 256, "bs": 2, "train_iters": 9, "noaug": True, "max_images": 2}
    (desk / "small.yaml").write_text(yaml.safe_dump(values))
    output = succeed("python train.py --config small.yaml --train_iters 1 --num_workers 0 --device cpu", desk)
    assert "student: random weights" in output
    content = load(desk / "logs" / "from_file" / checkpoint_name(which="current"))
    assert content["iter"] == 1  # the command line wins
    assert "FCDiscriminator" not in content
    written = yaml.safe_load((desk / "logs" / "from_file" / "options.yaml").read_text())
    assert written["noaug"] is True and written["bs"] == 2 and written["img_size"] == [256, 128]


# --- generate_pseudo_label.py -----------------------------------------------------------------------------


def hard_labels(desk: Path, dataset: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Label and confidence of both images."""
    folder = desk / "Pseudo" / "labels"
    names = train_stems(dataset, 2)
    return [(pixels(folder / f"{n}.png"), np.load(folder / f"{n}_conf.npy")) for n in names]


def test_hard_labels_have_the_grids_size_and_without_quirks_the_images(desk, dataset):
    """With --flip they have the images' size in any case (test_readme_commands)."""
    for words, shape in (("", GRID), ("--quirks none", IMAGE_SIZE[::-1])):
        succeed(f"{LABELS} {words}", desk)
        for label, confidence in hard_labels(desk, dataset):
            assert (label.dtype, label.shape) == (np.uint8, shape) and label.max() < 19
            assert (confidence.dtype, confidence.shape) == (np.float16, shape)
            assert confidence.min() >= 1 / 19 - 1e-3 and confidence.max() <= 1


def test_soft_labels_of_half_the_size_and_in_bf16(desk, dataset):
    """In bf16 not the classes: those of a random network are almost equally likely, and rounding decides."""
    for name, words in (("fp32", ""), ("half", "--soft_dtype float16"), ("bf16", "--precision bf16")):
        command = LABELS.replace("--name labels", f"--name {name}")
        out = succeed(f"{command} --soft {words}", desk)
        assert ("networks in bf16" in out) == (name == "bf16")
    for name in train_stems(dataset, 2):
        full, half, bf16 = (np.load(desk / "Pseudo" / f / f"{name}.npy") for f in ("fp32", "half", "bf16"))
        assert half.dtype == np.float16
        np.testing.assert_array_equal(half, full.astype(np.float16))
        assert 0 < np.abs(full - bf16).max() < 1e-3  # measured: 1.4e-4 of probabilities up to 0.08


def test_confidences_of_a_fraction_of_the_size(desk, dataset):
    """Stage 2 trains on both forms as on one."""
    train = f"python train.py --stage stage2 {MODEL} {MINI} {SMALL} {TRAINING} --bs 2 --train_iters 2"
    train += " --threshold 0.1 --S_pseudo 1 --distillation 1"
    for dtype in ("float16", "uint8"):
        generate = LABELS.replace("--name labels", f"--name {dtype}")
        succeed(f"{generate} --flip --conf_dtype {dtype}", desk)
        succeed(f"{train} --path_LP Pseudo/{dtype} --name {dtype}", desk)
    for name in train_stems(dataset, 2):
        files = {p.name.removeprefix(name) for p in (desk / "Pseudo" / "uint8").glob(f"{name}*")}
        assert files == {".png", "_color.png", "_conf.png"}
    first, second = (load(desk / "logs" / n / checkpoint_name(which="current")) for n in ("float16", "uint8"))
    assert_equal(*(c["ResNet101"]["model_state"] for c in (first, second)))


def test_several_images_at_once_give_the_same_labels(desk, dataset):
    succeed(f"{LABELS} --flip", desk)
    before = hard_labels(desk, dataset)
    succeed(f"{LABELS} --flip --infer_bs 2 --num_workers 1", desk)
    for first, second in zip(before, hard_labels(desk, dataset), strict=True):
        assert (first[0] == second[0]).mean() > 0.9999
        np.testing.assert_allclose(first[1], second[1], atol=2e-3)


def test_an_error_while_writing_stops_the_script(desk):
    (desk / "Pseudo").mkdir()
    (desk / "Pseudo" / "labels").write_text("a file where a folder is wanted")
    told = refused(f"{LABELS} --flip", desk)
    assert "Pseudo/labels" in told


# --- test.py ----------------------------------------------------------------------------------------------


def test_scores_and_predictions(desk, dataset):
    """Without data sets of the source."""
    (desk / "dataset").unlink()
    (desk / "dataset").mkdir()
    (desk / "dataset" / "cityscapes").symlink_to(dataset / "cityscapes")
    words = "--result out/scores.json --save_pred out/predictions --table out/row.csv"
    output = succeed(f"python test.py {MODEL} {MINI} {SMALL} {words}", desk)
    scores = json.loads((desk / "out" / "scores.json").read_text())
    assert {"iou", "miou", "overall_accuracy", "mean_accuracy", "frequency_weighted_iou"} <= scores.keys()
    assert scores["images"] == 2 and len(scores["iou"]) == len(scores["classes"]) == 19
    labels, predictions = [], []
    for label_path in sorted((desk / "dataset" / "cityscapes" / "gtFine" / "val").glob("*/*.png")):
        stem = label_path.name.replace("gtFine_labelIds.png", "leftImg8bit")
        labels.append(pixels(label_path))
        predictions.append(pixels(desk / "out" / "predictions" / f"{stem}.png"))
        assert predictions[-1].shape == IMAGE_SIZE[::-1]
        colours = pixels(desk / "out" / "predictions" / f"{stem}_color.png")
        np.testing.assert_array_equal(colours, palette(19)[predictions[-1]])
    ids = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    right = sum(
        (label == ids[c]) & (p == c) for label, p in zip(labels, predictions, strict=True) for c in range(19)
    )
    known = sum(np.isin(label, ids) for label in labels)
    assert right.sum() > 0
    assert scores["overall_accuracy"] == pytest.approx(right.sum() / known.sum())
    assert f"{100 * scores['miou']:6.2f}" in re.search(r"mIoU over 19.*", output)[0]
    (row,) = csv.DictReader((desk / "out" / "row.csv").read_text().splitlines())
    assert float(row["road"]) == pytest.approx(100 * scores["iou"][0], abs=0.051)
    assert row["checkpoint"] == f"models/{checkpoint_name()}" and row["images"] == "2"
    assert row["quirks"] == scores["quirks"] == "not recorded" and row["torch"] == torch.__version__


@pytest.mark.parametrize(
    ("file", "said", "classes"),
    [
        ("k19.pkl", "backbone mini", 19),
        ("k16.pkl", "backbone mini, n_class 16", 16),
        ("bn.pkl", "backbone mini, bn_clr True", 19),
    ],
)
@pytest.mark.parametrize("script", ["test", "generate_pseudo_label --soft", "generate_class_distribution"])
def test_the_checkpoint_says_what_the_command_line_does_not(desk, networks, script, file, said, classes):
    name, *words = script.split()
    output = succeed(f"python {name}.py --resume {networks / file} {SMALL} {' '.join(words)}", desk)
    assert f"taken from the checkpoint: {said}\n" in output and "are read at" not in output
    if name == "test":
        assert f"mIoU over {classes}" in output
    elif words:
        assert {np.load(p).shape[0] for p in (desk / "Pseudo").rglob("*.npy")} == {classes}
    else:
        assert np.load(desk / "Pseudo" / "class_distribution.npy").shape == (classes,)


def test_images_read_at_another_size_than_they_have_are_told(desk):
    words = "--num_workers 0 --device cpu --max_images 1"
    output = succeed(f"python generate_class_distribution.py {MODEL} {words}", desk)
    assert "images of 256×128 are read at 2048×1024; --img_size" in output


def test_class_distributions_of_two_runs_do_not_replace_each_other(desk, monkeypatch, capsys):
    command = f"python generate_class_distribution.py {MODEL} {MINI} {SMALL} --name one"
    run_here(command, desk, monkeypatch)
    written = (desk / "Pseudo" / "class_distribution.npy").read_bytes()
    run_here(command, desk, monkeypatch)  # its own may be made again
    capsys.readouterr()
    line = refused_here(command.replace("--name one", "--name two"), desk, monkeypatch)
    assert "Pseudo/class_distribution.npy" in line and "--name one" in line and "--save_path" in line
    assert (desk / "Pseudo" / "class_distribution.npy").read_bytes() == written
    run_here(f"{command.replace('--name one', '--name two')} --save_path Other", desk, monkeypatch)
    assert (desk / "Other" / "class_distribution.npy").is_file()


def test_a_class_distribution_mixed_with_uniform(desk, monkeypatch, capsys):
    command = f"python generate_class_distribution.py {MODEL} {MINI} {SMALL} --name one"
    for words in ("", "--class_distribution mixed.npy --mix_uniform 0.25"):
        run_here(f"{command} {words}", desk, monkeypatch)
    own, mixed = (np.load(desk / name) for name in ("Pseudo/class_distribution.npy", "mixed.npy"))
    assert mixed == pytest.approx([0.75 * share + 0.25 / 19 for share in own.tolist()], rel=1e-12)
    assert mixed.sum() == pytest.approx(1) and f"{mixed[0]:9.6f}" in capsys.readouterr().out
    line = refused_here(f"{command} --class_distribution mixed.npy", desk, monkeypatch)
    assert "mixed.npy: is that of --name one with 19 classes and --mix_uniform 0.25" in line


def test_data_are_looked_for_before_weights_are_fetched(tmp_path, monkeypatch):
    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("the weights came first")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", fetch)
    line = refused_here("python train.py --stage warm_up --no_resume --device cpu", tmp_path, monkeypatch)
    assert "dataset/GTA5" in line and "--src_rootpath" in line


# --- calc_prototype.py, generate_class_distribution.py ----------------------------------------------------


def test_class_means_equal_plain_loops():
    """Bit for bit: a sum takes a class's pixels in their order."""
    generator = torch.Generator().manual_seed(0)
    k, d, (h, w) = 4, 3, GRID
    feats, logits = (torch.randn(1, n, h, w, generator=generator) for n in (d, k))
    label = torch.randint(0, k + 1, (h, w), generator=generator, dtype=torch.uint8)
    label[label == k] = 250
    logits[0, 3, :, 2:] = -9.0  # class 3 has fewer than 10 pixels where the label agrees
    for agreeing in (None, label):
        sums, counts = torch.zeros(k, d), [0] * k
        for y, x in np.ndindex(h, w):
            c = int(logits[0, :, y, x].argmax())
            if agreeing is None or int(agreeing[y, x]) == c:
                sums[c] += feats[0, :, y, x]
                counts[c] += 1
        means, present = class_means(feats, logits, agreeing)
        assert torch.equal(means, sums / torch.tensor(counts).clamp(min=1)[:, None])
        assert present.tolist() == [n >= 10 for n in counts]
    assert present.tolist() == [True, True, True, False]
    class_means(*(x.to("meta") for x in (feats, logits, label)))  # needs no value on the host


def test_soft_prototypes_equal_plain_loops(desk, monkeypatch, capsys):
    """Over all images, each pixel with the probability of the class; none is 0."""
    generator = torch.Generator().manual_seed(1)
    n, k, d, (h, w) = 3, 4, 3, (5, 6)
    feats, logits = (3 * torch.randn(n, 1, c, h, w, generator=generator) for c in (d, k))
    sums, mass = np.zeros((k, d)), np.zeros(k)
    for i, y, x in np.ndindex(n, h, w):
        scores = np.exp(logits[i, 0, :, y, x].double().numpy())
        for c in range(k):
            sums[c] += scores[c] / scores.sum() * feats[i, 0, :, y, x].double().numpy()
            mass[c] += scores[c] / scores.sum()
    parts = [soft_sums(*maps) for maps in zip(feats, logits, strict=True)]
    found, total = soft_centroids(*map(torch.stack, zip(*parts, strict=True)))
    np.testing.assert_allclose(found, sums / mass[:, None], rtol=1e-5)
    np.testing.assert_allclose(total, mass, rtol=1e-6)
    logits[:, :, 2] = -1000.0  # a class whose probability is rounded to 0
    nothing, total = soft_centroids(*(x[None] for x in soft_sums(feats[0], logits[0])))
    assert total[2] == 0 and not nothing[2].any() and nothing.isfinite().all()
    run_here(
        f"python calc_prototype.py {MODEL} {MINI} {SMALL} --soft --prototypes soft.pth", desk, monkeypatch
    )
    written = load(desk / "soft.pth")
    assert written.shape == (19, 64) and written.abs().sum(dim=1).min() > 0
    assert "too rarely" not in capsys.readouterr().out


def test_prototypes_of_the_source_leave_those_of_the_target_alone(desk, monkeypatch, capsys):
    command = f"python calc_prototype.py {MODEL} {MINI} {SMALL} --source"
    files = {"": "models/prototypes_on_gta5_from_deeplabv2", "--prototypes source.pth": "source.pth"}
    for words, name in files.items():
        run_here(f"{command} {words}", desk, monkeypatch)
        assert f"images to {name}" in capsys.readouterr().out
        prototypes = load(desk / name)
        assert prototypes.shape == (19, 64) and prototypes.isfinite().all()
    assert not (desk / "models" / "prototypes_on_cityscapes_from_deeplabv2").exists()


# --- reproduce.py -----------------------------------------------------------------------------------------

PARSERS = {
    "train.py": "train",
    "test.py": "test",
    "generate_pseudo_label.py": "pseudo_label",
    "calc_prototype.py": "prototypes",
    "generate_class_distribution.py": "distribution",
}
RECIPES = sorted((PROJECT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("recipe", RECIPES, ids=[path.name for path in RECIPES])
def test_commands_of_a_recipe_can_be_parsed(tmp_path, recipe, monkeypatch, capsys):
    classes = tmp_path / "city.yaml"  # that configs/own_data.yaml reads
    classes.write_text("classes: [a, b]")
    monkeypatch.chdir(tmp_path)
    run_here(f"python reproduce.py --config {recipe} --dry_run", tmp_path, monkeypatch)
    scripts = []
    for line in capsys.readouterr().out.splitlines():
        python, script, *words = shlex.split(line, comments=True)
        assert python == "python"
        if script == "-m":
            path = PROJECT / words[0].replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file()
            continue
        scripts.append(script)
        parse(PARSERS[script], "", words)  # ends the test with SystemExit if it cannot
    assert "train.py" in scripts and "test.py" in scripts
    assert list(tmp_path.iterdir()) == [classes]


RECIPE = """
title: tiny
folder: runs/seed{seed}
options:
  seed: 3
  backbone: mini
  tgt_rootpath: dataset/cityscapes
  img_size: 256,128
  rcrop: 64,32
  resize: 256
  num_workers: 0
  device: cpu
  max_images: 2
  bs: 2
  log_dir: "{folder}/logs"
steps:
  - name: baseline
    script: train
    options: {name: baseline, stage: source_only, train_iters: 1, print_interval: 1}
    test: last
  - name: shares
    script: generate_class_distribution
    options:
      save_path: "{folder}/Pseudo"
      resume_path: "{folder}/logs/baseline/from_gta5_to_cityscapes_on_deeplabv2_current_model.pkl"
"""
RUN = "python reproduce.py --config tiny.yaml"
STEPS = ["baseline", "test_baseline_last", "test_baseline_best", "shares"]


@pytest.fixture
def recipe(desk: Path) -> Path:
    """A folder with a recipe of three steps."""
    (desk / "tiny.yaml").write_text(RECIPE)
    return desk


def steps_run(output: str) -> list[str]:
    """Names of the steps that were run, not skipped."""
    lines = re.findall(r"^\[\d+/\d+\] (\w+): (.*)$", output, flags=re.MULTILINE)
    return [name for name, rest in lines if not rest.startswith("done ")]


def test_choosing_steps(recipe, monkeypatch, capsys):
    def names(words: str) -> list[str]:
        run_here(f"{RUN} --dry_run {words}", recipe, monkeypatch)
        lines = capsys.readouterr().out.splitlines()
        return [line.split()[1].removesuffix(".py") for line in lines]

    run_here(f"{RUN} --dry_run", recipe, monkeypatch)
    assert [line.split("  # ")[1] for line in capsys.readouterr().out.splitlines()] == STEPS
    assert names("") == ["train", "test", "test", "generate_class_distribution"]
    assert names("--only test_baseline_last") == ["test"]
    assert names("--only test_baseline_last --only baseline") == ["train", "test"]
    assert names("--from test_baseline_best") == ["test", "generate_class_distribution"]
    line = refused_here(f"{RUN} --only warmup", recipe, monkeypatch)
    assert "warmup" in line and "test_baseline_best" in line


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> tuple[Path, str]:
    """A folder in which the recipe has run with two seeds, and what it printed."""
    folder = tmp_path_factory.mktemp("reproduced")
    (folder / "dataset").symlink_to(dataset)
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder, succeed(f"{RUN} --seeds 3,4", folder)


def test_several_seeds_end_in_means_and_deviations(reproduced, monkeypatch, capsys):
    folder, output = reproduced
    assert steps_run(output) == 2 * STEPS
    table = folder / "runs" / "tiny_table_of_seeds_3_4.json"
    assert output.splitlines()[-2] == "runs/tiny_table_of_seeds_3_4.json"

    row = json.loads(table.read_text())["rows"][0]
    results = [folder / "runs" / f"seed{seed}" / "results" / "baseline_last.json" for seed in (3, 4)]
    miou = [json.loads(path.read_text())["miou"] for path in results]
    assert (row["stage"], row["checkpoint"], list(row["seeds"])) == ("baseline", "last", ["3", "4"])
    assert miou[0] != miou[1] and row["mean"]["mIoU (19)"] == pytest.approx(sum(miou) / 2)
    assert row["std"]["mIoU (19)"] == pytest.approx(abs(miou[0] - miou[1]) / 2**0.5)

    before = table.with_suffix(".md").read_text()
    table.with_suffix(".md").unlink()
    run_here(f"{RUN} --seeds 3,4 --table", folder, monkeypatch)
    assert table.with_suffix(".md").read_text() == before
    assert "over seeds 3, 4" in capsys.readouterr().out


def test_what_is_done_is_skipped_until_its_command_changes(reproduced):
    place, _ = reproduced
    folder = place / "runs" / "seed3"
    assert (folder / "Pseudo" / "class_distribution.npy").is_file()
    assert json.loads((folder / "results" / "baseline_last.json").read_text())["images"] == 2
    for name in ("table.md", "table.tex", "table.csv", "table.json", "pictures.png", "curves.png"):
        assert (folder / name).stat().st_size > 0
    assert "| baseline | last | 1 |" in (folder / "table.md").read_text()

    checkpoint = folder / "logs" / "baseline" / checkpoint_name(which="current")
    before = checkpoint.stat().st_mtime_ns
    output = succeed(RUN, place)
    assert steps_run(output) == [] and output.count(": done (") == 4

    (place / "tiny.yaml").write_text(
        RECIPE.replace("      save_path:", "      n_class: 19\n      save_path:")
    )
    line = refused(RUN, place)
    assert "shares (n_class not set → 19)" in line and "--redo shares" in line
    assert steps_run(succeed(f"{RUN} --redo shares", place)) == ["shares"]
    assert steps_run(succeed(f"{RUN} --only test_baseline_best", place)) == ["test_baseline_best"]
    assert steps_run(succeed(RUN, place)) == []
    assert steps_run(succeed(f"{RUN} --from test_baseline_best", place)) == ["test_baseline_best", "shares"]
    assert checkpoint.stat().st_mtime_ns == before


def test_tables_of_nothing_are_refused(recipe, monkeypatch):
    line = refused_here(f"{RUN} --seeds 3,4 --table", recipe, monkeypatch)
    assert "runs/seed3" in line and "--table" in line


def test_seeds_do_not_share_a_folder(recipe, monkeypatch):
    (recipe / "tiny.yaml").write_text(RECIPE.replace('"{folder}/logs"', "logs"))
    line = refused_here(f"{RUN} --seeds 3,4", recipe, monkeypatch)
    assert "tiny.yaml" in line and "{seed}" in line


def test_a_failing_step_ends_the_recipe(recipe):
    (recipe / "tiny.yaml").write_text(RECIPE.replace("tgt_rootpath: dataset/", "tgt_rootpath: elsewhere/"))
    done = start(RUN, recipe)
    assert done.returncode not in (0, None) and "Traceback" not in done.stderr
    assert "step baseline" in done.stderr.splitlines()[-1]
    assert "elsewhere/cityscapes" in done.stderr
    assert "shares" not in done.stdout


def test_what_no_step_makes_is_missed_before_the_first_step(recipe, monkeypatch):
    step = "  - {name: stage2, script: train, options: {name: two, student_init: simclr, no_resume: true}}\n"
    (recipe / "tiny.yaml").write_text(RECIPE + step)
    line = refused_here(RUN, recipe, monkeypatch)
    assert "pretrained_models/r101_1x_sk0.pth" in line and "step stage2" in line and "download" in line
    assert not (recipe / "runs").exists()


def test_a_seed_of_its_own(recipe, monkeypatch, capsys):
    run_here(f"{RUN} --dry_run --seed 8 --set bs=3", recipe, monkeypatch)
    output = capsys.readouterr().out
    assert output.count("--seed 8") == output.count("--bs 3") == 1  # the training alone uses them
    assert "runs/seed8/logs" in output and not (recipe / "runs").exists()


@pytest.mark.parametrize(
    "text", ["steps: 3", "folder: x\nsteps:\n  - {name: a, script: train, options: {lrr: 1}}"]
)
def test_a_broken_recipe_is_refused(tmp_path, monkeypatch, text):
    (tmp_path / "tiny.yaml").write_text(text)
    line = refused_here(RUN, tmp_path, monkeypatch)
    assert "tiny.yaml" in line
