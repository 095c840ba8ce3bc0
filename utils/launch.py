"""One process a GPU: joining the processes of a run, starting them, ending them together."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta

import torch
import torch.distributed as dist

from utils.options import Options, one_line
from utils.processes import Processes

PATIENCE = timedelta(minutes=30)  # the longest that one process may keep the others waiting
GRACE = 10.0  # seconds between asking a process to end and ending it


@contextmanager
def joined(o: Options) -> Iterator[Processes]:
    """The processes that share this run, around all its work.

    Under torchrun those that it started. Otherwise one for each GPU that is visible and --gpus admits: with
    more than one, this process only starts copies of itself and ends as they end.
    """
    if "RANK" not in os.environ:
        gpus = 0 if o.device == "cpu" else torch.cuda.device_count()
        count = min(gpus, o.gpus or gpus)
        if count > 1:
            sys.exit(start_copies(count, sys.argv))
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Processes()
        return
    on_gpu = o.device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    store, rank, size = next(dist.rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if on_gpu else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Processes(rank, size)
        dist.barrier()  # nobody leaves before all have written what they have
    except Exception as error:
        if not _is_first_to_fail(store):
            sys.exit(1)  # the reason has been said
        if _is_loss_of_another(error):
            sys.exit("error: another process of this run ended without a word (killed?); start the run again")
        message = one_line(error)
        if message is None:
            raise
        sys.exit(f"error: {message}")
    dist.destroy_process_group()


def _is_first_to_fail(store: dist.Store) -> bool:
    """Whether no other process has failed before. True also where the store is gone with its process."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:
        return True


def _is_loss_of_another(error: Exception) -> bool:
    """Whether a message to another process could not be sent."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def start_copies(count: int, argv: Sequence[str]) -> int:
    """Run `python argv` as `count` processes that share a run on this machine; their exit code.

    As soon as one fails the others are ended.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    copies = [
        subprocess.Popen(
            [sys.executable, *argv], env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        )
        for rank in range(count)
    ]
    before = signal.signal(signal.SIGTERM, lambda *_: _end(copies))
    try:
        while True:
            codes = [copy.poll() for copy in copies]
            failed = [(rank, code) for rank, code in enumerate(codes) if code]
            if failed:
                break
            if None not in codes:
                return 0
            time.sleep(0.1)
    except KeyboardInterrupt:  # the terminal has told the copies as well
        failed = [(0, 130)]
    finally:
        signal.signal(signal.SIGTERM, before)
        _end(copies)
    rank, code = failed[0]
    if code < 0:
        print(f"error: process {rank} was ended by signal {-code}; the run was stopped", file=sys.stderr)
    return code if code > 0 else 128 - code


def _end(copies: Sequence[subprocess.Popen]) -> None:
    """Ask those that still run to end, then make them."""
    for copy in copies:
        with suppress(ProcessLookupError):
            copy.terminate()
    deadline = time.monotonic() + GRACE
    for copy in copies:
        try:
            copy.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            copy.kill()
            copy.wait()
