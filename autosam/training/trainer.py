"""The trainer: epochs, evaluations and checkpoints of a run."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from rich.progress import Progress, TaskID, track

from autosam.config import RUNS, Config
from autosam.data.dataset import PairDataset
from autosam.data.loaders import Data, worker_error
from autosam.data.pairs import SPLITS, Splits
from autosam.errors import CheckpointError, ConfigError, TrainingError, is_out_of_memory
from autosam.evaluation import visualize
from autosam.evaluation.contact_sheet import contact_sheet
from autosam.evaluation.evaluator import evaluate
from autosam.evaluation.instance_matching import Matches
from autosam.evaluation.metrics import METRICS, mean_scores, require_all
from autosam.evaluation.tables import MEASURES, TITLES
from autosam.evaluation.visualize import spread
from autosam.evaluation.volume_scores import Counts
from autosam.models import checkpoint, paper
from autosam.models.base import SegmentationModel
from autosam.models.prompters import GridPrompter
from autosam.training import resume
from autosam.training.data import epoch_loader
from autosam.training.loop import (
    ONE_VALUE,
    EpochStatistics,
    Optimization,
    one_value,
    train_one_epoch,
)
from autosam.training.mask_classifier import fit_mask_classifier
from autosam.training.optim import build_optimizer, build_schedule
from autosam.training.tracker import Tracker
from autosam.types import Batch
from autosam.utils import provenance
from autosam.utils.device import trains_in_bf16
from autosam.utils.distributed import peer_error
from autosam.utils.logging import log
from autosam.utils.signals import AtOnce, Interrupt


class Trainer:
    """Trains a run.

    Args:
        config: resolved settings; `train.epochs` is set.
        folder: the run folder, which exists.
        segmenter: the network.
        data: the data sets of the splits.
        accelerator: device and processes.
        started: `time.perf_counter()` at the start of the run.
        interrupt: signals that were received.
        saved: state of an interrupted run to resume from.

    Raises:
        ConfigError: there are fewer training images than a batch.
        CheckpointError: the state belongs to other data or another SAM, or is damaged.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        segmenter: SegmentationModel,
        data: Data,
        accelerator: Accelerator,
        started: float,
        interrupt: Interrupt,
        saved: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.folder, self.data = config, folder, data
        self.segmenter, self.accelerator = segmenter, accelerator
        self.bf16 = trains_in_bf16(config.train.precision, accelerator.device)
        self.threads = [torch.get_num_threads()]  # and, if it is resumed, those of each call
        self.epoch, self.best, self.stale, self.stats = 0, -1.0, 0, EpochStatistics()
        self.interrupt, self._started, self._saved = interrupt, started, time.perf_counter()
        self._allow_exit()
        self.criterion = paper.build_loss(config)
        self.how = config.separation
        self.measure = MEASURES[config.task]
        processes = accelerator.num_processes
        train_loader, self.sampler = epoch_loader(
            data.train, config, processes, interrupt, shuffle=True
        )
        optimizer = build_optimizer(segmenter, config.train, accelerator.device)
        learns = RUNS[config.run].learns
        optimizer.register_step_pre_hook(self._forbid_exit)
        self.optimizer, self.loader = accelerator.prepare(optimizer, train_loader)
        # Without trainable parameters there is nothing to synchronise.
        self.model = accelerator.prepare(segmenter) if learns else segmenter.to(accelerator.device)
        if len(self.loader) == 0:
            raise ConfigError(
                f"{len(data.train)} training images give no batch of {config.train.batch_size} on "
                f"each of {processes} processes. Lower --train.batch_size."
            )
        self.loaders = {
            split: accelerator.prepare(
                epoch_loader(getattr(data, split), config, processes, interrupt, shuffle=False)[0]
            )
            for split in ("validation", "test")
        }
        assert config.train.epochs is not None
        self.epochs = config.train.epochs if learns else 0
        self.steps = self.epochs * math.ceil(len(self.loader) / config.train.accumulate)
        self.scheduler = build_schedule(optimizer, config.train, self.steps)
        self.inputs = resume.Inputs(config, self.splits, segmenter)
        if saved is not None:
            try:
                self._restore(saved)
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise CheckpointError(
                    f"--resume {folder}: its state does not fit its settings ({error!r}). Start a "
                    "new run from its weights with --init."
                ) from None
        self.tracker: Tracker | None = None
        if accelerator.is_main_process:
            provenance.note(
                folder, processes=processes, precision=self.precision, files=self.inputs.facts
            )
            self.tracker = Tracker(folder, config, self.epoch)
            if saved is None:
                self.tracker.parameters(segmenter)

    @property
    def splits(self) -> Splits:
        """The pairs of each split."""
        return {split: getattr(self.data, split).pairs for split in SPLITS}

    @functools.cached_property
    def noted(self) -> dict[str, Any]:
        """The description of the training images that checkpoints contain."""
        return self.inputs.note(RUNS[self.config.run].uses_training_images)

    def close(self) -> None:
        """Close the files."""
        if self.tracker is not None:
            self.tracker.close()

    @property
    def precision(self) -> str:
        """The type that steps are computed in: "bfloat16" or "float32"."""
        return "bfloat16" if self.bf16 else "float32"

    @property
    def seconds(self) -> float:
        """Duration of the run in seconds, with earlier calls if it was resumed."""
        return time.perf_counter() - self._started

    def _restore(self, saved: dict[str, Any]) -> None:
        self.inputs.require_same(saved["facts"], self.folder)
        resume.restore_weights(
            saved, self.folder, self.segmenter, self.optimizer, self.scheduler, self.steps
        )
        on_cpu = self.accelerator.device.type == "cpu"
        if self.config.train.precision == "auto":
            self.bf16 = resume.precision_of(saved, self.bf16, on_cpu)
        self.threads = resume.threads_of(saved, self.threads[0], on_cpu)
        self.epoch, self.best, self.stale = saved["epoch"], saved["best"], saved["stale"]
        self.stats = EpochStatistics(**saved["sums"])
        if self.epoch:  # fails now rather than after the last epoch
            checkpoint.read_trained(self.folder / checkpoint.BEST)
        self._started -= saved["seconds"]
        done = f"epoch {self.epoch} and {self.stats.images} images"
        log.info("resumed after %s, best validation %s %.4f", done, TITLES[self.measure], self.best)

    def save_state(self) -> None:
        """Write the state of the run; between two optimiser steps, by the main process."""
        if self.tracker is not None:
            content = {
                "model": self.segmenter.trainable_state(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "steps": self.steps,
                "epoch": self.epoch,
                "best": self.best,
                "stale": self.stale,
                "sums": self.stats.sums(),
                "seconds": self.seconds,
                "bf16": self.bf16,
                "threads": self.threads,
                "facts": self.inputs.facts,
            }
            resume.save(self.folder, content)
        self.interrupt.remedy = resume.resume_command(self.folder)
        self._saved = time.perf_counter()

    def _forbid_exit(self, *_: object) -> None:
        """Do not exit during an optimizer step: the weights would not belong to the snapshot."""
        self.interrupt.at_once = False

    def _take_snapshot(self) -> None:
        """Copy what batches change before the next optimizer step: statistics and buffers."""
        buffers = [(one, one.clone()) for one in self.segmenter.trainable_buffers()]
        self._snapshot = self.stats.copy(), buffers
        self._allow_exit()

    def _allow_exit(self) -> None:
        """Exit at once on a signal; not with several processes, because the others would wait."""
        self.interrupt.at_once = self.accelerator.num_processes == 1

    def _restore_snapshot(self) -> None:
        """Return to the end of the last optimizer step."""
        self.stats, buffers = self._snapshot
        for buffer, value in buffers:
            buffer.copy_(value)

    def _asked_to_stop(self) -> bool:
        """Whether any process received a signal; the result is the same for all processes."""
        if self.accelerator.num_processes == 1:
            return self.interrupt.signal is not None
        if self.interrupt.signal is not None:
            self.accelerator.set_trigger()
        return self.accelerator.check_trigger()

    @contextlib.contextmanager
    def explaining(self) -> Iterator[None]:
        """Translate torch's errors about worker processes and other processes that died.

        Raises:
            Stopped: they were ended by a signal.
            TrainingError: they died for another reason.
        """
        again = f"Go on with --resume {self.folder}"
        try:
            yield
        except RuntimeError as error:
            if self.interrupt.signal is not None:  # a worker was still starting
                raise self.interrupt.stopped() from None
            if found := worker_error(error, again) or peer_error(error, again):
                raise found from None
            raise

    def watched(self, split: str) -> Iterator[Batch]:
        """Yield the batches of a split until a signal is received, which raises `Stopped`."""
        for batch in self.loaders[split]:
            if self._asked_to_stop():
                raise self.interrupt.stopped()
            yield batch

    def scored(self, split: str, what: str) -> Iterable[Batch]:
        """As `watched`, with a bar for the work after the last epoch."""
        count, hidden = len(self.loaders[split]), self.tracker is None
        return track(self.watched(split), f"{what} {split}", count, disable=hidden, transient=True)

    def fit(self, progress: Progress) -> None:
        """Train until the last epoch, or `train.patience` epochs without improvement.

        Args:
            progress: gets a bar.

        Raises:
            TrainingError: the loss is not finite; the best checkpoint so far is kept.
            Stopped: a signal was received; the state is saved.
        """
        if isinstance(self.segmenter.prompter, GridPrompter):
            masks = fit_mask_classifier(self.segmenter, self.loader)
            log.info("mask classifier fitted on %d masks of training images", masks)
        if self.epochs == 0 and self.tracker is not None:  # a zero-shot run
            checkpoint.save(
                self.folder / checkpoint.BEST, self.segmenter, self.config, epoch=0, **self.noted
            )
        done = self.epoch * len(self.loader) + self.stats.batches
        start: dict[str, Any] = {"loss": "-", "score": "", "speed": 0.0}
        bar = progress.add_task("", total=self.epochs * len(self.loader), completed=done, **start)
        split = paper.selection_split(self.config)
        while self.epoch < self.epochs and self.stale < self.config.train.patience:
            progress.update(bar, description=f"epoch {self.epoch + 1}/{self.epochs}")
            values = self._train_epoch(progress, bar)
            self.save_state()  # a signal during the evaluation loses no training
            progress.update(bar, description=f"epoch {self.epoch + 1}/{self.epochs} scoring")
            self._allow_exit()
            scores = mean_scores(list(self.evaluate(split).values()))
            self.epoch, self.stats = self.epoch + 1, EpochStatistics()
            self.stale += 1
            # As long as no object is found, a later epoch is better: the loss still falls.
            nothing = self.how is not None and scores[self.measure] == self.best == 0
            if scores[self.measure] > self.best or nothing:
                self.best, self.stale = scores[self.measure], 0
            progress.update(bar, score=f"{TITLES[self.measure]} {scores[self.measure]:.3f}")
            self._record(values, split, scores)

    def _train_epoch(self, progress: Progress, bar: TaskID) -> dict[str, float]:
        """Train to the end of the epoch, and return its statistics."""
        epoch = self.epoch + 1
        clock, seen = time.perf_counter(), self.stats.images

        def seed() -> None:
            # Each step has its own seed, so that a resumed run equals an uninterrupted one.
            seeds = np.random.SeedSequence([self.config.train.seed, epoch, self.stats.batches, 5])
            set_seed(int(seeds.generate_state(1)[0]), device_specific=True)

        def on_step(images: int, loss: float) -> None:
            speed = (self.stats.images - seen) / (time.perf_counter() - clock)
            shown = f"{loss:.3f}" if self.stats.parts else "-"
            progress.update(bar, advance=1, loss=shown, speed=speed)
            if self.accelerator.sync_gradients:
                stop = self._asked_to_stop()
                due = time.perf_counter() - self._saved > 60 * self.config.train.save_minutes
                if stop or due:
                    self.save_state()
                if stop:
                    raise self.interrupt.stopped()
                self._take_snapshot()
            seed()

        seed()
        self.sampler.epoch, self.sampler.start = epoch, self.stats.images
        try:
            self._take_snapshot()
            return train_one_epoch(
                self.model,
                self.loader,
                self.criterion,
                Optimization(self.optimizer, self.scheduler, self.config.train.clip),
                self.accelerator,
                self.bf16,
                on_step,
                self.stats,
            )
        except (AtOnce, Exception) as error:
            if self.interrupt.caused(error):
                self.interrupt.at_once = False
                self._restore_snapshot()
                self.save_state()
                raise self.interrupt.stopped() from None
            if isinstance(error, TrainingError):
                what = str(error)
            elif ONE_VALUE in str(error):
                raise TrainingError(f"epoch {epoch}: {one_value(error)}") from None
            elif is_out_of_memory(error):
                end = "." if self.config.auto_batch else ", or let --auto-batch find what fits."
                what = (
                    f"memory ran out on a batch of {self.config.train.batch_size} ({error}). Halve "
                    f"--train.batch_size and double --train.accumulate{end}"
                )
            else:
                raise
        finally:
            self.interrupt.at_once = False  # until the state is saved
        kept = self.folder / checkpoint.BEST
        message = f"epoch {epoch}: {what}" + (
            f" The last good checkpoint is kept: {kept}." if kept.is_file() else ""
        )
        log.error(message)
        raise TrainingError(message)

    def evaluate(
        self,
        split: str,
        final: bool = False,
        matches: dict[str, Matches] | None = None,
        counts: Counts | None = None,
    ) -> dict[str, dict[str, float]]:
        """Score a split.

        Args:
            split: name of the split.
            final: compute all metrics, in float32 as `autosam evaluate` does.
            matches: see `evaluate`.
            counts: see `evaluate`.

        Returns:
            Scores by image.
        """
        if self.accelerator.num_processes > 1:
            for buffer in self.segmenter.buffers():  # BatchNorm's statistics differ by process
                broadcast(buffer, from_process=0)
        rows = evaluate(
            self.segmenter,
            self.scored(split, "scoring") if final else self.watched(split),
            self.config.data.exclusive,
            tuple(METRICS) if final else ("dice", "iou"),
            None if final else self.criterion,
            self.accelerator,
            self.bf16 and not final,
            self.config.data.class_names,
            self.how,
            matches,
            counts,
        )
        require_all(rows, getattr(self.data, split).pairs)
        return rows

    def _record(self, values: dict[str, float], split: str, scores: dict[str, float]) -> None:
        """Write the records of an epoch, and its checkpoint if its scores are the best."""
        if self.tracker is None:
            return
        self.tracker.epoch(
            self.epoch,
            {f"train/{name}": value for name, value in values.items()}
            | {f"{split}/{name}": value for name, value in scores.items()},
        )
        shown = ("dice", "iou") if self.how is None else ("pq", "aji", "dice")
        text = (
            f"epoch {self.epoch}  loss {values['loss']:.4f}  {split} loss {scores['loss']:.4f}  "
            + "".join(f"{TITLES[name]} {scores[name]:.4f}  " for name in shown)
            + f"{values['images_per_second']:.1f} images/s"
        )
        log.info("%s", f"{text}  *" if self.stale == 0 else text)
        if self.config.train.sheet_images:
            sheet = self.sheet(self.data.validation, self.config.train.sheet_images)
            self.tracker.images(self.epoch, sheet)
        if self.stale == 0:
            checkpoint.save(
                self.folder / checkpoint.BEST,
                self.segmenter,
                self.config,
                epoch=self.epoch,
                **self.noted,
                **{split: scores},
            )
        self.save_state()

    def sheet(self, dataset: PairDataset, count: int) -> np.ndarray:
        """Draw a contact sheet of `count` images of a data set: uint8 H x W x 3, RGB."""
        return contact_sheet(
            self.segmenter,
            dataset,
            spread(len(dataset), count),
            self.config.data.exclusive,
            self.accelerator.device,
            visualize.colours_by_class(self.config.data),
            self.how,
        )
