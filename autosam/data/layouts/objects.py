"""A folder for each image, with a file for each object (2018 Data Science Bowl).

```
root/NAME/images/*.png, root/NAME/masks/*.png           one image; any number of masks, or none
root/{train,validation,test}/NAME/...                   given splits (also "val" and "valid")
```
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.checks import size_mismatch
from autosam.data.images import EXTENSIONS, MaskFile
from autosam.data.instances import from_patches, label_of
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import ALIASES, by_stem
from autosam.data.mask_encoding import MaskEncoding
from autosam.data.pairs import SPLITS, Pair, Pixels
from autosam.data.readers.file_cache import stamp
from autosam.data.readers.files import image_file
from autosam.data.readers.polygons import Patch
from autosam.errors import DataError
from autosam.types import Instances
from autosam.utils.io import list_folder

log = logging.getLogger("autosam")


@dataclass(frozen=True)
class ObjectFiles:
    """The objects of an image, a mask file for each; implements `Pixels`."""

    folder: Path
    files: tuple[Path, ...] = dataclasses.field(repr=False)
    image: Pixels

    @property
    def path(self) -> Path:
        return self.folder

    def read(self) -> np.ndarray:
        return label_of(self.read_instances())

    def read_instances(self) -> Instances:
        """Read each file as an object of class 1, in the order of their names; later ones lie on
        top."""
        shape = self.image.read().shape[:2]
        return from_patches((shape[0], shape[1]), self._patches(shape), self.folder.parent)

    def _patches(self, shape: tuple[int, ...]) -> Iterator[tuple[int, Patch]]:
        for path in self.files:
            mask = MaskFile(path)
            label = MaskEncoding().read(mask)
            if label.shape != shape:
                raise DataError(size_mismatch(self.image, shape, mask, label.shape))
            object_ = label == 1
            if object_.all() or not object_.any():
                _report_odd(path, "every" if object_.all() else "no")
            yield 1, Patch(0, 0, object_)

    def digest(self) -> str:
        parts = "".join(MaskFile(path).digest() for path in self.files)
        return hashlib.sha256(parts.encode()).hexdigest()

    def stamp(self) -> Hashable:
        """See `stamp_of`."""
        return stamp(self.image.path, *self.files)

    def __str__(self) -> str:
        return str(self.folder)


@cache
def _report_odd(path: Path, which: str) -> None:
    log.warning("%s: %s pixel belongs to the object. Is this its mask?", path, which)


def pairs_of_objects(config: DataConfig) -> list[Pair]:
    """Find the folders under `--data.root`.

    Raises:
        DataError: no folder, a folder without masks/, or not exactly one image in images/.
    """
    root = root_of(config)
    found: list[Pair] = []
    for split in SPLITS:
        alias = next((root / name for name in ALIASES[split] if (root / name).is_dir()), None)
        if alias is not None and not (alias / "images").is_dir():
            found += [dataclasses.replace(pair, split=split) for pair in _pairs(alias, config)]
    return found or _pairs(root, config)


def _pairs(root: Path, config: DataConfig) -> list[Pair]:
    folders = [path for path in list_folder(root) if (path / "images").is_dir()]
    if not folders:
        raise DataError(
            f"{root}: expected a folder for each image, with images/ (one file) and masks/ (a file "
            "for each object). For masks that hold all objects see --data.layout folders."
        )
    found = []
    for folder in folders:
        images = list(by_stem(folder / "images").values())
        if len(images) != 1:
            raise DataError(
                f"{folder / 'images'}: holds {len(images)} images; expected one, whose objects are "
                "the files of masks/. Keep one."
            )
        if not (folder / "masks").is_dir():
            raise DataError(
                f"{folder}: has no folder masks/. Add it (empty if the image has no objects), or "
                "remove the image."
            )
        masks = [p for p in list_folder(folder / "masks") if p.suffix.lower() in EXTENSIONS]
        image = image_file(images[0], config)
        mask = ObjectFiles(folder / "masks", tuple(masks), image)
        found.append(Pair(folder.name, image, mask))
    return found
