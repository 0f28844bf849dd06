"""Write the model card of a checkpoint."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from autosam.config import RUNS
from autosam.config.runs import PROMPTERS
from autosam.evaluation.tables import COLUMNS
from autosam.models.checkpoint import Loaded
from autosam.models.sam import SAMS


def model_card(loaded: Loaded) -> ModelCard:
    """Describe a checkpoint: the run, its data, its scores and how to use it.

    Args:
        loaded: a checkpoint; facts that its header lacks are left out.

    Returns:
        A card in Markdown with the metadata of the Hugging Face hub.
    """
    config, header = loaded.config, loaded.header
    composition, data = RUNS[config.run], config.data
    frozen = ", its backbone frozen" if composition.trainable == ("decoder",) else ""
    meaning = f"a plain network without SAM{frozen}."
    facts = {}
    if loaded.segmenter.sam is not None:
        spec = SAMS[config.sam]
        names = {"decoder": "mask decoder", "lora": "LoRA in the image encoder"}
        learns = " and ".join(names.get(part, part) for part in composition.trainable) or "nothing"
        meaning = f"{PROMPTERS[composition.prompter]}; trainable parts: {learns}."
        facts["SAM"] = f"{config.sam}, SHA-256 {header['sam']['sha256'][:16]}..."
        facts["licence of SAM's weights"] = spec.licence or "see its source"
        facts["paper of that SAM"] = spec.paper or "-"
    facts["backbone"] = f"{config.model.backbone} at {config.model.input_size} px"
    facts["data"] = Path(data.root or data.images or "autosam's embedded data set").name
    facts["classes"] = (
        ", ".join(data.class_names) if data.num_classes > 1 or data.classes else "one"
    )
    images = header.get("images")
    if images:
        facts["images"] = ", ".join(f"{count} {split}" for split, count in images.items())
    facts["threshold"] = f"{loaded.segmenter.decision.threshold:g}"
    if loaded.segmenter.decision.min_area:
        facts["smallest area"] = f"{loaded.segmenter.decision.min_area:.2%} of the image"
    scores = {
        split: [f"{header[split][name]:.{digits}f}" for name, (_, digits) in COLUMNS.items()]
        for split in ("validation", "test")
        if all(name in header.get(split, {}) for name in COLUMNS)
    }
    return ModelCard.from_template(
        ModelCardData(
            library_name="autosam",
            pipeline_tag="image-segmentation",
            tags=["autosam", "segment-anything", config.run],
        ),
        template_path=str(Path(__file__).with_name("model_card.md")),
        title=f"{config.title} on {facts['data']}",
        run=config.title,
        meaning=meaning,
        facts=facts,
        scores=scores,
        columns=[title for title, _ in COLUMNS.values()],
    )
