"""Switches of the released behaviour."""

from __future__ import annotations

import pytest

from utils.quirks import Quirks

NAMES = [
    "repeated_updates",
    "ema_train_mode",
    "kd_probabilities",
    "unshuffled_labels",
    "flat_replay",
    "raw_queue_scores",
    "translate_by_height",
    "source_replay_scale",
    "grid_hard_labels",
    "unreplayed_labels",
]


def test_reference_is_the_default_and_all_ten():
    assert Quirks.parse("reference") == Quirks()
    assert Quirks().active() == NAMES


def test_none_is_none():
    assert Quirks.parse("none").active() == []


@pytest.mark.parametrize("name", NAMES)
def test_one_alone(name):
    assert Quirks.parse(name).active() == [name]
    assert getattr(Quirks.parse(name), name) is True


def test_a_list_with_spaces():
    assert Quirks.parse("flat_replay, kd_probabilities").active() == ["kd_probabilities", "flat_replay"]


@pytest.mark.parametrize("text", ["Q1", "flat_replay,typo", "", "reference,none"])
def test_unknown_names_are_refused_with_the_known_ones(text):
    with pytest.raises(ValueError, match="translate_by_height"):
        Quirks.parse(text)
