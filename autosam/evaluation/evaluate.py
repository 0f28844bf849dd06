"""Score a checkpoint on a data set."""

from __future__ import annotations

from itertools import zip_longest
from pathlib import Path

from rich.progress import track

from autosam.config.commands import EvaluateConfig
from autosam.data.checks import check_pairs
from autosam.data.dataset import PairDataset, Prompting, cropping_of
from autosam.data.loaders import EpochSampler, make_loader
from autosam.evaluation import evaluator
from autosam.evaluation.evaluate_sam import evaluate_sam
from autosam.evaluation.instance_matching import Matches
from autosam.evaluation.instance_metrics import summarize_instances
from autosam.evaluation.leakage import leakage_warning, require_same_rule
from autosam.evaluation.metrics import METRICS, by_subset, mean_scores, require_all
from autosam.evaluation.sanity import describe_images, sanity_warnings
from autosam.evaluation.scores import write_scores
from autosam.evaluation.select_pairs import same_folders, select_pairs
from autosam.evaluation.tables import print_report, print_scores
from autosam.evaluation.volume_scores import (
    Counts,
    describe_volumes,
    mean_over_volumes,
    score_volumes,
)
from autosam.models import checkpoint
from autosam.utils.distributed import gather, processes
from autosam.utils.io import make_folder


def evaluate(config: EvaluateConfig) -> dict[str, float]:
    """Score a checkpoint; with `config.zero_shot` a pretrained SAM, see `evaluate_sam`.

    The number of classes, and whether they are exclusive, come from the checkpoint.

    Args:
        config: the checkpoint and the data.

    Returns:
        The mean of each metric over the images, each scored at its own size.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is scored.
    """
    if config.zero_shot:
        return evaluate_sam(config)
    process = processes()
    device = process.device
    loaded = checkpoint.load(
        config.checkpoint,
        config.sam_checkpoint,
        config.fast,
        encoder_backend=config.encoder_backend,
    )
    segmenter, trained = loaded.segmenter.to(device), loaded.config.data
    title, pairs, data = select_pairs(config, trained)
    own = same_folders(data, trained)
    require_same_rule(loaded, pairs, config.split, own, title)
    warning = leakage_warning(loaded, pairs, config.split, own)
    report = check_pairs(pairs, data)
    if process.is_main_process:
        print_report(report)
        if warning:
            print(f"warning: {warning}")
    dataset = PairDataset(
        pairs,
        segmenter.input_spec,
        report.encoding,
        prompting=Prompting(loaded.config.prompt, loaded.config.color_prior),
        shuffled=loaded.config.embedding == "shuffled",
        instances=loaded.config.task == "instances",
        cropping=cropping_of(trained),
    )
    keys = list(EpochSampler(len(dataset), shuffle=False))
    share = keys[process.process_index :: process.num_processes]
    loader = make_loader(dataset, share, dataset.images_per_batch(config.batch_size))
    shown = track(loader, "scoring", disable=not process.is_main_process)
    batches = (batch.to(device) for batch in shown)
    matches: dict[str, Matches] = {}
    counts: Counts = {}
    rows = evaluator.evaluate(
        segmenter,
        batches,
        trained.exclusive,
        tuple(METRICS),
        classes=trained.class_names,
        how=loaded.config.separation,
        matches=matches,
        counts=counts,
    )
    shares = gather([list(rows.items())])
    # Interleaving the shares restores the order of the images.
    rows = dict(row for turn in zip_longest(*shares) for row in turn if row is not None)
    matches = dict(gather([*matches.items()]))
    counts = dict(gather([*counts.items()]))
    require_all(rows, pairs)
    scores = mean_scores(list(rows.values()))
    if matches:
        scores |= summarize_instances(matches, trained.class_names)
    volumes = score_volumes(counts, pairs, trained.class_names)
    scores |= mean_over_volumes(volumes)
    if not process.is_main_process:
        return scores
    split = title.split(" of ")[0]  # the table is narrow
    facts = {"checkpoint": str(loaded.path), "images": f"{len(rows)}, {title}"}
    facts |= describe_images(rows, trained.class_names) | describe_volumes(volumes)
    if config.output:
        make_folder(Path(config.output).parent)
        write_scores(Path(config.output), rows)
        facts["per image"] = config.output
        if volumes:
            file = Path(config.output).with_stem(f"{Path(config.output).stem}_volumes")
            write_scores(file, volumes, "volume")
            facts["per volume"] = str(file)
    subsets = by_subset(rows, pairs)
    for name, found in subsets.items() if matches else ():
        part = {pair.name: matches[pair.name] for pair in pairs if pair.subset == name}
        found |= summarize_instances(part, trained.class_names)
    print_scores({split: scores} | subsets, facts)
    for message in sanity_warnings(rows, trained.num_classes > 1):
        print(f"warning: {message}")
    return scores
