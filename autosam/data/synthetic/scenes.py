"""Random class-agnostic scenes for pretraining a promptable segmenter.

A scene is drawn from one random generator: a textured background, objects of many shapes with
texture, shading, camouflage and occlusion, then light and camera effects. An object is drawn within
its bounding box, so that a scene takes about as long as decoding a photograph (some milliseconds).

For the array conventions see `drawing`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from autosam.data.synthetic.camera import expose, illuminate, scope_mask
from autosam.data.synthetic.drawing import (
    FAMILIES,
    FULL_CIRCLE,
    TEXTURES,
    Array,
    Rng,
    Stencil,
    blob,
    branches,
    draw_palette,
    draw_region,
    draw_texture,
    ellipse,
    lit_relief,
    lobed,
    log_uniform,
    noise_field,
    rasterise,
    rgb,
    union,
)
from autosam.data.synthetic.photos import photo_texture

MIN_VISIBLE_AREA = 100  # px at 256 x 256, scaled with the area of the image
MIN_VISIBLE_SHARE = 0.2  # objects with a smaller visible share are removed from the labels


@dataclass(frozen=True)
class Scene:
    """One drawn image and its objects.

    Attributes:
        image: uint8 H x W x 3 RGB.
        instances: uint8 H x W, 0 for background, 1..n for the visible pixels of each object.
    """

    image: Array
    instances: Array


@dataclass(frozen=True)
class Style:
    """Appearance of an object. Strengths are 0 (off) to about 1."""

    palette: Array
    photo: bool  # surface from a photograph
    texture: int
    scale: float  # px, size of texture features
    camouflage: bool
    bump: float
    opacity: float
    softness: float  # px, blur of the edge
    outline: float
    shadow: float
    gloss: float


# Objects


def draw_style(rng: Rng, ground: Array, unit: float) -> Style:
    """Draw a style for an object; `ground` is the background's palette, k x 3, and `unit` px per
    1/256 of the image side."""
    near = ground[rng.integers(len(ground))] + rng.normal(0, 0.12) if rng.random() < 0.45 else None
    soft, shaded = rng.random() < 0.35, rng.random() < 0.55
    return Style(
        palette=draw_palette(rng, near),
        photo=bool(rng.random() < 0.3),
        texture=int(rng.integers(len(TEXTURES))),
        scale=log_uniform(rng, 3, 30) * unit,
        camouflage=bool(rng.random() < 0.3),
        bump=log_uniform(rng, 0.15, 0.9) if shaded else 0.0,
        opacity=float(rng.uniform(0.5, 0.9)) if rng.random() < 0.15 else 1.0,
        softness=log_uniform(rng, 0.8, 4) * unit if soft else 0.0,
        outline=float(rng.uniform(-0.5, 0.5)) if rng.random() < 0.2 else 0.0,
        shadow=float(rng.uniform(0.2, 0.6)) if rng.random() < 0.3 else 0.0,
        gloss=float(rng.uniform(0.3, 0.9)) if rng.random() < 0.2 else 0.0,
    )


def height_of(alpha: Array) -> Array:
    """Smooth height map of a stencil, float32 h x w, with a slope of about 1 at any size."""
    reach = max(3, min(alpha.shape) // 3)
    height = cv2.blur(cv2.blur(alpha.astype(np.float32), (reach, reach)), (reach, reach))
    return height * np.float32(reach / 255)


def _surface(
    rng: Rng, canvas: Array, stencil: Stencil, style: Style, photos: Sequence[Array]
) -> Array:
    """Draw the colours of an object without shading, float32 h x w x 3."""
    height, width = stencil.alpha.shape
    if not style.camouflage and style.photo and photos:
        return photo_texture(rng, photos, (height, width))
    if not style.camouflage:
        return draw_texture(rng, (height, width), style.palette, style.texture, style.scale)
    # Camouflage: a patch of the image; the object differs by shading and a small colour shift.
    top = int(rng.integers(canvas.shape[0] - height + 1))
    left = int(rng.integers(canvas.shape[1] - width + 1))
    patch = canvas[top : top + height, left : left + width]
    return patch * rng.uniform(0.85, 1.15) + rng.normal(0, 0.03, 3).astype(np.float32)


def _ensure_contrast(rng: Rng, skin: Array, under: Array, inside: Array, style: Style) -> Array:
    """Shift the brightness of `skin` if it is too similar to the pixels it covers.

    Args:
        rng: random generator.
        skin: colours of the object, float32 h x w x 3.
        under: the canvas below, of the same shape.
        inside: uint8 h x w, 1 inside the object.
        style: of the object.
    """
    difference = np.abs(np.subtract(cv2.mean(skin, inside), cv2.mean(under, inside))[:3]).mean()
    if not style.camouflage:  # texture counts as contrast, too
        difference += 0.5 * cv2.meanStdDev(skin, mask=inside)[1].max()
    level = cv2.mean(under, inside)[0]
    least = (0.05 + 0.08 * level) / style.opacity
    if difference >= least:
        return skin
    return skin + np.float32(-least if level > rng.uniform(0.3, 0.7) else least)


def add_shadow(canvas: Array, stencil: Stencil, light: float, strength: float) -> None:
    """Darken the canvas in place on the side of the stencil away from the light (rad)."""
    shift = np.array([[1, 0, -4 * math.cos(light)], [0, 1, -4 * math.sin(light)]])
    alpha = stencil.alpha
    shade = cv2.warpAffine(alpha, shift, alpha.shape[::-1], borderMode=cv2.BORDER_REPLICATE)
    shade = cv2.blur(shade, (5, 5))
    stencil.window(canvas)[...] *= rgb(1 - shade * np.float32(strength / 255))


def _add_gloss(rng: Rng, skin: Array, shade: Array, strength: float) -> None:
    """Add specular highlights in place where the surface faces the light, modulated by noise."""
    glint = shade * (np.float32(0.6) + noise_field(rng, shade.shape, 12, 2))
    glint = np.clip((glint - np.float32(1.45)) * np.float32(4), 0, 1)
    skin += rgb(glint) * (strength * (1 - np.minimum(skin, 1)))


def blend(canvas: Array, stencil: Stencil, skin: Array, opacity: float, softness: float) -> None:
    """Blend `skin`, h x w x 3, over the canvas in place, with edges blurred by `softness` px."""
    alpha: Array = stencil.alpha.astype(np.float32) * np.float32(opacity / 255)
    if softness > 0.3:
        alpha = cv2.GaussianBlur(alpha, (0, 0), softness)
    window = stencil.window(canvas)
    window[...] = cv2.blendLinear(skin, window, alpha, 1 - alpha)


def paint_object(
    rng: Rng,
    canvas: Array,
    stencil: Stencil,
    style: Style,
    light: float,
    photos: Sequence[Array] = (),
) -> None:
    """Draw one object on the canvas in place, lit from the angle `light` (rad)."""
    alpha = stencil.alpha
    inside = (alpha > 127).astype(np.uint8)
    skin = _surface(rng, canvas, stencil, style, photos)  # a new array that may be changed in place
    bump = max(style.bump, 0.3) if style.camouflage else style.bump
    shade = lit_relief(height_of(alpha), light, bump) if bump else np.ones_like(alpha, np.float32)
    skin *= rgb(shade)
    np.clip(skin, 0, 1, out=skin)  # clipped values do not count as contrast
    skin = _ensure_contrast(rng, skin, stencil.window(canvas), inside, style)
    if style.gloss:
        _add_gloss(rng, skin, shade, style.gloss)
    if style.outline:
        rim = cv2.morphologyEx(alpha, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8))
        skin += rgb(rim.astype(np.float32) * np.float32(style.outline / 255))
    if style.shadow:
        add_shadow(canvas, stencil, light, style.shadow)
    blend(canvas, stencil, skin, style.opacity, style.softness)


def _paint_part(
    rng: Rng, canvas: Array, whole: Stencil, style: Style, light: float, largest: float = 0.3
) -> None:
    """Draw an inner part (nucleus, patch, stripe) of an object, with a radius of up to `largest`
    times its shorter side."""
    height, width = whole.alpha.shape
    radius = min(height, width) * rng.uniform(0.12, largest)
    centre = (width * rng.uniform(0.25, 0.75), height * rng.uniform(0.25, 0.75))
    part = rasterise(FAMILIES[rng.integers(len(FAMILIES))](rng, radius), centre, (height, width))
    if part is None:
        return
    clipped = np.minimum(part.alpha, part.window(whole.alpha))
    inner = replace(style, palette=draw_palette(rng, style.palette[0]), shadow=0.0)
    paint_object(rng, whole.window(canvas), Stencil(clipped, part.x, part.y), inner, light)


class _SceneBuilder:
    """An unfinished scene: the canvas, the instance map, and the full area of each object."""

    def __init__(self, rng: Rng, size: int, photos: Sequence[Array]) -> None:
        self.rng, self.size, self.unit, self.photos = rng, size, size / 256, photos
        self.light = float(rng.uniform(0, FULL_CIRCLE))
        self.canvas, self.ground = draw_background(rng, (size, size), self.light, photos)
        self.instances = np.zeros((size, size), np.uint8)
        self.areas = [0]

    def place(self, stencil: Stencil | None, style: Style, parts: int = 0) -> None:
        """Draw an object with inner parts and add it to the instance map."""
        if stencil is None or len(self.areas) > 250:
            return
        inside = stencil.alpha > 127
        paint_object(self.rng, self.canvas, stencil, style, self.light, self.photos)
        for _ in range(parts):
            _paint_part(self.rng, self.canvas, stencil, style, self.light, 0.45)
        if not parts and inside.sum() > 400 * self.unit**2 and self.rng.random() < 0.2:
            _paint_part(self.rng, self.canvas, stencil, style, self.light)
        stencil.window(self.instances)[inside] = len(self.areas)
        self.areas.append(int(inside.sum()))

    def style(self) -> Style:
        """Draw a style that may be similar to the background of this scene."""
        return draw_style(self.rng, self.ground, self.unit)

    def scatter(self, count: int) -> None:
        """Place different objects, large ones first, so that they do not cover small ones."""
        radii = [log_uniform(self.rng, 8 if i else 25, 125) * self.unit for i in range(count)]
        for radius in sorted(radii, reverse=True):
            family = FAMILIES[self.rng.integers(len(FAMILIES))]
            x, y = self.rng.uniform(0.03, 0.97, 2) * self.size
            self.place(rasterise(family(self.rng, radius), (x, y), (self.size,) * 2), self.style())

    def portrait(self) -> None:
        """Place one rounded object that may fill the image, with inner parts and often with low
        contrast (a lesion, a fruit, a face)."""
        rng = self.rng
        family = (blob, blob, ellipse, ellipse, union, lobed)[rng.integers(6)]
        radius = log_uniform(rng, 35, 170) * self.unit
        x, y = rng.uniform(0.2, 0.8, 2) * self.size
        style = self.style()
        if rng.random() < 0.5:
            style = replace(style, camouflage=True, bump=log_uniform(rng, 0.15, 0.9), outline=0.0)
        if rng.random() < 0.5:
            style = replace(style, gloss=float(rng.uniform(0.3, 0.9)))
        stencil = rasterise(family(rng, radius), (x, y), (self.size,) * 2)
        self.place(stencil, style, parts=int(rng.integers(0, 6)))

    def crowd(self, count: int) -> None:
        """Place similar objects of one shape and style on a jittered grid."""
        rng, style = self.rng, self.style()
        family = FAMILIES[rng.integers(len(FAMILIES))]
        per_side = math.ceil(math.sqrt(count * rng.uniform(1, 2.5)))
        pitch = self.size / per_side
        radius = min(pitch, 60 * self.unit) * rng.uniform(0.25, 0.6)
        radius = max(radius, 5 * self.unit)
        for slot in rng.permutation(per_side**2)[:count]:
            spot = (np.array(divmod(int(slot), per_side)) + 0.5 + rng.normal(0, 0.2, 2)) * pitch
            paths = family(rng, radius * rng.uniform(0.8, 1.2))
            stencil = rasterise(paths, (float(spot[0]), float(spot[1])), (self.size,) * 2)
            self.place(stencil, style)

    def labelled(self) -> Array:
        """Instance map of the sufficiently visible objects, uint8 H x W, with ids from 1."""
        visible = np.bincount(self.instances.ravel(), minlength=len(self.areas))
        least = np.maximum(
            MIN_VISIBLE_AREA * self.unit**2, MIN_VISIBLE_SHARE * np.array(self.areas)
        )
        keep = visible >= least
        keep[0] = False
        ids = np.where(keep, np.cumsum(keep), 0).astype(np.uint8)
        return ids[self.instances]


# Background


def draw_background(
    rng: Rng, frame: tuple[int, int], light: float, photos: Sequence[Array] = ()
) -> tuple[Array, Array]:
    """Draw a textured background with folds and vessels.

    Returns:
        The canvas, H x W x 3, and its palette, k x 3.
    """
    extent = max(frame)
    palette = draw_palette(rng)
    scale = log_uniform(rng, 0.012, 0.25) * extent
    canvas = draw_texture(rng, frame, palette, int(rng.integers(len(TEXTURES))), scale)
    if photos and rng.random() < 0.4:
        canvas = photo_texture(rng, photos, frame)
        palette = cv2.resize(canvas, (3, 1), interpolation=cv2.INTER_AREA)[0]
    if rng.random() < 0.35:  # patches of a second material without sharp edges
        other = draw_palette(rng, palette[0] + rng.normal(0, 0.08, 3))
        second = draw_texture(rng, frame, other, int(rng.integers(len(TEXTURES))), scale)
        canvas += rgb(noise_field(rng, frame, extent / 3, 2)) * (second - canvas)
    if rng.random() < 0.4:
        cell = extent * log_uniform(rng, 0.1, 0.6)
        folds = noise_field(rng, frame, cell, int(rng.integers(1, 3)))
        canvas *= rgb(lit_relief(folds, light, cell * rng.uniform(0.05, 0.25)))
    if rng.random() < 0.15:
        _add_vessels(rng, canvas)
    return np.clip(canvas, 0, 1, out=canvas), palette


def _add_vessels(rng: Rng, canvas: Array) -> None:
    """Add weak thin lines in place that are not objects (vessels, scratches, cracks)."""
    height, width = canvas.shape[:2]
    colour = np.float32(rng.uniform(0.6, 0.9)) if rng.random() < 0.7 else np.float32(1.2)
    for _ in range(int(rng.integers(1, 5))):
        paths = branches(rng, rng.uniform(0.2, 0.6) * width)
        thin = [path._replace(width=rng.uniform(1, 2.5)) for path in paths]
        spot = (rng.uniform(0, width), rng.uniform(0, height))
        stencil = rasterise(thin, spot, (height, width))
        if stencil is not None:
            blend(canvas, stencil, stencil.window(canvas) * colour, 0.8, 0.6)


def _add_glints(rng: Rng, canvas: Array) -> None:
    """Add specular spots in place, on objects and background."""
    height, width = canvas.shape[:2]
    for _ in range(int(rng.integers(2, 12))):
        spot = (rng.uniform(0, width), rng.uniform(0, height))
        stencil = rasterise(blob(rng, log_uniform(rng, 0.006, 0.03) * width), spot, (height, width))
        if stencil is not None:
            blend(canvas, stencil, np.ones_like(stencil.window(canvas)), rng.uniform(0.5, 1), 0.8)


def draw_scene(rng: Rng, size: int = 256, photos: Sequence[Array] = ()) -> Scene:
    """Draw one scene with 1 to about 12 objects (crowds: up to 16).

    Args:
        rng: random generator; the same state gives the same scene.
        size: side of the image in px.
        photos: float32 H x W x 3 each, used as textures of some surfaces.

    Returns:
        The scene. Each object covers at least `MIN_VISIBLE_AREA` px (scaled from 256 x 256).
    """
    while True:
        scene = _try_scene(rng, size, photos)
        if scene.instances.any():
            return scene


def _try_scene(rng: Rng, size: int, photos: Sequence[Array]) -> Scene:
    builder = _SceneBuilder(rng, size, photos)
    if rng.random() < 0.4:
        if rng.random() < 0.3:
            builder.scatter(int(rng.integers(1, 4)))
        builder.portrait()  # last, so that nothing covers it
    else:
        if rng.random() < 0.35:
            builder.place(draw_region(rng, (size, size)), builder.style())
        if rng.random() < 0.35:
            builder.crowd(int(rng.integers(4, 15)))
            builder.scatter(int(rng.integers(0, 3)))
        else:
            builder.scatter(min(12, int(rng.geometric(0.22))))
    canvas = builder.canvas
    if rng.random() < 0.3:
        _add_glints(rng, canvas)
    if rng.random() < 0.5:
        illuminate(rng, canvas)
    if rng.random() < 0.08:
        view = scope_mask(rng, size)
        canvas[~view] = rng.uniform(0, 0.1)
        builder.instances[~view] = 0
    return Scene(expose(rng, canvas), builder.labelled())
