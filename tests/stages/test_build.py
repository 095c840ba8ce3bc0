"""From options to stages: what is built and loaded, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.log import silent_logger
from models import FCDiscriminator, deeplabv2
from stages.build import build_stage, computing
from stages.stage import Stage
from utils.checkpoint import DISCRIMINATOR, NETWORK
from utils.distributed import ALONE
from utils.options import parse

MINI = ["--backbone", "mini", "--device", "cpu"]


def built(words: str) -> Stage:
    o = parse("train", "", [*MINI, *words.split()])
    return build_stage(o, torch.device("cpu"), silent_logger(), ALONE)


@pytest.fixture
def warm_up(tmp_path: Path) -> Path:
    """A checkpoint of a warm-up."""
    states = {NETWORK: deeplabv2("mini", 19), DISCRIMINATOR: FCDiscriminator(19, 16)}
    content = {name: {"model_state": part.state_dict()} for name, part in states.items()}
    torch.save(content | {"iter": 1, "best_iou": 0.0}, tmp_path / "warm_up.pkl")
    return tmp_path / "warm_up.pkl"


@pytest.mark.parametrize("weight", [0, 1])
def test_only_distillation_needs_a_teacher(tmp_path, warm_up, weight):
    fresh = f"--stage stage2 --no_resume --distillation {weight} --resume_path"
    assert (built(f"{fresh} {warm_up}").teacher is None) == (weight == 0)
    if weight == 0:
        built(f"{fresh} {tmp_path}/missing.pkl")
    for words in ([fresh] if weight else []) + [fresh.replace("--no_resume", "")]:
        with pytest.raises(FileNotFoundError, match=r"missing\.pkl"):
            built(f"{words} {tmp_path}/missing.pkl")


def test_a_warm_up_begins_with_a_new_discriminator(warm_up):
    states = torch.load(warm_up, weights_only=True)
    stage = built(f"--stage warm_up --resume_path {warm_up}")
    student, old = (states[name]["model_state"] for name in (NETWORK, DISCRIMINATOR))
    assert torch.equal(stage.student.conv1.weight, student["conv1.weight"])
    assert not torch.equal(stage.discriminator.conv1.weight, old["conv1.weight"])


NAMED = "networks in fp32 ({} in TF32)"


@pytest.mark.parametrize(
    ("words", "kind", "has_tf32", "bf16", "channels_last", "matmul", "convolutions", "told"),
    [
        ("", "cuda", True, False, False, False, True, NAMED.format("convolutions")),
        ("", "cuda", False, False, False, False, True, "networks in fp32"),
        ("", "cpu", True, False, False, False, True, "networks in fp32"),
        ("--precision fp32", "cuda", True, False, False, False, False, "networks in fp32"),
        ("--precision tf32", "cuda", True, False, False, True, True, NAMED.format("all products")),
        ("--precision tf32", "cpu", True, False, False, True, True, "networks in fp32"),
        ("--precision bf16", "cuda", True, True, True, False, True, "networks in bf16, channels last"),
        ("--precision bf16", "cpu", False, True, False, False, True, "networks in bf16"),
        ("--channels_last", "cpu", False, False, True, False, True, "networks in fp32, channels last"),
        (
            "--recompute --precision fp32",
            *("cuda", True, False, False, False, False),
            "networks in fp32, recompute",
        ),
    ],
)
def test_how_networks_are_computed(
    monkeypatch, words, kind, has_tf32, bf16, channels_last, matmul, convolutions, told
):
    """By itself as torch does, bf16 only where it is asked for; the line says what is so."""
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(torch.cuda, "is_tf32_supported", lambda: has_tf32)
    for flags in (torch.backends.cuda.matmul, torch.backends.cudnn):
        monkeypatch.setattr(flags, "allow_tf32", flags.allow_tf32)
    compute, line = computing(parse("test", "", words.split()), torch.device(kind))
    assert compute.dtype == (torch.bfloat16 if bf16 else None)
    assert compute.channels_last == channels_last
    assert torch.backends.cuda.matmul.allow_tf32 == matmul
    assert torch.backends.cudnn.allow_tf32 == convolutions
    assert line == told
