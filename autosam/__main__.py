"""`autosam COMMAND ...` does the same as `python -m autosam.COMMAND ...`."""

from __future__ import annotations

import importlib
import signal
import sys

from autosam import COMMANDS, __version__
from autosam.utils.pipe import ending_with_the_reader
from autosam.utils.suggest import suggest


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if command in ("-h", "--help"):
        with ending_with_the_reader():
            print(usage())
        sys.exit(0)
    if command == "--version":
        print(f"autosam {__version__}")
        sys.exit(0)
    if command not in COMMANDS:
        if command.startswith("-"):
            hint = suggest(command.lstrip("-"), {"help": "--help", "version": "--version"})
            print(f"error: autosam {command}: a command comes first.{hint}", file=sys.stderr)
        elif command:
            hint = suggest(command, {one: one for one in COMMANDS} | {"help": "--help"})
            print(f"error: autosam {command}: unknown command.{hint}", file=sys.stderr)
        print(usage(), file=sys.stderr)
        sys.exit(2)
    del sys.argv[1]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command handles it itself
    importlib.import_module(f"autosam.{command}").main()


def usage() -> str:
    """Every command with a line on what it is for."""
    lines = ["usage: autosam COMMAND [--NAME VALUE ...]", ""]
    lines += [f"  {name:<11} {what}" for name, what in COMMANDS.items()]
    return "\n".join([*lines, "", "autosam COMMAND --help: its settings, with examples"])


if __name__ == "__main__":
    main()
