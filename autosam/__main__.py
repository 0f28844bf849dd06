"""`autosam VERB ...` does the same as `python -m autosam.VERB ...`."""

from __future__ import annotations

import importlib
import signal
import sys

VERBS = (
    "train", "evaluate", "compare", "predict", "export", "check", "rough", "weights", "embeddings",
    "bench", "pretrain", "app",
)  # fmt: skip


def main() -> None:
    verb = sys.argv[1] if len(sys.argv) > 1 else ""
    if verb not in VERBS:
        print(f"usage: autosam {{{','.join(VERBS)}}} ... (each takes --help)", file=sys.stderr)
        sys.exit(0 if verb in ("-h", "--help") else 2)
    del sys.argv[1]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # until the command heeds it itself
    importlib.import_module(f"autosam.{verb}").main()


if __name__ == "__main__":
    main()
