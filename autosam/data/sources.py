"""Where pairs of image and mask come from: folders, with or without a split.

```
root/{train,validation,test}/{images,masks}/     a split as given ("val" and "valid" also serve)
root/{images,masks}/                             split by a seed
--data.images DIR --data.masks DIR               split by a seed
```
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.images import EXTENSIONS
from autosam.data.synthetic import synthetic_root
from autosam.errors import ConfigError, DataError

PARTS = ("train", "validation", "test")
ALIASES = {"validation": ("validation", "val", "valid"), "train": ("train",), "test": ("test",)}


@dataclass(frozen=True)
class Pair:
    """An image file and its mask file."""

    image: Path
    mask: Path
    part: str = ""
    """Set where pairs of several parts stand together."""

    @property
    def name(self) -> str:
        """The image's file name without extension (unique within a part), after the part."""
        return f"{self.part}/{self.image.stem}" if self.part else self.image.stem


Split = dict[str, list[Pair]]
"""`train`, `validation`, `test`: the pairs of each part."""


def load_split(config: DataConfig) -> Split:
    """Find the pairs of each part, as the settings say.

    Raises:
        ConfigError: settings that contradict each other.
        DataError: a folder is missing or empty, files have no partner, a part is empty, or the same
            picture stands in two parts.
    """
    if config.root and (config.images or config.masks):
        raise ConfigError("--data.root and --data.images/--data.masks exclude each other.")
    if bool(config.images) != bool(config.masks):
        raise ConfigError("--data.images and --data.masks go together: give both folders.")
    if config.images and config.masks:
        pairs = find_pairs(Path(config.images), Path(config.masks), config.mask_suffix)
        split = _carve({"train": pairs}, config)
    else:
        split = _split_of_root(Path(config.root) if config.root else synthetic_root(), config)
    for part in PARTS:
        if not split.get(part):
            raise DataError(
                f"The {part} part is empty: {sum(map(len, split.values()))} images are too few for "
                f"shares of {config.validation} validation and {config.test} test. Give more "
                "images, other shares, or folders for each part."
            )
    _refuse_overlap(split)
    return {part: split[part] for part in PARTS}


def _split_of_root(root: Path, config: DataConfig) -> Split:
    if not root.is_dir():
        raise DataError(f"--data.root {root}: no such folder.")
    given: Split = {}
    for part in PARTS:
        for alias in ALIASES[part]:
            folder = root / alias
            if folder.is_dir():
                given[part] = find_pairs(folder / "images", folder / "masks", config.mask_suffix)
                break
    if given and "train" not in given:
        raise DataError(f"{root}: has {', '.join(given)} but no train/ folder.")
    if not given:
        if not (root / "images").is_dir():
            raise DataError(
                f"{root}: expected train/, validation/ and test/ folders, each with images/ and "
                "masks/; or images/ and masks/ directly. For other names pass --data.images DIR "
                "--data.masks DIR."
            )
        given = {"train": find_pairs(root / "images", root / "masks", config.mask_suffix)}
    return _carve(given, config)


def _carve(given: Split, config: DataConfig) -> Split:
    """Take what is missing of validation and test out of train, by a seeded shuffle."""
    for name in ("validation", "test"):
        if not 0 < getattr(config, name) < 1:
            raise ConfigError(f"--data.{name} {getattr(config, name)}: expected a share in (0, 1).")
    pool = sorted(given["train"], key=lambda pair: pair.name)
    order = np.random.default_rng(config.split_seed).permutation(len(pool))
    pool = [pool[i] for i in order]
    total = len(pool)
    split = dict(given)
    for part in ("test", "validation"):
        if part not in given:
            count = round(getattr(config, part) * total)
            split[part], pool = pool[:count], pool[count:]
    split["train"] = sorted(pool, key=lambda pair: pair.name)
    return split


def find_pairs(images: Path, masks: Path, mask_suffix: str = "") -> list[Pair]:
    """Pair the files of two folders by name without extension.

    Args:
        images, masks: folders.
        mask_suffix: what a mask's name adds to its image's.

    Returns:
        Pairs sorted by name.

    Raises:
        DataError: a folder is missing or has no image, a name stands twice, or a file has no
            partner. Nothing is dropped silently.
    """
    image_files, mask_files = _by_stem(images), _by_stem(masks)
    stripped = {
        stem.removesuffix(mask_suffix): path
        for stem, path in mask_files.items()
        if stem.endswith(mask_suffix)
    }
    alone = sorted(set(image_files) - set(stripped))
    orphans = sorted(set(mask_files) - {stem + mask_suffix for stem in image_files})
    if alone or orphans:
        lines = [f"{images} and {masks} do not pair up."]
        if alone:
            lines.append(f"  {len(alone)} images without a mask, for example "
                         f"{image_files[alone[0]].name}")  # fmt: skip
        if orphans:
            lines.append(f"  {len(orphans)} masks without an image, for example "
                         f"{mask_files[orphans[0]].name}")  # fmt: skip
        lines.append(_suffix_hint(alone, orphans) or "Remove them, or add what is missing.")
        raise DataError("\n".join(lines))
    return [Pair(image_files[stem], stripped[stem]) for stem in sorted(image_files)]


def _suffix_hint(alone: list[str], orphans: list[str]) -> str:
    known = set(alone)
    endings = Counter(
        orphan[cut:] for orphan in orphans for cut in range(1, len(orphan)) if orphan[:cut] in known
    )
    if not endings:
        return ""
    suffix, count = endings.most_common(1)[0]
    return f"{count} of them would pair with --data.mask_suffix {suffix}"


def _by_stem(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in EXTENSIONS or path.name.startswith("."):
            continue
        if path.stem in found:
            raise DataError(f"{found[path.stem]} and {path.name}: the same name twice; keep one.")
        found[path.stem] = path
    if not found:
        raise DataError(f"{folder}: holds no image ({', '.join(sorted(EXTENSIONS))}).")
    return found


def _refuse_overlap(split: Split) -> None:
    """Identical image files in two parts would make the test score a lie."""
    by_size: dict[int, list[tuple[str, Path]]] = defaultdict(list)
    for part, pairs in split.items():
        for pair in pairs:
            by_size[pair.image.stat().st_size].append((part, pair.image))
    for candidates in by_size.values():
        if len({part for part, _ in candidates}) == 1:
            continue
        seen: dict[bytes, tuple[str, Path]] = {}
        for part, path in candidates:
            digest = hashlib.sha256(path.read_bytes()).digest()
            other = seen.setdefault(digest, (part, path))
            if other[0] != part:
                raise DataError(
                    f"{other[1]} ({other[0]}) and {path} ({part}) are the same picture: the parts "
                    "overlap. Remove one of them."
                )
