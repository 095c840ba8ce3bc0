"""Streets: how each domain builds them, and one drawn by chance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from data.mini import kinds, objects
from data.mini.canvas import Camera, Canvas, Range, Scene


@dataclass(frozen=True)
class Layout:
    """The plan of a domain's streets: ranges are drawn uniformly per image, counts are means."""

    horizon: Range = (0.38, 0.47)  # its row, as a share of the height
    eye: Range = (1.3, 1.6)  # height of the camera, m
    focal: float = 0.8  # focal length, in picture widths
    road_half: Range = (3.6, 5.0)  # m
    sidewalk: Range = (1.6, 2.8)  # m
    setback: Range = (0.3, 2.5)  # from the sidewalk, or the verge, to the facades, m
    storeys: Range = (2, 5)
    gap: float = 0.3  # chance of an open lot after a building
    verge: float = 0.6  # chance, a side, of a strip of terrain
    wall: float = 0.5  # chance, a side, of a wall along the sidewalk; the same for the fence
    fence: float = 0.6
    trees: float = 2.4  # a side
    hedge: float = 0.25
    parked: float = 0.35  # chance that a parking slot is taken
    moving: float = 1.6
    persons: float = 4.0
    riders: float = 0.9
    cycles: float = 0.8  # without a rider
    poles: float = 3.0
    static: float = 0.7  # bins and boxes, void
    hood: float = 0.0  # the camera car's own bonnet, as a share of the height; void


LAYOUTS = {
    "GTA5": Layout(
        horizon=(0.38, 0.47), eye=(1.5, 2.0), road_half=(4.2, 5.6), storeys=(2, 6), moving=1.6, parked=0.25
    ),
    "SYNTHIA": Layout(
        horizon=(0.3, 0.38),
        eye=(2.4, 3.4),
        road_half=(4.4, 5.6),
        sidewalk=(2.2, 3.2),
        storeys=(2, 6),
        gap=0.2,
        persons=5.0,
        trees=2.0,
        parked=0.3,
    ),
    "cityscapes": Layout(hood=0.05),
}


def look(rng: np.random.Generator, layout: Layout, size: tuple[int, int]) -> Camera:
    """A camera for pictures of `size` (W, H)."""
    width, height = size
    horizon, centre = rng.uniform(*layout.horizon) * height, rng.uniform(0.43, 0.57) * width
    return Camera(
        width, height, horizon, centre, layout.focal * width, rng.uniform(*layout.eye), rng.uniform(0.2, 1.4)
    )


Item = tuple[float, Callable[[], None]]  # distance, and the function that draws it


def traffic(c: Canvas, rng: np.random.Generator, layout: Layout, half: float, index: int) -> list[Item]:
    """Vehicles that keep apart. Of any eight images in a row one has a tram, one a bus, one a truck."""
    lanes, taken, items = (-0.45 * half, 0.5 * half), [], []
    rare = {1: objects.train, 3: objects.bus, 6: objects.truck}.get(index % 8)
    if rare is None and rng.random() < 0.06:
        rare = objects.bus if rng.random() < 0.5 else objects.truck
    if rare:
        lane, z = int(rng.random() < 0.4), rng.uniform(11, 19)
        taken.append((lane, z - 5, z + (32 if rare is objects.train else 13)))
        items.append((z, partial(rare, c, rng, lanes[lane], z, lane == 1)))
    for _ in range(rng.poisson(layout.moving)):
        lane, z = int(rng.random() < 0.5), rng.uniform(9, 45)
        if not any(lane == other and z0 < z + 6 and z < z1 for other, z0, z1 in taken):
            taken.append((lane, z, z + 6))
            items.append((z, partial(objects.car, c, rng, lanes[lane], z, lane == 1)))
    for side in (-1, 1):
        for z in np.arange(rng.uniform(5, 9), 50, 6.2):
            blocked = any(
                lane == (side > 0) and z0 < z + 5 and z < z1 for lane, z0, z1 in taken[: 1 if rare else 0]
            )
            if not blocked and rng.random() < layout.parked:
                items.append((z, partial(objects.car, c, rng, side * (half - 0.95), z, side > 0)))
    return items


def people(c: Canvas, rng: np.random.Generator, layout: Layout, half: float, sidewalk: float) -> list[Item]:
    """Persons on the sidewalks, now and then on the road, and two-wheelers with and without riders."""
    items: list[Item] = []
    for _ in range(rng.poisson(layout.persons)):
        z, x = rng.uniform(8, 26), rng.choice((-1, 1)) * (half + rng.uniform(0.2, 0.95) * sidewalk)
        if rng.random() < 0.12:
            x = rng.uniform(-half, half)
        items.append((z, partial(objects.person, c, rng, x, z)))
    for mean, ridden in ((layout.riders, True), (layout.cycles, False)):
        for _ in range(rng.poisson(mean)):
            z, side = rng.uniform(7.5 if ridden else 8, 20), rng.choice((-1, 1))
            if ridden:
                x = side * half * rng.uniform(0.3, 0.85)
            else:
                x = side * (half + rng.uniform(0.3, 1.0) * sidewalk)
            label = int(rng.choice((kinds.MOTORCYCLE, kinds.BICYCLE)))
            items.append((z, partial(objects.cycle, c, rng, label, x, z, ridden)))
    return items


def furniture(
    c: Canvas, rng: np.random.Generator, layout: Layout, half: float, sidewalk: float
) -> list[Item]:
    """Trees, poles and bins at the kerb."""
    items: list[Item] = []
    for side in (-1, 1):
        for _ in range(rng.poisson(layout.trees)):
            z, radius, x = rng.uniform(9, 45), rng.uniform(1.2, 2.2), half + rng.uniform(0.5, 1.2) * sidewalk
            items.append((z, partial(objects.tree, c, rng, side * x, z, radius)))
    for _ in range(rng.poisson(layout.poles)):
        z, x = rng.uniform(8, 24), rng.choice((-1, 1)) * (half + rng.uniform(0.25, 0.6))
        heads = tuple(k for k, chance in ((kinds.LIGHT, 0.28), (kinds.SIGN, 0.32)) if rng.random() < chance)
        items.append((z, partial(objects.pole, c, rng, x, z, heads)))
    for _ in range(rng.poisson(layout.static)):
        z, x = rng.uniform(9, 22), rng.choice((-1, 1)) * (half + rng.uniform(0.5, 1.0) * sidewalk)
        items.append((z, partial(objects.bin_, c, rng, x, z)))
    return items


def row_of_buildings(c: Canvas, rng: np.random.Generator, layout: Layout, side: int, x: float) -> None:
    """Buildings from far to near on one side; some lots stay open, with trees behind."""
    ends = [float(rng.uniform(2.0, 5.0))]
    while ends[-1] < 75:
        ends.append(ends[-1] + float(rng.uniform(7, 16)))
    for z1, z0 in pairwise(ends[::-1]):
        if rng.random() < layout.gap:
            for z in (z1, z0 + 1):
                objects.tree(c, rng, x + side * rng.uniform(2, 6), z, rng.uniform(1.8, 2.6))
        else:
            height = 3.0 * round(rng.uniform(*layout.storeys)) + rng.uniform(0.5, 1.2)
            objects.building(c, rng, side, x, z0, z1, height)
            c.cast(x + side * 6, 6, height if side == c.sun else 0, z0, z1)


def edges(c: Canvas, rng: np.random.Generator, layout: Layout, half: float, sidewalk: float) -> None:
    """The borders of the sidewalks: terrain, buildings, and walls, fences or hedges before them."""
    for side in (-1, 1):
        border = side * (half + sidewalk)
        strip = rng.uniform(2.5, 6.0) if rng.random() < layout.verge else 0.0
        line = border + side * (strip + rng.uniform(*layout.setback))
        if not strip:  # paved up to the facades
            c.ground(border, line, 1, 200, c.add(kinds.SIDEWALK, pick=rng.random(), tone=0.95))
        row_of_buildings(c, rng, layout, side, line)
        chances = [(getattr(objects, name), getattr(layout, name)) for name in ("wall", "fence", "hedge")]
        built = [make for make, chance in chances if rng.random() < chance]
        start = rng.uniform(8, 20)
        for make in [built[k] for k in rng.permutation(len(built))][::-1]:
            length = rng.uniform(7, 16)
            make(c, rng, border + side * 0.15 * strip, start, start + length)
            start = max(4.0, start - length - rng.uniform(2, 5)) if start > 12 else start + length + 2


def ego(c: Canvas, layout: Layout) -> None:
    """The bonnet of the camera car and the rim that lens correction leaves."""
    w, h = c.camera.width, c.camera.height
    top = h * (1 - layout.hood)
    c.index.ellipse(
        (-0.15 * w, top, 1.15 * w, h + (h - top) * 3), fill=c.add(kinds.EGO, (0.1, 0.1, 0.11), z=1)
    )
    rim = max(1, round(w / 400))
    c.index.rectangle((0, 0, w - 1, h - 1), outline=c.add(kinds.OUTSIDE, (0.02, 0.02, 0.02), z=1), width=rim)


def draw_scene(layout: Layout, size: tuple[int, int], index: int, rng: np.random.Generator) -> Scene:
    """A street of the domain. size: (W, H) in pixels; `index` decides on rare vehicles, see `traffic`."""
    camera, sun = look(rng, layout, size), int(rng.choice((-1, 1)))
    c = Canvas(camera, sun, slant=rng.uniform(0.3, 0.9))
    half, sidewalk = rng.uniform(*layout.road_half), rng.uniform(*layout.sidewalk)
    objects.backdrop(c, rng)
    objects.ground(c, rng, half, sidewalk)
    edges(c, rng, layout, half, sidewalk)
    items = traffic(c, rng, layout, half, index)
    items += people(c, rng, layout, half, sidewalk) + furniture(c, rng, layout, half, sidewalk)
    for _, draw in sorted(items, key=lambda item: -item[0]):
        draw()
    if layout.hood:
        ego(c, layout)
    shadow = np.asarray(c.shadow_image, np.float32) / 255
    return Scene(np.asarray(c.index_image), shadow, c.surfaces, camera, sun)
