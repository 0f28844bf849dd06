"""The embedded default data set: segment lobed shapes with radial stripes among distractors.

Targets are lobed shapes with stripes from the centre to the edge. Distractors have the same shape
with dots, rings, clouds or parallel stripes, or are ellipses and polygons with stripes or dots.
Objects and background take their colours from one small palette per image, so a threshold on
colour cannot separate targets; shape and texture do.

The images are drawn, not stored. The same version always gives the same images.
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

VERSION = 1  # increase when the images change
MARKER = "autosam-synthetic.json"
SPLITS = ("train", "validation", "test")
_KINDS = ("images", "masks", "objects")
EMPTY_SHARE = 0.08  # images without any target
# (width, height) at size 256. Images that are not square need padding.
_FRAMES = ((256, 256), (256, 256), (256, 256), (256, 192), (192, 256), (320, 240))
_DISTRACTORS = (
    ("lobed", "dots"), ("lobed", "rings"), ("lobed", "clouds"), ("lobed", "stripes"),
    ("ellipse", "stripes"), ("polygon", "stripes"), ("ellipse", "dots"),
)  # fmt: skip
_SHAPES = {"lobed": drawing.lobed, "ellipse": drawing.ellipse, "polygon": drawing.polygon}


def _draw_colours(rng: Rng) -> Array:
    """Draw the palette of an image: float32 4 x 3 in [0, 1], with distinct brightness."""
    luma = np.linspace(0.2, 0.8, 4)[:, None] + rng.uniform(-0.04, 0.04, (4, 1))
    hue = rng.normal(0, 1, (1, 3)) * 0.08 + rng.normal(0, 0.07, (4, 3))
    colours = luma + hue - hue.mean(axis=1, keepdims=True)
    return rng.permutation(np.clip(colours, 0.03, 0.97)).astype(np.float32)


def _polar_field(rng: Rng, stencil: Stencil, centre: Array, radius: float, kind: str) -> Array:
    """Draw radial stripes or rings around the centre of an object, float32 h x w."""
    height, width = stencil.alpha.shape
    xs = np.arange(width, dtype=np.float32)[None] + np.float32(stencil.x - centre[0])
    ys = np.arange(height, dtype=np.float32)[:, None] + np.float32(stencil.y - centre[1])
    if kind == "radial":
        count = round(min(max(0.45 * radius, 8), 14) * rng.uniform(0.9, 1.1))
        phase = np.arctan2(ys, xs) * np.float32(count)
    else:
        phase = np.hypot(xs, ys) * np.float32(2 * math.pi / (radius * rng.uniform(0.28, 0.4)))
    phase += drawing.noise_field(rng, (height, width), radius, 1)  # distortion of up to 1 rad
    return drawing.wave(phase + np.float32(rng.uniform(0, 2 * math.pi)), 1.2)


def _pattern(rng: Rng, stencil: Stencil, centre: Array, radius: float, kind: str) -> Array:
    """Draw the surface pattern of an object, float32 h x w in [0, 1]."""
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
    """An unfinished image: float32 canvas, object id of each pixel, ids of the targets."""

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
        """Whether an object overlaps others little and leaves every target mostly visible."""
        below = stencil.window(self.owner)[inside]
        if np.count_nonzero(below) > 0.25 * len(below):
            return False
        visible = np.bincount(self.owner.ravel(), minlength=len(self.areas))
        left = visible - np.bincount(below, minlength=len(self.areas))
        return all(left[target] >= 0.7 * self.areas[target] for target in self.targets)

    def add(self, shape: str, kind: str) -> None:
        """Draw one object at a random place where it fits; none after 20 tries."""
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
    """Draw one image and its mask, see `draw_objects`.

    Returns:
        uint8 H x W x 3 RGB, and the mask, uint8 H x W, 0 and 255.
    """
    image, numbers = draw_objects(rng, size)
    return image, (numbers > 0).astype(np.uint8) * 255


def draw_objects(rng: Rng, size: int = 256) -> tuple[Array, Array]:
    """Draw one image and its objects.

    Args:
        rng: random generator.
        size: side in px; images that are not square have sides of 0.75 to 1.25 times `size`.

    Returns:
        uint8 H x W x 3 RGB, and the number of each pixel's target, uint8 H x W, 0 for none.
    """
    width, height = (round(side * size / 256) for side in _FRAMES[rng.integers(len(_FRAMES))])
    image = _Canvas(rng, width, height, size / 256)
    targets = 0 if rng.random() < EMPTY_SHARE else int(rng.integers(1, 5))
    kinds = [("lobed", "radial")] * targets
    kinds += [_DISTRACTORS[i] for i in rng.integers(len(_DISTRACTORS), size=rng.integers(3, 8))]
    if targets:  # one target first, so that it always fits
        image.add(*kinds.pop(0))
    for index in rng.permutation(len(kinds)):
        image.add(*kinds[index])
    if rng.random() < 0.7:
        scenes.illuminate(rng, image.canvas)
    number_of = np.zeros(len(image.areas), np.uint8)
    number_of[image.targets] = np.arange(1, len(image.targets) + 1)
    return scenes.expose(rng, image.canvas), number_of[image.owner]


def _write_split(folder: Path, split: str, count: int, size: int, seed: int) -> None:
    """Write `count` images (JPEG, a third of the size of PNG), masks and label images (PNG)."""
    for kind in _KINDS:
        (folder / split / kind).mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng([seed, SPLITS.index(split), index])
        image, numbers = draw_objects(rng, size)
        quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
        jpeg = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)[1]
        (folder / split / "images" / f"{index:04d}.jpg").write_bytes(jpeg.tobytes())
        mask = (numbers > 0).astype(np.uint8) * 255
        for kind, values in (("masks", mask), ("objects", numbers)):
            png = cv2.imencode(".png", values)[1]
            (folder / split / kind / f"{index:04d}.png").write_bytes(png.tobytes())


def _is_complete(root: Path, recipe: dict[str, int]) -> bool:
    """Whether a folder holds the data set of this recipe without missing files."""
    try:
        if json.loads((root / MARKER).read_text(encoding="utf-8")) != recipe:
            return False
    except (OSError, ValueError):
        return False
    folders = [(root / split / kind, recipe[split]) for split in SPLITS for kind in _KINDS]
    return all(len(list(folder.glob("*.*"))) == count for folder, count in folders)


def _check_ours(root: Path) -> None:
    """
    Raises:
        DataError: the folder holds anything that this module did not write.
    """
    names = {path.name for path in root.iterdir()} if root.is_dir() else set()
    foreign = names - {MARKER, *SPLITS}
    if (root.exists() and not root.is_dir()) or foreign or (names and MARKER not in names):
        found = f"it holds {min(foreign)!r}" if foreign else f"it has no {MARKER}"
        raise DataError(
            f"{root}: exists and is not a synthetic data set of autosam ({found}). "
            "Choose another folder or remove it."
        )


def write_synthetic(
    root: Path,
    train: int = 240,
    validation: int = 40,
    test: int = 60,
    size: int = 256,
    seed: int = 0,
) -> Path:
    """Write the data set as root/{train,validation,test}/{images,masks,objects}/0000.*. The values
    of the files in objects/ number the objects of a mask.

    A complete data set of the same version and arguments is reused; another version, or one with
    missing files, is replaced. The folder is renamed into place once it is complete.

    Args:
        root: folder to create, with its parents.
        train: number of training images.
        validation: number of validation images.
        test: number of test images.
        size: side of the images in px, see `draw_example`.
        seed: an image depends on the seed, its split and its number, not on the counts.

    Returns:
        `root`.

    Raises:
        DataError: `root` holds other files.
    """
    root = Path(root)
    recipe = {"version": VERSION, "size": size, "seed": seed}
    recipe |= {"train": train, "validation": validation, "test": test}
    if _is_complete(root, recipe):
        return root
    _check_ours(root)
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{root.name}.", dir=root.parent) as work:
        fresh = Path(work, "new")  # the temporary folder itself has mode 0700
        for split in SPLITS:
            _write_split(fresh, split, recipe[split], size, seed)
        (fresh / MARKER).write_text(json.dumps(recipe), encoding="utf-8")
        try:
            if root.exists():
                root.rename(Path(work, "old"))
            fresh.rename(root)
        except OSError:
            if not _is_complete(root, recipe):  # otherwise another process has written it
                raise
    return root


def synthetic_root() -> Path:
    """Folder of the embedded data set in the cache; written if missing (some seconds)."""
    return write_synthetic(cache_folder() / f"synthetic-v{VERSION}")
