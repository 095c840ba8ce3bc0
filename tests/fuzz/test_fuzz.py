"""A small part of `python -m tests.fuzz`, and that its process sees what must not happen."""

from __future__ import annotations

from tests.fuzz.campaign import run, summary
from tests.fuzz.good_files import GOOD


def test_mutated_files_are_read_or_refused(tmp_path):
    readings = run(tmp_path, 132, 1, None, False)
    assert not any(reading.wrong for reading in readings), summary(readings)
    assert {reading.kind for reading in readings} == GOOD.keys()
    assert {reading.outcome for reading in readings} == {"read", "refused"}


def test_crafted_files_are_refused_without_memory(tmp_path):
    torch_files = ["checkpoint_zip", "checkpoint_legacy", "prototypes"]
    kinds = [*torch_files, "soft", "split_plain", "options", "distribution", "distribution_text"]
    readings = run(tmp_path, 0, 0, kinds, True)
    assert len(readings) > 200
    bad_priors = [r for r in readings if r.kind.startswith("distribution") and r.what != "good"]
    assert {reading.outcome for reading in bad_priors} == {"refused"}
    assert not any(reading.wrong for reading in readings), summary(readings)
    hungry = [reading for reading in readings if reading.memory > 2**29 and reading.kind != "split_plain"]
    assert not hungry, summary(hungry)
    crafted = [reading for reading in readings if reading.kind in torch_files and reading.what != "good"]
    assert {reading.outcome for reading in crafted} == {"refused"}
