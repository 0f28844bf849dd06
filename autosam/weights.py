"""`autosam weights`: list, download, verify and add the weights of SAMs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from autosam.config.calls import make_callable
from autosam.config.cli import Words, one_message, unknown_action
from autosam.config.sams import require_sam_early
from autosam.errors import CheckpointError, ConfigError
from autosam.utils.paths import require_path
from autosam.utils.pipe import ending_with_the_reader

ACTIONS = ("list", "get", "verify", "add")


def weights(action: str = "list", *words: str | Path, sam: str | None = None) -> None:
    """Run `autosam weights ACTION WORDS`.

    Args:
        action: `list`; `get` with names; `verify` with a file; `add` with a name and a file.
        words: the arguments of the action.
        sam: with `verify`: the SAM that the file should belong to.

    Raises:
        ConfigError: no such action or SAM.
        CheckpointError: a file cannot be downloaded, or is not the SAM's weights file.
    """
    if action not in ACTIONS:
        raise ConfigError(unknown_action("autosam weights", action, ACTIONS))
    names = {"get": words, "add": words[:1], "verify": () if sam is None else (sam,)}
    for name in names.get(action, ()):
        require_sam_early(str(name))
    for file in {"verify": words[:1], "add": words[1:2]}.get(action, ()):
        require_path(f"weights {action}", str(file), "file", CheckpointError)
    from autosam.models.sam.weights import manage

    run: Callable[..., None] = getattr(manage, "show" if action == "list" else action)
    run(*words, **({} if sam is None else {"sam": sam}))


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line.

    Returns:
        `action`, `words` and `sam`, as `weights` takes them.

    Raises:
        ConfigError: the command line is wrong.
        SystemExit: `--help`.
    """
    parser = Words(
        prog="autosam weights",
        description="List, download, verify and add the weights of SAMs.",
        epilog="examples:\n  autosam weights get vit_b\n"
        "  autosam weights verify sam_vit_b.pth --sam vit_b",
    )
    parser.set_defaults(words=[], sam=None)
    actions = parser.add_subparsers(dest="action", metavar="{list,get,verify,add}")
    actions.add_parser("list", help="list every SAM, its licence and its file (the default)")
    part = actions.add_parser("get", help="download missing weights files")
    part.add_argument("words", nargs="+", metavar="NAME")
    part = actions.add_parser(
        "verify", help="print the SAM and SHA-256 of a file, and check its tensors"
    )
    part.add_argument("words", nargs=1, metavar="FILE")
    part.add_argument("--sam", metavar="NAME", help="the SAM that the file should belong to")
    part = actions.add_parser("add", help="check a file and copy it into the cache folder")
    part.add_argument("name", metavar="NAME")
    part.add_argument("file", metavar="FILE")
    parsed = parser.parse_args(argv)
    parsed.action = parsed.action or "list"
    if parsed.action == "add":
        parsed.words = [parsed.name, parsed.file]
    return parsed


def main() -> None:
    with one_message(), ending_with_the_reader():
        parsed = parse_arguments()
        weights(parsed.action, *parsed.words, sam=parsed.sam)


make_callable(__name__)

if __name__ == "__main__":
    main()
