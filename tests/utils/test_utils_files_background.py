"""Writing in the background: all is done at the end, little waits, errors come out."""

from __future__ import annotations

import threading
import time

import pytest

from utils.files.background import BackgroundWriter


def test_all_is_done_at_the_end_of_the_block(tmp_path):
    with BackgroundWriter() as writer:
        for i in range(40):
            writer.do(lambda path: (time.sleep(0.002), path.write_text("x")), tmp_path / str(i))
    assert len(list(tmp_path.iterdir())) == 40


def test_no_more_than_ten_are_held(tmp_path):
    """Two at work and eight that wait: an eleventh must wait for the first."""
    gate, done = threading.Event(), []
    with BackgroundWriter() as writer:
        submitted = []

        def submit() -> None:
            for i in range(20):
                writer.do(lambda i=i: (gate.wait(10), done.append(i)))
                submitted.append(i)

        thread = threading.Thread(target=submit)
        thread.start()
        time.sleep(0.3)
        held = len(submitted)
        gate.set()
        thread.join()
    assert held <= 10 and sorted(done) == list(range(20))


def fail() -> None:
    raise OSError("the disk is full")


def test_an_error_is_raised_at_the_end_of_the_block():
    with pytest.raises(OSError, match="disk is full"), BackgroundWriter() as writer:
        writer.do(fail)


def test_an_error_stops_the_loop_early():
    count = 0
    with pytest.raises(OSError, match="disk is full"), BackgroundWriter() as writer:
        writer.do(fail)
        for _ in range(1000):
            time.sleep(0.005)
            count += 1
            writer.do(time.sleep, 0)
    assert count < 100


def test_an_error_of_the_block_is_not_hidden_and_nothing_new_begins():
    begun = []
    with pytest.raises(ValueError, match="of the block"), BackgroundWriter() as writer:
        for i in range(8):
            writer.do(lambda i=i: (begun.append(i), time.sleep(0.2), fail()))
        raise ValueError("of the block")
    assert len(begun) <= 4
