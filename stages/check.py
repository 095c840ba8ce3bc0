"""Check downloaded weights before a run needs them.

    python -m stages.check FILE [FILE …]

Says for each file what it holds and whether every tensor fits: checkpoints of CPSL and SimCLR backbones. Exit
code 1 if a file cannot be used.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from models import deeplabv2
from models.deeplabv2 import BACKBONES
from models.weights import load_network, network_shape
from stages.build import load_simclr
from utils.checkpoint import NETWORK, as_checkpoint, load_file
from utils.errors import run_script, short

REMEDY = "give the path of a checkpoint or of SimCLR weights"


def describe(path: Path, backbone: str) -> str:
    """Load a file as training does and say what it holds; OSError or ValueError if it cannot be used.

    backbone: of a SimCLR file. A checkpoint says itself which one it has.
    """
    content = load_file(path, REMEDY)
    if not isinstance(content, dict) or NETWORK not in content:
        return f"{path}: SimCLR weights: {load_simclr(deeplabv2(backbone, 19), path)}"
    state = as_checkpoint(content, path)[NETWORK]["model_state"]
    shape = network_shape(state, str(path))
    load_network(deeplabv2(*shape), state, str(path))
    norm = "with" if shape.pretrain_norm else "without"
    holds = f"{shape.backbone}, {shape.num_classes} classes, {norm} bn_pretrain, all {len(state)} tensors fit"
    numbers = {name: content.get(name) for name in ("iter", "best_iou")}
    known = [f", {name} {value:g}" for name, value in numbers.items() if isinstance(value, int | float)]
    return f"{path}: checkpoint (entry {NETWORK!r}): {holds}{''.join(known)}"


def main() -> None:
    """Parse, describe each file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="checkpoint or SimCLR weights")
    parser.add_argument(
        "--backbone", choices=BACKBONES, default="resnet101", help="of SimCLR weights (default: resnet101)"
    )
    o = parser.parse_args()
    unusable = False
    for path in o.files:
        try:
            print(short(describe(path, o.backbone)))
        except (OSError, ValueError) as error:
            unusable = True
            print(short(f"error: {error}"), file=sys.stderr)
    sys.exit(1 if unusable else 0)


if __name__ == "__main__":
    run_script(main)
