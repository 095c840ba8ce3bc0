"""Small data sets and random networks, made once and read by all tests of the scripts."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_tools import checkpoint_name, draw_mini, random_network, write_released


@pytest.fixture(scope="session", autouse=True)
def signals_as_at_a_terminal() -> Iterator[None]:
    """Restore these signals: in the background or under nohup, started scripts would ignore them."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with GTA5, SYNTHIA and cityscapes; nobody may change it."""
    out = tmp_path_factory.mktemp("drawn") / "dataset"
    draw_mini("dataset --size 256,128 --seed 0 --source 4 --target 4 --val 2", out.parent)
    return out


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of small random networks in the released layout: k19.pkl, k16.pkl, bn.pkl."""
    folder = tmp_path_factory.mktemp("networks")
    write_released(folder / "k19.pkl", random_network("mini"))
    write_released(folder / "k16.pkl", random_network("mini", 16))
    write_released(folder / "bn.pkl", random_network("mini", norm=True))
    return folder


@pytest.fixture
def desk(tmp_path: Path, dataset: Path, networks: Path) -> Path:
    """A folder to start scripts in: ./dataset and a small network ./models/from_…_best_model.pkl."""
    (tmp_path / "dataset").symlink_to(dataset)
    (tmp_path / "models").mkdir()
    shutil.copy(networks / "k19.pkl", tmp_path / "models" / checkpoint_name())
    return tmp_path


@pytest.fixture
def own_desk(desk: Path, dataset: Path) -> Path:
    """The same with a copy of the data sets that the test may spoil."""
    (desk / "dataset").unlink()
    shutil.copytree(dataset, desk / "dataset")
    return desk
