"""Draw overlays, prompts, heatmaps and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from autosam.config import DataConfig
from autosam.types import ObjectPrompts

COLOURS = np.array(
    [(255, 214, 0), (0, 200, 255), (255, 80, 120), (120, 255, 90), (200, 120, 255), (255, 150, 40)],
    dtype=np.uint8,
)
"""Default RGB of the classes; repeated if there are more classes."""


FONT, FONT_SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45


def palette(data: DataConfig) -> np.ndarray:
    """Take the colours of the classes from the settings, or `COLOURS` where none is set.

    Args:
        data: the classes.

    Returns:
        uint8 K x 3, RGB.
    """
    colours = COLOURS[np.arange(data.num_classes) % len(COLOURS)]
    for k, entry in enumerate(data.classes or []):
        if entry.color:
            colours[k] = list(bytes.fromhex(entry.color.removeprefix("#")))
    return colours


def colours_by_class(data: DataConfig) -> dict[str, np.ndarray]:
    """The colours of `palette` by the names of the classes."""
    return dict(zip(data.class_names, palette(data), strict=True))


def overlay(
    image: np.ndarray,
    masks: np.ndarray,
    colours: np.ndarray = COLOURS,
    alpha: float = 0.35,
    edge: bool = False,
) -> np.ndarray:
    """Tint and outline masks on an image.

    Args:
        image: uint8 H x W x 3.
        masks: bool K x H x W.
        colours: uint8 N x 3, RGB of the classes; repeated if K > N.
        alpha: strength of the tint, in [0, 1].
        edge: draw a black line around the outlines, so that they stand out from any image.

    Returns:
        uint8 H x W x 3.
    """
    result = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 300))
    for k, mask in enumerate(masks):
        colour = colours[k % len(colours)]
        result[mask] = ((1 - alpha) * result[mask] + alpha * colour).astype(np.uint8)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        if edge:
            cv2.drawContours(result, contours, -1, (0, 0, 0), thickness + 2)
        cv2.drawContours(result, contours, -1, colour.tolist(), thickness)
    return result


def draw_prompts(image: np.ndarray, prompts: ObjectPrompts, valid: tuple[int, int]) -> np.ndarray:
    """Draw boxes and points on an image; foreground points are white, background points black.

    Args:
        image: uint8 H x W x 3.
        prompts: in pixels of the SAM input.
        valid: rows and columns of the SAM input without padding.

    Returns:
        uint8 H x W x 3.
    """
    result = image.copy()
    scale = np.array([image.shape[1] / valid[1], image.shape[0] / valid[0]])
    size = max(2, round(max(image.shape[:2]) / 100))

    def to_image(xy: np.ndarray) -> tuple[int, int]:
        x, y = ((xy + 0.5) * scale - 0.5).round().astype(int)
        return int(x), int(y)

    if prompts.boxes is not None:
        for box in prompts.boxes.numpy():
            cv2.rectangle(
                result, to_image(box[:2]), to_image(box[2:]), (255, 255, 255), max(1, size // 2)
            )
    if prompts.points is not None and prompts.labels is not None:
        flat = zip(prompts.points.flatten(0, 1).numpy(), prompts.labels.flatten(), strict=True)
        for xy, is_foreground in flat:
            colours = [(0, 0, 0), (255, 255, 255)]
            border, fill = colours if is_foreground else colours[::-1]
            cv2.circle(result, to_image(xy), size + 1, border, -1)
            cv2.circle(result, to_image(xy), size, fill, -1)
    return result


def prompt_maps(
    levels: Sequence[Tensor],
    logits: Tensor,
    baseline: Tensor | None = None,
    valid: tuple[float, float] = (1.0, 1.0),
) -> dict[str, Tensor]:
    """Reduce each learned map of P prompts to one channel, see `main_component`.

    Sparse tokens have no spatial layout. For prompts without maps, the change that the tokens make
    is drawn instead: the probability with them minus that without.

    Args:
        levels: the learned maps, each float P x C x n x n, coarse to fine.
        logits: float P x m x m, decoded from the prompts.
        baseline: float P x m x m, decoded without a prompt; needed for sparse tokens alone.
        valid: share of the rows and of the columns without padding, in (0, 1].

    Returns:
        By title ("32 x 32", or "tokens"), coarse to fine: float P x n x n in [0, 1], 0 on padding.
        For tokens 0.5 means no change.
    """
    if levels:
        titles = [f"{level.shape[-2]} x {level.shape[-1]}" for level in levels]
        maps = [main_component(level.float(), logits, valid) for level in levels]
        return dict(zip(titles, maps, strict=True))
    if baseline is None:
        return {"tokens": torch.full_like(logits, 0.5)}
    return {"tokens": (logits.sigmoid() - baseline.sigmoid()) / 2 + 0.5}


def main_component(level: Tensor, logits: Tensor, valid: tuple[float, float]) -> Tensor:
    """Compute the first principal component of a map over the cells of the image, with the sign
    that correlates with the predicted mask.

    Args:
        level: float P x C x n x n.
        logits: float P x m x m, see `prompt_maps`.
        valid: share of the rows and of the columns without padding, in (0, 1].

    Returns:
        float P x n x n in [0, 1], 0 on padding.
    """
    side = level.shape[-1]
    high, wide = (max(2, round(share * side)) for share in valid)
    cells = level[..., :high, :wide].flatten(2)
    centred = cells - cells.mean(2, keepdim=True)
    # The leading left singular vector of C x cells, by the C x C covariance.
    _, vectors = torch.linalg.eigh(centred @ centred.transpose(1, 2))
    component = (vectors[:, :, -1:].transpose(1, 2) @ centred).view(len(cells), high, wide)
    mask = F.adaptive_avg_pool2d(logits.float(), (side, side)).sigmoid()[..., :high, :wide]
    agreement = (component * (mask - mask.mean((1, 2), keepdim=True))).sum((1, 2))
    component = component * torch.where(agreement < 0, -1.0, 1.0)[:, None, None]
    least, most = component.amin((1, 2), keepdim=True), component.amax((1, 2), keepdim=True)
    shown = (component - least) / (most - least).clamp(min=1e-9)
    return F.pad(shown, (0, side - wide, 0, side - high))


def heatmap(values: np.ndarray) -> np.ndarray:
    """Apply the viridis colour map, dark blue to yellow.

    Args:
        values: float H x W in [0, 1].

    Returns:
        uint8 H x W x 3, RGB.
    """
    level = (values * 255).clip(0, 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)


def scale(image: np.ndarray, side: int) -> np.ndarray:
    """Scale an image to a longest side of `side` pixels.

    Args:
        image: uint8 H x W or H x W x 3.
        side: pixels.
    """
    height, width = image.shape[:2]
    factor = side / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)


def scale_mask(mask: np.ndarray, side: int) -> np.ndarray:
    """Scale a mask, bool H x W, as `scale` does; thin structures are kept as far as possible."""
    return scale(mask.astype(np.uint8) * 255, side) > 100


def masked_cell(
    image: np.ndarray, masks: np.ndarray, side: int, colours: np.ndarray = COLOURS
) -> np.ndarray:
    """Draw masks on an image for a contact sheet, with lines as wide as they should be there.

    Args:
        image: uint8 H x W x 3.
        masks: bool K x H x W.
        side: side of the cell, pixels.
        colours: see `overlay`.

    Returns:
        uint8 h x w x 3, with a longest side of `side` pixels.
    """
    small = np.stack([scale_mask(mask, side) for mask in masks])
    return overlay(scale(image, side), small, colours, edge=True)


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Scale an image to fit a square, centred on dark grey.

    Args:
        image: uint8 H x W x 3.
        side: side of the square, pixels.

    Returns:
        uint8 side x side x 3.
    """
    small = scale(image, side)
    height, width = small.shape[:2]
    result = np.full((side, side, 3), 32, np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    result[top : top + height, left : left + width] = small
    return result


def image_grid(
    rows: list[list[np.ndarray]],
    titles: list[str],
    notes: list[str],
    side: int = 224,
    classes: dict[str, np.ndarray] | None = None,
) -> np.ndarray:
    """Arrange images in a grid with a title above each column and a note in each row's first cell.

    Args:
        rows: images uint8 H x W x 3, one list for each row.
        titles: one for each column.
        notes: one for each row.
        side: side of a cell, pixels.
        classes: RGB of each class by its name, for a legend at the bottom; None for no legend.

    Returns:
        uint8 H x W x 3.
    """
    gap, header = 6, 28
    width = gap + len(titles) * (side + gap)
    legend = _place_legend(list(classes or {}), width)
    top = header + len(rows) * (side + gap)
    height = top + (legend[-1][1] + 1) * header if legend else top
    sheet = np.full((height, width, 3), 255, np.uint8)

    def write(text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
        cv2.putText(sheet, text, (x, y), FONT, FONT_SCALE, colour, 1, cv2.LINE_AA)

    for (x, line), (name, rgb) in zip(legend, (classes or {}).items(), strict=True):
        y = top + line * header
        cv2.rectangle(sheet, (x, y + 6), (x + 20, y + 20), rgb.tolist(), -1)
        cv2.rectangle(sheet, (x, y + 6), (x + 20, y + 20), (0, 0, 0), 1)
        write(name, x + 26, y + 18, (0, 0, 0))
    for column, title in enumerate(titles):
        write(title, gap + column * (side + gap), header - 10, (0, 0, 0))
    for i, (row, note) in enumerate(zip(rows, notes, strict=True)):
        top = header + i * (side + gap)
        for column, image in enumerate(row):
            left = gap + column * (side + gap)
            sheet[top : top + side, left : left + side] = fit(image, side)
        cv2.rectangle(sheet, (gap, top + side - 18), (gap + side, top + side), (0, 0, 0), -1)
        write(note, gap + 4, top + side - 5, (255, 255, 255))
    return sheet


def _place_legend(names: list[str], width: int) -> list[tuple[int, int]]:
    """Left edge in pixels and line of each entry; lines are filled one after the other."""
    places, x, line = [], 6, 0
    for name in names:
        (text, _), _ = cv2.getTextSize(name, FONT, FONT_SCALE, 1)
        if x > 6 and x + 26 + text > width:
            x, line = 6, line + 1
        places.append((x, line))
        x += 26 + text + 18
    return places


def spread(count: int, wanted: int) -> list[int]:
    """Spread up to `wanted` indices evenly over 0 to count - 1.

    Args:
        count: number of items.
        wanted: largest number of indices.

    Returns:
        Distinct indices in increasing order.
    """
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()
