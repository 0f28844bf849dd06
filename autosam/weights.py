"""`python -m autosam.weights`: the SAMs' weights files: where they are, whether they are right."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from autosam.config.cli import Words, one_message
from autosam.errors import CheckpointError, ConfigError
from autosam.models.sam import SAMS
from autosam.models.sam.weights import locate as files
from autosam.models.sam.weights.identify import guess, recognise
from autosam.models.state_dict import file_hash, read_weights


def show() -> None:
    """Print every SAM and its file: shipped, its path, or that it is not here yet."""
    table = Table("--sam", "image encoder", "MB", Column("file", overflow="fold"), "licence")
    for name, spec in SAMS.items():
        path = files.find(name)
        megabytes = path.stat().st_size / 1e6 if path else spec.megabytes
        where = "shipped" if files.shipped(name) else str(path or "not here")
        table.add_row(name, spec.architecture, f"{megabytes:.0f}", where, spec.licence)
    Console(markup=False, emoji=False).print(table)
    print(f"cache folder (AUTOSAM_CACHE): {files.cache_folder()}")
    print(f"mirror (AUTOSAM_MIRROR): {os.environ.get('AUTOSAM_MIRROR') or 'none'}")


def get(*names: str) -> None:
    """Download the files that are not here, and print where they lie.

    Raises:
        ConfigError, CheckpointError: see `files.fetch`.
    """
    for name in names:
        files.known(name)  # all of them before the first transfer
    for name in names:
        print(f"{name}: {files.fetch(name)}")


def verify(file: str | Path, sam: str | None = None) -> None:
    """Print what a weights file is.

    Args:
        file: to be checked.
        sam: the SAM that it should be; None: told from its hash, name and tensors.

    Raises:
        ConfigError: no SAM of that name.
        CheckpointError: it is no SAM's file, its hash is another, or a tensor does not fit.
    """
    path, state = Path(file), read_weights(file)
    digest = file_hash(path)
    print(f"{path}\n  SHA-256  {digest}")
    names = [sam] if sam else candidates(path, digest, recognise(state)[1])
    if not names:
        raise CheckpointError(f"{path}: the file of no SAM that is known here. {guess(state)}")
    others = f" (could also be {', '.join(names[1:])}: see --sam)" if names[1:] else ""
    print(f"  SAM      {names[0]}{others}")
    files.check(names[0], path)
    facts = []
    if stated := files.known(names[0]).sha256:
        facts.append("as its source states it" if stated == digest else f"starts with {stated}")
    if files.recorded(path):
        facts.append("as recorded beside the file")
    print(f"  hash     {' and '.join(facts) or 'none is stated or recorded to compare it with'}")
    print(f"  tensors  all {len(state)} fit")


def candidates(path: Path, digest: str, fitting: Sequence[str]) -> list[str]:
    """The SAMs that a file may be of, likeliest first: that of its hash alone, else that of its
    name, then those of its tensors (`fitting`), last among them those with another hash stated."""
    for name, spec in SAMS.items():
        if spec.sha256 and digest.startswith(spec.sha256):
            return [name]
    pool = [n for n, spec in SAMS.items() if n in fitting or spec.file == path.name]
    return sorted(pool, key=lambda n: (SAMS[n].file != path.name, bool(SAMS[n].sha256)))


def add(name: str, file: str | Path) -> None:
    """Check a file and copy it to where `--sam NAME` finds it.

    Raises:
        ConfigError, CheckpointError: see `files.add`.
    """
    print(f"{name}: {files.add(name, file)}")


ACTIONS: dict[str, Callable[..., None]] = {"list": show, "get": get, "verify": verify, "add": add}


def weights(action: str = "list", *words: str | Path, sam: str | None = None) -> None:
    """What `python -m autosam.weights ACTION WORDS` does.

    Args:
        action: `list`; `get` with names; `verify` with a file; `add` with a name and a file.
        words: see `action`.
        sam: with `verify`, see there.

    Raises:
        ConfigError: no such action or SAM.
        CheckpointError: a file cannot be had, or is not right.
    """
    if action not in ACTIONS:
        raise ConfigError(f"weights {action}: unknown. Choose one of {', '.join(ACTIONS)}.")
    ACTIONS[action](*words, **({} if sam is None else {"sam": sam}))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """action, words and sam, as `weights` takes them.

    Raises:
        ConfigError: it cannot be understood.
        SystemExit: `--help`.
    """
    parser = Words(prog="autosam weights", description=__doc__)
    parser.set_defaults(words=[], sam=None)
    actions = parser.add_subparsers(dest="action", metavar="{list,get,verify,add}")
    actions.add_parser("list", help="every SAM, its licence, and where its file is (the default)")
    part = actions.add_parser("get", help="download files that are not here")
    part.add_argument("words", nargs="+", metavar="NAME")
    part = actions.add_parser("verify", help="what a file is, its SHA-256, and whether all fits")
    part.add_argument("words", nargs=1, metavar="FILE")
    part.add_argument("--sam", metavar="NAME", help="hold it to this SAM instead of guessing")
    part = actions.add_parser("add", help="check a file and copy it to where --sam NAME finds it")
    part.add_argument("name", metavar="NAME")
    part.add_argument("file", metavar="FILE")
    parsed = parser.parse_args(argv)
    parsed.action = parsed.action or "list"
    if parsed.action == "add":
        parsed.words = [parsed.name, parsed.file]
    return parsed


def main() -> None:
    with one_message():
        parsed = parse_arguments()
        weights(parsed.action, *parsed.words, sam=parsed.sam)


if __name__ == "__main__":
    main()
