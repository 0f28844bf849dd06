"""A folder of images and a folder of masks with the same names, with or without splits.

```
root/{train,validation,test}/{images,masks}/     given splits (also "val" and "valid")
root/{images,masks}/                             one pool
--data.images DIR --data.masks DIR               one pool
masks/CLASS/                                     a folder for each class, --data.exclusive false
```
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

from autosam.config import DataConfig
from autosam.data.images import EXTENSIONS, MaskFile
from autosam.data.mask_stats import single_class
from autosam.data.pairs import SPLITS, Layers, Pair
from autosam.data.readers.files import image_file
from autosam.data.synthetic.embedded import synthetic_root
from autosam.errors import DataError
from autosam.utils.io import is_hidden

ALIASES = {"validation": ("validation", "val", "valid"), "train": ("train",), "test": ("test",)}


def pairs_of_folders(config: DataConfig) -> list[Pair]:
    """The pairs of `--data.root`, or of `--data.images` and `--data.masks`.

    Raises:
        DataError: see `find_pairs`; or the root holds neither splits nor the two folders.
    """
    if config.images and config.masks:
        return find_pairs(Path(config.images), Path(config.masks), config)
    root = Path(config.root) if config.root else synthetic_root()
    masks = "objects" if config.instances and not config.root else "masks"
    if root.is_file():
        raise DataError(
            f"--data.root {root}: is a file. For CSV or JSONL use --data.layout manifest; for a "
            "COCO file --data.layout coco --data.images DIR --data.annotations FILE; HDF5 "
            "files and videos must be unpacked into images first."
        )
    if not root.is_dir():
        raise DataError(f"--data.root {root}: no such folder. Fix the path.")
    found: list[Pair] = []
    for split in SPLITS:
        for alias in ALIASES[split]:
            folder = root / alias
            if folder.is_dir():
                pairs = find_pairs(folder / "images", folder / masks, config)
                found += [dataclasses.replace(pair, split=split) for pair in pairs]
                break
    if found:
        return found
    if not (root / "images").is_dir():
        raise DataError(
            f"{root}: expected train/, validation/ and test/ folders, each with images/ and "
            "masks/; or images/ and masks/ directly. For other names pass --data.images DIR "
            "--data.masks DIR; for other layouts see --data.layout."
        )
    return find_pairs(root / "images", root / "masks", config)


def find_pairs(images: Path, masks: Path, config: DataConfig | None = None) -> list[Pair]:
    """Pair the files of two folders by name without extension.

    Args:
        images: folder of images.
        masks: folder of masks, or of one folder per class.
        config: `mask_suffix`, `bands` and `window`; `classes` if classes overlap.

    Returns:
        Pairs sorted by name.

    Raises:
        DataError: a folder is missing or has no image, a duplicate name, or a file has no
            partner. Nothing is dropped silently.
    """
    config = config or DataConfig()
    names = [entry.name for entry in config.classes or []]
    if not config.exclusive and names and all((masks / name).is_dir() for name in names):
        columns = [find_pairs(images, masks / name, single_class(config)) for name in names]
        return [
            dataclasses.replace(row[0], mask=Layers(tuple(pair.mask for pair in row)))
            for row in zip(*columns, strict=True)
        ]
    image_files, mask_files = by_stem(images), by_stem(masks)
    suffix = config.mask_suffix
    stripped = {
        stem.removesuffix(suffix): path
        for stem, path in mask_files.items()
        if stem.endswith(suffix)
    }
    alone = sorted(set(image_files) - set(stripped))
    orphans = sorted(set(mask_files) - {stem + suffix for stem in image_files})
    if alone or orphans:
        lines = [f"{images} and {masks} do not pair up."]
        if alone:
            lines.append(
                f"  {len(alone)} images without a mask, for example {image_files[alone[0]].name}"
            )
        if orphans:
            lines.append(
                f"  {len(orphans)} masks without an image, for example "
                f"{mask_files[orphans[0]].name}"
            )
        lines.append(_suffix_hint(alone, orphans) or "Remove them, or add the missing files.")
        raise DataError("\n".join(lines))
    return [
        Pair(stem, image_file(image_files[stem], config), MaskFile(stripped[stem]))
        for stem in sorted(image_files)
    ]


def _suffix_hint(alone: list[str], orphans: list[str]) -> str:
    known = set(alone)
    endings = Counter(
        orphan[cut:] for orphan in orphans for cut in range(1, len(orphan)) if orphan[:cut] in known
    )
    if not endings:
        return ""
    suffix, count = endings.most_common(1)[0]
    return f"{count} of them would pair with --data.mask_suffix {suffix}"


def by_stem(folder: Path) -> dict[str, Path]:
    """The image files of a folder, by name without extension.

    Raises:
        DataError: no folder, no image, or two files that differ only in extension or case.
    """
    if folder.is_file():
        raise DataError(
            f"{folder}: is a file; expected a folder of images. --data.layout rasters cuts large "
            "TIFFs into blocks."
        )
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Fix the path, or make it.")
    found: dict[str, Path] = {}
    folded: dict[str, Path] = {}
    for name in sorted(os.listdir(folder)):  # names are faster than paths, for 100,000 files
        stem, suffix = os.path.splitext(name)
        if suffix.lower() not in EXTENSIONS or is_hidden(name):
            continue
        path = folder / name
        other = folded.setdefault(stem.casefold(), path)
        if other is not path:
            raise DataError(f"{other} and {name}: a duplicate name. Keep one of them.")
        found[stem] = path
    if not found:
        raise DataError(
            f"{folder}: holds no image ({', '.join(sorted(EXTENSIONS))}). Put images "
            "there, or fix the path."
        )
    return found
