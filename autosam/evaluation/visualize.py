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


def overlay(
    image: np.ndarray, masks: np.ndarray, colours: np.ndarray = COLOURS, alpha: float = 0.35
) -> np.ndarray:
    """Tint and outline masks on an image.

    Args:
        image: uint8 H x W x 3.
        masks: bool K x H x W.
        colours: uint8 N x 3, RGB of the classes; repeated if K > N.
        alpha: strength of the tint, in [0, 1].

    Returns:
        uint8 H x W x 3.
    """
    result = image.copy()
    thickness = max(1, round(max(image.shape[:2]) / 300))
    for k, mask in enumerate(masks):
        colour = colours[k % len(colours)]
        result[mask] = ((1 - alpha) * result[mask] + alpha * colour).astype(np.uint8)
        contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
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


def fit(image: np.ndarray, side: int) -> np.ndarray:
    """Scale an image to fit a square, centred on dark grey.

    Args:
        image: uint8 H x W x 3.
        side: side of the square, pixels.

    Returns:
        uint8 side x side x 3.
    """
    height, width = image.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, size, interpolation=method)
    result = np.full((side, side, 3), 32, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    result[top : top + size[1], left : left + size[0]] = small
    return result


def image_grid(
    rows: list[list[np.ndarray]], titles: list[str], notes: list[str], side: int = 224
) -> np.ndarray:
    """Arrange images in a grid with a title above each column and a note in each row's first cell.

    Args:
        rows: images uint8 H x W x 3, one list for each row.
        titles: one for each column.
        notes: one for each row.
        side: side of a cell, pixels.

    Returns:
        uint8 H x W x 3.
    """
    gap, header = 6, 28
    height = header + len(rows) * (side + gap)
    width = gap + len(titles) * (side + gap)
    sheet = np.full((height, width, 3), 255, np.uint8)

    def write(text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
        cv2.putText(sheet, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)

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


def spread(count: int, wanted: int) -> list[int]:
    """Spread up to `wanted` indices evenly over 0 to count - 1.

    Args:
        count: number of items.
        wanted: largest number of indices.

    Returns:
        Distinct indices in increasing order.
    """
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()
