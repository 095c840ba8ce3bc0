"""Bad input ends in one line that names the file or option and says what to do."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zlib
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_tools import (
    MINI,
    SMALL,
    TRAINING,
    checkpoint_name,
    pixels,
    refused,
    refused_here,
    run_here,
    start,
    succeed,
    train_stems,
    write_soft_labels,
)
from PIL import Image

from tests.fuzz import bombs

MODEL = f"models/{checkpoint_name()}"
TEST = f"python test.py {MINI} {SMALL} --resume_path"
STAGE1 = f"python train.py --ema --proto_rectify --resume_path {MODEL} {MINI} {SMALL} {TRAINING}"
STAGE2 = f"python train.py --stage stage2 --resume_path {MODEL} {MINI} {SMALL} {TRAINING}"
SOURCE_ONLY = f"python train.py --stage source_only {MINI} {SMALL} {TRAINING}"


@pytest.fixture
def stage1_desk(desk: Path) -> Path:
    """All that stage 1 reads but its soft labels."""
    prototypes = torch.randn(19, 64, generator=torch.Generator().manual_seed(0))
    torch.save(prototypes, desk / "models" / "prototypes_on_cityscapes_from_deeplabv2")
    return desk


def first(desk: Path, pattern: str) -> Path:
    """The first file of the data sets that fits."""
    return sorted((desk / "dataset").glob(pattern))[0]


def truncate(path: Path) -> None:
    """Leave the first half of a file, as a copy that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


# --- data -------------------------------------------------------------------------------------------------


def test_missing_target_folder(desk):
    (desk / "dataset").unlink()
    line = refused(f"{TEST} {MODEL}", desk)
    assert "dataset/cityscapes/leftImg8bit/val" in line and "--tgt_rootpath" in line


def test_missing_source_folder(desk, monkeypatch):
    line = refused_here(f"{SOURCE_ONLY} --src_rootpath elsewhere/GTA5", desk, monkeypatch)
    assert "elsewhere/GTA5/images" in line and "--src_rootpath" in line


def test_missing_split_of_gta5(own_desk, monkeypatch):
    (own_desk / "dataset" / "GTA5" / "split.mat").unlink()
    assert "dataset/GTA5/split.mat" in refused_here(SOURCE_ONLY, own_desk, monkeypatch)


def test_folder_without_images(desk, monkeypatch):
    (desk / "empty" / "leftImg8bit" / "val").mkdir(parents=True)
    assert "empty/leftImg8bit/val" in refused_here(f"{TEST} {MODEL} --tgt_rootpath empty", desk, monkeypatch)


def test_image_without_label(own_desk, monkeypatch):
    label = first(own_desk, "cityscapes/gtFine/val/*/*.png")
    label.unlink()
    line = refused_here(f"{TEST} {MODEL}", own_desk, monkeypatch)
    assert str(label.relative_to(own_desk)) in line and "missing" in line


@pytest.mark.parametrize("workers", [0, 1])
def test_truncated_image(own_desk, workers):
    image = first(own_desk, "cityscapes/leftImg8bit/val/*/*.png")
    truncate(image)
    line = refused(f"{TEST} {MODEL} --num_workers {workers}", own_desk)
    assert str(image.relative_to(own_desk)) in line and "again" in line


def test_truncated_image_in_training(own_desk):
    for image in (own_desk / "dataset" / "GTA5" / "images").iterdir():
        truncate(image)
    line = refused(f"{SOURCE_ONLY} --num_workers 1", own_desk)
    assert re.search(r"dataset/GTA5/images/0000\d\.png", line) and "again" in line


def test_label_ids_that_do_not_exist(own_desk, monkeypatch):
    path = first(own_desk, "cityscapes/gtFine/val/*/*.png")
    ids = pixels(path)
    ids[3, 4] = 77
    Image.fromarray(ids).save(path)
    line = refused_here(f"{TEST} {MODEL}", own_desk, monkeypatch)
    assert str(path.relative_to(own_desk)) in line and "77" in line


def test_synthia_label_of_8_bits(own_desk, monkeypatch):
    for path in (own_desk / "dataset" / "SYNTHIA" / "GT" / "LABELS").iterdir():
        Image.fromarray(np.zeros((128, 256, 3), np.uint8)).save(path)
    line = refused_here(f"{SOURCE_ONLY} --src_dataset synthia --n_class 16", own_desk, monkeypatch)
    assert "SYNTHIA/GT/LABELS/" in line and "16-bit" in line


def test_fewer_images_than_a_batch(desk, monkeypatch):
    line = refused_here(
        f"{SOURCE_ONLY} --bs 4", desk, monkeypatch
    )  # of the 2 images that --max_images leaves
    assert "--bs" in line and "--no_droplast" in line


# --- products of earlier steps ----------------------------------------------------------------------------


def test_missing_soft_labels(stage1_desk, dataset):
    line = refused(f"{STAGE1} --path_soft labels/warm", stage1_desk)
    assert "labels/warm" in line
    made = line.partition("make them with: ")[2]
    assert made.startswith("python generate_pseudo_label.py ") and " --soft" in made
    succeed(f"{made} --num_workers 0 --device cpu --max_images 2", stage1_desk)
    written = {path.name for path in (stage1_desk / "labels" / "warm").iterdir()}
    assert written == {"made_by_soft.json", *(f"{name}.npy" for name in train_stems(dataset, 2))}


def test_one_soft_label_missing(stage1_desk, dataset, monkeypatch):
    names = train_stems(dataset, 2)
    write_soft_labels(stage1_desk / "soft", names[:1])
    line = refused_here(f"{STAGE1} --path_soft soft", stage1_desk, monkeypatch)
    assert f"soft/{names[1]}.npy" in line and "generate_pseudo_label.py" in line


def test_missing_hard_labels(desk, dataset):
    line = refused(f"{STAGE2} --path_LP labels/stage1 --threshold 0.5", desk)
    assert "labels/stage1" in line
    made = line.partition("make them with: ")[2]
    assert made.startswith("python generate_pseudo_label.py ") and " --soft" not in made
    succeed(f"{made} --num_workers 0 --device cpu --max_images 2", desk)
    written = {path.name for path in (desk / "labels" / "stage1").iterdir()}
    assert written >= {name + end for name in train_stems(dataset, 2) for end in (".png", "_conf.npy")}


def test_missing_prototypes(desk, dataset):
    write_soft_labels(desk / "soft", train_stems(dataset, 2))
    line = refused(f"{STAGE1} --path_soft soft", desk)
    assert "models/prototypes_on_cityscapes_from_deeplabv2" in line
    assert f"python calc_prototype.py --resume_path {MODEL}" in line


def test_prototypes_of_another_network(stage1_desk, monkeypatch):
    torch.save(torch.zeros(19, 256), stage1_desk / "models" / "prototypes_on_cityscapes_from_deeplabv2")
    line = refused_here(STAGE1, stage1_desk, monkeypatch)
    assert "(19, 256)" in line and "(19, 64)" in line and "calc_prototype.py" in line


def test_missing_class_distribution(desk, networks, monkeypatch):
    shutil.copy(networks / "k16.pkl", desk / MODEL)
    torch.save(torch.zeros(16, 64), desk / "models" / "prototypes_on_cityscapes_from_deeplabv2")
    line = refused_here(f"{STAGE1} --n_class 16", desk, monkeypatch)
    assert "class_distribution.npy" in line
    assert re.search(r"python generate_class_distribution\.py .*--n_class 16", line)


def test_class_distribution_of_other_classes(stage1_desk, monkeypatch):
    np.save(stage1_desk / "shares.npy", np.full(16, 1 / 16))
    line = refused_here(f"{STAGE1} --class_distribution shares.npy", stage1_desk, monkeypatch)
    assert "shares.npy" in line and "generate_class_distribution.py" in line


def test_soft_labels_of_other_classes(stage1_desk, dataset, monkeypatch):
    write_soft_labels(stage1_desk / "soft", train_stems(dataset, 2), n_class=16)
    line = refused_here(f"{STAGE1} --path_soft soft", stage1_desk, monkeypatch)
    assert re.search(r"soft/\S+\.npy", line) and "--n_class" in line


def test_hard_labels_of_other_classes(desk, dataset, networks, monkeypatch):
    shutil.copy(networks / "k16.pkl", desk / MODEL)
    (desk / "hard").mkdir()
    for name in train_stems(dataset, 2):
        Image.fromarray(np.full((128, 256), 18, np.uint8)).save(desk / "hard" / f"{name}.png")
    line = refused_here(f"{STAGE2} --path_LP hard --n_class 16", desk, monkeypatch)
    assert re.search(r"hard/\S+\.png", line) and "--n_class" in line


# --- checkpoints ------------------------------------------------------------------------------------------


def test_missing_checkpoint(desk, monkeypatch):
    line = refused_here(f"{TEST} logs/nothing/here.pkl", desk, monkeypatch)
    assert "logs/nothing/here.pkl" in line and "--resume_path" in line


def test_checkpoint_of_other_classes(desk, networks, monkeypatch):
    line = refused_here(f"{TEST} {networks / 'k16.pkl'} --n_class 19", desk, monkeypatch)
    assert str(networks / "k16.pkl") in line and "--n_class 16" in line


def test_checkpoint_to_train_from_of_other_classes(desk, networks, monkeypatch):
    shutil.copy(networks / "k16.pkl", desk / MODEL)
    line = refused_here(f"{STAGE2}", desk, monkeypatch)
    assert MODEL in line and "--n_class 16" in line


def test_checkpoint_of_another_backbone(desk, monkeypatch):
    line = refused_here(f"{TEST} {MODEL} --backbone resnet101", desk, monkeypatch)
    assert MODEL in line and "--backbone" in line


def test_norm_in_the_teacher_needs_its_option(desk, networks, monkeypatch):
    shutil.copy(networks / "bn.pkl", desk / MODEL)
    line = refused_here(f"{STAGE2} --stage stage3 --bn_clr --distillation 1", desk, monkeypatch)
    assert MODEL in line and "--ema_bn" in line


def test_option_for_a_norm_that_is_not_there(desk, monkeypatch):
    line = refused_here(f"{TEST} {MODEL} --bn_clr", desk, monkeypatch)
    assert MODEL in line and "--bn_clr" in line


def test_missing_simclr_weights(desk, monkeypatch):
    line = refused_here(f"{STAGE2} --student_init simclr --bn_clr --no_resume", desk, monkeypatch)
    assert "pretrained_models/r101_1x_sk0.pth" in line and "download" in line


class Hostile:
    """Makes a folder when unpickled."""

    def __init__(self, trace: Path):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("plain", [False, True], ids=["torch_file", "plain_pickle"])
def test_hostile_checkpoint_runs_nothing(desk, plain):
    path, trace = desk / "hostile.pkl", desk / "trace"
    content = {"ResNet101": {"model_state": {"conv1.weight": Hostile(trace)}}}
    if plain:
        path.write_bytes(pickle.dumps(content))
        pickle.loads(path.read_bytes())
    else:
        torch.save(content, path)
        torch.load(path, weights_only=False)
    trace.rmdir()  # it was there: the file is what it says it is
    line = refused(f"{TEST} hostile.pkl", desk)
    assert "hostile.pkl" in line
    assert not trace.exists()


@pytest.mark.parametrize("part", [0.0, 0.5, 0.99])
def test_torn_checkpoint(desk, part, monkeypatch):
    content = (desk / MODEL).read_bytes()
    (desk / "torn.pkl").write_bytes(content[: int(part * len(content))])
    assert "torn.pkl" in refused_here(f"{TEST} torn.pkl", desk, monkeypatch)


def test_file_that_is_no_checkpoint(desk, monkeypatch):
    torch.save(torch.zeros(19, 64), desk / "tensor.pkl")
    line = refused_here(f"{TEST} tensor.pkl", desk, monkeypatch)
    assert "tensor.pkl" in line and "checkpoint" in line


# --- files that claim or hold too much --------------------------------------------------------------------


def test_checkpoint_that_claims_a_terabyte(desk, monkeypatch):
    (desk / "claims.pkl").write_bytes(bombs.zipped(bombs.model(bombs.tensor(10**12, (4,), (1,)))))
    assert "claims.pkl" in refused_here(f"{TEST} claims.pkl", desk, monkeypatch)


def test_checkpoint_shorter_than_its_pickle_says(desk, monkeypatch):
    (desk / "short.pkl").write_bytes(bombs.zipped(bombs.model(bombs.tensor(10**8, (10**8,), (1,)))))
    assert "short.pkl" in refused_here(f"{TEST} short.pkl", desk, monkeypatch)


def test_image_of_absurd_size(own_desk, monkeypatch):
    image = first(own_desk, "cityscapes/leftImg8bit/val/*/*.png")
    content = image.read_bytes()
    body = b"IHDR" + (12_000).to_bytes(4, "big") * 2 + content[24:29]
    image.write_bytes(content[:12] + body + zlib.crc32(body).to_bytes(4, "big") + content[33:])
    assert str(image.relative_to(own_desk)) in refused_here(
        f"{TEST} {MODEL} --max_images 1", own_desk, monkeypatch
    )


def test_soft_label_that_claims_a_terabyte(stage1_desk, dataset, monkeypatch):
    for name in train_stems(dataset, 2):
        path = write_soft_labels(stage1_desk / f"soft_{name}", [name]) / f"{name}.npy"
        (stage1_desk / "soft").mkdir(exist_ok=True)
        header = "{'descr': '<f4', 'fortran_order': False, 'shape': (19, 1000000, 1000000), }"
        (stage1_desk / "soft" / path.name).write_bytes(bombs.npy(header, path.read_bytes()[128:]))
    line = refused_here(f"{STAGE1} --path_soft soft", stage1_desk, monkeypatch)
    assert re.search(r"soft/\S+\.npy", line)


def test_options_of_a_billion_laughs(tmp_path, monkeypatch, capsys):
    names = "abcdefghij"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lines += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise(names)]
    (tmp_path / "laughs.yaml").write_text("\n".join(lines))
    with pytest.raises(SystemExit):
        run_here("python test.py --config laughs.yaml", tmp_path, monkeypatch)
    error = capsys.readouterr().err
    assert "laughs.yaml" in error and error.count("\n") == 1


def test_recipe_that_runs_another_program(desk, monkeypatch):
    (desk / "recipe.yaml").write_text("folder: x\nsteps:\n  - {name: a, module: http.server}\n")
    line = refused_here("python reproduce.py --config recipe.yaml --dry_run", desk, monkeypatch)
    assert "recipe.yaml" in line and "http.server" in line


def test_values_of_set_are_named(desk, monkeypatch):
    line = refused_here("python reproduce.py --config x.yaml --set lr=[1", desk, monkeypatch)
    assert "--set lr=[1" in line


# --- options ----------------------------------------------------------------------------------------------


def test_impossible_option_ends_with_code_2(tmp_path):
    done = start("python train.py --proto_rectify", tmp_path)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("train.py") and "--ema" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("python test.py --resume_pth x.pkl", "--resume_pth"),
        ("python calc_prototype.py --bs 0", "--bs"),
        ("python generate_pseudo_label.py --config missing.yaml", "missing.yaml"),
        ("python generate_class_distribution.py --stage stage4", "--stage"),
        ("python test.py --config options.yaml", "options.yaml"),
    ],
)
def test_every_script_refuses_impossible_options(tmp_path, monkeypatch, capsys, command, option):
    (tmp_path / "options.yaml").write_text("lr: fast\n")
    with pytest.raises(SystemExit) as end:
        run_here(command, tmp_path, monkeypatch)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(command.split()[1]) and option in err
