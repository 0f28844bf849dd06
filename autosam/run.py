"""The state of one training: what it is made from, what `--resume` brings back, how it ends."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import broadcast, set_seed
from rich.progress import Progress
from torch.utils.data import DataLoader

from autosam import checkpoint, pictures
from autosam.config import RUNS, Config
from autosam.data.dataset import EpochSampler, PairDataset
from autosam.data.images import write_png
from autosam.data.pairs import PARTS
from autosam.engine import calibrate, evaluate, fit_rule, train_one_epoch
from autosam.errors import CheckpointError, ConfigError, TrainingError
from autosam.losses import SegmentationLoss
from autosam.metrics import METRICS, by_subset, mean_scores
from autosam.models.segmenter import Segmenter
from autosam.optim import build_optimizer, build_schedule
from autosam.report import contact_sheet, print_scores, spread
from autosam.tracking import Tracker, count_parameters, log, write_scores
from autosam.types import Batch


@dataclass
class TrainResult:
    """What a run came to."""

    folder: Path
    validation: dict[str, float]
    """Means over the validation images, of the chosen checkpoint, by metric (`autosam.metrics`)."""
    test: dict[str, float]
    epochs: int
    seconds: float


@dataclass
class Data:
    """The three parts of the data, ready to be loaded."""

    train: PairDataset
    validation: PairDataset
    test: PairDataset


def worker_count(wanted: int | None, processes: int) -> int:
    """Processes that read images for each of `processes` that compute."""
    if wanted is not None:
        return wanted
    # Two cores are left to the computation where there is no accelerator.
    spare = (os.cpu_count() or 1) // processes - (0 if torch.cuda.is_available() else 2)
    return max(0, min(8, spare))


def make_loader(
    dataset: PairDataset, config: Config, processes: int, shuffle: bool
) -> tuple[DataLoader[Any], EpochSampler]:
    """A loader of batches and the sampler that orders it."""
    sampler = EpochSampler(len(dataset), shuffle, config.train.seed)
    workers = worker_count(config.data.workers, processes)
    batch = config.train.batch_size
    loader = DataLoader(
        dataset,
        batch,
        sampler=sampler,
        num_workers=workers,
        collate_fn=Batch.collate,
        # The keys carry the epoch, so workers may live on.
        persistent_workers=workers > 0,
        pin_memory=torch.cuda.is_available(),
        # BatchNorm cannot learn from one image, which a last batch might hold.
        drop_last=shuffle and len(dataset) >= 2 * batch * processes,
    )
    return loader, sampler


class Run:
    """A training from its first epoch to its scores.

    Args:
        config: resolved; `train.epochs` is set.
        folder: the run folder, made already.
        segmenter, data, accelerator: the parts.
        bf16: whether the forward pass runs in bfloat16.
        state: of an interrupted run, to go on from.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        segmenter: Segmenter,
        data: Data,
        accelerator: Accelerator,
        bf16: bool,
        state: dict[str, Any] | None = None,
    ) -> None:
        self.config, self.folder, self.data = config, folder, data
        self.segmenter, self.accelerator, self.bf16 = segmenter, accelerator, bf16
        self.epoch, self.best, self.stale = 0, -1.0, 0
        self.criterion = SegmentationLoss(
            config.loss, config.data.exclusive, config.paper.loss_on_padding
        )
        processes = accelerator.num_processes
        train_loader, self.sampler = make_loader(data.train, config, processes, shuffle=True)
        optimizer = build_optimizer(segmenter, config.train)
        learns = bool(RUNS[config.run].trainable)
        self.optimizer, self.loader = accelerator.prepare(optimizer, train_loader)
        # Without anything to learn there is nothing to synchronise.
        self.model = accelerator.prepare(segmenter) if learns else segmenter.to(accelerator.device)
        if len(self.loader) == 0:
            raise ConfigError(
                f"{len(data.train)} training images give no batch of {config.train.batch_size} on "
                f"each of {processes} processes. Lower --train.batch_size."
            )
        self.loaders = {
            part: accelerator.prepare(
                make_loader(getattr(data, part), config, processes, shuffle=False)[0]
            )
            for part in ("validation", "test")
        }
        assert config.train.epochs is not None
        self.epochs = config.train.epochs if learns else 0
        steps = self.epochs * math.ceil(len(self.loader) / config.train.accumulate)
        self.scheduler = build_schedule(optimizer, config.train, steps)
        if state is not None:
            self._restore(state)
        self.tracker: Tracker | None = None
        if accelerator.is_main_process:
            self.tracker = Tracker(folder, config, self.epoch)
            self.tracker.parameters(segmenter)

    def close(self) -> None:
        """Let go of the files, however the run ended."""
        if self.tracker is not None:
            self.tracker.close()

    def _restore(self, state: dict[str, Any]) -> None:
        checkpoint.restore_trainable(self.segmenter, state["model"], str(self.folder))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self.best, self.stale = state["epoch"], state["best"], state["stale"]
        log.info("going on after epoch %d, best validation Dice %.4f", self.epoch, self.best)

    def fit(self, progress: Progress) -> None:
        """Train until the last epoch or until validation stops improving.

        Raises:
            TrainingError: the loss is not finite; the best checkpoint so far is kept.
        """
        config = self.config.train
        if self.segmenter.rule is not None:
            count = fit_rule(self.segmenter, self.loader)
            log.info("%d masks of training pictures say which masks count", count)
        if self.epochs == 0 and self.tracker is not None:  # nothing learns: zero-shot SAM
            checkpoint.save(self.folder / checkpoint.BEST, self.segmenter, self.config, epoch=0)
        total = self.epochs * len(self.loader)
        bar = progress.add_task("", total=total, completed=self.epoch * len(self.loader),
                                loss=float("nan"), dice="-", speed=0.0)  # fmt: skip
        while self.epoch < self.epochs and self.stale < config.patience:
            epoch = self.epoch + 1
            # Each epoch has its own seed, so that a resumed run draws what an unbroken one does.
            set_seed((config.seed * 100_003 + epoch) % 2**32)
            self.sampler.epoch = epoch
            progress.update(bar, description=f"epoch {epoch}/{self.epochs}")
            clock = [time.perf_counter(), 0.0]

            def on_step(images: int, loss: float, clock: list[float] = clock) -> None:
                clock[1] += images * self.accelerator.num_processes
                speed = clock[1] / (time.perf_counter() - clock[0])
                progress.update(bar, advance=1, loss=loss, speed=speed)

            try:
                values = train_one_epoch(
                    self.model, self.loader, self.criterion, self.optimizer, self.scheduler,
                    self.accelerator, config.clip, self.bf16, on_step,
                )  # fmt: skip
            except TrainingError as error:
                kept = self.folder / checkpoint.BEST
                message = f"epoch {epoch}: {error}" + (
                    f" The last good checkpoint is kept: {kept}." if kept.is_file() else ""
                )
                log.error(message)
                raise TrainingError(message) from None
            part = "test" if self.config.paper.select_on_test else "validation"
            scores = mean_scores(list(self._evaluate(part).values()))
            self.epoch = epoch
            self.stale += 1
            if scores["dice"] > self.best:
                self.best, self.stale = scores["dice"], 0
            progress.update(bar, dice=f"{scores['dice']:.3f}")
            self._record(values, part, scores)

    @property
    def calibrated(self) -> bool:
        """Whether a threshold is chosen on validation: not for a SAM as it comes, nor where the
        most probable class wins, nor where logits are stretched to be cut at 0.5."""
        config = self.config
        several = config.data.exclusive and config.data.num_classes > 1
        learns = bool(RUNS[config.run].trainable)
        return learns and not several and not config.paper.min_max_logits

    def _calibrate(self) -> dict[str, float]:
        """The threshold of the run, and of its surrogate decoder where it has one."""
        segmenter, found = self.segmenter, {}
        for fast in (False, True) if segmenter.surrogate is not None else (False,):
            segmenter.fast = fast
            found["fast_threshold" if fast else "threshold"] = calibrate(
                segmenter,
                self.loaders["validation"],
                self.config.data.exclusive,
                self.accelerator,
            )
        segmenter.fast = False
        return found

    def _evaluate(self, part: str, final: bool = False) -> dict[str, dict[str, float]]:
        """Scores by image; the final ones in float32, as `evaluate` and `predict` compute them."""
        if self.accelerator.num_processes > 1:
            for buffer in self.segmenter.buffers():  # BatchNorm's statistics differ by process
                broadcast(buffer, from_process=0)
        return evaluate(
            self.segmenter,
            self.loaders[part],
            self.config.data.exclusive,
            tuple(METRICS) if final else ("dice", "iou"),
            None if final else self.criterion,
            self.accelerator,
            self.bf16 and not final,
            self.config.data.class_names,
        )

    def _record(self, values: dict[str, float], part: str, scores: dict[str, float]) -> None:
        """Write one epoch's figures (the scores being of `part`), pictures and checkpoints."""
        if self.tracker is None:
            return
        self.tracker.epoch(
            self.epoch,
            {f"train/{name}": value for name, value in values.items()}
            | {f"{part}/{name}": value for name, value in scores.items()},
        )
        log.info(
            "epoch %d  loss %.4f  %s loss %.4f  Dice %.4f  IoU %.4f  %.1f images/s%s",
            self.epoch, values["loss"], part, scores["loss"], scores["dice"], scores["iou"],
            values["images_per_second"], "  *" if self.stale == 0 else "",
        )  # fmt: skip
        if self.config.train.pictures:
            sheet = self._sheet(self.data.validation, self.config.train.pictures)
            self.tracker.pictures(self.epoch, sheet)
        if self.stale == 0:
            checkpoint.save(
                self.folder / checkpoint.BEST,
                self.segmenter,
                self.config,
                epoch=self.epoch,
                **{part: scores},
            )
        checkpoint.save_state(
            self.folder,
            self.segmenter,
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            epoch=self.epoch,
            best=self.best,
            stale=self.stale,
        )

    def _sheet(self, dataset: PairDataset, count: int) -> np.ndarray:
        return contact_sheet(
            self.segmenter,
            dataset,
            spread(len(dataset), count),
            self.config.data.exclusive,
            self.accelerator.device,
            pictures.palette(self.config.data),
        )

    def finish(self, seconds: float, peak_gib: float) -> TrainResult:
        """Take the checkpoint that validation chose, score it once on test, write the report.

        Args:
            seconds: that the run has taken.
            peak_gib: most memory that training held, GiB.
        """
        self.accelerator.wait_for_everyone()
        best = self.folder / checkpoint.BEST
        if not best.is_file():
            raise CheckpointError(f"{best}: missing; nothing to score.")
        checkpoint.restore_trainable(self.segmenter, checkpoint.read_trained(best), str(best))
        thresholds = self._calibrate() if self.calibrated else {}
        self.segmenter.threshold = thresholds.get("threshold", 0.5)
        rows = {part: self._evaluate(part, final=True) for part in ("validation", "test")}
        scores = {part: mean_scores(list(table.values())) for part, table in rows.items()}
        scores |= {f"test {name}": row for name, row in by_subset(rows["test"]).items()}
        if self.tracker is not None:
            images = {part: len(getattr(self.data, part)) for part in PARTS}
            facts = {part: scores[part] for part in rows}
            checkpoint.annotate(best, images=images, **thresholds, **facts)
            self._report(self.tracker, scores, rows["test"], seconds, peak_gib)
        return TrainResult(self.folder, scores["validation"], scores["test"], self.epoch, seconds)

    def _report(
        self,
        tracker: Tracker,
        scores: dict[str, dict[str, float]],
        test_rows: dict[str, dict[str, float]],
        seconds: float,
        peak_gib: float,
    ) -> None:
        folder = self.folder
        total, trainable = count_parameters(self.segmenter)
        write_scores(folder / "test_scores.csv", test_rows)
        write_png(folder / "contact_sheet.png", self._sheet(self.data.test, 8))
        sam = self.config.sam if self.segmenter.sam is not None else "none"
        oracle = RUNS[self.config.run].prompter in ("box", "points")
        verb = "evaluate" if oracle else "predict"
        target = "--input DIR --output DIR" if verb == "predict" else "--data.root DIR"
        facts = {
            "run": f"{self.config.title}, SAM {sam}, {self.epoch} epochs in {seconds:.0f} s",
            "parameters": f"{trainable:,} trainable, {total - trainable:,} frozen",
            "run folder": str(folder),
            "contact sheet": str(folder / "contact_sheet.png"),
            "watch": f"tensorboard --logdir {folder.parent}",
            "use": f"python -m autosam.{verb} --checkpoint {folder} {target}",
        }
        if self.calibrated:
            facts["threshold"] = f"{self.segmenter.threshold:g}, by Dice on validation"
        print_scores(scores, facts)
        summary = {"epochs": self.epoch, "seconds": round(seconds, 1), "trainable": trainable,
                   "frozen": total - trainable, "threshold": self.segmenter.threshold,
                   "peak_gib": round(peak_gib, 2)}  # fmt: skip
        text = yaml.safe_dump({**scores, **summary}, sort_keys=False)
        # Last and at once: who finds it takes the run for finished.
        checkpoint.write_atomically(
            folder / "scores.yaml", lambda to: to.write_text(text, encoding="utf-8")
        )
        final = {
            f"final/{part}_{name}": value
            for part, row in scores.items()
            for name, value in row.items()
        }
        tracker.hyperparameters(final)
