"""The scripts of docs/slurm.md, run by stand-ins for sbatch, srun and scontrol."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cli_tools import PROJECT

from engine.signals import CAN_CONTINUE
from tests.cli.killed_runs import COMMON, descendants, with_signal

PAGE = (PROJECT / "docs" / "slurm.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
ONE, SEVERAL = (block for block in BLOCKS if block.startswith("#!/bin/bash"))
RECIPE, TRAINING = (
    shlex.split(block.replace("\\\n", " "))[2:] for block in BLOCKS if block.startswith("sbatch ")
)
JOB, ITERATIONS = "4711", 24
# Drops its own options, starts the tasks, and ends with the highest exit code, as Slurm's does.
SRUN = """#!/bin/bash
while [[ $1 == -* ]]; do shift; done
for ((i = 0; i < SLURM_NTASKS; i++)); do
    SLURM_PROCID=$i SLURM_LOCALID=$i SLURM_STEP_NUM_TASKS=$SLURM_NTASKS "$@" & tasks+=($!)
    echo $! >> step
done
highest=0
for task in "${tasks[@]}"; do
    wait $task; code=$?
    ((code > highest)) && highest=$code
done
exit $highest
"""
SCONTROL = """#!/bin/bash
[[ "$*" == "show hostnames nodes" ]] && echo 127.0.0.1 || echo "$@" >> requeued
"""


class Cluster:
    """A stand-in for Slurm in a folder: `start` runs a job there as sbatch does."""

    def __init__(self, folder: Path, script: str):
        self.folder, self.script, self.starts = folder, script, 0
        self.directives = dict(re.findall(r"#SBATCH --([\w-]+)(?:=(\S+))?", script))
        python = f'#!/bin/bash\nscript=$1; shift\nexec {sys.executable} {PROJECT}/"$script" "$@" $SMALLER\n'
        programs = {"python": python, "srun": SRUN, "scontrol": SCONTROL}
        (folder / ".venv" / "bin").mkdir(parents=True)
        for name, text in programs.items():
            path = folder / ".venv" / "bin" / name
            path.write_text(text)
            path.chmod(0o755)
        (folder / ".venv" / "bin" / "activate").write_text('export PATH="$PWD/.venv/bin:$PATH"\n')
        (folder / "job").write_text(script)

    def start(self, words: list[str], smaller: str, tasks: int, until: str | None) -> int:
        """Run the job; once the run's log has the text `until`, signal all processes of its step."""
        place = {"SLURM_SUBMIT_DIR": str(self.folder), "SLURM_JOB_ID": JOB, "SLURM_JOB_NODELIST": "nodes"}
        place |= {"SLURM_CPUS_PER_TASK": self.directives["cpus-per-task"], "SLURM_NTASKS": str(tasks)}
        place |= {"SLURM_RESTART_COUNT": str(self.starts), "SMALLER": smaller, "OMP_NUM_THREADS": "1"}
        self.starts += 1
        (self.folder / "step").unlink(missing_ok=True)
        with open(self.folder / "output", "a") as output:
            job = subprocess.Popen(
                ["bash", "job", *words], cwd=self.folder, env=os.environ | place, stdout=output, stderr=output
            )
            if until is not None:
                self.wait_for(until, job)
                name, _, seconds = self.directives["signal"].partition("@")
                assert int(seconds) >= 60
                step = [int(pid) for pid in (self.folder / "step").read_text().split()]
                for pid in {pid for task in step for pid in descendants(task)}:
                    with_signal(pid, signal.Signals[f"SIG{name}"])
            return job.wait(300)

    def wait_for(self, text: str, job: subprocess.Popen) -> None:
        log = self.folder / "logs" / "run" / "run.log"
        while not (log.is_file() and text in log.read_text()):
            assert job.poll() is None, self.output()
            time.sleep(0.02)

    def output(self) -> str:
        return (self.folder / "output").read_text()

    def requeued(self) -> list[str]:
        path = self.folder / "requeued"
        return path.read_text().splitlines() if path.is_file() else []


def recipe() -> dict:
    """A recipe of one training, in the place of the one that the page names."""
    words = COMMON.replace("--", "").split()
    options = dict(zip(words[::2], words[1::2], strict=True)) | {"num_workers": 0, "train_iters": ITERATIONS}
    step = {
        "name": "warm_up",
        "script": "train",
        "options": {"name": "run", "stage": "warm_up", "no_resume": True},
    }
    return {"title": "small", "folder": "recipe", "options": options, "steps": [step]}


SMALLER = f"{COMMON} --name run --num_workers 0 --train_iters {ITERATIONS} --val_interval {ITERATIONS}"


@pytest.mark.parametrize(
    ("script", "words", "tasks"),
    [
        (ONE, TRAINING, 1),
        pytest.param(ONE, RECIPE, 1, marks=pytest.mark.slow),
        pytest.param(SEVERAL, TRAINING, 2, marks=pytest.mark.slow),
    ],
    ids=["training", "recipe", "several machines"],
)
def test_a_job_is_requeued_and_goes_on(desk, script, words, tasks):
    (desk / "configs").mkdir()
    (desk / "configs" / "gta5_to_cityscapes.yaml").write_text(yaml.safe_dump(recipe()))
    cluster, smaller = Cluster(desk, script), "" if words is RECIPE else SMALLER
    assert {"requeue", "open-mode", "signal"} <= cluster.directives.keys()

    assert cluster.start(words, smaller, tasks, until="Iter [3/") == CAN_CONTINUE, cluster.output()
    assert cluster.requeued() == [f"requeue {JOB}"]
    assert "SIGUSR1: interrupted after iteration" in cluster.output()

    assert cluster.start(words, smaller, tasks, until=None) == 0, cluster.output()
    assert cluster.requeued() == [f"requeue {JOB}"]
    log = (desk / "logs" / "run" / "run.log").read_text()
    assert "continues after iteration" in log and f"Iter [{ITERATIONS}/{ITERATIONS}]" in log
    assert log.count(f"on {tasks} × cpu") == 2


@pytest.mark.parametrize(("words", "code"), [(["true"], 0), (["false"], 1)])
def test_only_an_interrupted_job_is_requeued(tmp_path, words, code):
    cluster = Cluster(tmp_path, ONE)
    assert cluster.start(words, "", 1, until=None) == code and not cluster.requeued()
