"""Messages of processes where a message between GPUs is only queued, as with NCCL."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.log import RunLog, silent_logger
from tests.distributed.programs import by_rank
from utils.distributed import Processes


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return by_rank("messages_program", tmp_path_factory.mktemp("messages"), 2)


@pytest.mark.parametrize("how", ["wait", "only the others"])
def test_waiting_lasts_until_the_slower_process_has_come(both, how):
    assert [one["found"][how] for one in both] == [True, True]


def test_values_of_the_host_travel_between_hosts(both):
    for one in both:
        found = one["found"]
        assert found["queued"] == []
        assert found["sum"].tolist() == [[3, 10]]
        assert found["gather"].tolist() == [[1, 5], [2, 5]]
        assert found["dealt"].tolist() == [0, 1, 2]
        assert found["copied"].tolist() == [[1, 5]]


def test_nothing_is_sent_of_empty_tensors(both):
    for one in both:
        empty = one["empty"]
        assert empty["sent"] == []
        assert [empty[name].shape for name in ("gather", "sum", "dealt")] == [(2, 0), (1, 0), (0, 0)]


def test_the_state_of_a_log_without_losses_sends_nothing(tmp_path: Path):
    """No process group is there to send by."""
    log = RunLog(tmp_path, silent_logger(), 1, 1, 1, Processes(0, 2))
    state = log.state()
    assert state["sums"].shape == (2, 0)
    log.load_state(state)
