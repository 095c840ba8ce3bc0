"""Pieces of a page: tables that scroll in a box of their own, class names with their colours, pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from PIL import Image


def quoted(text: str) -> str:
    """A text inside an attribute."""
    return escape(text, quote=True)


def table(
    caption: str, head: Sequence[str], rows: Iterable[str], feet: Iterable[str] = (), kind: str = ""
) -> str:
    """rows, feet: cells as HTML; caption, head: texts. kind: a class of the style sheet."""
    titles = "".join(f'<th scope="col">{escape(title)}</th>' for title in head)
    body, foot = ("".join(f"<tr>{row}</tr>" for row in part) for part in (rows, feet))
    return (
        f'<div class="scroll" tabindex="0"><table class="{kind}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{titles}</tr></thead><tbody>{body}</tbody>"
        f"{f'<tfoot>{foot}</tfoot>' if foot else ''}</table></div>"
    )


def text_row(cells: Sequence[str]) -> str:
    """Texts as cells; the first names the row."""
    first, *others = cells
    row = "".join(f'<td class="text">{escape(cell)}</td>' for cell in others)
    return f'<th scope="row">{escape(first)}</th>{row}'


def hexadecimal(colour: Sequence[int]) -> str:
    """Three bytes as #rrggbb."""
    return "#" + "".join(f"{int(part):02x}" for part in colour)


def swatch(colour: Sequence[int]) -> str:
    """A small square in a colour."""
    return f'<i class="swatch" style="background:{hexadecimal(colour)}"></i>'


def data_uri(tile: np.ndarray) -> str:
    """A tile (H, W, 3) uint8: a label as PNG with a palette, a photograph as JPEG."""
    colours, index = np.unique(tile.reshape(-1, 3), axis=0, return_inverse=True)
    file = io.BytesIO()
    if few := len(colours) <= 256:
        image = Image.fromarray(index.reshape(tile.shape[:2]).astype(np.uint8))
        image.putpalette(colours.tobytes())
        image.save(file, format="PNG", optimize=True)
    else:
        Image.fromarray(np.ascontiguousarray(tile)).save(file, format="JPEG", quality=82, optimize=True)
    kind = "png" if few else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def class_head(name: str, colour: Sequence[int]) -> str:
    """The cell that names a class's row."""
    return f'<th scope="row">{swatch(colour)}{escape(name)}</th>'
