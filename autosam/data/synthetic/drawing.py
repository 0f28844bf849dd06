"""Drawing primitives: colours, noise, textures, shapes, rasterization.

Noise is made by resizing small random grids, so that drawing an image takes about as long as
decoding a photograph (some milliseconds).

Conventions: a canvas is float32 H x W x 3, RGB in [0, 1]; a field is float32 H x W in [0, 1];
lengths are in pixels; points are float n x 2 arrays of x, y.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Rng = np.random.Generator

FULL_CIRCLE = 2 * math.pi

# glibc returns freed memory to the system until a larger block was allocated and freed. Without
# this line, page faults of canvases (0.8 MB each) take a quarter of the time.
np.empty(1 << 24, np.uint8)

# Common colours of photographs (tissue, stain, plants, water, soil, sky, paper, night).
_ANCHORS = np.array(
    [
        [0.80, 0.48, 0.40], [0.62, 0.27, 0.22], [0.86, 0.66, 0.58], [0.72, 0.55, 0.72],
        [0.45, 0.30, 0.55], [0.30, 0.42, 0.20], [0.50, 0.52, 0.30], [0.35, 0.45, 0.50],
        [0.25, 0.33, 0.35], [0.55, 0.45, 0.35], [0.36, 0.28, 0.22], [0.60, 0.72, 0.85],
        [0.90, 0.90, 0.88], [0.10, 0.10, 0.12], [0.55, 0.55, 0.55], [0.78, 0.72, 0.60],
    ],
    dtype=np.float32,
)  # fmt: skip


class Path(NamedTuple):
    """A filled contour (`width` 0) or a stroked line; `ink` 255 draws, 0 erases."""

    points: Array
    width: float = 0.0
    ink: int = 255


class Stencil(NamedTuple):
    """Coverage of one object: `alpha` uint8 h x w, with its top left corner at x, y."""

    alpha: Array
    x: int
    y: int

    def window(self, frame: Array) -> Array:
        """View of an array H x W x ... under the stencil."""
        height, width = self.alpha.shape
        return frame[self.y : self.y + height, self.x : self.x + width]


# Colours and fields


def log_uniform(rng: Rng, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform between those of `low` and `high`."""
    return float(math.exp(rng.uniform(math.log(low), math.log(high))))


def random_bytes(rng: Rng, shape: tuple[int, ...]) -> Array:
    """Draw a uniform uint8 array, which is much faster than floats."""
    flat: Array = np.frombuffer(rng.bytes(math.prod(shape)), np.uint8)
    return flat.reshape(shape)


def draw_palette(rng: Rng, near: Array | None = None, count: int = 3) -> Array:
    """Draw the colours of a material around `near` (RGB) or a random colour.

    Returns:
        float32 count x 3 in [0, 1].
    """
    if near is None:
        if rng.random() < 0.6:
            near = _ANCHORS[rng.integers(len(_ANCHORS))] + rng.normal(0, 0.07, 3)
        else:
            chroma = rng.normal(0, 1, 3)
            near = rng.uniform(0.1, 0.9) + 0.35 * rng.beta(1.2, 2.5) * (chroma - chroma.mean())
    contrast = log_uniform(rng, 0.03, 0.35)  # most natural materials are low in contrast
    luma, chroma = rng.normal(0, 1, (count, 1)), rng.normal(0, 0.35, (count, 3))
    palette: Array = np.clip(near + contrast * (luma - luma.mean() + chroma), 0.02, 0.98)
    return palette.astype(np.float32)


def colourise(field: Array, palette: Array) -> Array:
    """Map a field H x W to evenly spaced palette colours; float32 H x W x 3."""
    last = len(palette) - 1
    place = np.arange(256, dtype=np.float32)[:, None] * np.float32(last / 255)
    lower = np.minimum(place.astype(np.intp), last - 1)[:, 0]
    table = palette[lower] + (place - lower[:, None]) * (palette[lower + 1] - palette[lower])
    index = rgb(cv2.convertScaleAbs(field, alpha=255))
    return cv2.LUT(index, table.astype(np.float32)[None])


def rgb(field: Array) -> Array:
    """Repeat a field H x W in three channels; faster than broadcasting over the last axis."""
    return cv2.merge((field, field, field))


def noise_field(
    rng: Rng, shape: tuple[int, int], cell: float, octaves: int = 3, stretch: float = 1.0
) -> Array:
    """Draw fractal value noise.

    Args:
        rng: random generator.
        shape: H, W.
        cell: size of the coarsest features in px.
        octaves: number of scales, each half the size of the one before.
        stretch: elongation of features along x.

    Returns:
        float32 H x W, normalized to [0, 1].
    """
    height, width = shape
    total: Array = np.zeros((2, 2), np.float32)
    for octave in range(octaves):  # the sum grows with the grids: only the last resize is large
        step = max(cell / 2**octave, 1.0)
        grid = (int(height / step) + 2, int(width / (step * stretch)) + 2)
        layer = random_bytes(rng, grid).astype(np.float32) * np.float32(0.5**octave)
        total = layer + cv2.resize(total, grid[::-1], interpolation=cv2.INTER_CUBIC)
    total = cv2.resize(total, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.normalize(total, total, 0, 1, cv2.NORM_MINMAX)


def axes(shape: tuple[int, int]) -> tuple[Array, Array]:
    """Pixel coordinates x and y relative to the centre, float32 1 x W and H x 1."""
    height, width = shape
    xs = np.arange(width, dtype=np.float32)[None] - (width - 1) / 2
    ys = np.arange(height, dtype=np.float32)[:, None] - (height - 1) / 2
    return xs.astype(np.float32), ys.astype(np.float32)


def wave(phase: Array, hardness: float) -> Array:
    """Convert a phase in rad to bands in [0, 1], sinusoidal at 0.5, nearly binary above 2."""
    bands: Array = np.clip(0.5 + hardness * np.sin(phase), 0, 1)
    return bands


def stripes(rng: Rng, shape: tuple[int, int], period: float, warp: float = 1.0) -> Array:
    """Draw parallel bands at a random angle, distorted by noise of `warp` rad; float32 H x W."""
    xs, ys = axes(shape)
    angle = rng.uniform(0, FULL_CIRCLE)
    phase = (xs * math.cos(angle) + ys * math.sin(angle)) * np.float32(FULL_CIRCLE / period)
    if warp > 0:
        phase += noise_field(rng, shape, 6 * period, 1) * np.float32(2 * warp)
    return wave(phase + np.float32(rng.uniform(0, FULL_CIRCLE)), rng.uniform(0.5, 2))


def dots(rng: Rng, shape: tuple[int, int], period: float) -> Array:
    """Draw a rotated grid of round dots, distorted by noise; float32 H x W."""
    xs, ys = axes(shape)
    angle, scale = rng.uniform(0, FULL_CIRCLE), np.float32(FULL_CIRCLE / period)
    cos, sin = np.float32(math.cos(angle)), np.float32(math.sin(angle))
    bend = noise_field(rng, shape, 4 * period, 1) * np.float32(rng.uniform(0, 3))
    lattice: Array = np.sin((xs * cos + ys * sin) * scale + bend)
    lattice *= np.sin((ys * cos - xs * sin) * scale)
    return np.clip(lattice * np.float32(2) - np.float32(0.4), 0, 1, out=lattice)


def _cells(rng: Rng, shape: tuple[int, int], scale: float) -> Array:
    """Voronoi cells with random values and darker or brighter borders."""
    height, width = shape
    count = max(3, int(height * width / scale**2))
    seeds = np.ones(shape, np.uint8)
    seeds[rng.integers(height, size=count), rng.integers(width, size=count)] = 0
    distance, labels = cv2.distanceTransformWithLabels(
        seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    values = random_bytes(rng, (count + 1,)).astype(np.float32) / 255
    mix = np.float32(rng.uniform(0, 1))
    field: Array = mix * values[labels] + (1 - mix) / np.float32(scale) * distance
    return np.clip(field, 0, 1, out=field)


def _fibres(rng: Rng, shape: tuple[int, int], scale: float) -> Array:
    """Elongated noise in a random direction."""
    height, width = shape
    side = math.ceil(math.hypot(height, width))
    field = noise_field(rng, (side, side), scale, 2, stretch=rng.uniform(3, 8))
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), rng.uniform(0, 180), 1.0)
    turn[:, 2] -= np.array([(side - width) / 2, (side - height) / 2])
    return cv2.warpAffine(field, turn, (width, height), borderMode=cv2.BORDER_REFLECT)


def _speckles(rng: Rng, shape: tuple[int, int], scale: float) -> Array:
    """Sparse irregular spots on an even background."""
    above: Array = noise_field(rng, shape, scale, 2) - np.float32(rng.uniform(0.55, 0.75))
    return np.clip(above * np.float32(8), 0, 1, out=above)


def _plain(rng: Rng, shape: tuple[int, int], scale: float) -> Array:
    """Nearly even field with a weak gradient."""
    return noise_field(rng, shape, max(shape), 1) * np.float32(0.3)


def _grain(rng: Rng, shape: tuple[int, int], scale: float) -> Array:
    """Coarse noise with fine grain, similar to sand, grass or film."""
    fine = random_bytes(rng, shape).astype(np.float32) / 255
    return np.float32(0.5) * (noise_field(rng, shape, 4 * scale, 2) + fine)


TEXTURES: tuple[Callable[[Rng, tuple[int, int], float], Array], ...] = (
    noise_field, noise_field, noise_field, _plain, _plain, _grain, _grain, _fibres, _fibres,
    _speckles, _speckles, _cells, stripes, dots,
)  # fmt: skip


def draw_texture(
    rng: Rng, shape: tuple[int, int], palette: Array, kind: int, scale: float
) -> Array:
    """Draw a coloured texture: `TEXTURES[kind]` with features of `scale` px; float32 H x W x 3."""
    return colourise(TEXTURES[kind](rng, shape, scale), palette)


def lit_relief(height: Array, light: float, strength: float) -> Array:
    """Shading factor, 0.4 to 1.7, of a height map H x W lit from the angle `light` (rad)."""
    along_x = cv2.Sobel(height, cv2.CV_32F, 1, 0, ksize=1, scale=-strength * math.cos(light))
    along_y = cv2.Sobel(height, cv2.CV_32F, 0, 1, ksize=1, scale=-strength * math.sin(light))
    shade: Array = along_x + along_y + np.float32(1)
    return np.clip(shade, 0.4, 1.7, out=shade)


# Shapes: each function draws paths of about the given radius around the origin


def polar_contour(radii: Array, aspect: float = 1.0, angle: float = 0.0) -> Array:
    """Closed contour n x 2 from radii at even angles, scaled by `aspect` and rotated by `angle`."""
    theta = np.arange(len(radii)) * (FULL_CIRCLE / len(radii))
    xs, ys = radii * np.cos(theta), radii * np.sin(theta) * aspect
    cos, sin = math.cos(angle), math.sin(angle)
    return np.stack([xs * cos - ys * sin, xs * sin + ys * cos], axis=1)


def _aspect(rng: Rng) -> float:
    """Draw an aspect ratio, width over length: mostly near 1, at least 0.25."""
    return float(1 - 0.75 * rng.beta(1.2, 2))


def blob(rng: Rng, radius: float, rough: float = 0.35) -> list[Path]:
    """Draw a smooth closed curve: a circle with random Fourier harmonics."""
    theta = np.linspace(0, FULL_CIRCLE, 72, endpoint=False)[:, None]
    orders = np.arange(2, 7)
    swing = rng.normal(0, rough, 5) / orders
    radii = 1 + (swing * np.cos(orders * theta + rng.uniform(0, FULL_CIRCLE, 5))).sum(axis=1)
    radii = np.clip(radii, 0.25, 2)
    contour = polar_contour(radius * radii / radii.max(), _aspect(rng), rng.uniform(0, 7))
    return [Path(contour)]


def ellipse(rng: Rng, radius: float) -> list[Path]:
    """Draw an ellipse or a rounded rectangle (superellipse)."""
    theta = np.linspace(0, FULL_CIRCLE, 64, endpoint=False)
    power = 2.0 if rng.random() < 0.5 else rng.uniform(3, 12)
    radii = (np.abs(np.cos(theta)) ** power + np.abs(np.sin(theta)) ** power) ** (-1 / power)
    scale = radius if power == 2.0 else radius / 1.3
    return [Path(polar_contour(scale * radii, _aspect(rng), rng.uniform(0, 7)))]


def lobed(rng: Rng, radius: float, lobes: int | None = None) -> list[Path]:
    """Draw a slightly uneven contour with 5 to 8 lobes (or `lobes`) that reach `radius`."""
    theta = np.linspace(0, FULL_CIRCLE, 96, endpoint=False)
    lobes = int(rng.integers(5, 9)) if lobes is None else lobes
    radii = 1 + rng.uniform(0.12, 0.25) * np.cos(lobes * theta + rng.uniform(0, 7))
    radii += 0.06 * np.cos(2 * theta + rng.uniform(0, 7)) + 0.04 * np.cos(3 * theta)
    radii *= radius / radii.max()
    return [Path(polar_contour(radii, rng.uniform(0.8, 1), rng.uniform(0, 7)))]


def polygon(rng: Rng, radius: float) -> list[Path]:
    """Draw a polygon of 3 to 7 corners, or a star with as many points."""
    corners = int(rng.integers(3, 8))
    radii = rng.uniform(0.75, 1, corners)
    if rng.random() < 0.3:
        radii = np.stack([radii, rng.uniform(0.35, 0.6) * radii], axis=1).ravel()
    return [Path(polar_contour(radius * radii, _aspect(rng), rng.uniform(0, 7)))]


def ring(rng: Rng, radius: float) -> list[Path]:
    """Draw a blob or ellipse with one hole; a shifted hole gives a crescent."""
    (outer,) = blob(rng, radius, 0.2) if rng.random() < 0.5 else ellipse(rng, radius)
    crescent = rng.random() < 0.4
    scale, shift = (rng.uniform(0.8, 1), 0.45) if crescent else (rng.uniform(0.35, 0.75), 0.08)
    angle = rng.uniform(0, FULL_CIRCLE)
    move = shift * radius * np.array([math.cos(angle), math.sin(angle)])
    return [outer, Path(outer.points * scale + move, ink=0)]


def _walk(rng: Rng, start: Array, heading: float, length: float, bend: float) -> Array:
    """Draw a smooth random line 12 x 2 from `start`; `bend` is in rad per step."""
    turns = np.cumsum(
        np.cumsum(rng.normal(0, bend * 0.5, 12)) * 0.5 + rng.normal(0, bend * 0.5, 12)
    )
    steps = np.stack([np.cos(heading + turns), np.sin(heading + turns)], axis=1) * (length / 12)
    return start + np.cumsum(steps, axis=0)


def branches(rng: Rng, radius: float) -> list[Path]:
    """Draw a curved line with up to three branches (worm, vessel, twig, crack, tool)."""
    width = max(2.5, radius * log_uniform(rng, 0.08, 0.35))
    heading, bend = rng.uniform(0, FULL_CIRCLE), log_uniform(rng, 0.02, 0.35)
    trunk = _walk(rng, np.zeros(2), heading, 2 * radius, bend)
    trunk -= trunk.mean(axis=0)
    paths = [Path(trunk, width)]
    for _ in range(int(rng.integers(0, 4))):
        root, side = int(rng.integers(2, 9)), rng.choice([-1, 1]) * rng.uniform(0.5, 1.2)
        line = _walk(rng, trunk[root], heading + side, radius * rng.uniform(0.4, 1), bend)
        paths.append(Path(line, max(2.0, width * rng.uniform(0.5, 0.9))))
    return paths


def glyphs(rng: Rng, radius: float) -> list[Path]:
    """Draw one to three characters: strokes between points of a 3 x 3 grid."""
    count = int(rng.integers(1, 4))
    cell, angle = radius * 1.6 / max(count, 1.5), rng.normal(0, 0.4)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    width, paths = max(2.5, cell * rng.uniform(0.12, 0.25)), []
    for sign in range(count):
        corner = np.array([(sign - count / 2) * cell * 1.15, -cell / 2])
        stops = rng.permutation(9)[: int(rng.integers(4, 7))]
        points = np.stack([stops % 3, stops // 3 * 1.3], axis=1) * (cell / 2.6) + corner
        paths.append(Path(points @ turn, width))
    return paths


def union(rng: Rng, radius: float) -> list[Path]:
    """Draw a body with two or three parts that stick out (buds, limbs, leaves)."""
    paths = blob(rng, radius * 0.65, 0.2)
    for _ in range(int(rng.integers(2, 4))):
        (part,) = blob(rng, radius * rng.uniform(0.25, 0.5), 0.2)
        base = paths[0].points[rng.integers(72)] * 0.9
        paths.append(Path(part.points + base))
    return paths


FAMILIES: tuple[Callable[[Rng, float], list[Path]], ...] = (
    blob, blob, blob, ellipse, ellipse, polygon, ring, branches, glyphs, union, lobed
)  # fmt: skip


def rasterise(
    paths: Sequence[Path], centre: tuple[float, float], frame: tuple[int, int], margin: int = 5
) -> Stencil | None:
    """Rasterize paths with antialiasing.

    Args:
        paths: points relative to `centre`.
        centre: x, y.
        frame: H, W of the image, to which the shape is clipped.
        margin: empty border in px around the shape, for soft edges and shadows.

    Returns:
        The stencil; None if nothing is inside the frame.
    """
    drawn = [path for path in paths if path.ink]
    reach = max(path.width for path in drawn) / 2 + margin
    low = np.min([path.points.min(axis=0) for path in drawn], axis=0) + centre - reach
    high = np.max([path.points.max(axis=0) for path in drawn], axis=0) + centre + reach
    left, top = np.maximum(low, 0).astype(int)
    right, bottom = np.minimum(np.ceil(high), (frame[1], frame[0])).astype(int)
    if right - left < 3 or bottom - top < 3:
        return None
    alpha = np.zeros((bottom - top, right - left), np.uint8)
    for path in paths:
        offset = np.array([centre[0] - left, centre[1] - top])
        local = (path.points + offset) * 16  # 4 fractional bits
        points = [np.rint(local).astype(np.int32)]
        if path.width:
            width = max(1, round(path.width))
            cv2.polylines(alpha, points, False, path.ink, width, cv2.LINE_AA, shift=4)
        else:
            cv2.fillPoly(alpha, points, path.ink, cv2.LINE_AA, shift=4)
    return Stencil(alpha, int(left), int(top))


def draw_region(rng: Rng, frame: tuple[int, int]) -> Stencil:
    """Draw a large region that touches the image border: terrain, a river, or an island."""
    xs, ys = axes(frame)
    extent, angle = float(max(frame)), rng.uniform(0, FULL_CIRCLE)
    slope = (xs * math.cos(angle) + ys * math.sin(angle)) / np.float32(extent)
    wobble = noise_field(rng, frame, extent * log_uniform(rng, 0.15, 0.7), int(rng.integers(1, 4)))
    level = slope + (wobble - np.float32(0.5)) * np.float32(log_uniform(rng, 0.1, 0.9))
    level -= np.float32(rng.uniform(-0.2, 0.2))
    if rng.random() < 0.45:
        level = np.float32(log_uniform(rng, 0.03, 0.2)) - np.abs(level)
    return Stencil(cv2.convertScaleAbs(np.clip(level * extent + 0.5, 0, 1), alpha=255), 0, 0)
