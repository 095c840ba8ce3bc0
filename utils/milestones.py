"""Draw loss and mIoU of a run beside the published ones, GTA5 → Cityscapes.

    python -m utils.milestones logs/NAME --stage stage1 [--log PUBLISHED_LOG]

Writes logs/NAME/milestones.png. PUBLISHED_LOG: any log in the released form, such as another run's run.log.
"""

from __future__ import annotations

import argparse
import re
from contextlib import suppress
from pathlib import Path

from utils.errors import run_script
from utils.published import RUNS
from utils.report.curves import plot, png_axes

_LINE = re.compile(r"Iter \[(\d{1,12})/\d+\](.*)")
_LONGEST_LOG = 2**26  # bytes; a training's has two million
_VALUE = re.compile(r"([\w/]+): ([-+.\deE]+)")


def read_log(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Every named value of a log in the released form, `… Iter [20/90000]  loss: 7.04  loss_CTS: …`."""
    series: dict[str, list[tuple[int, float]]] = {}
    if path.stat().st_size > _LONGEST_LOG:
        raise ValueError(f"{path}: longer than {_LONGEST_LOG} bytes, which no log of a training is")
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        found = _LINE.search(line)
        for name, value in _VALUE.findall(found[2]) if found else ():
            with suppress(ValueError):  # a word that only looks like a number
                points = series.setdefault(name, [])
                while points and points[-1][0] >= int(found[1]):  # of a run that went on from before, or anew
                    points.pop()
                points.append((int(found[1]), float(value)))
    if not series:
        raise ValueError(f"{path}: has no line of the form 'Iter [20/90000]  loss: 7.04'")
    return series


def compare(run: Path, stage: str, other: Path | None) -> Path:
    """Draw a run's curves, the published milestones of its stage and another log into one picture."""
    target = run / "milestones.png"
    published = {"loss": RUNS[stage].losses.get("total", ()), "mIoU": RUNS[stage].every_miou}
    logs = {run.name: read_log(run / "run.log")} | ({other.stem: read_log(other)} if other else {})
    with png_axes(target, (11, 4), 1, 2) as ((losses, scores),):
        for axes, key, title, marker in (
            (losses, "loss", "loss", ""),
            (scores, "mIoU", "mIoU (19) on val", "."),
        ):
            for name, series in logs.items():
                if key in series:
                    plot(axes, series[key], name, marker=marker)
            if published[key]:
                plot(axes, published[key], f"published {stage}", color="k", marker="*", linestyle="none")
            axes.set(xlabel="Iter", ylabel=title, xscale="log")
            axes.legend()
    return target


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("run", type=Path, help="folder of a run")
    add("--stage", choices=RUNS, default="stage1", help="whose milestones (default: stage1)")
    add("--log", type=Path, help="another log in the released form")
    o = parser.parse_args()
    print(f"wrote {compare(o.run, o.stage, o.log)}")


if __name__ == "__main__":
    run_script(main)
