"""Train a run, from its settings to its test scores."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, set_seed
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from autosam.config import RUNS, Config
from autosam.config.validation import check_settings
from autosam.data.loaders import Data, worker_count
from autosam.models import checkpoint
from autosam.models.build import build_segmenter
from autosam.models.sam.openvino_encoder import check_backend
from autosam.models.sam.weights.locate import known
from autosam.training import resume
from autosam.training.auto_batch import fit_batch
from autosam.training.data import default_epochs, open_data
from autosam.training.embedding_cache import copies_of, use_cache
from autosam.training.finalize import TrainResult, finalize
from autosam.training.run_folder import occupy, refuse_folder, resolve
from autosam.training.trainer import Trainer
from autosam.utils.distributed import make_accelerator
from autosam.utils.launcher import check_launcher, launcher_precision
from autosam.utils.logging import log, set_up_log
from autosam.utils.memory import PeakMemory
from autosam.utils.signals import Interrupt


def train(config: Config) -> TrainResult:
    """Train a run and score it on validation and test.

    Args:
        config: the run; see `autosam.config`.

    Returns:
        The run folder and the scores.

    Raises:
        AutosamError: before training, with nothing written: settings, data or weights that cannot
            be used. During training: a loss that is not finite; the best checkpoint is kept.
    """
    started = time.perf_counter()
    check_launcher()
    config, saved = resolve(config)
    check_settings(config)
    check_backend(config.encoder_backend)
    known(config.sam)
    with Interrupt() as interrupt:
        interrupt.at_once = True
        if saved is not None:
            interrupt.remedy = resume.resume_command(Path(config.output or ""))
        return _train(config, saved, started, interrupt)


def _train(
    config: Config, saved: dict[str, Any] | None, started: float, interrupt: Interrupt
) -> TrainResult:
    """Train while signals are handled, see `train`."""
    accelerator = make_accelerator(config.train.accumulate)
    main = accelerator.is_main_process
    set_up_log(main)
    if launcher_precision() != "no":
        log.info(
            "the launcher's precision %s is not used: --train.precision %s decides",
            launcher_precision(),
            config.train.precision,
        )
    # The default name contains the time, which differs between processes.
    folder = Path(broadcast_object_list([config.output])[0])
    config.output = str(folder)
    if saved is None:
        refuse_folder(folder, config)
    if config.deterministic:  # cuBLAS reads this when it is first used
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    set_seed(config.train.seed)
    copies = copies_of(config)
    segmenter = build_segmenter(config, encoder=copies == 0 or RUNS[config.run].tunes_encoder)
    if config.init and saved is None:
        count = checkpoint.initialise(segmenter, config, config.init)
        log.info("%d tensors taken from %s", count, config.init)
    data = open_data(config, segmenter.input_spec, copies)
    if config.train.epochs is None:
        config.train = dataclasses.replace(config.train, epochs=default_epochs(len(data.train)))
    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(occupy(folder, empty=saved is None))
        accelerator.wait_for_everyone()
        if copies:
            embed(config, data, accelerator, interrupt)
        if config.auto_batch and saved is None and RUNS[config.run].learns:
            config.train = fit_batch(config, segmenter, data.train, accelerator)
            accelerator.gradient_accumulation_steps = config.train.accumulate
            log.info(
                "batches of %d, %d for each optimiser step",
                config.train.batch_size,
                config.train.accumulate,
            )
        trainer = Trainer(config, folder, segmenter, data, accelerator, started, interrupt, saved)
        stack.callback(trainer.close)
        stack.enter_context(trainer.explaining())
        with (
            PeakMemory() as peak,
            Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn(
                    "{task.percentage:>3.0f} %  loss {task.fields[loss]}  "
                    "{task.fields[score]}  {task.fields[speed]:.1f} images/s  left"
                ),
                TimeRemainingColumn(),
                disable=not main,
            ) as progress,
        ):
            trainer.fit(progress)
        log.info("scoring validation and test by the checkpoint that validation chose")
        return finalize(trainer, peak.gib)


def embed(
    config: Config,
    data: Data,
    accelerator: Accelerator,
    interrupt: Interrupt,
) -> None:
    """Fill the embedding cache, and let the data sets read from it.

    Args:
        config: the run.
        data: the data sets of the splits.
        accelerator: the device and the processes.
        interrupt: signals that were received.
    """
    workers = worker_count(config.data.workers, accelerator.num_processes)
    splits = {"validation": data.validation, "test": data.test}
    if RUNS[config.run].uses_training_images:
        splits = {"train": data.train, **splits}
    use_cache(config, splits, accelerator.device, workers, interrupt)
