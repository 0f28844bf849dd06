"""How `predict` goes through an image, a volume or a video, and the files that it leaves."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from autosam.config import DataConfig
from autosam.config.commands import OutputOptions
from autosam.data.images import write_png
from autosam.data.readers.files import image_file
from autosam.data.readers.volumes import Slice, shape_of, stack, write_volume
from autosam.errors import DataError
from autosam.evaluation.visualize import overlay, palette
from autosam.inference.formats import (
    geojson,
    mask_files,
    mask_names,
    named_classes,
    objects_of,
    probability_names,
    rows_of,
    write_probabilities,
)
from autosam.inference.predictor import Prediction, Predictor
from autosam.inference.sources import Source, frames_of, rate_of
from autosam.inference.tiling import CELLS, open_pixels, segment_windows
from autosam.utils.io import make_folder, write_atomically

LARGE = 100_000_000
"""Logits of an image that are held in memory, at most: beyond, masks are made piece by piece."""


FRAME = r"\d{6}(_\d+)?\.png"
"""Names of the masks of a video, in its folder."""


def files_of(source: Source, output: Path, wanted: OutputOptions, data: DataConfig) -> list[Path]:
    """What is written of a source, masks first; of a video the folder of its masks."""
    names = mask_names(data.num_classes, data.exclusive)
    if source.kind == "volume":
        return [output / f"{source.name}{name}.nii.gz" for name in names]
    drawn = [".mp4" if source.kind == "video" else ".png"] * wanted.overlay
    files = [output / f"{source.name}_overlay{suffix}" for suffix in drawn]
    if source.kind == "video":
        return [output / source.name, *files]
    if wanted.probabilities:
        names = [*names, *probability_names(data.num_classes)]
    if wanted.geojson:
        files.append(output / f"{source.name}.geojson")
    return [output / f"{source.name}{name}.png" for name in names] + files


def write_image(
    source: Source, files: list[Path], predictor: Predictor, wanted: OutputOptions
) -> dict[str, Any]:
    """Segment an image and write its files; what the journal notes of it."""
    data = predictor.loaded.config.data
    image = image_file(source.path, data)
    found = None
    if wanted.window is not None:
        with (
            contextlib.closing(open_pixels(image)) as pixels,
            tempfile.TemporaryDirectory(dir=files[0].parent) as folder,
        ):
            if max(pixels.shape) > wanted.window:
                logits = segment_windows(
                    predictor, pixels, wanted.window, wanted.overlap, Path(folder)
                )
                # The smallest area is a share of what the network sees at once.
                share = min(1.0, wanted.window**2 / (logits.shape[-2] * logits.shape[-1]))
                area = predictor.min_area * share
                if logits.size > LARGE:
                    return write_large(source, files, predictor, wanted, logits, area)
                found = predictor.decide(torch.from_numpy(logits[0]), min_area=area)
    if found is None:
        found = predictor(image)
    rest = write_masks(files, found, data)
    if wanted.probabilities:
        write_probabilities(rest[: data.num_classes], found)
        rest = rest[data.num_classes :]
    if wanted.overlay:
        write_png(rest[0], overlay(image.read(), found.masks, palette(data)))
    if wanted.geojson:
        text = json.dumps(geojson(found, data))
        write_atomically(rest[-1], lambda to: to.write_text(text, encoding="utf-8"))
    height, width = found.masks.shape[1:]
    entry: dict[str, Any] = {"size": {"height": height, "width": width}}
    entry["rows"] = rows_of(source.name, found, data)
    if wanted.coco != "no":
        entry["objects"] = objects_of(found, wanted.coco == "rle")
        entry["objects_as"] = wanted.coco
    return entry


def write_large(
    source: Source,
    files: list[Path],
    predictor: Predictor,
    wanted: OutputOptions,
    logits: Any,
    min_area: float,
) -> dict[str, Any]:
    """The masks of an image whose logits, float32 1 x K x H x W, are too many to hold; a class that
    covers less than the share `min_area` of it counts as not found.

    Raises:
        DataError: more was asked for than masks.
    """
    data = predictor.loaded.config.data
    _, classes, height, width = logits.shape
    names = mask_names(data.num_classes, data.exclusive)
    if len(files) > len(names) or wanted.coco != "no":
        raise DataError(
            f"{source.path}: {width} x {height} pixels: of images this large only masks and "
            "areas are written. Leave --overlay, --probabilities, --coco and --geojson out."
        )

    def strip(top: int) -> Prediction:
        return predictor.decide(torch.from_numpy(logits[0, :, top : top + CELLS]), min_area=0.0)

    small = np.zeros(classes, bool)
    if min_area:  # all of it is known only after the last strip
        counts = [strip(top).masks.sum((1, 2)) for top in range(0, height, CELLS)]
        small = np.sum(counts, axis=0) < min_area * height * width
    masks: list[np.ndarray] = []
    pixels, sums = np.zeros(classes, np.int64), np.zeros(classes)
    for top in range(0, height, CELLS):
        found = strip(top)
        found.masks[small] = False
        parts = list(mask_files(found, data))
        masks = masks or [np.zeros((height, width), part.dtype) for part in parts]
        for mask, part in zip(masks, parts, strict=True):
            mask[top : top + CELLS] = part
        pixels += found.masks.sum((1, 2))
        sums += (found.probabilities * found.masks).sum((1, 2), dtype=np.float64)
    for file, mask in zip(files, masks, strict=True):
        write_png(file, mask)
    rows = [
        {
            "file": source.name,
            **named,
            "pixels": int(count),
            "share": round(int(count) / (height * width), 6),
            "objects": "",
            "score": round(float(total / count), 4) if count else "",
        }
        for named, count, total in zip(named_classes(data), pixels, sums, strict=True)
    ]
    return {"size": {"height": height, "width": width}, "rows": rows, "objects": []}


def write_masks(files: list[Path], found: Prediction, data: DataConfig) -> list[Path]:
    """Write the masks; returns the files that are left."""
    masks = list(mask_files(found, data))
    for file, pixels in zip(files, masks, strict=False):
        write_png(file, pixels)
    return files[len(masks) :]


def write_of_volume(
    source: Source, files: list[Path], predictor: Predictor, wanted: OutputOptions
) -> dict[str, Any]:
    """The same for a volume, slice by slice."""
    data = predictor.loaded.config.data
    slices = [
        Slice(source.path, data.axis, i, window=data.window, nodata=data.nodata)
        for i in range(shape_of(source.path)[data.axis])
    ]
    masks, rows = [], []
    for i, found in enumerate(predictor.stream(slices)):
        masks.append(list(mask_files(found, data)))
        rows += rows_of(f"{source.name} slice {i}", found, data)
    for file, pixels in zip(files, zip(*masks, strict=True), strict=True):
        write_volume(file, stack(list(pixels), data.axis), source.path)
    return {"rows": rows, "objects": [], "objects_as": wanted.coco}


def write_video(
    source: Source, files: list[Path], predictor: Predictor, wanted: OutputOptions
) -> dict[str, Any]:
    """The same for a video, frame by frame: masks in a folder, numbered from 0."""
    data = predictor.loaded.config.data
    folder, colours, rows, written = files[0], palette(data), [], []
    drawn: cv2.VideoWriter | None = None
    held, kept = itertools.tee(frames_of(source.path, data.window))
    for i, (frame, found) in enumerate(
        zip(held, predictor.stream(kept, smooth=wanted.smooth), strict=True)
    ):
        make_folder(folder)
        names = [f"{i:06d}{name}.png" for name in mask_names(data.num_classes, data.exclusive)]
        write_masks([folder / name for name in names], found, data)
        written += names
        rows += rows_of(f"{source.name} frame {i}", found, data)
        if wanted.overlay:
            if drawn is None:
                code = cv2.VideoWriter.fourcc(*"mp4v")
                size = (frame.shape[1], frame.shape[0])
                make_folder(files[1].parent)
                drawn = cv2.VideoWriter(str(files[1]), code, rate_of(source.path), size)
                if not drawn.isOpened():
                    raise DataError(f"{files[1]}: cannot be written as a video of {size[0]} x "
                                    f"{size[1]} pixels. Leave --overlay out.")  # fmt: skip
            image = overlay(frame, found.masks, colours)
            drawn.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if drawn is not None:
        drawn.release()
    for path in sorted(folder.iterdir()):  # frames of a longer video of that name
        if re.fullmatch(FRAME, path.name) and path.name not in written:
            path.unlink()
    return {"rows": rows, "masks": written, "objects": [], "objects_as": wanted.coco}


WRITERS = {"image": write_image, "volume": write_of_volume, "video": write_video}
"""By kind of source."""
