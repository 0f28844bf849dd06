"""SAM without prompts: a small network emits the prompt embeddings, SAM stays frozen.

`autosam.load` makes a trained run a function from images to masks. Each verb is a module with a
function of the same name: `from autosam.train import train`.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

# Threads of torch that wait give their core away: spinning ones make every other load on the
# machine cost many times its share. OpenMP reads this when torch is loaded; the user's own stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; Intel's and LLVM's OpenMP

# Of `python -m autosam.VERB` this package is imported first. Until the command heeds signals itself
# Ctrl-C ends it without torch's half of a traceback.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from autosam.config import Config
from autosam.errors import AutosamError

if TYPE_CHECKING:
    from autosam.inference.predictor import Prediction, Predictor, load

__version__ = "0.1.0"
__all__ = ["AutosamError", "Config", "Prediction", "Predictor", "__version__", "load"]
LATE = ("Prediction", "Predictor", "load")
"""What needs torch, and so comes only when it is asked for."""


def __getattr__(name: str) -> Any:
    if name in LATE:
        from autosam.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'autosam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
