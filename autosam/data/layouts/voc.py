"""Pascal VOC, see docs/data.md."""

from __future__ import annotations

from autosam.config import DataConfig
from autosam.data.images import MaskFile
from autosam.data.layouts.base import root_of
from autosam.data.layouts.folders import by_stem
from autosam.data.pairs import Pair
from autosam.data.readers.files import image_file
from autosam.errors import DataError
from autosam.utils.io import read_text

VOC_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def pairs_of_voc(config: DataConfig) -> list[Pair]:
    """Find JPEGImages/, SegmentationClass/ and ImageSets/Segmentation/{train,val,test}.txt.

    Raises:
        DataError: a folder or list is missing, or a list names a missing file.
    """
    root = root_of(config)
    images, masks = by_stem(root / "JPEGImages"), by_stem(root / "SegmentationClass")
    lists = root / "ImageSets" / "Segmentation"
    found = []
    for file, split in VOC_SPLITS.items():
        path = lists / f"{file}.txt"
        if not path.is_file():
            continue
        for number, line in enumerate(read_text(path).splitlines(), 1):
            stem = line.strip()
            if not stem:
                continue
            for files, folder in ((images, "JPEGImages"), (masks, "SegmentationClass")):
                if stem not in files:
                    raise DataError(
                        f"{path}:{number}: {stem} is not in {root / folder}. Remove the line, or "
                        "add the file."
                    )
            pair = Pair(stem, image_file(images[stem], config), MaskFile(masks[stem]), split)
            found.append(pair)
    if not found:
        raise DataError(
            f"{lists}: holds no train.txt, val.txt or test.txt with names. Write one name per line."
        )
    return found
