"""Large TIFFs with labels on the same ground, cut into blocks.

```
--data.images ortho.tif --data.annotations labels.gpkg     polygons, in any CRS
--data.images DIR --data.annotations labels.gpkg           one file of polygons for all TIFFs
--data.images ortho.tif --data.masks labels.tif            label TIFFs of equal size,
--data.images DIR --data.masks DIR                         with the same names
```
"""

from __future__ import annotations

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np

from autosam.config import DataConfig
from autosam.data.blocks import Block, MaskBlock, block_regions, holds_data
from autosam.data.checks import size_mismatch
from autosam.data.images import ImageFile, MaskFile, digest, open_raster
from autosam.data.instances import compact, label_of
from autosam.data.labels import pack
from autosam.data.layouts.folders import by_stem, find_pairs
from autosam.data.pairs import Pair, Pixels
from autosam.data.readers.file_cache import FileCache, stamp
from autosam.data.readers.files import image_file
from autosam.data.readers.georeference import (
    Georeference,
    find_georeference,
    find_transform,
    require_geo,
)
from autosam.data.readers.tiff import TiffImage
from autosam.data.readers.vectors import (
    PlacedPolygons,
    Polygons,
    place_polygons,
    read_polygons,
)
from autosam.errors import DataError
from autosam.types import Instances, Region

log = logging.getLogger("autosam")

SHIFT = 0.1
"""Largest distance of the corners of a raster and its labels, pixels."""
_polygons: FileCache[Polygons] = FileCache()
_placed: FileCache[PlacedPolygons] = FileCache()


@dataclass(frozen=True)
class VectorLabels:
    """The polygons of a vector file on the grid of a raster. Each process reads them once."""

    path: Path
    """The vector file."""
    column: str | None
    names: tuple[str, ...]
    """See `read_polygons`."""
    image: ImageFile
    shape: tuple[int, int]
    """H, W of the image."""
    georeference: Georeference = field(repr=False)

    def polygons(self) -> Polygons:
        """All polygons of the file."""
        key = (self.path, self.column, self.names)
        return _polygons.get(self.path, key, lambda: read_polygons(*key))

    def placed(self) -> PlacedPolygons:
        """Those that touch the image, in its pixels."""
        key = (self.path, self.column, self.names, self.image.path)
        return _placed.get(
            self.path, key, lambda: place_polygons(self.polygons(), self.georeference, self.shape)
        )


@dataclass(frozen=True)
class PolygonMask:
    """The polygons in a block of a raster; implements `Pixels`."""

    labels: VectorLabels
    region: Region
    overlapping: int = 0
    """K if classes may overlap, else 0."""

    @property
    def path(self) -> Path:
        return self.labels.path

    def read(self) -> np.ndarray:
        """Read class numbers, uint8 H x W; of overlapping classes a bitmask, int32 H x W."""
        placed = self.labels.placed()
        if not self.overlapping:
            return label_of(Instances(*placed.draw(self.region)))
        classes = range(1, self.overlapping + 1)
        return pack(np.stack([placed.draw_class(k, self.region) for k in classes]))

    def read_instances(self) -> Instances:
        """Read each polygon as an object. Small ones lie on large ones."""
        return compact(Instances(*self.labels.placed().draw(self.region)))

    def digest(self) -> str:
        where = (self.labels.column, self.labels.names, self.labels.georeference.transform)
        return digest(self.path, f"{where} {self.labels.georeference.crs.to_wkt()} {self.region}")

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        labels = self.labels
        files = sorted(self.path.parent.glob(f"{escape(self.path.stem)}.*"))  # .shp, .dbf, ...
        own = stamp(labels.image.path, *files)
        where = (labels.georeference.transform, labels.georeference.crs.to_wkt(), self.region)
        return own and (own, labels.column, labels.names, where, self.overlapping)

    def __str__(self) -> str:
        return f"{self.path} on {Block(self.labels.image, self.region)}"


def pairs_of_rasters(config: DataConfig) -> list[Pair]:
    """Cut the TIFFs of `--data.images` into blocks, each with its part of the labels. Blocks
    without data are left out.

    Raises:
        ConfigError: a package that reads coordinates is missing.
        DataError: not TIFFs, labels of another size or place, no polygon on any raster, polygons
            that cannot be read (see `read_polygons`), or no data at all.
    """
    found: list[Pair] = []
    left_out = 0
    rasters = _rasters(config)
    if config.annotations and any(entry.values for entry in config.classes or []):
        raise DataError(
            f"{config.annotations}: polygons have no mask values, as data.classes has them. Leave "
            "`values` out: --data.class_column holds the names of the classes, or 1 to K."
        )
    labels: list[VectorLabels] = []
    for name, image, mask in rasters:
        shape = _shape_of(image)
        if mask is None:
            labels.append(_vector_labels(image, shape, config))
        else:
            _require_same_place(image, shape, mask)
        regions = block_regions(shape, config.block)
        held = holds_data(image, list(regions.values()))
        left_out += held.count(False)
        overlapping = 0 if config.exclusive or config.num_classes == 1 else config.num_classes
        for (block, region), holds in zip(regions.items(), held, strict=True):
            if holds:
                truth: Pixels = (
                    PolygonMask(labels[-1], region, overlapping)
                    if mask is None
                    else MaskBlock(mask, region)
                )
                found.append(Pair(f"{name}-{block}", Block(image, region), truth))
    if labels:
        _require_polygons(labels)
    if not found:
        raise DataError(f"{config.images}: no pixel holds data. Fix --data.nodata, or the files.")
    log.info(
        "%s: %d blocks of at most %d px%s",
        config.images,
        len(found),
        config.block,
        f"; {left_out} others hold no data and are left out" if left_out else "",
    )
    return found


def _rasters(config: DataConfig) -> list[tuple[str, ImageFile, MaskFile | None]]:
    """Name, image and mask (None: polygons) of each raster."""
    images, masks = Path(config.images or ""), Path(config.masks or "")
    if config.masks and images.is_dir() != masks.is_dir():
        raise DataError(
            f"--data.images {images} and --data.masks {masks}: one is a file and one a folder. "
            "Give two files, or two folders."
        )
    found: dict[str, tuple[Pixels, Pixels | None]]
    if images.is_dir() and config.masks:
        found = {p.stem: (p.image, p.mask) for p in find_pairs(images, masks, config)}
    else:
        files = by_stem(images) if images.is_dir() else {images.stem: images}
        mask = MaskFile(masks) if config.masks else None
        found = {stem: (image_file(path, config), mask) for stem, path in files.items()}
    rasters = []
    for stem, (image, label) in found.items():
        if not isinstance(image, ImageFile):
            raise _no_tiff(image.path)
        rasters.append((stem, image, label if isinstance(label, MaskFile) else None))
    return rasters


def _shape_of(file: ImageFile | MaskFile) -> tuple[int, int]:
    """H, W of a TIFF.

    Raises:
        DataError: not a TIFF.
    """
    raster = open_raster(file.path, str(file), limit=False)
    if not isinstance(raster, TiffImage):
        raise _no_tiff(file.path)
    with raster:
        return raster.shape


def _no_tiff(path: Path) -> DataError:
    return DataError(
        f"{path}: not a TIFF, and --data.layout rasters reads no other images. Convert it "
        "(gdal_translate), or remove it."
    )


def _require_same_place(image: ImageFile, shape: tuple[int, int], mask: MaskFile) -> None:
    """
    Raises:
        DataError: a label TIFF of another size than its image, or on other ground.
    """
    if (other := _shape_of(mask)) != shape:
        raise DataError(size_mismatch(image, shape, mask, other))
    here, there = find_georeference(image), find_georeference(ImageFile(mask.path))
    one = here.transform if here else find_transform(image.path)
    other_one = there.transform if there else find_transform(mask.path)
    if one is None or other_one is None:
        return
    if here and there and not here.crs.equals(there.crs, ignore_axis_order=True):
        raise DataError(
            f"{image} is in {here.crs.name}, and its labels {mask} in {there.crs.name}. Warp the "
            "labels onto the grid of the image (gdalwarp)."
        )
    height, width = shape
    corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]], float)
    affine, other_affine = (np.array(values).reshape(2, 3) for values in (one, other_one))
    pixel = np.sqrt(abs(np.linalg.det(affine[:, :2])))
    shift = np.abs(corners @ (affine - other_affine).T).max() / pixel
    if shift > SHIFT:
        raise DataError(
            f"{image} and its labels {mask} are {shift:.1f} pixels apart. Warp the labels onto the "
            "grid of the image (gdalwarp)."
        )


def _vector_labels(image: ImageFile, shape: tuple[int, int], config: DataConfig) -> VectorLabels:
    """
    Raises:
        DataError: the raster has no CRS.
    """
    require_geo("--data.annotations")
    georeference = find_georeference(image)
    if georeference is None:
        raise DataError(
            f"{image}: has no coordinate reference system (CRS), so polygons have no place in it. "
            "Assign it (gdal_edit.py -a_srs EPSG:25832 FILE), or give --data.masks."
        )
    path, names = Path(config.annotations or ""), tuple(config.class_names)
    return VectorLabels(path, config.class_column, names, image, shape, georeference)


def _require_polygons(labels: list[VectorLabels]) -> None:
    """Warn of rasters that no polygon touches.

    Raises:
        DataError: there is no other raster.
    """
    bare = [each for each in labels if not len(each.placed().shapes)]
    first = labels[0]
    if len(bare) == len(labels):
        frame = first.polygons().frame
        height, width = first.shape
        corners = [first.georeference.at(y, x) for y in (0, height) for x in (0, width)]
        bounds = np.array([np.min(corners, 0), np.max(corners, 0)]).ravel()
        raise DataError(
            f"{first.path}: none of its {len(frame)} polygons touches a raster. They are in "
            f"{_extent(frame.crs, frame.total_bounds)}; {first.image} in "
            f"{_extent(first.georeference.crs, bounds)}. One of them has the wrong CRS, or they "
            "are of different places."
        )
    if bare:
        log.warning(
            "%s: touches %d of %d rasters; the others, for example %s, are all background.",
            first.path,
            len(labels) - len(bare),
            len(labels),
            bare[0].image,
        )


def _extent(crs: Any, bounds: np.ndarray) -> str:
    digits = 5 if crs.is_geographic else 0
    west, south, east, north = (f"{value:.{digits}f}" for value in bounds)
    return f"{crs.name}, x {west} to {east}, y {south} to {north}"
