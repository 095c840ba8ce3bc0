"""The module in a loop of another hand: the block of docs/method_as_a_part.md, and the example."""

from __future__ import annotations

import copy
import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.batches import inference_loader
from data.sets.cityscapes import cityscapes
from examples import self_labeling_in_your_loop as example
from models import deeplabv2
from utils.checkpoint import NETWORK, save_checkpoint

DOCS = Path(__file__).parents[2] / "docs" / "method_as_a_part.md"
NUMBERS = re.compile(r"# (\d)\b")
D, K = 6, 5
SMALL = ["--size", "192,96", "--images", "4", "--val", "1", "--source_iters", "2", "--iters", "3"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, D, 1), nn.Conv2d(D, K, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        feats = self.body(images)
        return feats, self.head(feats)


def follow(teacher: nn.Module, student: nn.Module) -> None:
    with torch.no_grad():
        for ours, theirs in zip(teacher.parameters(), student.parameters(), strict=True):
            ours.lerp_(theirs, 0.1)


def test_the_block_of_the_docs_runs():
    torch.manual_seed(0)
    student = Net()
    size = (2, 3, 16, 20)
    batches = [(torch.randn(size), torch.randint(0, K, (2, 16, 20)), torch.randn(size)) for _ in range(3)]
    theirs = {
        "student": student,
        "teacher": copy.deepcopy(student),
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
        "loader": batches,
        "target_images": torch.randn(4, 3, 16, 20),
        "cross_entropy": lambda logits, label: F.cross_entropy(logits, label, ignore_index=255),
        "update_teacher": follow,
    }
    before = copy.deepcopy(student.state_dict())
    block, check = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert NUMBERS.findall(block) == list("12345678")
    exec(block, theirs)
    part = theirs["part"]
    assert int(part.queues.features.filled) == 3 * 2 * 256
    assert not torch.allclose(part.prototypes, theirs["centroids"], atol=1e-4)
    assert not torch.equal(part.prototypes_ema, theirs["centroids"])
    assert all(not torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert 0 < float(theirs["loss"].detach()) < float("inf")

    theirs["images"] = theirs["target_images"]
    exec(check, theirs)
    assert [label.shape for label in theirs["labels"]] == 2 * [(4, 16, 20)]


def test_the_numbers_of_the_docs_are_those_of_the_example():
    whole = inspect.getsource(example)
    assert NUMBERS.findall(whole) == list("12345678")
    kept = [line for line in inspect.getsource(example.adapt).splitlines() if not NUMBERS.search(line)]
    plain = inspect.getsource(example.plain).splitlines()
    more = [line for line in plain[2:] if line.replace("_, logits", "feats, logits") not in kept]
    assert more == ["        target_label = finer(logits).argmax(dim=1)"]  # line 6 stands for it
    assert len(kept) == len(plain) - 1


@pytest.mark.parametrize("more", [[], ["--plain"]])
def test_the_example_in_small(more, tmp_path, capsys):
    assert example.main([str(tmp_path), *SMALL, *more]) == 0
    told, complaints = capsys.readouterr()
    scores = [float(x) for x in re.findall(r"(?:before|after): mIoU (\d+\.\d)\n", told)]
    assert len(scores) == 2 and told.count("] loss ") == 5 and not complaints


def test_the_example_starts_from_a_checkpoint(tmp_path, capsys):
    torch.manual_seed(0)
    start, trained = tmp_path / "start.pkl", deeplabv2("mini", example.K)
    save_checkpoint({NETWORK: {"model_state": trained.state_dict()}}, start)
    assert example.main([str(tmp_path / "data"), *SMALL, "--start", str(start)]) == 0
    val = cityscapes(tmp_path / "data" / "cityscapes", "val", example.K, (192, 96))
    score = example.miou(trained, inference_loader(val, with_labels=True, workers=0))
    told = capsys.readouterr().out
    assert f"before: mIoU {score:.1f}\n" in told and told.count("] loss ") == 3

    save_checkpoint({NETWORK: {"model_state": {}}}, start)
    assert example.main([str(tmp_path / "none"), *SMALL, "--start", str(start)]) == 2
    assert not (tmp_path / "none").exists()  # refused before anything is drawn
    assert str(start) in capsys.readouterr().err


def test_what_the_example_does_to_images():
    """Labels move with their image, and colours are those of the other one."""
    torch.manual_seed(0)
    label = torch.randint(0, example.K, (2, 12, 24)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    image = label[:, None].float().expand(-1, 3, -1, -1)
    shown, seen = example.views(image, label)
    assert shown.shape == (2, 3, 72, 144) and seen.shape == (2, 72, 144)
    inside = (shown[:, 0] - seen).abs() < 0.01  # bilinear between two labels elsewhere
    assert inside.float().mean() > 0.5
    assert not torch.equal(seen[0], seen[1])

    other = 3 + 2 * torch.randn(2, 3, 96, 192)
    moved = example.in_colours_of(other, torch.rand(2, 3, 96, 192))
    assert torch.allclose(moved.mean(dim=(2, 3)), other.mean(dim=(2, 3)), atol=1e-4)
    assert torch.allclose(moved.std(dim=(2, 3)), other.std(dim=(2, 3)), atol=1e-4)


def test_the_example_says_what_it_cannot_do(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("not ours")
    assert example.main([str(tmp_path), *SMALL]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"self_labeling_in_your_loop: {tmp_path}") and told.count("\n") == 1
