"""A canvas that is drawn in metres, for the small data sets of `data.mini`.

Lengths are metres (x to the right of the street's axis, y up from the ground, z away from the camera) until
`Canvas.at` turns them into pixels, so pictures of any size show the same scene. Everything is drawn once, far
to near, on one canvas whose pixels name a `Surface`; its table then gives label, instance and colour.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[float, float, float]
Range = tuple[float, float]
Skin = tuple[int, int, int]  # surfaces: near face, flank, lid


@dataclass(frozen=True)
class Surface:
    """Meaning of a pixel of the canvas. Without a `colour` it takes one from the domain's palette."""

    label: int
    colour: Colour | None = None
    pick: float = 0.0  # in [0, 1): which of the palette's colours
    tone: float = 1.0  # brightness
    z: float = float("nan")  # distance, m; NaN: that of the ground at this row
    side: int = 0  # faces the sun if its sign is the sun's
    instance: int = 0


class Canvas:
    """A drawn street, seen by a level pinhole camera. Draw in metres; later strokes hide earlier ones.

    horizon, centre, focal: of the camera, in pixels; eye, offset: its height and its distance from the
    street's axis, m. sun: -1 left, 1 right; slant: length of a shadow by height.
    """

    def __init__(
        self,
        size: tuple[int, int],
        horizon: float,
        centre: float,
        focal: float,
        eye: float,
        offset: float,
        rng: np.random.Generator,
    ):
        self.width, self.height = size
        self.horizon, self.centre, self.focal, self.eye, self.offset = horizon, centre, focal, eye, offset
        self.rng, self.sun, self.slant = rng, int(rng.choice((-1, 1))), rng.uniform(0.3, 0.9)
        self.surfaces: list[Surface] = []
        self.instances = 0
        self.index_image, self.shadow_image = Image.new("I", size, 0), Image.new("L", size, 0)
        self.index, self.shade = ImageDraw.Draw(self.index_image), ImageDraw.Draw(self.shadow_image)

    def at(self, x: float, y: float, z: float) -> tuple[float, float]:
        """The pixel (column, row) of a point."""
        scale = self.focal / z
        return self.centre + (x - self.offset) * scale, self.horizon + (self.eye - y) * scale

    def per_pixel(self, values: Sequence | np.ndarray, dtype: type) -> np.ndarray:
        """(H, W, …): values of the surfaces → of the pixels that show them."""
        return np.array(values, dtype)[np.asarray(self.index_image)]

    @property
    def labels(self) -> np.ndarray:
        """(H, W) uint8, train ids and the kinds of void."""
        return self.per_pixel([s.label for s in self.surfaces], np.uint8)

    def choose(self, colours: tuple[Colour, ...], spread: float = 0.06) -> Colour:
        """One of the colours, varied a little."""
        base = np.array(colours[self.rng.integers(len(colours))])
        varied = base * self.rng.uniform(0.8, 1.15) + self.rng.uniform(-spread, spread, 3)
        return tuple(np.clip(varied, 0.03, 1).tolist())

    def add(self, label: int, colour: Colour | None = None, **more) -> int:
        """Add a surface and return its number."""
        self.surfaces.append(Surface(label, colour, **more))
        return len(self.surfaces) - 1

    def thing(self, label: int, z: float) -> Callable[..., int]:
        """Begin an instance; the result makes its surfaces."""
        self.instances += 1
        return partial(self.add, label, z=z, instance=self.instances)

    def face(self, points: list[tuple[float, float, float]], surface: int) -> None:
        """A flat polygon through points (x, y, z)."""
        self.index.polygon([self.at(*p) for p in points], fill=surface)

    def rect(self, x: float, half: float, bottom: float, top: float, z: float, surface: int) -> None:
        """An upright rectangle that faces the camera, at least two pixels wide."""
        left, low = self.at(x - half, bottom, z)
        right, high = self.at(x + half, top, z)
        self.index.rectangle((left, high, max(right, left + 1), max(low, high)), fill=surface)

    def disc(self, x: float, y: float, z: float, radius: Range | float, surface: int) -> None:
        """An upright ellipse that faces the camera."""
        rx, ry = radius if isinstance(radius, tuple) else (radius, radius)
        left, high = self.at(x - rx, y + ry, z)
        right, low = self.at(x + rx, y - ry, z)
        self.index.ellipse((left, high, max(right, left + 1), max(low, high + 1)), fill=surface)

    def bar(self, points: list[tuple[float, float]], width: float, z: float, surface: int) -> None:
        """A stroke through points (x, y) at distance z, at least one pixel thick."""
        pixels = max(1, round(width * self.focal / z))
        self.index.line([self.at(x, y, z) for x, y in points], fill=surface, width=pixels)

    def ground(self, x0: float, x1: float, z0: float, z1: float, surface: int) -> None:
        """A rectangle of the ground."""
        self.face([(x0, 0, z0), (x1, 0, z0), (x1, 0, z1), (x0, 0, z1)], surface)

    def side(self, x: float, bottom: float, top: float, z0: float, z1: float, surface: int) -> None:
        """An upright rectangle along the street."""
        self.face([(x, bottom, z0), (x, top, z0), (x, top, z1), (x, bottom, z1)], surface)

    def box(self, x: float, half: float, bottom: float, top: float, z0: float, z1: float, skin: Skin) -> int:
        """A box. Return the flank that shows: -1 left, 1 right, 0 none."""
        front, flank, lid = skin
        shown = -1 if x - half > self.offset else 1 if x + half < self.offset else 0
        if shown:
            self.side(x + shown * half, bottom, top, z0, z1, flank)
        if top < self.eye:
            corners = ((-half, z0), (half, z0), (half, z1), (-half, z1))
            self.face([(x + a, top, z) for a, z in corners], lid)
        self.rect(x, half, bottom, top, z0, front)
        return shown

    def cast(self, x: float, half: float, height: float, z0: float, z1: float) -> None:
        """The shadow, on the ground, of something that stands there."""
        reach = -self.sun * height * self.slant
        near, far = [(x - half, z0), (x + half, z0)], [(x + half, z1), (x - half, z1)]
        moved = [(x + half + reach, z1 + 0.3 * height), (x - half + reach, z1 + 0.3 * height)]
        outlines = [near + far, [(x - half, z0), (x + half, z1), *moved], [near[0], near[1], *moved]]
        for outline in outlines:
            self.shade.polygon([self.at(a, 0, z) for a, z in outline], fill=255)
