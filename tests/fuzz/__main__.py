"""Files that a stranger might send, read one after the other: each is read rightly or refused in one line.

    python -m tests.fuzz --files 2400 --seed 0

Mutated good files of every kind (`mutate`) and crafted ones (`bombs`), each read by the project's own
function in a process with a limit of memory and time. Ends with 1 if anything else happened to any of them.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.fuzz.campaign import run, summary


def main() -> None:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--files", type=int, default=2400, help="mutated files, over all kinds")
    parser.add_argument("--seed", type=int, default=0, help="other seed, other files")
    parser.add_argument("--kinds", nargs="*", help="only these kinds")
    parser.add_argument("--keep", type=Path, help="folder for the files that were not read as they should be")
    parser.add_argument("--no_bombs", action="store_true", help="mutated files only")
    o = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        readings = run(Path(folder), o.files, o.seed, o.kinds, not o.no_bombs, o.keep)
    print(summary(readings))
    sys.exit(any(reading.wrong for reading in readings))


if __name__ == "__main__":
    main()
