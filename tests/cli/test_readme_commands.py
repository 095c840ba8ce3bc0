"""Every command of docs/commands.md does its work, and the next one reads what it wrote."""

# ruff: noqa: E501 — the lines of the README are as long as they are

from __future__ import annotations

import json
import math
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from cli_tools import (
    GRID,
    IMAGE_SIZE,
    MINI,
    SMALL,
    TRAINING,
    backbone_of,
    checkpoint_name,
    load,
    random_network,
    succeed,
    train_stems,
    write_released,
)
from PIL import Image

from utils.options import parse

BEST = checkpoint_name()
README = {
    "soft_labels": r"""python generate_pseudo_label.py --name gta2citylabv2_warmup_soft --soft --resume_path  \
    ./pretrained_models/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl --no_droplast""",
    "prototypes": r"""python calc_prototype.py --resume_path \
    ./pretrained_models/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl""",
    "distribution": r"""python generate_class_distribution.py --name gta2citylabv2_warmup_soft --soft \
    --resume_path  ./pretrained_models/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl --no_droplast --class_balance""",
    "stage1": r"""python train.py --name gta2citylabv2_stage1Denoise --used_save_pseudo --ema --proto_rectify \
    --path_soft Pseudo/gta2citylabv2_warmup_soft \
    --resume_path ./pretrained_models/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl \
    --rce --proto_consistW 5 --SL_lambda 0.1""",
    "stage1_labels": r"""python generate_pseudo_label.py --name gta2citylabv2_stage1Denoise --flip \
    --resume_path ./logs/gta2citylabv2_stage1Denoise/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl --no_droplast""",
    "stage2": r"""python train.py --name gta2citylabv2_stage2 --stage stage2 --used_save_pseudo \
    --path_LP Pseudo/gta2citylabv2_stage1Denoise \
    --resume_path ./logs/gta2citylabv2_stage1Denoise/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl \
    --S_pseudo 1 --threshold 0.95 --distillation 1 --finetune --lr 6e-4 --student_init simclr --bn_clr --no_resume""",
    "stage2_labels": r"""python generate_pseudo_label.py --name gta2citylabv2_stage2 --flip \
    --resume_path ./logs/gta2citylabv2_stage2/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl --no_droplast\
    --bn_clr --student_init simclr""",
    "stage3": r"""python train.py --name gta2citylabv2_stage3 --stage stage3 --used_save_pseudo \
    --path_LP Pseudo/gta2citylabv2_stage2 \
    --resume_path ./logs/gta2citylabv2_stage2/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl \
    --S_pseudo 1 --threshold 0.95 --distillation 1 --finetune --lr 6e-4 --student_init simclr --bn_clr --ema_bn""",
    "inference": r"""python test.py --bn_clr --student_init simclr --resume ./logs/gta2citylabv2_stage3/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl""",
}
WARM_UP = "python train.py --name gta2citylabv2_warmup --stage warm_up --freeze_bn --gan LS --lr 2.5e-4 --adv 0.01 --no_resume"


class Chain:
    """The README's commands in one folder, each run when first asked for, after all before it."""

    def __init__(self, folder: Path, backbone: str):
        self.folder, self.backbone = folder, backbone
        self.prototype_shape = (19, {"resnet101": 256, "mini": 64}[backbone])
        self.output: dict[str, str] = {}

    def run(self, name: str) -> str:
        """The output of a command of the README."""
        for step in README:
            if step not in self.output:
                small = f"{SMALL} {TRAINING}" if " train.py " in README[step] else SMALL
                small += "" if self.backbone == "resnet101" else f" --backbone {self.backbone}"
                self.output[step] = succeed(f"{README[step]} {small}", self.folder)
            if step == name:
                return self.output[step]
        raise KeyError(name)


@pytest.fixture(scope="module", params=["mini", pytest.param("resnet101", marks=pytest.mark.slow)])
def chain(request, tmp_path_factory: pytest.TempPathFactory, dataset: Path) -> Iterator[Chain]:
    """The README's folders, with random networks."""
    backbone = request.param
    folder = tmp_path_factory.mktemp("readme")
    (folder / "dataset").symlink_to(dataset)
    write_released(folder / "pretrained_models" / BEST, random_network(backbone))
    simclr = backbone_of(random_network(backbone, seed=1))
    torch.save({"state_dict": simclr}, folder / "pretrained_models" / "r101_1x_sk0.pth")
    yield Chain(folder, backbone)
    for name in ("logs", "pretrained_models"):  # several times 170 MB
        shutil.rmtree(folder / name, ignore_errors=True)


# --- the chain --------------------------------------------------------------------------------------------


def test_soft_labels(chain, dataset):
    chain.run("soft_labels")
    folder = chain.folder / "Pseudo" / "gta2citylabv2_warmup_soft"
    names = train_stems(dataset, 2)
    assert {p.name for p in folder.iterdir()} == {f"{name}.npy" for name in names} | {"made_by_soft.json"}
    for name in names:
        soft = np.load(folder / f"{name}.npy")
        assert (soft.dtype, soft.shape) == (np.float32, (19, *GRID))
        assert soft.min() >= 0
        np.testing.assert_allclose(soft.sum(axis=0), 1, atol=1e-5)


def test_prototypes(chain):
    chain.run("prototypes")
    prototypes = load(chain.folder / "pretrained_models" / "prototypes_on_cityscapes_from_deeplabv2")
    assert (prototypes.dtype, prototypes.shape) == (torch.float32, chain.prototype_shape)
    assert prototypes.isfinite().all()
    assert (prototypes != 0).any()


def test_class_distribution(chain, dataset):
    chain.run("distribution")
    shares = np.load(chain.folder / "Pseudo" / "class_distribution.npy")
    assert shares.shape == (19,)
    folder = chain.folder / "Pseudo" / "gta2citylabv2_warmup_soft"
    labels = [np.load(folder / f"{name}.npy").argmax(axis=0) for name in train_stems(dataset, 2)]
    counted = np.bincount(np.ravel(labels), minlength=19) / np.size(labels)
    np.testing.assert_allclose(shares, counted, atol=2e-3)  # a tie of two classes may fall either way


def test_stage1(chain):
    output = chain.run("stage1")
    assert f"student: every tensor loaded from pretrained_models/{BEST}" in output
    assert "prototypes: pretrained_models/prototypes_on_cityscapes_from_deeplabv2" in output
    assert "class distribution: Pseudo/class_distribution.npy" in output
    content = check_run(chain, "gta2citylabv2_stage1Denoise", norm=False)
    assert content["ResNet101"]["prototypes_ema"].shape == chain.prototype_shape


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_hard_labels(chain, dataset, stage):
    chain.run(f"{stage}_labels")
    name = {"stage1": "gta2citylabv2_stage1Denoise", "stage2": "gta2citylabv2_stage2"}[stage]
    check_hard_labels(chain.folder / "Pseudo" / name, train_stems(dataset, 2))


def test_stage2(chain):
    output = chain.run("stage2")
    simclr = load(chain.folder / "pretrained_models" / "r101_1x_sk0.pth")["state_dict"]
    count = sum(not name.endswith("num_batches_tracked") for name in simclr)
    assert f"loaded {count} backbone tensors from pretrained_models/r101_1x_sk0.pth" in output
    assert f"teacher: every tensor loaded from logs/gta2citylabv2_stage1Denoise/{BEST}" in output
    content = check_run(chain, "gta2citylabv2_stage2", norm=True)
    warm_up = random_network(chain.backbone).state_dict()
    trained, key = content["ResNet101"]["model_state"], "layer3.1.conv2.weight"
    assert (trained[key] - simclr[key]).abs().max() < 0.1 * (trained[key] - warm_up[key]).abs().max()


def test_stage3(chain):
    output = chain.run("stage3")
    assert f"student: every tensor loaded from logs/gta2citylabv2_stage2/{BEST}" in output
    assert f"teacher: every tensor loaded from logs/gta2citylabv2_stage2/{BEST}" in output
    check_run(chain, "gta2citylabv2_stage3", norm=True)


def test_inference(chain):
    first, *lines = chain.run("inference").splitlines()
    assert first.startswith("without effect here: --student_init")
    assert [line.split()[0] for line in lines[:19]][:3] == ["road", "sidewalk", "building"]
    assert any(line.startswith("mIoU over 19 ") for line in lines)
    assert lines[-1] == "images: 2"


def check_run(chain: Chain, name: str, norm: bool) -> dict:
    """The files of a training run; returns the current checkpoint."""
    folder = chain.folder / "logs" / name
    files = {path.name for path in folder.iterdir()}
    assert files == {
        BEST,
        checkpoint_name(which="current"),
        *("run.log", "log.jsonl", "options.yaml", "about.json", "tensorboard", "pictures", "state"),
        *("scores_current.json", "scores_best.json"),
    }
    content = load(folder / checkpoint_name(which="current"))
    assert {"ResNet101", "iter", "best_iou"} <= content.keys()
    assert content["iter"] == 2 and type(content["iter"]) is int
    assert type(content["best_iou"]) is float and 0 <= content["best_iou"] <= 1
    state = content["ResNet101"]["model_state"]
    expected = random_network(chain.backbone, norm=norm).state_dict()
    assert {k: (v.shape, v.dtype) for k, v in state.items()} == {
        k: (v.shape, v.dtype) for k, v in expected.items()
    }
    assert all(value.isfinite().all() for value in state.values())
    return content


def check_hard_labels(folder: Path, names: list[str]) -> None:
    """Label, picture and confidence of each image, the record and nothing else, at the images' size."""
    files = {name + ending for name in names for ending in (".png", "_color.png", "_conf.npy")}
    assert {p.name for p in folder.iterdir()} == files | {"made_by_hard.json"}
    for name in names:
        with Image.open(folder / f"{name}.png") as label, Image.open(folder / f"{name}_color.png") as colours:
            assert (label.mode, label.size) == ("L", IMAGE_SIZE)
            assert (colours.mode, colours.size) == ("RGB", IMAGE_SIZE)
            assert np.asarray(label).max() < 19
        confidence = np.load(folder / f"{name}_conf.npy")
        assert (confidence.dtype, confidence.shape) == (np.float16, IMAGE_SIZE[::-1])
        assert confidence.min() >= 1 / 19 - 1e-3 and confidence.max() <= 1


# --- what the README leaves out ---------------------------------------------------------------------------


def test_warm_up_starts_from_imagenet(tmp_path, dataset):
    (tmp_path / "dataset").symlink_to(dataset)
    weights = tmp_path / "torch" / "hub" / "checkpoints" / "resnet101-63fe2227.pth"  # torch's own cache
    weights.parent.mkdir(parents=True)
    network = random_network("resnet101")
    torch.save(backbone_of(network) | {"fc.weight": torch.zeros(1000, 2048)}, weights)
    command = f"{WARM_UP} --name warm_up {SMALL} {TRAINING}"
    output = succeed(command, tmp_path, TORCH_HOME=str(tmp_path / "torch"))
    assert "520 backbone tensors from ImageNet" in output
    content = load(tmp_path / "logs" / "warm_up" / checkpoint_name(which="current"))
    assert {"ResNet101", "FCDiscriminator", "iter", "best_iou"} <= content.keys()
    assert content["FCDiscriminator"]["model_state"]["conv1.weight"].shape[1] == 19
    state = content["ResNet101"]["model_state"]
    start = network.state_dict()
    assert torch.equal(state["bn1.running_mean"], start["bn1.running_mean"])  # --freeze_bn
    assert not torch.equal(state["conv1.weight"], start["conv1.weight"])
    for path in (weights, *(tmp_path / "logs").rglob("*.pkl")):
        path.unlink()


def test_warm_up_on_the_strong_source_image(desk):
    output = succeed(f"{WARM_UP} --name strong --S_pseudo_src 1 {MINI} {SMALL} {TRAINING}", desk)
    assert "Iter [2/2]  mIoU: " in output
    assert (desk / "logs" / "strong" / BEST).is_file()


def test_synthia_with_16_classes(tmp_path, dataset, networks):
    (tmp_path / "dataset").symlink_to(dataset)
    (tmp_path / "models").mkdir()
    start = tmp_path / "models" / checkpoint_name("synthia")
    shutil.copy(networks / "k16.pkl", start)
    synthia = f"--src_dataset synthia --n_class 16 {MINI} {SMALL}"
    model = f"--resume_path models/{start.name}"
    succeed(f"python generate_pseudo_label.py --name soft --soft {model} {synthia}", tmp_path)
    succeed(f"python calc_prototype.py {model} {synthia}", tmp_path)
    succeed(f"python generate_class_distribution.py --class_balance {model} {synthia}", tmp_path)
    assert np.load(tmp_path / "Pseudo" / "class_distribution.npy").shape == (16,)
    output = succeed(
        "python train.py --name syn2city_stage1 --used_save_pseudo --ema --proto_rectify --path_soft Pseudo/soft "
        f"{model} --rce --proto_consistW 5 --SL_lambda 0.1 {synthia} {TRAINING}",
        tmp_path,
    )
    assert "class distribution: Pseudo/class_distribution.npy" in output
    assert "src_rootpath=dataset/SYNTHIA" in output
    trained = tmp_path / "logs" / "syn2city_stage1" / checkpoint_name("synthia")
    assert load(trained)["ResNet101"]["model_state"]["layer5.head.1.weight"].shape[0] == 16


def test_figure_over_13_classes(tmp_path, dataset, networks):
    (tmp_path / "dataset").symlink_to(dataset)
    command = f"python test.py --n_class 16 --resume {networks / 'k16.pkl'} --result scores.json"
    output = succeed(f"{command} {MINI} {SMALL}", tmp_path)
    scores = json.loads((tmp_path / "scores.json").read_text())
    named = dict(zip(scores["classes"], scores["iou"], strict=True))
    assert len(named) == 16 and not {"terrain", "truck", "train"} & named.keys()
    kept = [iou for name, iou in named.items() if name not in ("wall", "fence", "pole")]
    known = [iou for iou in kept if iou is not None and not math.isnan(iou)]
    assert len(kept) == 13 and any(iou > 0 for iou in known)
    assert scores["miou_13"] == pytest.approx(sum(known) / len(known))
    assert "mIoU over 16" in output and "mIoU over 13" in output


# --- what the commands say --------------------------------------------------------------------------------

SCRIPTS = {
    "generate_pseudo_label.py": "pseudo_label",
    "calc_prototype.py": "prototypes",
    "generate_class_distribution.py": "distribution",
    "train.py": "train",
    "test.py": "test",
}
# The options of each command that are not at their default, `best` short for the file name.
CHANGED = yaml.safe_load("""
soft_labels: {name: gta2citylabv2_warmup_soft, soft: true, resume_path: pretrained_models/best, no_droplast: true}
prototypes: {resume_path: pretrained_models/best}
distribution: {name: gta2citylabv2_warmup_soft, soft: true, resume_path: pretrained_models/best, no_droplast: true,
  class_balance: true}
stage1: {name: gta2citylabv2_stage1Denoise, resume_path: pretrained_models/best, used_save_pseudo: true, ema: true,
  proto_rectify: true, rce: true, proto_consistW: 5.0}
stage1_labels: {name: gta2citylabv2_stage1Denoise, flip: true, no_droplast: true,
  resume_path: logs/gta2citylabv2_stage1Denoise/best}
stage2: {name: gta2citylabv2_stage2, stage: stage2, <<: &distil {used_save_pseudo: true, S_pseudo: 1.0, threshold: 0.95,
  distillation: 1.0, finetune: true, lr: 6.0e-4, student_init: simclr, bn_clr: true}, no_resume: true,
  path_LP: Pseudo/gta2citylabv2_stage1Denoise, resume_path: logs/gta2citylabv2_stage1Denoise/best}
stage2_labels: {name: gta2citylabv2_stage2, flip: true, no_droplast: true, bn_clr: true, student_init: simclr,
  resume_path: logs/gta2citylabv2_stage2/best}
stage3: {name: gta2citylabv2_stage3, stage: stage3, <<: *distil, ema_bn: true, path_LP: Pseudo/gta2citylabv2_stage2,
  resume_path: logs/gta2citylabv2_stage2/best}
inference: {bn_clr: true, student_init: simclr, resume_path: logs/gta2citylabv2_stage3/best}
warm_up: {name: gta2citylabv2_warmup, stage: warm_up, freeze_bn: true, lr: 2.5e-4, no_resume: true}
""")
# The paper's settings that no command changes.
DEFAULTS = """--model_name deeplabv2 --backbone resnet101 --bs 4 --epochs 128 --train_iters 90000 --bn sync_bn --seed 6523
--src_dataset gta5 --tgt_dataset cityscapes --src_rootpath dataset/GTA5 --tgt_rootpath dataset/cityscapes --n_class 19
--train_thred 0 --resize 2200 --rcrop 896,512 --hflip 0.5 --jitter 0.4 --num_workers 6 --gan LS --adv 0.01 --lr 1e-4
--S_pseudo_src 0 --rce_alpha 0.1 --rce_beta 1 --regular_w 0 --regular_type MRKLD --contrast_lambda 0.001 --fbs 256
--SL_lambda 0.1 --path_soft Pseudo/gta2citylabv2_warmup_soft --queue_length 65536 --ds_rate 4 --temperature 0.08
--epsilon 0.05 --sinkhorn_iterations 3 --print_interval 20 --val_interval 1000 --update_interval 1
--proto_momentum 1e-4 --proto_temperature 1 --quirks reference"""


@pytest.mark.parametrize("name", CHANGED)
def test_command_means_what_the_readme_says(name):
    _, script, *words = shlex.split((README | {"warm_up": WARM_UP})[name].replace("\\\n", ""))
    expected = CHANGED[name]
    if "resume_path" in expected:
        expected = expected | {"resume_path": expected["resume_path"].replace("best", BEST)}
    if script != "train.py":
        expected = expected | {"noaug": True, "noshuffle": True}
    assert parse(SCRIPTS[script], "", words).changed() == expected


def test_defaults_are_the_papers_settings(monkeypatch):
    monkeypatch.setattr("utils.options.declarations.cores", lambda: 6)
    options = parse("train", "", ["--ema", "--proto_rectify", *DEFAULTS.split()])
    assert options.changed() == {"ema": True, "proto_rectify": True}
    assert (
        not options.freeze_bn
        and not options.moving_prototype
        and options.max_images is options.img_size is None
    )
    assert parse("distribution", "", ["--portion", "0.6", "--save_path", "Pseudo"]).changed().keys() == {
        "noaug",
        "noshuffle",
    }
