"""`autosam embeddings`: list and delete caches of image embeddings."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Sequence
from pathlib import Path

from autosam.config import CacheConfig
from autosam.config.cli import Words, one_message
from autosam.utils.pipe import ending_with_the_reader


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Returns:
        `verb`, `dir`, and for `prune` also `names` and `days`.

    Raises:
        ConfigError: the command line is wrong.
        SystemExit: `--help`.
    """
    parser = Words(
        prog="autosam embeddings",
        description="List and delete caches of image embeddings.",
        epilog="examples:\n  autosam embeddings list\n  autosam embeddings prune --days 30",
    )
    parser.set_defaults(dir=None)
    verbs = parser.add_subparsers(dest="verb", metavar="{list,prune}", required=True)
    lister = verbs.add_parser("list", help="list the caches, their size and their last use")
    pruner = verbs.add_parser("prune", help="delete caches by name or by age")
    pruner.add_argument("names", nargs="*", help="names as `list` prints them")
    pruner.add_argument("--days", type=days, help="delete those unused for this many days; 0: all")
    for part in (parser, lister, pruner):
        part.add_argument(
            "--dir", default=argparse.SUPPRESS, help="folder of the caches, as in --cache.dir"
        )
    args = parser.parse_args(words)
    if args.verb == "prune" and not args.names and args.days is None:
        pruner.error("give names, or --days N (--days 0 deletes all)")
    if args.dir is not None and not (args.dir and Path(args.dir).is_dir()):
        parser.error(f"--dir {args.dir}: no such folder. Fix the path")
    return args


def days(text: str) -> float:
    """The number of `--days`."""
    with contextlib.suppress(ValueError):
        if (number := float(text)) >= 0:
            return number
    raise argparse.ArgumentTypeError(f"{text}: expected a number of days, 0 or more")


def main() -> None:
    with one_message(), ending_with_the_reader():
        args = parse_arguments()
        from autosam.data.embedding_store import prune, show
        from autosam.training.embedding_cache import folder_of

        root = folder_of(CacheConfig(dir=args.dir))
        if args.verb == "list":
            show(root)
        else:
            deleted = prune(root, args.names, args.days)
            print(f"{len(deleted)} caches deleted, {sum(e.bytes for e in deleted) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
