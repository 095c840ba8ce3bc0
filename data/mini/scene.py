"""Streets: how each domain builds them, and one drawn by chance."""

from collections import namedtuple
from itertools import pairwise

import numpy as np

from data.mini import kinds, objects
from data.mini.canvas import Canvas

DOMAINS = ("GTA5", "SYNTHIA", "cityscapes")
# Plan of the streets of each domain: ranges are drawn uniformly per image, counts are means.
_PLANS = {
    "horizon": ((0.38, 0.47), (0.3, 0.38), (0.38, 0.47)),  # its row, as a part of the height
    "eye": ((1.5, 2.0), (2.4, 3.4), (1.3, 1.6)),  # height of the camera, m
    "focal": (0.8, 0.8, 0.8),  # focal length, in picture widths
    "road_half": ((4.2, 5.6), (4.4, 5.6), (3.6, 5.0)),  # m
    "sidewalk": ((1.6, 2.8), (2.2, 3.2), (1.6, 2.8)),  # m
    "setback": ((0.3, 2.5), (0.3, 2.5), (0.3, 2.5)),  # from the sidewalk, or the verge, to the facades, m
    "storeys": ((2, 6), (2, 6), (2, 5)),
    "gap": (0.3, 0.2, 0.3),  # chance of an open lot after a building
    "verge": (0.6, 0.6, 0.6),  # chance, a side, of a strip of terrain
    "wall": (0.5, 0.5, 0.5),  # chance, a side, of a wall along the sidewalk; the same for the fence
    "fence": (0.6, 0.6, 0.6),
    "trees": (2.4, 2.0, 2.4),  # a side
    "hedge": (0.25, 0.25, 0.25),
    "parked": (0.25, 0.3, 0.35),  # chance that a parking slot is taken
    "moving": (1.6, 1.6, 1.6),
    "persons": (4.0, 5.0, 4.0),
    "riders": (0.9, 0.9, 0.9),
    "cycles": (0.8, 0.8, 0.8),  # without a rider
    "poles": (3.0, 3.0, 3.0),
    "static": (0.7, 0.7, 0.7),  # bins and boxes, void
    "hood": (0.0, 0.0, 0.05),  # the camera car's own bonnet, as a part of the height; void
}
Layout = namedtuple("Layout", _PLANS)
LAYOUTS = {domain: Layout(*(values[i] for values in _PLANS.values())) for i, domain in enumerate(DOMAINS)}
Item = tuple  # distance z, the function that draws it, its place x, and what else the function takes


def traffic(c: Canvas, layout: Layout, half: float, index: int) -> list[Item]:
    """Vehicles that keep apart. Of any eight images in a row one has a tram, one a bus, one a truck."""
    rng, lanes, taken, items = c.rng, (-0.45 * half, 0.5 * half), [], []
    rare = {1: objects.train, 3: objects.bus, 6: objects.truck}.get(index % 8)
    if rare is None and rng.random() < 0.06:
        rare = objects.bus if rng.random() < 0.5 else objects.truck
    if rare:
        lane, z = int(rng.random() < 0.4), rng.uniform(11, 19)
        taken.append((lane, z - 5, z + (32 if rare is objects.train else 13)))
        items.append((z, rare, lanes[lane], lane == 1))
    blocked = taken.copy()
    for _ in range(rng.poisson(layout.moving)):
        lane, z = int(rng.random() < 0.5), rng.uniform(9, 45)
        if not any(lane == other and z0 < z + 6 and z < z1 for other, z0, z1 in taken):
            taken.append((lane, z, z + 6))
            items.append((z, objects.car, lanes[lane], lane == 1))
    for side in (-1, 1):
        for z in np.arange(rng.uniform(5, 9), 50, 6.2):
            free = not any(lane == (side > 0) and z0 < z + 5 and z < z1 for lane, z0, z1 in blocked)
            if free and rng.random() < layout.parked:
                items.append((z, objects.car, side * (half - 0.95), side > 0))
    return items


def people(c: Canvas, layout: Layout, half: float, sidewalk: float) -> list[Item]:
    """Persons on the sidewalks, now and then on the road, and two-wheelers with and without riders."""
    rng, items = c.rng, []
    for _ in range(rng.poisson(layout.persons)):
        z, x = rng.uniform(8, 26), rng.choice((-1, 1)) * (half + rng.uniform(0.2, 0.95) * sidewalk)
        items.append((z, objects.person, rng.uniform(-half, half) if rng.random() < 0.12 else x))
    for mean, ridden in ((layout.riders, True), (layout.cycles, False)):
        for _ in range(rng.poisson(mean)):
            z, side = rng.uniform(7.5 if ridden else 8, 20), rng.choice((-1, 1))
            x = half * rng.uniform(0.3, 0.85) if ridden else half + rng.uniform(0.3, 1.0) * sidewalk
            label = int(rng.choice((kinds.MOTORCYCLE, kinds.BICYCLE)))
            items.append((z, objects.cycle, side * x, label, ridden))
    return items


def furniture(c: Canvas, layout: Layout, half: float, sidewalk: float) -> list[Item]:
    """Trees, poles and bins at the kerb."""
    rng, items = c.rng, []
    for side in (-1, 1):
        for _ in range(rng.poisson(layout.trees)):
            z, radius, x = rng.uniform(9, 45), rng.uniform(1.2, 2.2), half + rng.uniform(0.5, 1.2) * sidewalk
            items.append((z, objects.tree, side * x, radius))
    for _ in range(rng.poisson(layout.poles)):
        z, x = rng.uniform(8, 24), rng.choice((-1, 1)) * (half + rng.uniform(0.25, 0.6))
        heads = tuple(k for k, chance in ((kinds.LIGHT, 0.28), (kinds.SIGN, 0.32)) if rng.random() < chance)
        items.append((z, objects.pole, x, heads))
    for _ in range(rng.poisson(layout.static)):
        z, x = rng.uniform(9, 22), rng.choice((-1, 1)) * (half + rng.uniform(0.5, 1.0) * sidewalk)
        items.append((z, objects.bin_, x))
    return items


def row_of_buildings(c: Canvas, layout: Layout, side: int, x: float) -> None:
    """Buildings from far to near on one side; some lots stay open, with trees behind."""
    rng = c.rng
    ends = [float(rng.uniform(2.0, 5.0))]
    while ends[-1] < 75:
        ends.append(ends[-1] + float(rng.uniform(7, 16)))
    for z1, z0 in pairwise(ends[::-1]):
        if rng.random() < layout.gap:
            for z in (z1, z0 + 1):
                objects.tree(c, x + side * rng.uniform(2, 6), z, rng.uniform(1.8, 2.6))
        else:
            height = 3.0 * round(rng.uniform(*layout.storeys)) + rng.uniform(0.5, 1.2)
            objects.building(c, side, x, z0, z1, height)
            c.cast(x + side * 6, 6, height if side == c.sun else 0, z0, z1)


def edges(c: Canvas, layout: Layout, half: float, sidewalk: float) -> None:
    """The borders of the sidewalks: terrain, buildings, and walls, fences or hedges before them."""
    rng = c.rng
    for side in (-1, 1):
        border = side * (half + sidewalk)
        strip = rng.uniform(2.5, 6.0) if rng.random() < layout.verge else 0.0
        line = border + side * (strip + rng.uniform(*layout.setback))
        if not strip:  # paved up to the facades
            c.ground(border, line, 1, 200, c.add(kinds.SIDEWALK, pick=rng.random(), tone=0.95))
        row_of_buildings(c, layout, side, line)
        chances = [(getattr(objects, name), getattr(layout, name)) for name in ("wall", "fence", "hedge")]
        built = [make for make, chance in chances if rng.random() < chance]
        start = rng.uniform(8, 20)
        for make in [built[k] for k in rng.permutation(len(built))][::-1]:
            length = rng.uniform(7, 16)
            make(c, border + side * 0.15 * strip, start, start + length)
            start = max(4.0, start - length - rng.uniform(2, 5)) if start > 12 else start + length + 2


def ego(c: Canvas, layout: Layout) -> None:
    """The bonnet of the camera car and the rim that lens correction leaves."""
    w, h = c.width, c.height
    top, bonnet = h * (1 - layout.hood), c.add(kinds.EGO, (0.1, 0.1, 0.11), z=1)
    c.index.ellipse((-0.15 * w, top, 1.15 * w, h + (h - top) * 3), fill=bonnet)
    rim = c.add(kinds.OUTSIDE, (0.02, 0.02, 0.02), z=1)
    c.index.rectangle((0, 0, w - 1, h - 1), outline=rim, width=max(1, round(w / 400)))


def draw_scene(layout: Layout, size: tuple[int, int], index: int, rng: np.random.Generator) -> Canvas:
    """A street of the domain. size: (W, H) in pixels; `index` decides on rare vehicles, see `traffic`."""
    horizon, centre = rng.uniform(*layout.horizon) * size[1], rng.uniform(0.43, 0.57) * size[0]
    eye, offset = rng.uniform(*layout.eye), rng.uniform(0.2, 1.4)
    c = Canvas(size, horizon, centre, layout.focal * size[0], eye, offset, rng)
    half, sidewalk = rng.uniform(*layout.road_half), rng.uniform(*layout.sidewalk)
    objects.backdrop(c)
    objects.ground(c, half, sidewalk)
    edges(c, layout, half, sidewalk)
    items = traffic(c, layout, half, index)
    items += people(c, layout, half, sidewalk) + furniture(c, layout, half, sidewalk)
    for z, draw, x, *more in sorted(items, key=lambda item: -item[0]):
        draw(c, x, z, *more)
    if layout.hood:
        ego(c, layout)
    return c
