"""Inference on a pretended GPU: per image the host waits for what is written of it, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from cli_tools import checkpoint_name, run_here

from benchmarks.pretended_gpu import pretended_gpu

SIZE = "--img_size 256,128 --num_workers 0"
MODEL = f"--resume_path models/{checkpoint_name()}"
LABELS = f"python generate_pseudo_label.py --name labels {MODEL}"
# By command: how many copies to the host are written of each image.
COPIES = {
    f"{LABELS} --soft": 1,
    f"{LABELS} --flip": 2,
    LABELS: 2,
    f"{LABELS} --quirks none": 2,
    f"python calc_prototype.py {MODEL}": 0,
    f"python calc_prototype.py --source {MODEL}": 0,
    f"python generate_class_distribution.py --class_balance {MODEL}": 0,
    f"python test.py --resume models/{checkpoint_name()}": 0,
    f"python test.py --resume models/{checkpoint_name()} --save_pred seen": 1,
    f"python test.py --resume models/{checkpoint_name()} --images dataset/cityscapes --save_dir seen": 1,
    f"python test.py --resume models/{checkpoint_name()} --images dataset/cityscapes --save_dir seen "
    "--scales 0.5,1 --flip": 1,
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # counts of a pretended GPU are all 0
@pytest.mark.parametrize("command", COPIES)
def test_an_image_waits_for_what_is_written_of_it(desk, monkeypatch, command):
    waits = {}
    for images in (1, 2):
        with pretended_gpu() as gpu, gpu.waiting():
            run_here(f"{command} {SIZE} --max_images {images}", desk, monkeypatch)
        waits[images] = gpu.waits
    assert len(waits[2]) - len(waits[1]) == COPIES[command], waits[2][-8:]


@pytest.fixture(autouse=True)
def _settings() -> Iterator[None]:
    """Settings that the scripts make for their whole process."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    yield
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = benchmark
