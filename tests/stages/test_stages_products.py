"""Class distributions of another hand, and names of prototypes (tests/fuzz has what is refused)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from data.inputs import load_distribution, prototype_path
from stages.build import absent_prototypes
from utils.options import parse

SHARES = np.arange(1.0, 20) / 190


def load(path: Path) -> np.ndarray:
    o = parse("train", "", ["--stage", "source_only", "--class_distribution", str(path)])
    return load_distribution(o)[0].numpy()


def test_both_forms_are_read(tmp_path):
    np.save(tmp_path / "a.npy", SHARES)
    (tmp_path / "a.txt").write_text("# of 19 classes\n" + "\n".join(map(str, SHARES)))
    for name in ("a.npy", "a.txt"):
        np.testing.assert_allclose(load(tmp_path / name), SHARES, rtol=1e-6)


def test_an_absent_class_has_the_same_share_in_any_unit(tmp_path):
    for scale in (1.0, 100.0, 1e9):
        np.save(tmp_path / "a.npy", scale * np.array([0.0, *SHARES[1:]]))
        expected = np.array([1e-6 * SHARES[1:].sum(), *SHARES[1:]])
        np.testing.assert_allclose(load(tmp_path / "a.npy"), expected / expected.sum(), rtol=1e-6)


def test_the_smallest_share_stays_above_nothing(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1e-300, *SHARES[1:]]))
    assert (load(tmp_path / "a.npy") > 0).all()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("", "prototypes_on_cityscapes_from_deeplabv2"),
        ("--source", "prototypes_on_gta5_from_deeplabv2"),
        ("--source --src_dataset synthia --model_name other", "prototypes_on_synthia_from_other"),
        ("--source --src_dataset folder", "prototypes_on_folder_from_deeplabv2"),
        ("--tgt_dataset folder", "prototypes_on_folder_from_deeplabv2"),
        ("--source --src_dataset folder --tgt_dataset folder", "prototypes_on_source_from_deeplabv2"),
    ],
)
def test_prototypes_of_source_and_target_have_names_of_their_own(words, name):
    o = parse("prototypes", "", ["--resume_path", "models/a.pkl", *words.split()])
    assert prototype_path(o) == Path("models") / name
    assert prototype_path(o.replaced(prototypes=Path("b.pth"))) == Path("b.pth")


def test_prototypes_of_classes_never_predicted_are_named():
    prototypes = torch.tensor([[1.0, 0], [0, 0], [0, -2.0], [0, 0]])
    told = absent_prototypes(prototypes, ["road", "train", "sky", "bus"])
    assert "too rarely predicted" in told and told.count("train, bus") == 1 and "road" not in told
    assert absent_prototypes(prototypes[::2], ["road", "sky"]) == ""
