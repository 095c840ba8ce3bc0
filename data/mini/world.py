"""Draw small data sets in the form of GTA5, SYNTHIA and Cityscapes, to try everything on.

    python -m data.mini dataset_mini --size 256,128 --source 300 --target 300 --val 60

writes OUT/GTA5, OUT/SYNTHIA, OUT/cityscapes and, last, OUT/mini.json with the parameters. The three share
their kinds of street but differ in palette, light, camera and layout (`data.mini.paint`, `data.mini.scene`),
so that a network trained on one loses on another. An image depends only on the seed, its data set, split
and number.
"""

import argparse
import io
import json
import os
import struct
import sys
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.io import savemat
from tqdm import tqdm

from data import labels
from data.mini.canvas import Canvas
from data.mini.paint import COMMON, GRAIN, STYLES, paint
from data.mini.scene import LAYOUTS, draw_scene
from utils.errors import print_on_any_terminal
from utils.files.lock import LOCK, locked
from utils.files.whole import clear_unfinished, replace_when_whole

# Ids by train id 0 to 18, then by kind of void: static, dynamic, ego vehicle, out of roi
CITYSCAPES_IDS = np.array([*labels.CITYSCAPES_IDS, 4, 5, 1, 3], np.uint8)
SYNTHIA_IDS = np.array([*labels.SYNTHIA_IDS, 0, 0, 0, 0], np.uint16)
COLOURS = np.array([*labels.PALETTE, (0, 0, 0), (111, 74, 0), (0, 0, 0), (0, 0, 0)], np.uint8)
TRAIN_CITIES, VAL_CITIES = ("ahrenfeld", "birkenau", "cronstadt", "dornberg"), ("eichwald", "falkenhain")
SPLIT_NUMBERS = {"train": 0, "val": 1}


class Job(NamedTuple):
    """One image to draw: its data set, split and number, and where picture and label go."""

    domain: str
    split: str
    index: int
    image: Path
    label: Path


def write_mini(
    out: Path | str, size: tuple[int, int], seed: int, n_source: int, n_target: int, n_val: int
) -> bool:
    """Write the three trees; True if it drew, False if `out` was complete already.

    size: (W, H) in pixels. n_source: images of GTA5, and of SYNTHIA; n_target, n_val: of Cityscapes.
    ValueError if a number makes no sense, or if `out` holds files drawn with other parameters. What an
    interrupted run with the same parameters wrote is drawn again.
    """
    out = Path(out)
    check_numbers(size, seed, n_source, n_target, n_val)
    wanted = {"size": list(size), "seed": seed, "source": n_source, "target": n_target, "val": n_val}
    wanted["drawing"] = zlib.crc32(repr((LAYOUTS, STYLES, COMMON, GRAIN)).encode())  # decide about all pixels
    if is_complete(out, wanted):  # even where nothing may be written
        return False
    with locked(out):
        return not is_complete(out, wanted) and draw_all(out, size, seed, n_source, n_target, n_val, wanted)


def draw_all(
    out: Path, size: tuple[int, int], seed: int, n_source: int, n_target: int, n_val: int, wanted: dict
) -> bool:
    """Draw and write the three trees; wanted: the content of their record."""
    record, started = out / "mini.json", out / "mini.json.part"
    started.write_text(json.dumps(wanted) + "\n")
    jobs = all_jobs(out, n_source, n_target, n_val)
    clear_unfinished({path.parent for job in jobs for path in (job.image, job.label)})
    for job in tqdm(jobs, desc="drawing", unit="image", disable=None):
        draw(job, size, seed)
    with replace_when_whole(out / "GTA5" / "split.mat") as file:
        file.write(encode_split(n_source))
    os.replace(started, record)
    return True


def check_numbers(size: tuple[int, int], seed: int, *counts: int) -> None:
    """Refuse impossible numbers."""
    if min(size) < 32:
        raise ValueError(f"size {size[0]},{size[1]}: width and height must be at least 32 pixels")
    if seed < 0 or min(counts) < 1:
        reason = f"seed {seed} must not be negative, and each number of images must be at least 1"
        raise ValueError(f"{reason}: {counts}")


def is_complete(out: Path, wanted: dict) -> bool:
    """True if `out` was finished with these parameters; ValueError if it holds anything else."""
    if not out.exists() or (out.is_dir() and {file.name for file in out.iterdir()} <= {LOCK}):
        return False
    record = next((out / n for n in ("mini.json", "mini.json.part") if (out / n).is_file()), None)
    try:
        found = json.loads(record.read_text()) if record else None
    except (ValueError, RecursionError):
        record = None
    if record is None:
        raise ValueError(f"{out}: exists and was not written by data.mini; choose another folder")
    if found != wanted:
        raise ValueError(f"{out}: drawn with other parameters ({found}); choose another folder or remove it")
    return record.name == "mini.json"


def all_jobs(out: Path, n_source: int, n_target: int, n_val: int) -> list[Job]:
    """Every image of the three trees, by the names that the real data sets use."""
    jobs = []
    for i in range(n_source):
        root, name = out / "GTA5", f"{i + 1:05d}.png"
        jobs.append(Job("GTA5", "train", i, root / "images" / name, root / "labels" / name))
        root, name = out / "SYNTHIA", f"{i:07d}.png"
        jobs.append(Job("SYNTHIA", "train", i, root / "RGB" / name, root / "GT" / "LABELS" / name))
    for split, count, cities in (("train", n_target, TRAIN_CITIES), ("val", n_val, VAL_CITIES)):
        for i in range(count):
            root, city = out / "cityscapes", cities[i % len(cities)]
            stem = f"{split}/{city}/{city}_{i // len(cities):06d}_000019_"
            image, label = f"leftImg8bit/{stem}leftImg8bit.png", f"gtFine/{stem}gtFine_labelIds.png"
            jobs.append(Job("cityscapes", split, i, root / image, root / label))
    return jobs


def draw(job: Job, size: tuple[int, int], seed: int) -> None:
    """Draw and write one image and its label. Layout and paint have generators of their own."""
    key = [seed, zlib.crc32(job.domain.encode()), SPLIT_NUMBERS[job.split], job.index]
    layout_rng, paint_rng = (np.random.default_rng([*key, part]) for part in range(2))
    scene = draw_scene(LAYOUTS[job.domain], size, job.index, layout_rng)
    picture = paint(scene, STYLES[job.domain], paint_rng)
    with replace_when_whole(job.label) as file:
        file.write(encode_label(job.domain, scene))
    with replace_when_whole(job.image) as file:
        file.write(encode_png(Image.fromarray(picture)))


def encode_label(domain: str, scene: Canvas) -> bytes:
    """Cityscapes ids as an 8-bit grey PNG or, as GTA5 has them, a palette PNG.

    SYNTHIA has its own ids in channel 0 and instance numbers in channel 1 of a 16-bit RGB PNG.
    """
    if domain == "SYNTHIA":
        instances = scene.per_pixel([s.instance for s in scene.surfaces], np.uint16)
        return encode_png16(np.stack([SYNTHIA_IDS[scene.labels], instances, np.zeros_like(instances)], -1))
    image = Image.fromarray(CITYSCAPES_IDS[scene.labels])
    if domain == "GTA5":
        palette = np.zeros((34, 3), np.uint8)
        palette[CITYSCAPES_IDS] = COLOURS
        image.putpalette(palette.tobytes())
    return encode_png(image)


def encode_png(image: Image.Image) -> bytes:
    """The image as PNG."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()


def encode_png16(pixels: np.ndarray) -> bytes:
    """A PNG of 16 bits a channel, which Pillow cannot write. pixels: (H, W, 3) uint16."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    height, width = pixels.shape[:2]
    rows = pixels.astype(">u2").reshape(height, -1).view(np.uint8)
    filtered = np.pad(rows, ((0, 0), (1, 0)))  # each row begins with its filter type, 0: none
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def encode_split(count: int) -> bytes:
    """GTA5's split.mat: half of the 1-based ids for training, a quarter each for validation and test."""
    ids = np.arange(1, count + 1, dtype=np.uint16)
    parts = {"trainIds": ids[ids % 4 < 2], "valIds": ids[ids % 4 == 2], "testIds": ids[ids % 4 == 3]}
    buffer = io.BytesIO()
    savemat(buffer, {name: part[:, None] for name, part in parts.items()})
    header = b"MATLAB 5.0 MAT-file, split of the drawn images"  # scipy puts the time of day here
    return header.ljust(116) + buffer.getvalue()[116:]


def parse_size(text: str) -> tuple[int, int]:
    """'256,128' -> (256, 128)."""
    try:
        width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form W,H, for example 256,128") from None
    return width, height


def main(arguments: list[str] | None = None) -> int:
    """Return the exit status: 0, or 2 after one line that says what is wrong."""
    print_on_any_terminal()
    parser = argparse.ArgumentParser(prog="python -m data.mini", description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("out", type=Path, help="folder to write: new, empty or of the same parameters")
    add("--size", default="256,128", type=parse_size, help="W,H of all images (256,128)")
    add("--seed", default=0, type=int, help="other seed, other streets (0)")
    add("--source", default=300, type=int, help="images of GTA5, and of SYNTHIA (300)")
    add("--target", default=300, type=int, help="images of Cityscapes train (300)")
    add("--val", default=60, type=int, help="images of Cityscapes val (60)")
    o = parser.parse_args(arguments)
    try:
        drew = write_mini(o.out, o.size, o.seed, o.source, o.target, o.val)
    except (ValueError, OSError) as error:
        print(f"data.mini: {error}", file=sys.stderr)
        return 2
    print(f"{o.out}: {'written' if drew else 'already complete, nothing to do'}")
    return 0
