"""Start the processes of a run, one for each GPU, set up their devices, and end them together."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from engine.signals import ENDING_SIGNALS, passed_on, send_to, start_apart
from utils.distributed import Processes, is_started_alone, started_apart
from utils.errors import one_line
from utils.files.lock import locked
from utils.options import Options

GPU_TIMEOUT = timedelta(minutes=30)  # for a message between GPUs
# Hosts wait long for a slower process, which may download or write. `_watched` finds lost processes.
HOST_TIMEOUT = timedelta(days=1)
SILENCE = 20.0  # seconds without a heartbeat after which a process counts as lost
_GRACE = 10.0  # seconds that a copy has for ending
_LOST = re.compile("closed by peer|reset by peer|remote process exited|remoteerror|broken pipe|timed out")


@contextmanager
def joined(o: Options, batch: int | None = None) -> Iterator[Processes]:
    """Join the processes of this run for the time of the block.

    Under torchrun these are the processes that it started. Otherwise there is one for each visible GPU, at
    most --gpus. With more than one GPU, this process only starts copies of itself and ends as they end.
    batch: number of images that the processes must divide evenly, if any.
    """
    alone = is_started_alone(os.environ)
    if alone:
        if warning := started_apart(os.environ):
            print(warning, file=sys.stderr, flush=True)
        count = _usable_gpus(o, batch)
        if count > 1:
            sys.exit(start_copies(count, sys.argv))
    if o.without_effect and os.environ.get("RANK") in (None, "", "0"):
        print(o.without_effect, flush=True)
    if alone or int(os.environ["WORLD_SIZE"]) == 1:
        yield Processes()
        return
    with _watched():
        processes = _join(o)
        yield processes
        processes.wait()  # no process leaves before all have written their files
    dist.destroy_process_group()


@contextmanager
def claimed(processes: Processes, folders: Sequence[Path] = (), files: Sequence[Path] = ()) -> Iterator[None]:
    """Lock what a run writes: no process enters the block before, or leaves it while another one writes.

    Only the main process locks, for all of the run.
    """
    with ExitStack() as locks:
        if processes.is_main:
            for folder in folders:
                locks.enter_context(locked(folder))
            for file in files:
                locks.enter_context(locked(file.parent, file.name))
        processes.wait()
        yield
        processes.wait()


def prepare_device(o: Options) -> torch.device:
    """This process's device, of the kind that --device names (auto: a GPU if there is one).

    Sets threads and seed.

    Compute threads and loading processes share the cores: more threads than free cores make the threads wait
    for one another in a busy loop, measured at 20 times the time of an iteration on 2 cores.
    """
    torch.manual_seed(o.seed)
    # Measured once a shape: crops and whole images of stage 1 have one each (engine.inference: the others).
    torch.backends.cudnn.benchmark = True
    here = None if is_started_alone(os.environ) else os.environ.get("LOCAL_WORLD_SIZE")
    cores = torch.get_num_threads() // int(here or 1)
    torch.set_num_threads(o.threads or max(1, cores - o.num_workers))
    return torch.device("cuda", torch.cuda.current_device()) if o.on_gpu else torch.device("cpu")


def _usable_gpus(o: Options, batch: int | None) -> int:
    """Return the number of GPUs to use; prints a line if the batch leaves some idle."""
    visible = torch.cuda.device_count() if o.on_gpu else 0
    admitted = min(visible, o.gpus or visible)
    count = max((n for n in range(1, admitted + 1) if batch is None or batch % n == 0), default=0)
    if count < admitted:
        print(f"uses {count} of {admitted} GPUs, the most that divide --bs {batch}", flush=True)
    return count


def _join(o: Options) -> Processes:
    """Join the process group: NCCL on GPUs, gloo on CPUs."""
    local_rank = int(os.environ["LOCAL_RANK"])
    if o.on_gpu:
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"{local_rank + 1} processes for {torch.cuda.device_count()} GPUs; start one a GPU"
            )
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if o.on_gpu else "gloo", timeout=GPU_TIMEOUT)
    host = dist.new_group(backend="gloo", timeout=HOST_TIMEOUT)
    return Processes(dist.get_rank(), dist.get_world_size(), local_rank, host)


@contextmanager
def _watched() -> Iterator[None]:
    """End this process when another one fails or is lost, and report a failure of this one.

    A thread watches, because the main thread may wait for a message that never comes. The processes share a
    store of keys. Each failing process adds to `failed`; the first one prints the reason. `alive/RANK` is a
    heartbeat that another process watches, because a killed process cannot report anything.
    """
    done = threading.Event()
    threading.Thread(target=_keep_watch, args=(done,), daemon=True).start()
    try:
        yield
    except Exception as error:
        done.set()
        if not _is_first_to_fail():
            _leave(None)
        if isinstance(error, RuntimeError) and _LOST.search(str(error).lower()):
            reason = str(error).splitlines()[0]
            _leave(f"error: another process of this run ended without a word ({reason}); start the run again")
        message = one_line(error)
        if message is None:
            sys.excepthook(type(error), error, error.__traceback__)
        _leave(f"error: {message}" if message else None)
    finally:
        done.set()


def _connect(timeout: timedelta) -> dist.Store:
    """Open a connection for this thread: a call that waits for a key blocks a common one."""
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, is_master=False, wait_for_workers=False, timeout=timeout)
    return dist.PrefixStore(f"cpsl/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


def _is_first_to_fail() -> bool:
    """True as well if the store is gone with the process that held it."""
    try:
        return _connect(timedelta(seconds=2)).add("failed", 1) == 1
    except (RuntimeError, OSError):
        return True


def _keep_watch(done: threading.Event) -> None:
    rank = int(os.environ["RANK"])
    watched, seen, since = (rank + 1) % int(os.environ["WORLD_SIZE"]), -1, time.monotonic()
    try:
        store = _connect(GPU_TIMEOUT)
        while not done.wait(1.0):
            store.add(f"alive/{rank}", 1)
            beats = store.add(f"alive/{watched}", 0)
            if beats != seen:
                seen, since = beats, time.monotonic()
            failed = store.add("failed", 0)
            silent = seen > 0 and time.monotonic() - since > SILENCE
            if not failed and silent and store.add("failed", 1) == 1:
                _leave(f"error: process {watched} of this run is silent (killed?); start the run again")
            if (failed or silent) and not done.wait(3.0):
                _leave(None)  # the reason has been printed
    except (RuntimeError, OSError):
        if not done.wait(5.0):
            _leave("error: the first process of this run has gone; start the run again")


def _leave(message: str | None) -> None:
    """End at once: a normal exit would wait for processes that are lost."""
    if message:
        print(message, file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def start_copies(count: int, argv: Sequence[str]) -> int:
    """Run `python argv` as `count` processes of one run on this machine; return their exit code.

    When one fails, the others are ended. Signals are passed on to all.
    """
    # This process holds the store, so that it survives a failing copy.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(count)}
    shared |= {"TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "0"}
    shared |= {"LOCAL_WORLD_SIZE": str(count)}
    copies: list[subprocess.Popen] = []
    grace = 0.0
    try:
        with passed_on(copies) as signals:
            for rank in range(count):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                copies.append(start_apart([sys.executable, *argv], os.environ | shared | own))
                if signals:
                    send_to(copies, signals[-1])  # the newest copy may have missed it
                    break
            while not any(codes := [copy.poll() for copy in copies]):
                if None not in codes:
                    return 0
                time.sleep(0.1)
            grace = _GRACE  # the others notice and end by themselves
    finally:
        _end(copies, grace)
    rank, code = next((rank, code) for rank, code in enumerate(codes) if code)
    if -code in ENDING_SIGNALS:
        return 128 - code
    if code < 0:
        print(f"error: process {rank} was ended by signal {-code}; the run was stopped", file=sys.stderr)
    return code if code > 0 else 128 - code


def _end(copies: Sequence[subprocess.Popen], grace: float) -> None:
    """Wait `grace` seconds for running copies to end by themselves, then terminate, then kill them."""
    for seconds, ask in ((grace, subprocess.Popen.terminate), (_GRACE, subprocess.Popen.kill)):
        deadline = time.monotonic() + seconds
        for copy in copies:
            try:
                copy.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                ask(copy)
    for copy in copies:
        copy.wait()
