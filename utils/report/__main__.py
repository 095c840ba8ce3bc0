"""Write a page about a training run, finished or not, with curves, tables and pictures.

python -m utils.report logs/NAME

Writes one HTML file, logs/NAME/report.html or what --out names; it needs neither a network nor the data.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from utils.errors import run_script
from utils.files.whole import save_text
from utils.report.page import page
from utils.report.run import read_run


def main() -> None:
    """Read the run and write its page."""
    parser = argparse.ArgumentParser(
        prog="python -m utils.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="the run's folder")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where to write")
    args = parser.parse_args()
    out = args.out or args.folder / "report.html"
    save_text(page(read_run(args.folder)), out)
    print(out)


if __name__ == "__main__":
    run_script(main)
