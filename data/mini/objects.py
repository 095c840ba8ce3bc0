"""Objects of a street: one function each, which draws on a canvas at a place, in metres.

Shape, parts and context tell the classes apart; colours vary by instance. Stuff takes its colours from the
palette of the domain, things bring their own.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from data.mini import kinds
from data.mini.canvas import Canvas, Colour, Skin

GLASS, RUBBER, CHROME = (0.16, 0.2, 0.25), (0.06, 0.06, 0.07), (0.5, 0.5, 0.52)
RED, WHITE, AMBER = (0.85, 0.1, 0.1), (0.92, 0.92, 0.9), (0.95, 0.7, 0.1)
GREEN, BLUE = (0.1, 0.75, 0.3), (0.1, 0.25, 0.75)
SKIN, WOOD = (0.72, 0.52, 0.42), (0.3, 0.2, 0.13)
CAR_PAINTS = (
    (0.85, 0.85, 0.85), (0.1, 0.1, 0.11), (0.5, 0.52, 0.55),
    (0.7, 0.1, 0.1), (0.12, 0.25, 0.55), (0.6, 0.55, 0.42),
)  # fmt: skip
CLOTHES = (
    (0.12, 0.13, 0.18), (0.2, 0.27, 0.45), (0.65, 0.15, 0.18),
    (0.8, 0.78, 0.72), (0.35, 0.2, 0.35), (0.7, 0.5, 0.15),
)  # fmt: skip
BUS_PAINTS = ((0.9, 0.72, 0.1), (0.85, 0.3, 0.1), (0.75, 0.12, 0.2))
TRAIN_STRIPES = ((0.1, 0.5, 0.55), (0.15, 0.3, 0.65), (0.55, 0.15, 0.45))
TRUCK_PAINTS = ((0.8, 0.8, 0.78), (0.25, 0.42, 0.6), (0.35, 0.5, 0.35))


# Stuff: the parts of the street


def building(c: Canvas, side: int, x: float, z0: float, z1: float, height: float) -> None:
    """A facade along the street with a grid of windows, and the gable that faces the camera."""
    pick, tone, z = c.rng.random(), c.rng.uniform(0.8, 1.15), 0.5 * (z0 + z1)
    gable = c.add(kinds.BUILDING, pick=pick, tone=0.8 * tone, z=z0)
    front = c.add(kinds.BUILDING, pick=pick, tone=tone, z=z, side=-side)
    glass = c.add(kinds.BUILDING, c.choose((GLASS, (0.3, 0.36, 0.42))), z=z)
    ledge = c.add(kinds.BUILDING, pick=pick, tone=1.2 * tone, z=z)
    c.face([(x, 0, z0), (x, height, z0), (x + side * 12, height, z0), (x + side * 12, 0, z0)], gable)
    c.side(x, 0, height, z0, z1, front)
    c.side(x, height - 0.4, height, z0, z1, ledge)
    columns, storey = max(1, int((z1 - z0) / c.rng.uniform(2.4, 3.4))), 3.0
    step, wide = (z1 - z0) / columns, c.rng.uniform(0.4, 0.65)
    for k in range(columns):
        start = z0 + (k + 0.5 * (1 - wide)) * step
        for floor in range(int(height / storey)):
            low, high = (0.1, 2.3) if floor == 0 and k == 0 else (storey * floor + 1.0, storey * floor + 2.4)
            c.side(x, low, high, start, start + wide * step, glass)


def backdrop(c: Canvas) -> None:
    """Sky, and blocks and trees at the far end of the street."""
    c.index.rectangle((0, 0, c.width, c.height), fill=c.add(kinds.SKY))
    for x in c.rng.permutation(np.arange(-70, 71, 10)):
        if c.rng.random() < 0.6:
            block = c.add(kinds.BUILDING, pick=c.rng.random(), tone=c.rng.uniform(0.8, 1.1), z=90)
            c.rect(x + c.rng.uniform(-4, 4), c.rng.uniform(4, 7), 0, c.rng.uniform(5, 18), 90, block)
        else:
            tree(c, x, 90, c.rng.uniform(4, 6))


def ground(c: Canvas, half: float, sidewalk: float) -> None:
    """Open land, sidewalks with kerbs, the road and its markings."""
    far, near = 200.0, 1.0
    c.ground(-400, 400, near, far, c.add(kinds.TERRAIN, pick=c.rng.random()))
    pick = c.rng.random()
    for side in (-1, 1):
        c.ground(side * half, side * (half + sidewalk), near, far, c.add(kinds.SIDEWALK, pick=pick))
        c.ground(side * half, side * (half + 0.2), near, far, c.add(kinds.SIDEWALK, pick=pick, tone=1.2))
    c.ground(-half, half, near, far, c.add(kinds.ROAD, pick=c.rng.random()))
    paint = c.add(kinds.ROAD, (0.85, 0.85, 0.82))
    for z in np.arange(c.rng.uniform(1.5, 4), 60, 6):
        c.ground(-0.09, 0.09, z, z + 3, paint)
    if c.rng.random() < 0.5:
        for side in (-1, 1):
            c.ground(side * (half - 0.5), side * (half - 0.35), near, 80, paint)
    if c.rng.random() < 0.3:
        z = c.rng.uniform(9, 18)
        for x in np.arange(-half + 0.4, half - 0.6, 1.1):
            c.ground(x, x + 0.55, z, z + 3, paint)


def wall(c: Canvas, x: float, z0: float, z1: float) -> None:
    """A low wall of stone courses with a coping."""
    top, pick, tone = c.rng.uniform(1.3, 2.1), c.rng.random(), c.rng.uniform(0.85, 1.1)
    body, joint, cap = (c.add(kinds.WALL, pick=pick, tone=t * tone, z=z0) for t in (1.0, 0.7, 1.25))
    c.side(x, 0, top, z0, z1, body)
    for y in np.arange(0.4, top, 0.45):
        c.side(x, y, y + 0.07, z0, z1, joint)
    c.side(x, top - 0.15, top, z0, z1, cap)


def fence(c: Canvas, x: float, z0: float, z1: float) -> None:
    """Posts and rails. The gaps belong to the fence, as an annotator would draw it."""
    top, pick = c.rng.uniform(1.1, 1.6), c.rng.random()
    mesh, rail = (c.add(kinds.FENCE, pick=pick, tone=tone, z=z0) for tone in (0.55, 1.15))
    c.side(x, 0, top, z0, z1, mesh)
    for z in np.arange(z0, z1, 0.55):
        c.side(x, 0, top, z, z + 0.2, rail)
    c.side(x, top - 0.14, top, z0, z1, rail)


def hedge(c: Canvas, x: float, z0: float, z1: float) -> None:
    """A row of bushes."""
    for z in np.arange(z1, z0, -1.1):
        radius = c.rng.uniform(0.6, 0.9)
        bush = c.add(kinds.VEGETATION, pick=c.rng.random(), tone=c.rng.uniform(0.75, 1.05), z=z)
        c.disc(x, 0.8 * radius, z, radius, bush)


def tree(c: Canvas, x: float, z: float, radius: float) -> None:
    """A trunk under a crown of blobs, darker below."""
    trunk, pick, middle = c.add(kinds.VEGETATION, WOOD, z=z), c.rng.random(), 2.1 + radius
    c.rect(x, 0.07 * radius + 0.05, 0, middle, z, trunk)
    for tone in (0.65, 0.8, 0.95, 1.1):
        leaves = c.add(kinds.VEGETATION, pick=pick, tone=tone, z=z)
        for _ in range(4):
            dx, dy = c.rng.uniform(-0.6, 0.6, 2) * radius
            y, size = middle + 0.6 * dy + (tone - 0.85) * radius, c.rng.uniform(0.4, 0.6) * radius
            c.disc(x + dx, y, z, size, leaves)
    c.cast(x, 0.7 * radius, 0.4 * middle, z, z + radius)


# Things that stand or move in it


def pole(c: Canvas, x: float, z: float, heads: tuple[int, ...]) -> None:
    """A mast, with a traffic light and a sign if they are among its `heads`."""
    top, mast = c.rng.uniform(3.4, 5.0), c.add(kinds.POLE, pick=c.rng.random(), z=z)
    thinnest = 1.3 / 256 * c.width * z / c.focal  # half of what is visible from afar
    c.rect(x, max(0.1, thinnest), 0, top, z, mast)
    c.cast(x, 0.1, top, z, z + 0.2)
    if kinds.LIGHT in heads:
        new, y, lit = c.thing(kinds.LIGHT, z), top - 0.2, c.rng.integers(3)
        c.rect(x, 0.28, y - 0.65, y + 0.65, z, new((0.07, 0.08, 0.07)))
        for k, colour in enumerate((RED, AMBER, GREEN)):
            c.disc(x, y + 0.4 - 0.4 * k, z, 0.19, new(colour, tone=1.1 if k == lit else 0.3))
    if kinds.SIGN in heads:
        sign(c, x, c.rng.uniform(2.0, 2.6), z)


def sign(c: Canvas, x: float, y: float, z: float) -> None:
    """A round, three-cornered or square plate: rim and field."""
    new, kind, size = c.thing(kinds.SIGN, z), c.rng.integers(4), c.rng.uniform(0.38, 0.5)
    if kind == 0:
        c.disc(x, y, z, size, new(RED))
        c.disc(x, y, z, 0.6 * size, new(WHITE))
    elif kind == 1:
        for k, colour in ((1.2 * size, RED), (0.65 * size, WHITE)):
            c.face([(x - k, y - 0.6 * k, z), (x + k, y - 0.6 * k, z), (x, y + 0.83 * k, z)], new(colour))
    else:
        c.rect(x, size, y - size, y + size, z, new(WHITE))
        c.rect(x, 0.85 * size, y - 0.85 * size, y + 0.85 * size, z, new(BLUE if kind == 2 else AMBER))


def person(c: Canvas, x: float, z: float) -> None:
    """Head, coat and two legs in mid-step."""
    new, tall, step = c.thing(kinds.PERSON, z), c.rng.uniform(1.6, 1.9), c.rng.uniform(0.02, 0.22)
    legs, coat = new(c.choose(CLOTHES[:3])), new(c.choose(CLOTHES))
    for foot in (-1, 1):
        c.bar([(x, 0.5 * tall), (x + foot * step, 0)], 0.2, z, legs)
    c.disc(x, 0.65 * tall, z, (0.25, 0.21 * tall), coat)
    c.disc(x, 0.93 * tall, z, 0.13, new(SKIN))
    c.disc(x, 0.97 * tall, z, (0.13, 0.08), new((0.15, 0.1, 0.07)))
    c.cast(x, 0.2, tall, z, z + 0.3)


def cycle(c: Canvas, x: float, z: float, label: int, ridden: bool) -> None:
    """A bicycle (thin frame, spoked wheels) or motorcycle (heavy body), seen from the side, and its rider."""
    new, way = c.thing(label, z), c.rng.choice((-1, 1))
    paint = new(c.choose(((0.7, 0.12, 0.1), (0.1, 0.3, 0.6), (0.15, 0.45, 0.25), (0.75, 0.75, 0.2))))
    heavy = label == kinds.MOTORCYCLE
    radius, base = (0.36, 0.72) if heavy else (0.37, 0.58)
    for end in (-1, 1):
        c.disc(x + end * base, radius, z, radius, new(RUBBER))
        c.disc(x + end * base, radius, z, 0.4 * radius if heavy else 0.75 * radius, new(CHROME))
    if heavy:
        body = [(x - way * 0.8, 0.8), (x + way * 0.5, 1.0), (x + way * 0.6, 0.5), (x - way * 0.4, 0.3)]
        c.face([(a, b, z) for a, b in body], paint)
        c.face([(x - way * 0.85, 0.95, z), (x, 0.95, z), (x, 0.78, z), (x - way * 0.7, 0.75, z)], new(RUBBER))
    else:
        seat = [(-0.2, 0.95), (0, radius), (0.4, 0.85)]
        for line in ([(-base, radius), (-0.1, 0.85), (0.4, 0.85), (base, radius)], seat):
            c.bar([(x + way * a, b) for a, b in line], 0.12, z, paint)
    c.bar([(x + way * base, radius), (x + way * 0.42, 1.1), (x + way * 0.3, 1.12)], 0.1, z, new(RUBBER))
    c.cast(x, 0.8, 1.6 if ridden else 0.8, z, z + 0.3)
    if ridden:
        rider(c, x, z, int(way), helmet=heavy)


def rider(c: Canvas, x: float, z: float, way: int, helmet: bool) -> None:
    """Someone who leans forward over the handlebars with a bent knee."""
    new = c.thing(kinds.RIDER, z)
    legs, coat = new(c.choose(CLOTHES[:3])), new(c.choose(CLOTHES))
    c.bar([(x - way * 0.2, 1.0), (x + way * 0.25, 0.85), (x + way * 0.05, 0.35)], 0.22, z, legs)
    outline = [(-0.42, 0.9), (0.0, 0.9), (0.32, 1.5), (-0.08, 1.62)]
    c.face([(x + way * a, b, z) for a, b in outline], coat)
    c.bar([(x + way * 0.12, 1.48), (x + way * 0.45, 1.12)], 0.14, z, coat)
    c.disc(x + way * 0.2, 1.75, z, 0.19, new(c.choose((RED, WHITE, RUBBER))) if helmet else new(SKIN))


Make = Callable[..., int]  # makes the surfaces of a thing


def wheels(
    c: Canvas, x: float, half: float, z0: float, along: Sequence[float], radius: float, flank: int, new: Make
) -> None:
    """The tyres under the near face, and those along the flank that shows."""
    tyre = new(RUBBER)
    for end in (-1, 1):
        c.rect(x + end * (half - 0.18), 0.15, 0, 1.2 * radius, z0, tyre)
    for z in along if flank else ():
        turn = np.linspace(0, 2 * np.pi, 10)
        rim = zip(np.cos(turn), np.sin(turn), strict=True)
        c.face([(x + flank * half, radius + radius * b, z0 + z + radius * a) for a, b in rim], tyre)


def lamps(c: Canvas, x: float, half: float, y: float, z: float, away: bool, new: Make) -> None:
    """Tail lamps of a vehicle that drives away, head lamps of one that comes."""
    lamp = new(RED if away else WHITE)
    for end in (-1, 1):
        c.rect(x + end * (half - 0.2), 0.16, y - 0.12, y + 0.12, z, lamp)


def skin(new: Callable[..., int], colour: Colour) -> Skin:
    """Near face, flank and lid of a painted box."""
    return new(colour), new(colour, tone=0.8), new(colour, tone=1.2)


def car(c: Canvas, x: float, z: float, away: bool) -> None:
    """A body with a glass cabin on top, lamps, a plate and wheels."""
    new, paint = c.thing(kinds.CAR, z), c.choose(CAR_PAINTS)
    half, length, roof = c.rng.uniform(0.84, 0.95), c.rng.uniform(3.7, 4.6), c.rng.uniform(1.4, 1.65)
    body, glass = skin(new, paint), new(GLASS)
    c.cast(x, half, 1.3, z, z + length)
    flank = c.box(x, 0.85 * half, 0.9, roof, z + 0.6, z + 0.75 * length, (glass, glass, body[2]))
    c.rect(x, 0.85 * half, roof - 0.12, roof, z + 0.6, body[0])
    c.box(x, half, 0.25, 0.92, z, z + length, body)
    c.rect(x, half, 0.2, 0.4, z, new((0.12, 0.12, 0.13)))
    c.rect(x, 0.28, 0.42, 0.58, z, new(WHITE, tone=0.9))
    wheels(c, x, half, z, (0.75, length - 0.8), 0.33, flank, new)
    lamps(c, x, half, 0.75, z, away, new)


def bus(c: Canvas, x: float, z: float, away: bool) -> None:
    """One tall box with a row of windows and a board over the windscreen."""
    new, paint, length = c.thing(kinds.BUS, z), c.choose(BUS_PAINTS, 0.03), c.rng.uniform(9, 11)
    glass = new(GLASS)
    c.cast(x, 1.25, 3.0, z, z + length)
    flank = c.box(x, 1.25, 0.3, 3.1, z, z + length, skin(new, paint))
    for start in np.arange(0.5, length - 1.2, 1.5) if flank else ():
        c.side(x + flank * 1.25, 1.4, 2.5, z + start, z + start + 1.2, glass)
    c.rect(x, 1.1, 1.4, 2.5, z, glass)
    c.rect(x, 0.8, 2.65, 2.95, z, new((0.1, 0.1, 0.1)) if away else new(AMBER, tone=0.6))
    wheels(c, x, 1.25, z, (1.8, length - 2.2), 0.48, flank, new)
    lamps(c, x, 1.25, 0.8, z, away, new)


def truck(c: Canvas, x: float, z: float, away: bool) -> None:
    """A cab and a high closed cargo box over an open chassis."""
    new, paint = c.thing(kinds.TRUCK, z), c.choose(CAR_PAINTS[3:])
    cargo, cab, frame = skin(new, c.choose(TRUCK_PAINTS)), skin(new, paint), new((0.1, 0.1, 0.11))
    c.cast(x, 1.2, 3.2, z, z + 8)
    start = 0.0 if away else 1.9
    if away:
        c.box(x, 1.1, 0.5, 2.6, z + 6.1, z + 8, cab)
    flank = c.box(x, 1.1, 0.45, 1.0, z + start, z + start + 6, (frame, frame, frame))
    c.box(x, 1.25, 1.0, 3.5, z + start, z + start + 6, cargo)
    for dx in (-0.6, 0.0, 0.6) if away else ():
        c.rect(x + dx, 0.04, 1.1, 3.4, z, new(CHROME))
    if not away:
        c.box(x, 1.15, 0.5, 2.6, z, z + 1.8, cab)
        c.rect(x, 1.0, 1.5, 2.3, z, new(GLASS))
        c.rect(x, 0.7, 0.6, 1.1, z, frame)
    wheels(c, x, 1.15, z, (1.0, 5.5, 6.6), 0.5, flank, new)
    lamps(c, x, 1.2, 0.85, z, away, new)


def train(c: Canvas, x: float, z: float, away: bool) -> None:
    """A tram: a very long pale body with a coloured stripe and a band of glass, on rails."""
    new, stripe = c.thing(kinds.TRAIN, z), c.choose(TRAIN_STRIPES, 0.03)
    rail, length = c.add(kinds.ROAD, (0.28, 0.26, 0.25)), c.rng.uniform(22, 30)
    for dx in (-0.75, 0.75):
        c.ground(x + dx - 0.09, x + dx + 0.09, 1, 150, rail)
    c.cast(x, 1.3, 3.4, z, z + length)
    glass, band = new(GLASS), new(stripe)
    flank = c.box(x, 1.3, 0.2, 3.5, z, z + length, skin(new, (0.86, 0.86, 0.82)))
    if flank:
        c.side(x + flank * 1.3, 0.5, 1.2, z, z + length, band)
        c.side(x + flank * 1.3, 1.6, 2.7, z + 0.6, z + length, glass)
    c.rect(x, 1.3, 0.5, 1.2, z, band)
    c.face([(x - 1.1, 1.5, z), (x + 1.1, 1.5, z), (x + 0.95, 2.9, z), (x - 0.95, 2.9, z)], glass)
    c.rect(x, 0.5, 3.0, 3.35, z, new((0.1, 0.1, 0.1)))
    lamps(c, x, 1.2, 0.85, z, away, new)


def bin_(c: Canvas, x: float, z: float) -> None:
    """Something that no class covers: a bin or a switch box."""
    half, top = c.rng.uniform(0.25, 0.5), c.rng.uniform(0.8, 1.3)
    body = partial(c.add, int(c.rng.choice((kinds.STATIC, kinds.STATIC, kinds.DYNAMIC))), z=z)
    c.box(x, half, 0, top, z, z + 0.6, skin(body, c.choose(((0.3, 0.33, 0.3), (0.45, 0.4, 0.3)))))
    c.cast(x, half, top, z, z + 0.6)
