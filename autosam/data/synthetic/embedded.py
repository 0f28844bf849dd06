"""The embedded default data set: find the flowers with radial stripes among look-alikes.

Targets are lobed blobs with stripes that run from the middle to the rim. Distractors share the
shape (with dots, rings, clouds or parallel stripes) or are ellipses and polygons with parallel
stripes. All of them and the background take their colours from one small palette per image, so
no threshold on colour tells a target: only shape and texture do.

The set is drawn, not stored: the same version always gives the same images.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

import cv2
import numpy as np

from autosam.data.synthetic import drawing, scenes
from autosam.data.synthetic.drawing import Array, Rng, Stencil
from autosam.errors import DataError
from autosam.utils.assets import cache_folder

VERSION = 1  # raise it whenever the images change
MARKER = "autosam-synthetic.json"
SPLITS = ("train", "validation", "test")
_KINDS = ("images", "masks")
EMPTY_SHARE = 0.08  # images without any target
# (width, height) at size 256: mostly square, the others make loaders pad.
_FRAMES = ((256, 256), (256, 256), (256, 256), (256, 192), (192, 256), (320, 240))
_DISTRACTORS = (
    ("lobed", "dots"), ("lobed", "rings"), ("lobed", "clouds"), ("lobed", "stripes"),
    ("ellipse", "stripes"), ("polygon", "stripes"), ("ellipse", "dots"),
)  # fmt: skip
_SHAPES = {"lobed": drawing.lobed, "ellipse": drawing.ellipse, "polygon": drawing.polygon}


def _draw_colours(rng: Rng) -> Array:
    """Palette of one image: float32 (4, 3) in [0, 1], each well apart in brightness."""
    luma = np.linspace(0.2, 0.8, 4)[:, None] + rng.uniform(-0.04, 0.04, (4, 1))
    hue = rng.normal(0, 1, (1, 3)) * 0.08 + rng.normal(0, 0.07, (4, 3))
    colours = luma + hue - hue.mean(axis=1, keepdims=True)
    return rng.permutation(np.clip(colours, 0.03, 0.97)).astype(np.float32)


def _polar_field(rng: Rng, stencil: Stencil, centre: Array, radius: float, kind: str) -> Array:
    """Pattern around the centre of an object, float32 (h, w): radial stripes or rings."""
    height, width = stencil.alpha.shape
    xs = np.arange(width, dtype=np.float32)[None] + np.float32(stencil.x - centre[0])
    ys = np.arange(height, dtype=np.float32)[:, None] + np.float32(stencil.y - centre[1])
    if kind == "radial":
        count = round(min(max(0.45 * radius, 8), 14) * rng.uniform(0.9, 1.1))
        phase = np.arctan2(ys, xs) * np.float32(count)
    else:
        phase = np.hypot(xs, ys) * np.float32(2 * math.pi / (radius * rng.uniform(0.28, 0.4)))
    phase += drawing.noise_field(rng, (height, width), radius, 1)  # a slight bend, up to 1 rad
    return drawing.wave(phase + np.float32(rng.uniform(0, 2 * math.pi)), 1.2)


def _pattern(rng: Rng, stencil: Stencil, centre: Array, radius: float, kind: str) -> Array:
    """Surface pattern of one object, float32 (h, w) in [0, 1]."""
    height, width = stencil.alpha.shape
    period = max(radius * rng.uniform(0.28, 0.4), 5)
    if kind in ("radial", "rings"):
        return _polar_field(rng, stencil, centre, radius, kind)
    if kind == "dots":
        return drawing.dots(rng, (height, width), period * 1.4)
    if kind == "stripes":
        return drawing.stripes(rng, (height, width), period, warp=0.6)
    return drawing.noise_field(rng, (height, width), radius, 3)


class _Canvas:
    """An image under construction: float32 canvas, owner of every pixel, its target ids."""

    def __init__(self, rng: Rng, width: int, height: int, unit: float) -> None:
        self.rng, self.unit, self.frame = rng, unit, (height, width)
        self.light = float(rng.uniform(0, 2 * math.pi))
        self.colours = _draw_colours(rng)
        kind = int(rng.integers(len(drawing.TEXTURES)))
        scale = drawing.log_uniform(rng, 5, 40) * unit
        ground = self.colours[rng.permutation(4)[:3]]
        self.canvas = drawing.draw_texture(rng, self.frame, ground, kind, scale)
        self.owner = np.zeros(self.frame, np.uint8)
        self.areas = [0]
        self.targets: list[int] = []

    def _fits(self, stencil: Stencil, inside: Array) -> bool:
        """Whether overlaps stay small and every target remains mostly visible."""
        below = stencil.window(self.owner)[inside]
        if np.count_nonzero(below) > 0.25 * len(below):
            return False
        visible = np.bincount(self.owner.ravel(), minlength=len(self.areas))
        left = visible - np.bincount(below, minlength=len(self.areas))
        return all(left[target] >= 0.7 * self.areas[target] for target in self.targets)

    def add(self, shape: str, kind: str) -> None:
        """Draw one object where it fits; after some tries in a full image draw none."""
        rng = self.rng
        for _ in range(20):
            radius = drawing.log_uniform(rng, 14, 48) * self.unit
            low, high = 0.7 * radius, np.array(self.frame[::-1]) - 0.7 * radius
            centre = rng.uniform(low, high)
            spot = (float(centre[0]), float(centre[1]))
            stencil = drawing.rasterise(_SHAPES[shape](rng, radius), spot, self.frame)
            if stencil is not None and self._fits(stencil, stencil.alpha > 127):
                self._paint(stencil, centre, radius, kind)
                return

    def _paint(self, stencil: Stencil, centre: Array, radius: float, kind: str) -> None:
        field = _pattern(self.rng, stencil, centre, radius, kind)
        skin = drawing.colourise(field, self.colours[self.rng.permutation(4)[:2]])
        relief = drawing.lit_relief(scenes.height_of(stencil.alpha), self.light, 0.35)
        scenes.add_shadow(self.canvas, stencil, self.light, 0.4)
        scenes.blend(self.canvas, stencil, skin * drawing.rgb(relief), 1.0, 0.6)
        if kind == "radial":
            self.targets.append(len(self.areas))
        inside = stencil.alpha > 127
        stencil.window(self.owner)[inside] = len(self.areas)
        self.areas.append(int(np.count_nonzero(inside)))


def draw_example(rng: Rng, size: int = 256) -> tuple[Array, Array]:
    """Draw one image, uint8 (H, W, 3) RGB, and its target mask, uint8 (H, W) of 0 and 255.

    The sides are ``size``, or 0.75 to 1.25 times ``size`` in the images that are not square.
    """
    width, height = (round(side * size / 256) for side in _FRAMES[rng.integers(len(_FRAMES))])
    image = _Canvas(rng, width, height, size / 256)
    targets = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, 5))
    kinds = [("lobed", "radial")] * targets
    kinds += [_DISTRACTORS[i] for i in rng.integers(len(_DISTRACTORS), size=rng.integers(3, 8))]
    if targets:  # one target first, so that a full image cannot lose them all
        image.add(*kinds.pop(0))
    for index in rng.permutation(len(kinds)):
        image.add(*kinds[index])
    if rng.random() < 0.7:
        scenes.illuminate(rng, image.canvas)
    mask = np.isin(image.owner, image.targets).astype(np.uint8) * 255
    return scenes.expose(rng, image.canvas), mask


def _write_split(folder: Path, split: str, count: int, size: int, seed: int) -> None:
    """Write ``count`` images (JPEG, a third of the size of PNG here) and masks (PNG)."""
    for kind in _KINDS:
        (folder / split / kind).mkdir(parents=True)
    for index in range(count):
        image, mask = draw_example(np.random.default_rng([seed, SPLITS.index(split), index]), size)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
        (folder / split / "images" / f"{index:04d}.jpg").write_bytes(jpeg.tobytes())
        png = cv2.imencode(".png", mask)[1]
        (folder / split / "masks" / f"{index:04d}.png").write_bytes(png.tobytes())


def _is_complete(root: Path, recipe: dict[str, int]) -> bool:
    """Whether ``root`` holds the set of this recipe with none of its files missing."""
    try:
        if json.loads((root / MARKER).read_text(encoding="utf-8")) != recipe:
            return False
    except (OSError, ValueError):
        return False
    folders = [(root / split / kind, recipe[split]) for split in SPLITS for kind in _KINDS]
    return all(len(list(folder.glob("*.*"))) == count for folder, count in folders)


def _check_ours(root: Path) -> None:
    """Refuse to replace a folder that holds anything this module did not write."""
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    foreign = names - {MARKER, *SPLITS}
    if (root.exists() and not root.is_dir()) or foreign or (names and MARKER not in names):
        found = f"it holds {min(foreign)!r}" if foreign else f"it has no {MARKER}"
        raise DataError(
            f"{root} exists and is not a synthetic data set of autosam ({found}); "
            "choose another folder or remove it"
        )


def write_synthetic(
    root: Path,
    train: int = 240,
    validation: int = 40,
    test: int = 60,
    size: int = 256,
    seed: int = 0,
) -> Path:
    """Write the data set as ``root/{train,validation,test}/{images,masks}/0000.*``.

    A complete set of the same version and arguments is reused. One of another version or with
    missing files is replaced. The folder appears under its name only once it is complete.

    Parameters
    ----------
    root : folder to create; its parents are made.
    train, validation, test : images per split.
    size : side of the square images in px; some are 0.75 to 1.25 times as wide or high.
    seed : images depend on the seed, the split and their number only, not on the counts.

    Returns
    -------
    ``root``.

    Raises
    ------
    DataError : ``root`` holds something else.
    """
    root = Path(root)
    recipe = {"version": VERSION, "size": size, "seed": seed}
    recipe |= {"train": train, "validation": validation, "test": test}
    if _is_complete(root, recipe):
        return root
    _check_ours(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as work:
        fresh = Path(work, "new")  # not the temporary folder itself: that one is private (0700)
        for split in SPLITS:
            _write_split(fresh, split, recipe[split], size, seed)
        (fresh / MARKER).write_text(json.dumps(recipe), encoding="utf-8")
        try:
            if root.exists():
                root.rename(Path(work, "old"))
            fresh.rename(root)
        except OSError:
            if not _is_complete(root, recipe):  # else another process wrote it meanwhile
                raise
    return root


def synthetic_root() -> Path:
    """Folder of the embedded data set in the cache, written when missing (some seconds)."""
    return write_synthetic(cache_folder() / f"synthetic-v{VERSION}")
