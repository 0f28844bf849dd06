"""The table of malformed inputs: what each is called, how it is made, and how it must end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from autosam.errors import AutosamError

MORE = int(os.environ.get("AUTOSAM_VARIANTS", "1"))
"""Times as many inputs of each cause as in the ordinary suite."""
Bad = tuple[list[str], str]
"""A command line (verb first), and what its message must name: a file, a key, a tensor."""


@dataclass(frozen=True)
class Good:
    """What is not broken, made once for all causes. Copied before it is broken."""

    images: Path
    """images/ and masks/, eight of each, `000.png` to `007.png`."""
    sam: Path
    """Weights of the tiny SAM."""
    run: Path
    """A run of autosam on that SAM."""


Maker = Callable[[Random, Path, Good], Bad]


@dataclass(frozen=True)
class Cause:
    """One way to be malformed."""

    name: str
    kind: str
    error: type[AutosamError]
    message: str
    """Regular expression of what is said: the fact, then the remedy."""
    make: Maker
    """Given a seeded generator, an empty folder and `Good`."""
    variants: int
    code: int
    """Exit code."""
    rest: tuple[str, ...]
    """Patterns of results that may be written all the same (of good files among bad ones)."""


CAUSES: dict[str, Cause] = {}


def cause(
    kind: str,
    error: type[AutosamError],
    message: str,
    variants: int = 2,
    code: int = 2,
    rest: tuple[str, ...] = (),
) -> Callable[[Maker], Maker]:
    """Put a function into the table; its name is the cause's."""

    def add(make: Maker) -> Maker:
        name = f"{kind}: {make.__name__.replace('_', ' ')}"
        assert name not in CAUSES
        CAUSES[name] = Cause(name, kind, error, message, make, variants * MORE, code, rest)
        return make

    return add


def copied(good: Good, folder: Path) -> Path:
    """Images and masks of one's own."""
    return Path(shutil.copytree(good.images, folder / "data"))


def some(rng: Random) -> str:
    """The name of one of the images, without extension."""
    return f"{rng.randrange(8):03d}"


def cut(rng: Random, path: Path, least: float = 0.2, most: float = 0.9) -> Path:
    """Leave the beginning of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * rng.uniform(least, most))])
    return path


TINY = ["--sam=tiny"]
SMALL = ["--model.backbone=test_efficientnet", "--model.backbone_weights=none",
         "--model.input_size=64", "--model.width=32", "--train.epochs=1"]  # fmt: skip


def scoring(good: Good, *flags: str) -> list[str]:
    """`evaluate` of the untrained SAM, which reads every image of the data."""
    return ["evaluate", "--zero-shot", *TINY, f"--sam_checkpoint={good.sam}", "--split=all", *flags]


def training(good: Good, folder: Path, *flags: str) -> list[str]:
    """`train` on the tiny SAM."""
    return ["train", *TINY, f"--sam_checkpoint={good.sam}", *SMALL, f"--output={folder / 'out'}",
            *flags]  # fmt: skip


def reading(rng: Random, good: Good, folder: Path, *flags: str) -> list[str]:
    """One of the commands that read all data; training, which is slow to start, not often."""
    return training(good, folder, *flags) if rng.random() < 0.1 else scoring(good, *flags)


def predicting(good: Good, folder: Path, *flags: str) -> list[str]:
    return ["predict", f"--checkpoint={good.run}", f"--output={folder / 'out'}", *flags]
