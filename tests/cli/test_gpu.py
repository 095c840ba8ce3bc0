"""Tests that need a GPU: `make test-gpu`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from cli_tools import MINI, SMALL, TRAINING, start, train_stems, write_soft_labels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
]
CHECKPOINT = "models/from_gta5_to_cityscapes_on_deeplabv2_best_model.pkl"
RUN = f"{MINI} {SMALL.replace('--device cpu', '--gpus 1')} {TRAINING} --precision fp32"

# Ten times the largest relative change of these two iterations on a CPU in fp32, by channels last, by two
# threads, without oneDNN, or by networks in float64: of "consist" 1.5e-3, of all others 6.6e-5.
TOLERANCE, OTHERS = {"loss/consist": 1.5e-2}, 7e-4


def losses(log: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    return [
        {k: v for k, v in line.items() if k.startswith("loss/")} for line in lines if "loss/source" in line
    ]


@pytest.mark.parametrize(
    "stage",
    ["--stage warm_up --no_resume", f"--ema --proto_rectify --path_soft soft --resume_path {CHECKPOINT}"],
)
def test_a_gpu_gives_the_losses_of_the_cpu(desk, dataset, stage):
    write_soft_labels(desk / "soft", train_stems(dataset, 2))
    done = start(f"python calc_prototype.py --resume_path {CHECKPOINT} {SMALL}", desk)
    assert done.returncode == 0, done.stderr
    for device in ("cpu", "cuda"):
        done = start(f"python train.py {stage} --name {device} --device {device} {RUN}", desk)
        assert done.returncode == 0, done.stderr
    for cpu, gpu in zip(*(losses(desk / "logs" / d / "log.jsonl") for d in ("cpu", "cuda")), strict=True):
        assert gpu.keys() == cpu.keys()
        for name, value in cpu.items():
            assert gpu[name] == pytest.approx(value, rel=TOLERANCE.get(name, OTHERS), abs=1e-7), name
