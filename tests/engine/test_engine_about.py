"""When scores may stand beside the published ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from data.labels import NAMES
from engine.about import scored_as_published
from utils.options import parse

OWN = (2048, 1024)


def scored(words: str = "", images: int = 500, name: str = "cityscapes", size=OWN, on_disk=OWN) -> bool:
    data = SimpleNamespace(name=name, size=size, size_on_disk=lambda: on_disk)
    return scored_as_published(parse("test", "", words.split()), data, images)


def test_all_of_val_at_its_own_size_by_resnet101():
    assert scored() and scored("--src_dataset gta5")
    assert scored("--n_class 16") and scored("--n_class 16 --src_dataset synthia")


@pytest.mark.parametrize(
    "other",
    [
        *({"words": f"--{words}"} for words in ("backbone mini", "src_dataset synthia", "n_class 13")),
        {"words": "--n_class 16 --src_dataset gta5"},
        *({"images": 499}, {"name": "folder"}, {"size": (1024, 512)}),
        {"size": (256, 128), "on_disk": (256, 128)},
    ],
)
def test_other_scores_are_not_comparable(other):
    assert not scored(**other)


def test_scores_of_own_classes_are_not_comparable(tmp_path):
    (tmp_path / "my.yaml").write_text(f"classes: [{', '.join(NAMES)}]")
    assert not scored(f"--classes {tmp_path}/my.yaml")


@pytest.mark.parametrize(("n_class", "source", "comparable"), [(16, "gta5", False), (16, "synthia", True)])
def test_the_source_of_a_training_is_known(n_class, source, comparable):
    """Even where --src_dataset is not given: GTA5 is its default, whatever the classes."""
    data = SimpleNamespace(name="cityscapes", size=OWN, size_on_disk=lambda: OWN)
    options = parse("train", "", ["--n_class", str(n_class)])
    assert scored_as_published(options, data, 500, source) is comparable
