"""Tools for tests of the scripts: start them as a user does, and make the files that they read."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engine.log import Schedule
from models import deeplabv2
from tests.cli.preload import run_script

PROJECT = Path(__file__).parents[2]
IMAGE_SIZE = (256, 128)  # W, H
GRID = (17, 33)  # h, w of the network's output
SMALL = "--img_size 256,128 --num_workers 0 --device cpu --max_images 2"
TRAINING = (
    "--train_iters 2 --bs 1 --rcrop 64,32 --resize 256 --fbs 32 --queue_length 64 "
    "--val_interval 2 --print_interval 1"
)
MINI = "--backbone mini"
PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}


# Forks a process for each script from one that has imported torch: that saves five CPU seconds a start.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.cli.preload"])


def start(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """Run `python SCRIPT OPTIONS…`, as a user types it, in `cwd`; the script is the project's."""
    return start_together(1, command, cwd, **environment)[0]


def start_together(
    count: int, command: str, cwd: Path, **environment: str
) -> list[subprocess.CompletedProcess]:
    """Run a command in several processes that share a run, as torchrun does, without its launcher."""
    python, script, *words = shlex.split(command.replace("\\\n", ""))
    assert python == "python"
    environment = {"OMP_NUM_THREADS": "1"} | environment
    if count > 1:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(count)}
    with tempfile.TemporaryDirectory() as folder:
        running = []
        for rank in range(count):
            place = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
            outputs = [os.path.join(folder, f"{name}{rank}") for name in ("stdout", "stderr")]
            arguments = ([str(PROJECT / script), *words], str(cwd), environment | place, outputs)
            running.append((SERVER.Process(target=run_script, args=arguments), outputs))
            running[-1][0].start()
        done = []
        for process, outputs in running:
            process.join(300)
            if process.is_alive():
                process.kill()
                raise TimeoutError(f"{command}: still runs after 300 s")
            texts = [Path(path).read_text() for path in outputs]
            done.append(subprocess.CompletedProcess(words, process.exitcode, *texts))
    return done


def succeed(command: str, cwd: Path, **environment: str) -> str:
    """The standard output of a command that ends well and says nothing on standard error."""
    done = start(command, cwd, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def begin(words: list[str], cwd: Path, processes: int = 1, **options: object) -> subprocess.Popen:
    """Start `python words` by itself, a script of the project or -m MODULE; several processes by torchrun."""
    words = words if words[0] == "-m" else [str(PROJECT / words[0]), *words[1:]]
    if processes > 1:
        words = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.Popen([sys.executable, *words], cwd=cwd, env=environment, **options)


def ended(words: list[str], cwd: Path, processes: int = 1) -> subprocess.CompletedProcess:
    """Begin a command and wait for its end."""
    child = begin(words, cwd, processes, **PIPES)
    outputs = child.communicate(timeout=600)
    return subprocess.CompletedProcess(words, child.returncode, *outputs)


def finish(words: list[str], cwd: Path, processes: int = 1) -> str:
    """Return all output of a command that ends well."""
    done = ended(words, cwd, processes)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def draw_mini(words: str, cwd: Path) -> None:
    """Run `python -m data.mini` in a folder that is not the project's."""
    finish(["-m", "data.mini", *words.split()], cwd)


def refused(command: str, cwd: Path) -> str:
    """The one line on standard error with which a command ends badly."""
    done = start(command, cwd)
    assert done.returncode not in (0, None), done.stdout
    assert "Traceback" not in done.stdout + done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    return lines[0]


def file_of(words: list[str]) -> tuple[Path, list[str]]:
    """The program that words after `python` start, a script or -m MODULE, and its own words."""
    if words[0] != "-m":
        return PROJECT / words[0], words[1:]
    place = PROJECT / words[1].replace(".", "/")
    return place / "__main__.py" if place.is_dir() else place.with_suffix(".py"), words[2:]


def run_here(command: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a command in this process, which saves its start."""
    _, *words = shlex.split(command)
    path, words = file_of(words)
    with monkeypatch.context() as patch:
        patch.chdir(cwd)
        patch.setattr(sys, "argv", [path.name, *words])
        runpy.run_path(str(path), run_name="__main__")


def refused_here(command: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same line without a process of its own, for what is refused before any work."""
    with pytest.raises(SystemExit) as end:
        run_here(command, cwd, monkeypatch)
    assert isinstance(end.value.code, str), end.value.code  # the interpreter prints it and exits with 1
    assert "\n" not in end.value.code
    return end.value.code


def checkpoint_name(source: str = "gta5", which: str = "best") -> str:
    """The released file name."""
    return f"from_{source}_to_cityscapes_on_deeplabv2_{which}_model.pkl"


def random_network(backbone: str, n_class: int = 19, norm: bool = False, seed: int = 0) -> torch.nn.Module:
    """A network that nobody trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return deeplabv2(backbone, n_class, norm)


def two_copies(folder: Path) -> str:
    """Write a program that starts two copies of a script, as train.py does where it sees two GPUs."""
    path = folder / "start.py"
    path.write_text(
        f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
        "from engine.launch import start_copies\nsys.exit(start_copies(2, sys.argv[1:]))\n"
    )
    return str(path)


def end_after(iteration: int, patch: pytest.MonkeyPatch) -> None:
    """Let a signal reach the next training in this process as soon as an iteration is done."""
    line = Schedule.line

    def asked(self: Schedule, done: int) -> bool:
        if done == iteration:
            signal.raise_signal(signal.SIGTERM)
        return line(self, done)

    patch.setattr(Schedule, "line", asked)


def write_released(path: Path, network: torch.nn.Module) -> Path:
    """A checkpoint as the released ones are: a numpy float, and prototypes that require a gradient."""
    shape = (network.num_classes, network.feat_channels)
    part = {"model_state": network.state_dict(), "prototypes_ema": torch.zeros(shape, requires_grad=True)}
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"ResNet101": part, "iter": 1, "best_iou": np.float64(0.25)}, path)
    return path


def backbone_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The tensors below the head, as files of pretrained backbones hold them."""
    return {k: v for k, v in network.state_dict().items() if not k.startswith(("layer5.", "bn_pretrain."))}


def load(path: Path) -> object:
    """A file of tensors."""
    return torch.load(path, map_location="cpu", weights_only=True)


def pixels(path: Path) -> np.ndarray:
    """A picture as stored: (H, W) or (H, W, 3)."""
    with Image.open(path) as image:
        return np.array(image)


def train_stems(dataset: Path, count: int | None = None) -> list[str]:
    """Names, without ending, of the first images of Cityscapes train."""
    folder = dataset / "cityscapes" / "leftImg8bit" / "train"
    return [path.stem for path in sorted(folder.glob("*/*.png"))][:count]


def write_soft_labels(folder: Path, names: list[str], n_class: int = 19) -> Path:
    """Soft pseudo labels that lean towards a class that differs from column to column."""
    scores = np.zeros((n_class, *GRID), dtype=np.float32)
    for column in range(GRID[1]):
        scores[column % n_class, :, column] = 3
    probs = np.exp(scores) / np.exp(scores).sum(axis=0)
    folder.mkdir(parents=True)
    for name in names:
        np.save(folder / f"{name}.npy", probs)
    return folder
