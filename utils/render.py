"""Turn labels into colours, and tiles into sheets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from utils.files.image_file import opened
from utils.files.whole import replace_when_whole, save_image

SHEETS = ("source", "target", "validation")  # titles of the sheets in pictures/ of a run
_SHEET = "sheet"  # name of the text in a PNG that describes its tiles


def colourise(label: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Train ids (H, W) uint8, colours (K, 3) uint8 → (H, W, 3) uint8; pixels without a class are black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    return table[label]


def save_prediction(folder: Path, name: str, label: np.ndarray, colours: np.ndarray) -> None:
    """Write NAME_color.png, the train ids (H, W) uint8 in RGB, and last NAME.png, the ids themselves."""
    save_image(Image.fromarray(colourise(label, colours)), folder / f"{name}_color.png")
    save_image(Image.fromarray(label), folder / f"{name}.png")


class Sheet(NamedTuple):
    """Tiles (H, W, 3) uint8, all of one size, by row and column; names of columns and rows."""

    columns: Sequence[str]
    names: Sequence[str]
    rows: Sequence[Sequence[np.ndarray]]


def save_sheet(sheet: Sheet, iteration: int, path: Path) -> None:
    """Write the tiles side by side as one PNG with a text that describes them."""
    about = {"iteration": iteration, "columns": list(sheet.columns), "names": list(sheet.names)}
    info = PngImagePlugin.PngInfo()
    info.add_text(_SHEET, json.dumps(about))
    picture = Image.fromarray(np.vstack([np.hstack(list(row)) for row in sheet.rows]))
    with replace_when_whole(path) as file:
        picture.save(file, format="PNG", pnginfo=info, compress_level=1)


def load_sheet(path: Path) -> tuple[Sheet, int]:
    """Read a sheet and its iteration; ValueError for any other file."""
    with opened(path) as image:
        pixels, text = np.asarray(image.convert("RGB")), image.info.get(_SHEET)
    try:
        about = json.loads(text)
        columns, names = ([str(name) for name in about[part]] for part in ("columns", "names"))
        rows = [np.hsplit(row, len(columns)) for row in np.vsplit(pixels, len(names))]
        return Sheet(columns, names, rows), int(about["iteration"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, ArithmeticError):
        raise ValueError(f"{path}: not a sheet of a training; remove it") from None


def contact_sheet(columns: list[str], rows: list[list[np.ndarray]], width: int = 256) -> Image.Image:
    """Draw a grid of pictures (H, W, 3) uint8, each `width` pixels wide, with titles above the columns."""
    height = round(width * rows[0][0].shape[0] / rows[0][0].shape[1])
    gap, title, font = 4, 24, ImageFont.load_default(14)
    sheet_size = ((width + gap) * len(columns) + gap, title + (height + gap) * len(rows) + gap)
    sheet = Image.new("RGB", sheet_size, "white")
    draw = ImageDraw.Draw(sheet)
    for c, name in enumerate(columns):
        left = gap + c * (width + gap)
        draw.text((left + width / 2, title / 2), name, fill="black", font=font, anchor="mm")
        for r, row in enumerate(rows):
            tile = Image.fromarray(row[c]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, title + r * (height + gap)))
    return sheet
