"""`python -m autosam.train`: train a run, score it once on test, leave everything in its folder."""

from __future__ import annotations

import dataclasses
import logging
import math
import shutil
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator
from accelerate.utils import set_seed
from rich import get_console
from rich.logging import RichHandler
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch.utils.data import DataLoader

from autosam import checkpoint
from autosam.command import from_dict, run_command
from autosam.config import Config
from autosam.data.augment import build_augment
from autosam.data.check import MaskReading, check_split
from autosam.data.dataset import EpochSampler, PairDataset
from autosam.data.images import write_png
from autosam.data.sources import load_split
from autosam.engine import evaluate, train_one_epoch
from autosam.errors import CheckpointError, ConfigError, TrainingError
from autosam.losses import SegmentationLoss
from autosam.metrics import METRICS, mean_scores
from autosam.models.segmenter import Segmenter, build_segmenter
from autosam.optim import parameter_groups, warmup_cosine
from autosam.report import contact_sheet, print_scores, spread
from autosam.tracking import Tracker, count_parameters, log, write_scores
from autosam.types import Batch, Frame


@dataclass
class TrainResult:
    """What a run came to."""

    folder: Path
    validation: dict[str, float]
    """dice, iou, hd95: means over the validation images, of the chosen checkpoint."""
    test: dict[str, float]
    epochs: int
    seconds: float


@dataclass
class Data:
    """The three parts of the data, ready to be loaded."""

    train: PairDataset
    validation: PairDataset
    test: PairDataset
    reading: MaskReading


def open_data(config: Config, frame: Frame) -> Data:
    """Find, check and wrap the files; warnings go to the log.

    Raises:
        ConfigError, DataError: see `load_split` and `check_split`.
    """
    split = load_split(config.data)
    report = check_split(split, config.data)
    log.info("%s", ", ".join(f"{len(pairs)} {part}" for part, pairs in split.items()) + " images")
    for warning in report.warnings:
        log.warning(warning)
    augment, seed = build_augment(config.augment), config.train.seed
    return Data(
        PairDataset(split["train"], frame, report.reading, augment, seed),
        PairDataset(split["validation"], frame, report.reading),
        PairDataset(split["test"], frame, report.reading),
        report.reading,
    )


def make_loader(
    dataset: PairDataset, config: Config, shuffle: bool
) -> tuple[DataLoader[Any], EpochSampler]:
    """A loader of batches and the sampler that orders it."""
    sampler = EpochSampler(len(dataset), shuffle, config.train.seed)
    workers = config.data.workers
    if workers is None:  # leave two cores to the computation where there is no accelerator
        spare = torch.get_num_threads() - (0 if torch.cuda.is_available() else 2)
        workers = max(0, min(8, spare))
    loader = DataLoader(
        dataset,
        config.train.batch_size,
        sampler=sampler,
        num_workers=workers,
        collate_fn=Batch.collate,
        pin_memory=torch.cuda.is_available(),
        # BatchNorm cannot learn from one image, which a last batch might hold.
        drop_last=shuffle and len(dataset) > config.train.batch_size,
    )
    return loader, sampler


def check_settings(config: Config) -> None:
    """Refuse numbers that cannot work, before anything is built.

    Raises:
        ConfigError: naming the key, what was found and what is expected.
    """
    train, loss = config.train, config.loss
    for name in ("epochs", "batch_size", "accumulate", "patience"):
        if getattr(train, name) is not None and getattr(train, name) < 1:
            raise ConfigError(f"--train.{name} {getattr(train, name)}: must be at least 1.")
    for name in ("lr", "clip"):
        if not 0 < getattr(train, name) < math.inf:
            raise ConfigError(f"--train.{name} {getattr(train, name)}: must be above 0.")
    if not 0 <= train.warmup < 1:
        raise ConfigError(f"--train.warmup {train.warmup}: must be a share in [0, 1).")
    if min(loss.bce, loss.focal, loss.dice) < 0 or loss.bce + loss.focal + loss.dice <= 0:
        raise ConfigError("--loss.bce, --loss.focal, --loss.dice: none below 0, one above 0.")
    if not 1 <= config.data.num_classes <= 255:
        raise ConfigError(f"--data.num_classes {config.data.num_classes}: must be 1 to 255.")
    if config.resume and config.init:
        raise ConfigError("--resume and --init exclude each other.")


def set_up_log(main: bool) -> None:
    """Messages to the terminal (above the progress bar), or plain lines to a file or pipe."""
    if not log.handlers:
        terminal = get_console().is_terminal
        rich = RichHandler(show_path=False, show_time=False, show_level=False)
        log.addHandler(rich if terminal else logging.StreamHandler(sys.stdout))
        log.setLevel(logging.INFO if main else logging.ERROR)


def resolve(config: Config) -> tuple[Config, Path, dict[str, Any] | None]:
    """The settings in force, the run folder, and the state to go on from (or None).

    Raises:
        ConfigError: the folder exists.
        CheckpointError: nothing to resume.
    """
    if config.resume:
        folder = Path(config.resume)
        given = dataclasses.replace(config, resume=None)
        if given != Config():
            raise ConfigError(
                "--resume takes every setting from the run; give no others. (--init RUN starts a "
                "new run, with settings of its own, from its weights.)"
            )
        state = checkpoint.load_state(folder)
        values = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        return dataclasses.replace(from_dict(Config, values), output=str(folder)), folder, state
    name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{config.run}"
    folder = Path(config.output or name)
    return dataclasses.replace(config, output=str(folder)), folder, None


def default_epochs(images: int) -> int:
    """How long to train where the settings do not say; see `TrainConfig.epochs`."""
    return max(5, min(50, math.ceil(1920 / images)))


def make_folder(folder: Path, overwrite: bool) -> None:
    """Create the run folder; replace an old run only when asked to, and nothing but a run.

    Raises:
        ConfigError: it exists and holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ConfigError(
                f"--output {folder}: exists. Choose another, pass --overwrite, or go on with it by "
                f"--resume {folder}."
            )
        if not (folder / "config.yaml").is_file():
            raise ConfigError(
                f"--output {folder}: holds no run (no config.yaml); it is not overwritten."
            )
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


def train(config: Config) -> TrainResult:
    """Train a run from start to test score.

    Args:
        config: the run; see `autosam.config`.

    Returns:
        The run folder and its scores.

    Raises:
        AutosamError: before training: settings, data or weights that cannot be used, nothing
            written; during it: a loss that is no longer finite, the last good checkpoint kept.
    """
    started = time.perf_counter()
    config, folder, state = resolve(config)
    check_settings(config)
    bf16 = config.train.precision == "bf16" or (
        config.train.precision == "auto"
        and torch.cuda.is_available()
        and torch.cuda.is_bf16_supported()
    )
    accelerator = Accelerator(
        mixed_precision="bf16" if bf16 else "no",
        gradient_accumulation_steps=config.train.accumulate,
    )
    main = accelerator.is_main_process
    set_up_log(main)
    if state is None and main and folder.exists() and not config.overwrite:
        make_folder(folder, overwrite=False)  # says no before the work starts
    set_seed(config.train.seed)
    segmenter = build_segmenter(config)
    if config.init and state is None:
        count = checkpoint.initialise(segmenter, config.init)
        log.info("%d tensors taken from %s", count, config.init)
    data = open_data(config, segmenter.frame)
    if config.train.epochs is None:
        config.train = dataclasses.replace(config.train, epochs=default_epochs(len(data.train)))
    if main and state is None:
        make_folder(folder, config.overwrite)
    accelerator.wait_for_everyone()

    run = Run(config, folder, segmenter, data, accelerator)
    if state is not None:
        run.restore(state)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  loss {task.fields[loss]:.3f}  val Dice "
                   "{task.fields[dice]}  {task.fields[speed]:.1f} images/s  left"),
        TimeRemainingColumn(),
        disable=not main,
    ) as progress:  # fmt: skip
        run.fit(progress)
    return run.finish(time.perf_counter() - started)


class Run:
    """The state of one training: what `--resume` must bring back, and what it is made from."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        segmenter: Segmenter,
        data: Data,
        accelerator: Accelerator,
    ) -> None:
        self.config, self.folder, self.data = config, folder, data
        self.segmenter, self.accelerator = segmenter, accelerator
        self.epoch, self.best, self.stale = 0, -1.0, 0
        self.criterion = SegmentationLoss(config.loss, config.data.exclusive)
        train_loader, self.sampler = make_loader(data.train, config, shuffle=True)
        optimizer = torch.optim.AdamW(
            parameter_groups(segmenter, config.train.weight_decay), lr=config.train.lr
        )
        self.model, self.optimizer, self.loader = accelerator.prepare(
            segmenter, optimizer, train_loader
        )
        assert config.train.epochs is not None
        self.epochs = config.train.epochs
        steps = self.epochs * math.ceil(len(self.loader) / config.train.accumulate)
        self.scheduler = warmup_cosine(optimizer, int(config.train.warmup * steps), steps)
        self.tracker: Tracker | None = None

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where `save` left off."""
        checkpoint.restore_trainable(self.segmenter, state["model"], str(self.folder))
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.epoch, self.best, self.stale = state["epoch"], state["best"], state["stale"]
        log.info("going on after epoch %d, best validation Dice %.4f", self.epoch, self.best)

    def save(self) -> None:
        """Write the state after a finished epoch."""
        checkpoint.save_state(
            self.folder,
            self.segmenter,
            optimizer=self.optimizer.state_dict(),
            scheduler=self.scheduler.state_dict(),
            epoch=self.epoch,
            best=self.best,
            stale=self.stale,
        )

    def evaluate(
        self, dataset: PairDataset, names: tuple[str, ...] = ("dice", "iou"), loss: bool = False
    ) -> dict[str, dict[str, float]]:
        loader = self.accelerator.prepare(make_loader(dataset, self.config, shuffle=False)[0])
        return evaluate(
            self.segmenter,
            loader,
            self.config.data.exclusive,
            names,
            self.criterion if loss else None,
            self.accelerator,
        )

    def fit(self, progress: Progress) -> None:
        """Train until the last epoch or until validation stops improving."""
        config, main = self.config.train, self.accelerator.is_main_process
        if main:
            self.tracker = Tracker(self.folder, self.config, self.epoch)
            self.tracker.parameters(self.segmenter)
        total = self.epochs * len(self.loader)
        bar = progress.add_task("", total=total, completed=self.epoch * len(self.loader),
                                loss=float("nan"), dice="-", speed=0.0)  # fmt: skip
        while self.epoch < self.epochs and self.stale < config.patience:
            epoch = self.epoch + 1
            # Each epoch has its own seed, so that a resumed run draws what an unbroken one does.
            set_seed(config.seed * 100_003 + epoch)
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
                    self.accelerator, config.clip, on_step,
                )  # fmt: skip
            except TrainingError as error:
                kept = self.folder / checkpoint.BEST
                raise TrainingError(
                    f"epoch {epoch}: {error} "
                    + (f"The last good checkpoint is kept: {kept}." if kept.is_file() else "")
                ) from None
            scores = mean_scores(list(self.evaluate(self.data.validation, loss=True).values()))
            self.epoch = epoch
            self.stale += 1
            if scores["dice"] > self.best:
                self.best, self.stale = scores["dice"], 0
            progress.update(bar, dice=f"{scores['dice']:.3f}")
            if main:
                self.record(values, scores)

    def record(self, values: dict[str, float], scores: dict[str, float]) -> None:
        """Write one epoch's figures, pictures and checkpoints."""
        assert self.tracker is not None
        self.tracker.epoch(
            self.epoch,
            {f"train/{name}": value for name, value in values.items()}
            | {f"validation/{name}": value for name, value in scores.items()},
        )
        log.info(
            "epoch %d  loss %.4f  validation loss %.4f  Dice %.4f  IoU %.4f  %.1f images/s%s",
            self.epoch, values["loss"], scores["loss"], scores["dice"], scores["iou"],
            values["images_per_second"], "  *" if self.stale == 0 else "",
        )  # fmt: skip
        if self.config.train.pictures:
            self.tracker.pictures(
                self.epoch, self.sheet(self.data.validation, self.config.train.pictures)
            )
        if self.stale == 0:
            checkpoint.save(
                self.folder / checkpoint.BEST,
                self.segmenter,
                self.config,
                epoch=self.epoch,
                validation=scores,
                mask_threshold=self.data.reading.threshold,
            )
        self.save()

    def sheet(self, dataset: PairDataset, count: int) -> Any:
        return contact_sheet(
            self.segmenter,
            dataset,
            spread(len(dataset), count),
            self.config.data.exclusive,
            self.accelerator.device,
        )

    def finish(self, seconds: float) -> TrainResult:
        """Take the checkpoint that validation chose, score it once on test, and close the run."""
        self.accelerator.wait_for_everyone()
        best = self.folder / checkpoint.BEST
        if not best.is_file():
            raise CheckpointError(f"{best}: missing; nothing to score.")
        state = checkpoint.read_weights(best)
        checkpoint.restore_trainable(self.segmenter, state, str(best))
        rows = {
            part: self.evaluate(getattr(self.data, part), tuple(METRICS))
            for part in ("validation", "test")
        }
        scores = {part: mean_scores(list(table.values())) for part, table in rows.items()}
        result = TrainResult(self.folder, scores["validation"], scores["test"], self.epoch, seconds)
        if self.tracker is None:
            return result
        total, trainable = count_parameters(self.segmenter)
        write_scores(self.folder / "test_scores.csv", rows["test"])
        write_png(self.folder / "contact_sheet.png", self.sheet(self.data.test, 8))
        facts = {
            "run": f"{self.config.run}, SAM {self.config.sam if self.segmenter.sam else 'none'}, "
            f"{self.epoch} epochs in {seconds:.0f} s",
            "parameters": f"{trainable:,} trainable, {total - trainable:,} frozen",
            "run folder": str(self.folder),
            "contact sheet": str(self.folder / "contact_sheet.png"),
            "watch": f"tensorboard --logdir {self.folder.parent}",
            "use": f"python -m autosam.predict --checkpoint {self.folder} --input DIR --output DIR",
        }
        print_scores(scores, facts)
        for part, row in scores.items():
            log.debug("%s %s", part, row)
        (self.folder / "scores.yaml").write_text(
            yaml.safe_dump({**scores, "epochs": self.epoch, "seconds": round(seconds, 1),
                            "trainable": trainable, "frozen": total - trainable}),
            encoding="utf-8",
        )  # fmt: skip
        self.tracker.finish(
            {f"final/{part}_{name}": value for part, row in scores.items()
             for name, value in row.items()}
        )  # fmt: skip
        return result


def main() -> None:
    run_command(Config, train)


if __name__ == "__main__":
    main()
