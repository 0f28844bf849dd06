"""Light and camera effects on a drawn scene. For the array conventions see `drawing`."""

from __future__ import annotations

import cv2
import numpy as np

from autosam.data.synthetic.drawing import (
    Array,
    Rng,
    axes,
    log_uniform,
    noise_field,
    random_bytes,
    rgb,
)


def illuminate(rng: Rng, canvas: Array) -> None:
    """Apply uneven light in place: a vignette, a gradient, or soft shadows."""
    frame = (canvas.shape[0], canvas.shape[1])
    depth = np.float32(rng.uniform(0.1, 0.6))
    if rng.random() < 0.5:
        light = 1 - depth * noise_field(rng, frame, max(frame) * rng.uniform(0.5, 1.5), 1)
    else:
        xs, ys = axes(frame)
        xs, ys = xs - rng.uniform(-0.2, 0.2) * frame[1], ys - rng.uniform(-0.2, 0.2) * frame[0]
        light = 1 - depth * (xs * xs + ys * ys) * np.float32(2 / (frame[0] ** 2 + frame[1] ** 2))
    canvas *= rgb(np.clip(light, 0, 1).astype(np.float32))


def expose(rng: Rng, canvas: Array) -> Array:
    """Apply camera effects: blur, colour cast, contrast, noise, sometimes grey or JPEG.

    Returns:
        uint8 H x W x 3 RGB.
    """
    if rng.random() < 0.45:
        canvas = cv2.GaussianBlur(canvas, (0, 0), log_uniform(rng, 0.4, 1.6))
    gain = 255 * rng.uniform(0.75, 1.15) * np.exp(rng.normal(0, 0.06, 3))
    offset = 255 * rng.normal(0, 0.03) - (gain.mean() - 255) * 0.4
    canvas = cv2.transform(canvas, np.column_stack([np.diag(gain), np.full(3, offset)]))
    if rng.random() < 0.6:
        noise: Array = random_bytes(rng, canvas.shape)
        coarse = rng.random() < 0.5  # in compressed or resized images noise spans several pixels
        noise = cv2.blur(noise, (2, 2)) if coarse else noise
        amplitude = log_uniform(rng, 0.01, 0.15) * (1.5 if coarse else 1)
        noise = noise.astype(np.float32)
        canvas = cv2.addWeighted(canvas, 1, noise, amplitude, -127.5 * amplitude)
    image: Array = np.clip(canvas, 0, 255).astype(np.uint8)
    if rng.random() < 0.1:
        image = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if rng.random() < 0.3:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 90))]
        image = np.asarray(cv2.imdecode(cv2.imencode(".jpg", image, quality)[1], cv2.IMREAD_COLOR))
    return image


def scope_mask(rng: Rng, size: int) -> Array:
    """Field of view of an endoscope or microscope, a circle or an octagon; bool size x size."""
    xs, ys = axes((size, size))
    reach = size * rng.uniform(0.48, 0.62)
    octagon = np.abs(xs) + np.abs(ys) < reach * 1.3
    return octagon if rng.random() < 0.5 else xs * xs + ys * ys < reach * reach
