"""Bad input ends in one line that names the file or option and says what to do."""

from __future__ import annotations

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
SCORE = f"{TEST} {MODEL}"
STAGE1 = f"python train.py --ema --proto_rectify --resume_path {MODEL} {MINI} {SMALL} {TRAINING}"
STAGE2 = f"python train.py --stage stage2 --resume_path {MODEL} {MINI} {SMALL} {TRAINING}"
SOURCE_ONLY = f"python train.py --stage source_only {MINI} {SMALL} {TRAINING}"
PROTOTYPES = "models/prototypes_on_cityscapes_from_deeplabv2"


@pytest.fixture
def stage1_desk(own_desk: Path, networks: Path) -> Path:
    """All that stage 1 reads but its soft labels, beside networks of other forms."""
    prototypes = torch.randn(19, 64, generator=torch.Generator().manual_seed(0))
    torch.save(prototypes, own_desk / PROTOTYPES)
    for name in ("k16.pkl", "bn.pkl"):
        shutil.copy(networks / name, own_desk / "models")
    return own_desk


def truncate(path: Path) -> Path:
    """Leave the first half of a file, as a copy that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


# --- what is spoilt; the path that is returned must be in the error ---------------------------------------


def first(desk: Path, kind: str) -> Path:
    """The first image or label of val."""
    return sorted((desk / "dataset" / "cityscapes" / kind / "val").glob("*/*.png"))[0]


def one_train_label(desk: Path) -> Path:
    path = sorted((desk / "dataset/cityscapes/gtFine/train").glob("*/*_labelIds.png"))[0]
    path.unlink()
    return path


def unknown_id(desk: Path) -> Path:
    ids = pixels(path := first(desk, "gtFine"))
    ids[3, 4] = 77
    Image.fromarray(ids).save(path)
    return path


def absurd_size(desk: Path) -> Path:
    content = (path := first(desk, "leftImg8bit")).read_bytes()
    body = b"IHDR" + (12_000).to_bytes(4, "big") * 2 + content[24:29]
    path.write_bytes(content[:12] + body + zlib.crc32(body).to_bytes(4, "big") + content[33:])
    return path


def one_soft_label(desk: Path) -> Path:
    names = train_stems(desk / "dataset", 2)
    write_soft_labels(desk / "soft", names[:1])
    return desk / "soft" / f"{names[1]}.npy"


def terabytes(desk: Path) -> None:
    (desk / "soft").mkdir()
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (19, 1000000, 1000000), }"
    for name in train_stems(desk / "dataset", 2):
        (desk / "soft" / f"{name}.npy").write_bytes(bombs.npy(header, bytes(9999)))


def hard_of_19(desk: Path) -> None:
    shutil.copy(desk / "models" / "k16.pkl", desk / MODEL)
    (desk / "hard").mkdir()
    for name in train_stems(desk / "dataset", 2):
        Image.fromarray(np.full((128, 256), 18, np.uint8)).save(desk / "hard" / f"{name}.png")


def claims(desk: Path, count: int, size: int) -> None:
    """A checkpoint that says it holds more than there is."""
    (desk / "x.pkl").write_bytes(bombs.zipped(bombs.model(bombs.tensor(count, (size,), (1,)))))


def not_finite(path: Path) -> Path:
    content = torch.load(path, weights_only=False)
    content["ResNet101"]["model_state"]["layer3.0.conv1.weight"][1] = torch.nan
    torch.save(content, path)
    return path


def torn(desk: Path, part: float) -> None:
    content = (desk / MODEL).read_bytes()
    (desk / "x.pkl").write_bytes(content[: int(part * len(content))])


def labels_of_8_bits(desk: Path) -> None:
    for path in (desk / "dataset" / "SYNTHIA" / "GT" / "LABELS").iterdir():
        Image.fromarray(np.zeros((128, 256, 3), np.uint8)).save(path)


SPOILT = {
    "": lambda d: None,
    "no data": lambda d: shutil.rmtree(d / "dataset"),
    "no split": lambda d: (d / "dataset/GTA5/split.mat").unlink(),
    "empty val": lambda d: (d / "empty/leftImg8bit/val").mkdir(parents=True),
    "no label": lambda d: [path := first(d, "gtFine"), path.unlink()][0],
    "no train label": one_train_label,
    "half an image": lambda d: truncate(first(d, "leftImg8bit")),
    "an absurd image": absurd_size,
    "an unknown id": unknown_id,
    "labels of 8 bits": labels_of_8_bits,
    "one soft label": one_soft_label,
    "soft of 16": lambda d: write_soft_labels(d / "soft", train_stems(d / "dataset", 2), 16) and None,
    "soft of a terabyte": terabytes,
    "hard of 19": hard_of_19,
    "prototypes of 256": lambda d: torch.save(torch.zeros(19, 256), d / PROTOTYPES),
    "a network of 16": lambda d: shutil.copy(d / "models/k16.pkl", d / MODEL) and None,
    "a network's norm": lambda d: shutil.copy(d / "models/bn.pkl", d / MODEL) and None,
    "shares of 16": lambda d: np.save(d / "shares.npy", np.full(16, 1 / 16)),
    "shares not finite": lambda d: np.save(d / "shares.npy", np.array([*[1 / 19] * 18, np.inf])),
    "a network not finite": lambda d: not_finite(d / MODEL),
    "prototypes not finite": lambda d: torch.save(torch.full((19, 64), 1e39, dtype=float), d / PROTOTYPES),
    "a tensor": lambda d: torch.save(torch.zeros(19, 64), d / "x.pkl"),
    "no bytes": lambda d: torn(d, 0.0),
    "half a checkpoint": lambda d: torn(d, 0.5),
    "nearly a checkpoint": lambda d: torn(d, 0.99),
    "a terabyte": lambda d: claims(d, 10**12, 4),
    "less than it says": lambda d: claims(d, 10**8, 10**8),
}
COMMANDS = {"test": TEST, "score": SCORE, "stage1": STAGE1, "stage2": STAGE2, "source_only": SOURCE_ONLY}
BAD = r"""what is spoilt | command                                         | patterns in the error
no data             | score                                           | leftImg8bit/val --tgt_rootpath
                    | source_only --src_rootpath other/GTA5           | other/GTA5/images --src_rootpath
no split            | source_only                                     | dataset/GTA5/split.mat
empty val           | score --tgt_rootpath empty                      | empty/leftImg8bit/val
no label            | score                                           | missing
no train label      | stage1 --analysis                               | 1.of.2.labels --analysis
half an image       | score                                           | again
an absurd image     | score --max_images 1                            |
an unknown id       | score                                           | 77
labels of 8 bits    | source_only --src_dataset synthia --n_class 16  | SYNTHIA/GT/LABELS/ 16-bit
                    | source_only --bs 4                              | --bs --no_droplast
one soft label      | stage1 --path_soft soft                         | generate_pseudo_label.py
soft of 16          | stage1 --path_soft soft                         | soft/\S+\.npy --n_class
soft of a terabyte  | stage1 --path_soft soft                         | soft/\S+\.npy
hard of 19          | stage2 --path_LP hard --n_class 16              | hard/\S+\.png --n_class
prototypes of 256   | stage1                                          | \(19,.256\) \(19,.64\) calc_proto
shares of 16        | stage1 --class_distribution shares.npy          | shares.npy generate_class_dis
shares not finite   | stage1 --class_distribution shares.npy          | shares.npy not.finite
prototypes not finite | stage1                                        | prototypes_on not.finite
a network not finite | score                                          | layer3.0.conv1.weight not.finite
                    | test logs/nothing/here.pkl                      | logs/nothing/here.pkl --resume_path
                    | test models/k16.pkl --n_class 19                | models/k16.pkl --n_class.16
a network of 16     | stage2                                          | {MODEL} --n_class.16
                    | score --backbone resnet101                      | {MODEL} --backbone
a network's norm    | stage2 --stage stage3 --bn_clr --distillation 1 | {MODEL} --ema_bn
                    | score --bn_clr                                  | {MODEL} --bn_clr
                    | stage2 --student_init simclr --no_resume        | models/r101_1x_sk0.pth download
a tensor            | test x.pkl                                      | x.pkl checkpoint
no bytes            | test x.pkl                                      | x.pkl
half a checkpoint   | test x.pkl                                      | x.pkl
nearly a checkpoint | test x.pkl                                      | x.pkl
a terabyte          | test x.pkl                                      | x.pkl
less than it says   | test x.pkl                                      | x.pkl
""".replace("{MODEL}", MODEL)


@pytest.mark.parametrize("case", BAD.splitlines()[1:])
def test_one_line_names_what_is_wrong(stage1_desk, monkeypatch, case):
    spoilt, command, patterns = (part.strip() for part in case.split("|"))
    named = SPOILT[spoilt](stage1_desk)
    name, *words = command.split()
    line = refused_here(" ".join([COMMANDS[name], *words]), stage1_desk, monkeypatch)
    wanted = patterns.split() + ([str(named.relative_to(stage1_desk))] if named else [])
    assert wanted and [pattern for pattern in wanted if not re.search(pattern, line)] == [], line


WRITERS = {
    "generate_pseudo_label.py --name out --save_path . --soft": 1,
    "generate_pseudo_label.py --name out --save_path . --flip": 1,
    "generate_pseudo_label.py --name out --save_path .": 1,  # the record of the folder, but no label
    "calc_prototype.py --prototypes out/p": 0,
    "generate_class_distribution.py --save_path out": 0,
    "test.py --save_pred out --result out/s.json --table out/s.md": 0,
    "test.py --images dataset/cityscapes/leftImg8bit/val --save_dir out": 0,
}


@pytest.mark.parametrize("command", WRITERS)
def test_scores_that_are_not_finite_are_named_before_anything_is_written(desk, monkeypatch, capsys, command):
    """A finite checkpoint, but the root of a negative variance is no number."""
    content = torch.load(desk / MODEL, weights_only=False)
    content["ResNet101"]["model_state"]["bn1.running_var"][:] = -1.0
    torch.save(content, desk / MODEL)
    line = refused_here(f"python {command} --resume_path {MODEL} {SMALL}", desk, monkeypatch)
    said = line if "--images" not in command else capsys.readouterr().err
    assert re.search(r"[a-z]+_0{6}_000019_leftImg8bit.*: the network's scores are not finite", said), said
    assert sum(path.is_file() for path in (desk / "out").rglob("*")) == WRITERS[command]


def test_a_missing_class_distribution_is_made_by_the_command_in_the_error(stage1_desk, monkeypatch):
    SPOILT["a network of 16"](stage1_desk)
    torch.save(torch.zeros(16, 64), stage1_desk / PROTOTYPES)
    line = refused_here(f"{STAGE1} --n_class 16", stage1_desk, monkeypatch)
    assert "class_distribution.npy" in line
    assert re.search(r"python generate_class_distribution\.py .*--n_class 16", line)


# --- in a process of their own, where the way to the line is another --------------------------------------


@pytest.mark.parametrize("domain", ["target", "source"])
def test_truncated_image_met_by_a_loading_process(own_desk, domain):
    if domain == "target":
        name, command = str(truncate(first(own_desk, "leftImg8bit")).relative_to(own_desk)), SCORE
    else:
        name, command = r"dataset/GTA5/images/0000\d\.png", SOURCE_ONLY
        for image in (own_desk / "dataset" / "GTA5" / "images").iterdir():
            truncate(image)
    line = refused(f"{command} --num_workers 1", own_desk)
    assert re.search(name, line) and "again" in line


@pytest.mark.parametrize(
    ("command", "endings"),
    [(f"{STAGE1} --path_soft made", ".npy"), (f"{STAGE2} --threshold 0.5 --path_LP made", ".png _conf.npy")],
)
def test_missing_labels_are_made_by_the_command_in_the_error(stage1_desk, command, endings):
    line = refused(command.replace("made", "labels/made"), stage1_desk)
    assert "labels/made" in line
    made = line.partition("make them with: ")[2]
    assert made.startswith("python generate_pseudo_label.py ") and (" --soft" in made) == (endings == ".npy")
    succeed(f"{made} --num_workers 0 --device cpu --max_images 2", stage1_desk)
    found = {path.name for path in (stage1_desk / "labels" / "made").iterdir()}
    names = train_stems(stage1_desk / "dataset", 2)
    assert found >= {name + ending for name in names for ending in endings.split()}
    assert len([name for name in found if name.endswith(".npy")]) == 2


def test_missing_prototypes(desk, dataset):
    write_soft_labels(desk / "soft", train_stems(dataset, 2))
    line = refused(f"{STAGE1} --path_soft soft", desk)
    assert "models/prototypes_on_cityscapes_from_deeplabv2" in line
    assert f"python calc_prototype.py --resume_path {MODEL}" in line


@pytest.mark.parametrize("plain", [False, True], ids=["torch_file", "plain_pickle"])
def test_hostile_checkpoint_runs_nothing(desk, monkeypatch, plain):
    trace = desk / "trace"
    state = bombs.model(bombs.Call("os", "mkdir", str(trace)))
    pickle.loads(bombs.pickled(state))
    trace.rmdir()  # it was there: the file is what it says it is
    (desk / "hostile.pkl").write_bytes(bombs.pickled(state) if plain else bombs.zipped(state))
    assert "hostile.pkl" in refused_here(f"{TEST} hostile.pkl", desk, monkeypatch)
    assert not trace.exists()


def test_recipe_that_runs_another_program(desk, monkeypatch):
    (desk / "recipe.yaml").write_text("folder: x\nsteps:\n  - {name: a, module: http.server}\n")
    line = refused_here("python reproduce.py --config recipe.yaml --dry_run", desk, monkeypatch)
    assert "recipe.yaml" in line and "http.server" in line


def test_values_of_set_are_named(desk, monkeypatch):
    line = refused_here("python reproduce.py --config x.yaml --set lr=[1", desk, monkeypatch)
    assert "--set lr=[1" in line


# --- options ----------------------------------------------------------------------------------------------


def test_impossible_option_ends_with_code_2(tmp_path):
    done = start("python train.py --ema --continue --overwrite", tmp_path)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("train.py") and "--overwrite" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("python test.py --resume_pth x.pkl", "--resume_pth"),
        ("python calc_prototype.py --bs 0", "--bs"),
        ("python generate_pseudo_label.py --config missing.yaml", "missing.yaml"),
        ("python generate_class_distribution.py --stage stage4", "--stage"),
        ("python test.py --config options.yaml", "options.yaml"),
        ("python test.py --config laughs.yaml", "laughs.yaml"),
    ],
)
def test_every_script_refuses_impossible_options(tmp_path, monkeypatch, capsys, command, option):
    (tmp_path / "options.yaml").write_text("lr: fast\n")
    names = "abcdefghij"
    laughs = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    laughs += [f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]" for old, new in pairwise(names)]
    (tmp_path / "laughs.yaml").write_text("\n".join(laughs))
    with pytest.raises(SystemExit) as end:
        run_here(command, tmp_path, monkeypatch)
    out, err = capsys.readouterr()
    assert end.value.code == 2 and out == "" and err.count("\n") == 1
    assert err.startswith(command.split()[1]) and option in err
