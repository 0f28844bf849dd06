"""SAM without prompts: a small network emits the prompt embeddings, SAM stays frozen.

`autosam.load` makes a trained run a function from images to masks. Each command is also a function:
`autosam.train(images="images", masks="masks", epochs=5)` or `autosam.train(config)`.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

# Threads of torch that wait soon leave their core to others; spinning ones slow down every other
# process of the machine, and to sleep at once costs time, too (docs/speed.md). OpenMP reads this
# when torch is loaded. The user's own setting is kept.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # about 0.1 ms; GNU's OpenMP
    os.environ.setdefault("KMP_BLOCKTIME", "1")  # milliseconds; Intel's and LLVM's OpenMP

# `python -m autosam.VERB` imports this package first. Until the command handles signals itself,
# Ctrl-C ends it without a traceback out of torch.
if sys.argv[:1] == ["-m"] and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from autosam.config import Config
from autosam.errors import AutosamError
from autosam.utils.threads import limit_threads

limit_threads()  # before torch is loaded

if TYPE_CHECKING:
    from autosam.app import app
    from autosam.bench import bench
    from autosam.check import check
    from autosam.compare import compare
    from autosam.evaluate import evaluate
    from autosam.export import export
    from autosam.inference.predictor import Prediction, Predictor, load
    from autosam.predict import predict
    from autosam.pretrain import pretrain
    from autosam.rough import rough
    from autosam.train import train
    from autosam.weights import weights

__version__ = "0.1.0"
__all__ = [
    "AutosamError", "Config", "Prediction", "Predictor", "__version__", "app", "bench", "check",
    "compare", "evaluate", "export", "load", "predict", "pretrain", "rough", "train", "weights",
]  # fmt: skip
COMMANDS = {
    "train": "train a run, score it once on test, leave everything in its folder",
    "evaluate": "score a checkpoint, or an untrained SAM, on any data set",
    "compare": "train several runs on the same split and compare their scores",
    "predict": "segment images, volumes and videos, without a prompt",
    "export": "write a run as one ONNX file, image in and mask out",
    "check": "inspect a data set: what it holds, and what is wrong with it",
    "rough": "preview rough masks from a rule on colors, and how near the truth they are",
    "weights": "list, download, verify and add the weights of SAMs",
    "embeddings": "list and delete caches of image embeddings",
    "bench": "measure how fast this machine encodes, trains and predicts",
    "pretrain": "train SAM `lite` as a promptable segmenter on drawn scenes",
    "app": "serve a page that shows the masks of runs on dropped images",
}
"""Each command, a module of its name, and what it is for."""
NEEDS_TORCH = ("Prediction", "Predictor", "load")
"""Imported only when they are asked for."""


def __getattr__(name: str) -> Any:
    if name in NEEDS_TORCH:
        return getattr(importlib.import_module("autosam.inference.predictor"), name)
    if name in COMMANDS:
        return importlib.import_module(f"autosam.{name}")
    raise AttributeError(f"module 'autosam' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
