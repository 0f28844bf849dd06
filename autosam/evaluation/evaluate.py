"""Score a trained run, or SAM as it comes, on a data set."""

from __future__ import annotations

import dataclasses
from itertools import zip_longest
from pathlib import Path

from rich.progress import track

from autosam.config import DataConfig
from autosam.config.commands import EvaluateConfig
from autosam.config.validation import check_data
from autosam.config.values import require_config
from autosam.data import image_digests
from autosam.data.checks import Report, check_pairs
from autosam.data.dataset import PairDataset, Prompting
from autosam.data.labels import class_masks, without
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.loaders import EpochSampler, make_loader
from autosam.data.pairs import Pair, Splits, read_valid
from autosam.data.splits import RULE, depends_on_rule, limited
from autosam.errors import ConfigError, DataError
from autosam.evaluation.cautions import cautions, contents_of
from autosam.evaluation.evaluator import evaluate as score_loader
from autosam.evaluation.metrics import METRICS, by_subset, mean_scores, require_all
from autosam.evaluation.scores import write_scores
from autosam.evaluation.tables import print_scores, print_zero_shot
from autosam.evaluation.zero_shot import ZeroShot
from autosam.models import checkpoint
from autosam.models.sam import load_sam
from autosam.utils.device import choose_device
from autosam.utils.distributed import gather, processes
from autosam.utils.io import make_folder, require_new
from autosam.utils.launcher import check_alone

SPLIT = ("validation", "test", "split_seed", "stratify", "groups", "folds", "fold")
"""Settings that a checkpoint's own data keep, so that no image trained on is a test image."""


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Mean of every metric over the images, each at its own size; see `zero_shot` for the other
    way.

    The number of classes and how they exclude each other come from the checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is scored.
    """
    require_config(config, EvaluateConfig, "evaluate")
    check_data(config.data)
    if config.output:
        require_new("output", config.output)
    if config.zero_shot:
        return zero_shot(config)
    process = processes()
    if not config.checkpoint:
        raise ConfigError(
            "--checkpoint RUN is needed: a run folder or a checkpoint file. (Or --zero-shot.)"
        )
    if config.sam:
        raise ConfigError(f"--sam {config.sam}: a checkpoint brings its own; only for --zero-shot.")
    device = process.device
    loaded = checkpoint.load(config.checkpoint, config.sam_checkpoint, config.fast)
    segmenter, trained = loaded.segmenter.to(device), loaded.config.data
    title, pairs, data = find_part(config, trained)
    drawn: Splits = {}
    if _folders(data) == _folders(trained):
        drawn[config.split] = pairs
    old = loaded.header.get("split_rule") != RULE
    if old and config.split in ("validation", "test") and depends_on_rule(drawn, trained):
        raise DataError(
            f"{title}: the checkpoint was trained by a version of autosam that drew other splits "
            "with groups, strata or folds: images that it was trained on would be scored. Give "
            "other data as --data.images and --data.masks, or train again."
        )
    warning = seen_before(pairs, loaded, config.split, own=bool(drawn))
    report = check_pairs(pairs, data)
    if process.is_main_process:
        tell(report)
        if warning:
            print(f"warning: {warning}")
    dataset = PairDataset(
        pairs,
        segmenter.input_spec,
        report.encoding,
        prompting=Prompting(loaded.config.prompt, loaded.config.color_prior),
        shuffled=loaded.config.embedding == "shuffled",
    )
    keys = list(EpochSampler(len(dataset), shuffle=False))
    share = keys[process.process_index :: process.num_processes]
    loader = make_loader(dataset, share, config.batch_size)
    shown = track(loader, "scoring", disable=not process.is_main_process)
    batches = (batch.to(device) for batch in shown)
    rows = score_loader(
        segmenter, batches, trained.exclusive, tuple(METRICS), classes=trained.class_names
    )
    shares = gather([list(rows.items())])  # one of each process, who take turns
    rows = dict(row for turn in zip_longest(*shares) for row in turn if row is not None)
    require_all(rows, pairs)
    scores = mean_scores(list(rows.values()))
    if not process.is_main_process:
        return scores
    facts = {"checkpoint": str(loaded.path), "images": str(len(rows))}
    facts |= contents_of(rows, trained.class_names)
    if config.output:
        make_folder(Path(config.output).parent)
        write_scores(Path(config.output), rows)
        facts["per image"] = config.output
    print_scores({title: scores} | by_subset(rows, pairs), facts)
    for caution in cautions(rows, trained.num_classes > 1):
        print(f"warning: {caution}")
    return scores


def seen_before(pairs: list[Pair], loaded: checkpoint.Loaded, split: str, own: bool) -> str:
    """What to warn of where images that are to be scored were trained on; "" where none was, or
    where they are asked for.

    Args:
        pairs: what is scored.
        loaded: the checkpoint; one of an earlier version does not know.
        split: the one to score.
        own: whether they are of the folders of the training.

    Raises:
        DataError: of its own folders: images have come or gone since, and so the split is another.
    """
    if own and split not in ("validation", "test"):
        return ""
    noted = loaded.header.get("seen")
    if not isinstance(noted, dict):
        return ""
    for earlier in ("train", "validation") if split != "validation" or not own else ("train",):
        what = "trained on" if earlier == "train" else "used to choose its best epoch"
        if own and (found := image_digests.find_seen(pairs, noted.get(earlier), by_name=True)):
            raise DataError(
                f"{len(found)} of the {len(pairs)} images of the {split} split ({found[0].name}, "
                f"...) were {what}: since the training, images were added to the folder, removed "
                "or renamed, and the split is drawn otherwise. Bring the folder back to what it "
                "was, give the new images as --data.images and --data.masks, or train again."
            )
        if found := image_digests.find_seen(pairs, noted.get(earlier), by_name=False):
            return (
                f"{len(found)} of {len(pairs)} images ({found[0].name}, ...) have the names, sizes "
                f"in bytes and last bytes of images that were {what}. If they are the same images, "
                "the scores say nothing of new ones"
            )
    return ""


def zero_shot(config: EvaluateConfig) -> dict[str, float]:
    """Mean IoU over objects of a SAM prompted by box, one and three points, and mask.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is scored.
    """
    check_alone()
    if config.fast:
        raise ConfigError("--fast: a SAM by itself has no surrogate decoder.")
    if config.checkpoint:
        raise ConfigError("--zero-shot scores a SAM by itself: leave --checkpoint out.")
    device = choose_device()
    name = config.sam or "lite"
    sam = load_sam(name, config.sam_checkpoint)
    sam.to(device)
    title, pairs, data = find_part(config)
    report = check_pairs(pairs, data)
    tell(report)
    scores = ZeroShot(sam)
    for pair in track(pairs, "scoring"):
        image, valid = read_valid(pair.image)
        label = without(report.encoding.read(pair.mask), valid)
        masks = class_masks(label, data.num_classes)
        scores.add(pair.name, image, masks, device)
    if not scores.rows:
        raise DataError(
            f"{title}: every mask is empty: there is no object to prompt. Give data with masks."
        )
    table = scores.table()
    objects = len({(row["image"], row["class"], row["object"]) for row in scores.rows})
    facts = {"SAM": name, "data": f"{title}: {len(pairs)} images, {objects} objects"}
    if config.output:
        make_folder(Path(config.output).parent)
        scores.write(Path(config.output))
        facts["per object"] = config.output
    print_zero_shot(table, facts)
    return {prompt: iou for prompt, (iou, _) in table.items()}


def tell(report: Report) -> None:
    """Print how masks were read, where that is not plain, and warnings."""
    if report.encoding.description:
        print(f"masks: {report.encoding.description}")
    for warning in report.warnings:
        print(f"warning: {warning}")


def find_part(
    config: EvaluateConfig, trained: DataConfig | None = None
) -> tuple[str, list[Pair], DataConfig]:
    """The pairs to score, what to call them, and the settings by which they are read.

    Without data settings: the data of the training. The training's own folder keeps its split, so
    that no image trained on is called a test image.

    Args:
        config: what is asked for.
        trained: the data settings of the checkpoint, where there is one.

    Raises:
        ConfigError: settings that contradict each other or the checkpoint.
    """
    data = config.data
    if trained is not None:
        if data.num_classes not in (1, trained.num_classes):
            raise ConfigError(
                f"--data.num_classes {data.num_classes}: the checkpoint has {trained.num_classes}."
            )
        data = _as_trained(data, trained)
    name = data.root or data.images or "the embedded set"
    foreign = trained is None or _folders(data) != _folders(trained)
    if foreign and data.images:
        pairs = load_pairs(data)
        if data.limit is None:
            return f"all of {name}", pairs, data
        return f"some of {name}", limited(pairs, data.limit, data.split_seed), data
    splits = load_splits(data)
    if config.split != "all":
        return f"{config.split} of {name}", splits[config.split], data
    pairs = [
        dataclasses.replace(pair, subset=f"{split}/{pair.subset}".rstrip("/"))
        for split, found in splits.items()
        for pair in found
    ]
    return f"all of {name}", pairs, data


def _as_trained(data: DataConfig, trained: DataConfig) -> DataConfig:
    """Of other data the classes, of the training's own all that is not said otherwise."""
    said = {
        f.name: getattr(data, f.name)
        for f in dataclasses.fields(DataConfig)
        if getattr(data, f.name) != f.default
    }
    named = any((data.root, data.images, data.masks, data.annotations))
    if not named or _folders(data) == _folders(trained):
        for key in SPLIT:
            if key in said and said[key] != getattr(trained, key):
                print(f"warning: --data.{key}: not used; the training's own data keep their split.")
            said.pop(key, None)
        classes = {"num_classes": trained.num_classes, "exclusive": trained.exclusive}
        return dataclasses.replace(trained, **said | classes)
    if data.classes is None:
        data = dataclasses.replace(data, classes=trained.classes)
    return dataclasses.replace(data, num_classes=trained.num_classes, exclusive=trained.exclusive)


def _folders(data: DataConfig) -> list[Path | None]:
    paths = (data.root, data.images, data.masks, data.annotations)
    return [Path(p).resolve() if p else None for p in paths]
