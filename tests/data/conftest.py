"""Fixtures of several test files."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def tree(drawn, tmp_path, monkeypatch) -> Path:
    """A copy of the test file's own `drawn`, which the test may spoil, in the working directory."""
    shutil.copytree(drawn, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path
