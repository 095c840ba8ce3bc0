"""Draw loss and mIoU of a run beside the published ones, GTA5 → Cityscapes.

    python -m utils.milestones logs/NAME --stage stage1 [--log PUBLISHED_LOG]

Writes logs/NAME/milestones.png. PUBLISHED_LOG: any log in the released form, such as another run's run.log.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from utils.report.curves import Panel, Points, save_panels


class Published(NamedTuple):
    """Points in the logs of a released stage, by the counter that they print."""

    miou: Points  # percent; the best and the last one included
    loss: Points  # the first lines


PUBLISHED: Mapping[str, Published] = {
    "stage1": Published(
        [(1000, 44.8), (5000, 49.7), (13000, 52.4), (70000, 55.66), (81000, 54.69)],
        [(20, 7.04), (40, 4.74), (60, 4.92)],
    ),
    "stage2": Published([(1000, 36.1), (68000, 59.41), (80500, 59.17)], []),
    "stage3": Published([(1000, 55.9), (48000, 60.77), (76000, 60.25)], []),
}

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
                series.setdefault(name, []).append((int(found[1]), float(value)))
    if not series:
        raise ValueError(f"{path}: has no line of the form 'Iter [20/90000]  loss: 7.04'")
    return series


def compare(run: Path, stage: str, other: Path | None) -> Path:
    """Draw a run's curves, the published milestones of its stage and another log into one picture."""
    published, target = PUBLISHED[stage], run / "milestones.png"
    logs = {run.name: read_log(run / "run.log")} | ({other.stem: read_log(other)} if other else {})
    panels = []
    for key, ylabel, marker, stars in (
        ("loss", "loss", "", published.loss),
        ("mIoU", "mIoU (19) on val", ".", published.miou),
    ):
        lines = {name: series[key] for name, series in logs.items() if key in series}
        axes = {"xlabel": "Iter", "ylabel": ylabel, "xscale": "log"}
        panels.append(Panel(lines, axes, marker, stars={f"published {stage}": stars} if stars else {}))
    save_panels([panels], (11, 4), target)
    return target


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument(
        "--stage", choices=PUBLISHED, default="stage1", help="whose milestones (default: stage1)"
    )
    parser.add_argument("--log", type=Path, help="another log in the released form")
    o = parser.parse_args()
    try:
        print(f"wrote {compare(o.run, o.stage, o.log)}")
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
