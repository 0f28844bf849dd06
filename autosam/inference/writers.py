"""Segment an image, a volume or a video and write its files."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
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
from autosam.data.tiles import OVERLAP, image_shape, tile_side
from autosam.errors import DataError
from autosam.evaluation.visualize import overlay, palette
from autosam.inference.formats import wanted_formats
from autosam.inference.label_image import label_path
from autosam.inference.mask_values import mask_arrays, mask_endings
from autosam.inference.measurements import measure_objects
from autosam.inference.objects import objects_of, rows_of
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor
from autosam.inference.sources import Kind, Source, frames_of, rate_of
from autosam.inference.strips import write_in_strips
from autosam.inference.tile_objects import objects_in_tiles
from autosam.inference.tiling import open_pixels, segment_tiles
from autosam.utils.io import make_folder

MAX_LOGITS = 100_000_000
"""Largest number of logits of an image that are held in memory; above it masks are made in
strips, see `write_in_strips`."""

FRAME = r"\d{6}(_\d+)?\.png"
"""Pattern for the names of the masks of a video."""


def files_of(source: Source, output: Path, options: OutputOptions, data: DataConfig) -> list[Path]:
    """List the files of a source.

    Args:
        source: an image, a volume or a video.
        output: the output folder.
        options: output options.
        data: the classes.

    Returns:
        Masks first; for a video first the folder of its masks.
    """
    name = source.name
    if source.kind == "volume":
        return [output / f"{name}{end}.nii.gz" for end in mask_endings(data)]
    if source.kind == "video":
        return [output / name, *([output / f"{name}_overlay.mp4"] if options.overlay else [])]
    formats = wanted_formats(options).values()
    return [output / f"{name}{end}" for form in formats for end in form.endings(data)]


def write_image(
    source: Source, files: list[Path], predictor: Predictor, options: OutputOptions
) -> dict[str, Any]:
    """Segment an image and write its files.

    Args:
        source: an image.
        files: see `files_of`.
        predictor: the run.
        options: output options, and the size of tiles.

    Returns:
        Its entry in the progress log: size, rows of areas, rows of measured objects if the run
        predicts instances, and objects with `options.coco`.

    Raises:
        DataError: the image cannot be read, or is too large for a requested format.
    """
    data = predictor.loaded.config.data
    image = image_file(source.path, data)
    for form in wanted_formats(options).values():
        form.require(image)
    if predictor.tile is None:
        return _write_formats(source, files, predictor(image), options, data)
    tile = tile_side(image, predictor.tile, predictor.resolution)
    height, width = image_shape(image)
    logits_in_memory = height * width * predictor.segmenter.num_classes <= MAX_LOGITS
    whole_only = predictor.loaded.config.color_prior is not None  # is computed on whole images
    in_memory = logits_in_memory and options.overlap == OVERLAP
    if max(height, width) > tile and not in_memory and not whole_only:
        if not logits_in_memory:
            _require_divisible(source, predictor, (height, width))
        with (
            contextlib.closing(open_pixels(image)) as pixels,
            _scratch_folder(files[0]) as folder,
        ):
            of_tiles = predictor.without_tiles()
            if predictor.by_object:
                found = objects_in_tiles(of_tiles, pixels, tile, options.overlap, image)
                return _write_formats(source, files, found, options, data)
            logits = segment_tiles(of_tiles, pixels, tile, options.overlap, folder)
            if not logits_in_memory:
                return write_in_strips(source, files, predictor, options, logits)
            found = predictor.decide(torch.from_numpy(logits[0]), image=image)
            return _write_formats(source, files, found, options, data)
    return _write_formats(source, files, predictor(image), options, data)


@contextlib.contextmanager
def _scratch_folder(file: Path) -> Iterator[Path]:
    """A folder that is deleted at the end, or else, after a kill, when the file is made again."""
    folder = file.with_name(f".autosam-{file.name}")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # a thread of zarr may still write after Ctrl-C


def _require_divisible(source: Source, predictor: Predictor, shape: tuple[int, int]) -> None:
    """Refuse to write masks of classes in the place of objects.

    Args:
        source: see `write_image`.
        predictor: the run.
        shape: H, W of an image whose logits do not fit into memory.

    Raises:
        DataError: the run divides masks into objects, for which it needs them all.
    """
    config, (height, width) = predictor.loaded.config, shape
    if config.task == "instances" and not predictor.by_object:
        raise DataError(
            f"{source.path}: {width} x {height} pixels: the masks of the run {config.run} are not "
            f"divided into objects above {MAX_LOGITS // 10**6} million pixels of all classes. Cut "
            "the image into parts, or take a run that draws objects one by one, such as autosam."
        )


def _write_formats(
    source: Source, files: list[Path], found: Prediction, options: OutputOptions, data: DataConfig
) -> dict[str, Any]:
    """Write a prediction in every requested format."""
    left = iter(files)
    for form in wanted_formats(options).values():
        form.write(list(itertools.islice(left, len(form.endings(data)))), found, data)
    height, width = found.masks.shape[1:]
    entry: dict[str, Any] = {"size": {"height": height, "width": width}}
    entry["rows"] = rows_of(source.name, found, data)
    if found.instances is not None:
        entry["measured"] = measure_objects(source.name, found.instances, data, found.probabilities)
        entry["tiff"] = label_path(files[0], len(found.instances)) != files[0]
    if options.coco != "no":
        entry["objects"] = objects_of(found, options.coco == "rle")
        entry["objects_as"] = options.coco
    return entry


def write_nifti(
    source: Source, files: list[Path], predictor: Predictor, options: OutputOptions
) -> dict[str, Any]:
    """Segment a volume slice by slice and write its masks as NIfTI.

    Args:
        source: a volume.
        files: see `files_of`.
        predictor: the run.
        options: output options.

    Returns:
        Its entry in the progress log: rows of areas by slice.

    Raises:
        DataError: the volume cannot be read.
    """
    data = predictor.loaded.config.data
    slices = [Slice.image(source.path, i, data) for i in range(shape_of(source.path)[data.axis])]
    masks, rows = [], []
    for i, found in enumerate(predictor.stream(slices)):
        masks.append(list(mask_arrays(found, data)))
        rows += rows_of(f"{source.name} slice {i}", found, data)
    for file, pixels in zip(files, zip(*masks, strict=True), strict=True):
        write_volume(file, stack(list(pixels), data.axis), source.path)
    return {"rows": rows, "objects": [], "objects_as": options.coco}


def write_video(
    source: Source, files: list[Path], predictor: Predictor, options: OutputOptions
) -> dict[str, Any]:
    """Segment a video frame by frame and write its masks into a folder, numbered from 0.

    Args:
        source: a video.
        files: see `files_of`.
        predictor: the run.
        options: output options.

    Returns:
        Its entry in the progress log: names of the masks, and rows of areas by frame.

    Raises:
        DataError: the video cannot be read, or the overlay cannot be written.
    """
    data = predictor.loaded.config.data
    folder, colours, rows, written = files[0], palette(data), [], []
    drawn = _OverlayVideo(files[1], rate_of(source.path)) if options.overlay else None
    frames, again = itertools.tee(frames_of(source.path, data.window))
    predictions = predictor.stream(again, smooth=options.smooth)
    for i, (frame, found) in enumerate(zip(frames, predictions, strict=True)):
        make_folder(folder)
        names = [f"{i:06d}{end}.png" for end in mask_endings(data)]
        for name, values in zip(names, mask_arrays(found, data), strict=True):
            write_png(folder / name, values)
        written += names
        rows += rows_of(f"{source.name} frame {i}", found, data)
        if drawn is not None:
            drawn.add(overlay(frame, found.masks, colours))
    if drawn is not None:
        drawn.close()
    for path in sorted(folder.iterdir()):  # remove frames of a longer video of the same name
        if re.fullmatch(FRAME, path.name) and path.name not in written:
            path.unlink()
    return {"rows": rows, "masks": written, "objects": [], "objects_as": options.coco}


class _OverlayVideo:
    """An MP4 file that is created with its first frame.

    Args:
        path: the file.
        rate: frames per second.
    """

    def __init__(self, path: Path, rate: float) -> None:
        self.path, self.rate = path, rate
        self._writer: cv2.VideoWriter | None = None

    def add(self, image: np.ndarray) -> None:
        """Append a frame, uint8 H x W x 3 RGB.

        Raises:
            DataError: OpenCV cannot write videos of this size.
        """
        if self._writer is None:
            make_folder(self.path.parent)
            height, width = image.shape[:2]
            code = cv2.VideoWriter.fourcc(*"mp4v")
            self._writer = cv2.VideoWriter(str(self.path), code, self.rate, (width, height))
            if not self._writer.isOpened():
                raise DataError(
                    f"{self.path}: cannot be written as a video of {width} x {height} pixels. "
                    "Leave --overlay out."
                )
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()


WRITERS: dict[Kind, Callable[[Source, list[Path], Predictor, OutputOptions], dict[str, Any]]] = {
    "image": write_image,
    "volume": write_nifti,
    "video": write_video,
}
"""Functions that segment and write a source, by its kind."""
