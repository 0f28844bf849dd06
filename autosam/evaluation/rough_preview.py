"""Draw the masks and prompts of a color prior as a contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autosam.config.commands import RoughPreview
from autosam.data.checks import check_pairs
from autosam.data.color_prior import color_prior_mask
from autosam.data.images import write_png
from autosam.data.layouts import load_splits
from autosam.data.prompts import draw_prompts
from autosam.evaluation import visualize
from autosam.evaluation.metrics import iou
from autosam.evaluation.visualize import spread
from autosam.types import InputSpec
from autosam.utils.io import make_folder

SIDE = 320
"""Side of a cell of the contact sheet, pixels."""


def rough(config: RoughPreview) -> list[float]:
    """Draw the contact sheet and print the mean IoU.

    Args:
        config: the color prior, the data and the file to write.

    Returns:
        IoU of the color prior's mask and the true mask of each image.

    Raises:
        ConfigError: the file exists, or a setting is invalid.
        DataError: data that cannot be used.
    """
    pairs = load_splits(config.data)["train"]
    chosen = [pairs[i] for i in spread(len(pairs), config.count)]
    encoding = check_pairs(chosen, config.data).encoding
    rows, notes, scores = [], [], []
    for pair in chosen:
        image, label = pair.image.read(), encoding.read(pair.mask)
        found = color_prior_mask(pair.image, config.rough)
        side = max(label.shape)
        input_spec = InputSpec(side, side, side, prompts=config.rough.prompt)
        prompts, _ = draw_prompts(
            label, input_spec, config.prompt, np.random.default_rng(0), False, 1, found
        )
        scores.append(iou(found > 0, label == 1))
        shown = visualize.masked_cell(image, found[None] > 0, SIDE)
        shown = visualize.draw_prompts(shown, prompts, label.shape)
        cells = (image, visualize.masked_cell(image, label[None] == 1, SIDE), shown)
        rows.append([visualize.fit(cell, SIDE) for cell in cells])
        notes.append(f"{pair.name[:18]}  IoU {scores[-1]:.2f}")
    titles = ["image", "true mask", "rough mask and prompts"]
    make_folder(Path(config.output).parent)
    write_png(Path(config.output), visualize.image_grid(rows, titles, notes, SIDE))
    print(f"mean IoU of rough and true masks: {np.mean(scores):.3f}, {len(scores)} images")
    print(f"sheet: {config.output}")
    return scores
