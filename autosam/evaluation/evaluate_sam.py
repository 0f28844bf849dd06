"""Score a pretrained SAM on a data set, prompted from the true masks."""

from __future__ import annotations

from pathlib import Path

from rich.progress import track

from autosam.config.commands import EvaluateConfig
from autosam.data.checks import check_pairs
from autosam.data.labels import class_masks, without
from autosam.data.pairs import read_valid
from autosam.errors import DataError
from autosam.evaluation.select_pairs import select_pairs
from autosam.evaluation.tables import print_report, print_zero_shot
from autosam.evaluation.zero_shot import ZeroShot
from autosam.models.sam import load_sam, sam_hash
from autosam.models.sam.openvino_encoder import use_openvino
from autosam.utils.device import choose_device
from autosam.utils.io import make_folder
from autosam.utils.launcher import check_alone


def evaluate_sam(config: EvaluateConfig) -> dict[str, float]:
    """Score a pretrained SAM by each kind of prompt: a box, one point, three points, a mask.

    Args:
        config: the SAM and the data.

    Returns:
        The mean IoU over objects by kind of prompt.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is scored.
    """
    check_alone()
    device = choose_device()
    name = config.sam or "lite"
    sam = load_sam(name, config.sam_checkpoint)
    use_openvino(sam, sam_hash(name, config.sam_checkpoint), config.encoder_backend or "auto")
    sam.to(device)
    title, pairs, data = select_pairs(config)
    report = check_pairs(pairs, data)
    print_report(report)
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
