"""Labels to colours, panels to sheets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.files import save_image


def colourise(label: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Train ids (H, W) uint8, colours (K, 3) uint8 → (H, W, 3) uint8; what is no class is black."""
    table = np.zeros((256, 3), dtype=np.uint8)
    table[: len(colours)] = colours
    return table[label]


def palette_picture(label: np.ndarray, colours: np.ndarray) -> Image.Image:
    """The same as a palette picture (mode P), whose pixels still are the train ids."""
    picture = Image.fromarray(label.astype(np.uint8))
    picture.putpalette(colours.tobytes() + bytes(3 * (256 - len(colours))))
    return picture


def save_prediction(folder: Path, name: str, label: np.ndarray, colours: np.ndarray) -> None:
    """Write NAME.png, the train ids (H, W) uint8, and NAME_color.png, the same as a palette picture."""
    save_image(Image.fromarray(label), folder / f"{name}.png")
    save_image(palette_picture(label, colours), folder / f"{name}_color.png")


def contact_sheet(columns: list[str], rows: list[list[np.ndarray]], width: int = 256) -> Image.Image:
    """A grid of pictures (H, W, 3) uint8 with a title above each column, each `width` pixels wide."""
    height = round(width * rows[0][0].shape[0] / rows[0][0].shape[1])
    gap, title = 4, 24
    sheet_size = ((width + gap) * len(columns) + gap, title + (height + gap) * len(rows) + gap)
    sheet = Image.new("RGB", sheet_size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(14)
    for c, name in enumerate(columns):
        left = gap + c * (width + gap)
        draw.text((left + width / 2, title / 2), name, fill="black", font=font, anchor="mm")
        for r, row in enumerate(rows):
            tile = Image.fromarray(row[c]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(tile, (left, title + r * (height + gap)))
    return sheet
