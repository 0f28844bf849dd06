"""Build the network of a config."""

from __future__ import annotations

from typing import cast

import torch

from autosam.config import RUNS, Config
from autosam.config.validation import check_settings
from autosam.errors import CheckpointError
from autosam.models.base import SegmentationModel
from autosam.models.instance_prompter import InstancePrompter
from autosam.models.instance_segmenter import InstanceSegmenter
from autosam.models.lora import add_lora
from autosam.models.paper import MinMaxSegmenter, sam_spec
from autosam.models.parts import PARTS, PLAIN_PARTS
from autosam.models.plain import PlainHead, PlainSegmenter
from autosam.models.prompt_generator import PromptGenerator
from autosam.models.prompters import ClassTokens, GridPrompter, ObjectPrompter, Prompter
from autosam.models.sam import SAMS, AbsentSam, Sam, load_sam, sam_hash
from autosam.models.sam.openvino_encoder import use_openvino
from autosam.models.sam_features import blocks_to_read
from autosam.models.segmenter import Encoding, Segmenter, SurrogateSegmenter
from autosam.models.surrogate import SurrogateDecoder

PROBED_BLOCKS = 4
"""Blocks of a frozen plain ViT whose outputs a probe reads, as Oquab et al. 2023 (DINOv2, arXiv
2304.07193, section 7.4) do."""


def build_segmenter(
    config: Config,
    backbone_weights: str | None = None,
    encoder: bool = True,
    fast: bool = False,
) -> SegmentationModel:
    """Build the network of a run.

    Args:
        config: the run.
        backbone_weights: overrides `config.model.backbone_weights` (a checkpoint holds its own).
        encoder: False: without SAM's image encoder; batches must hold embeddings.
        fast: without SAM: the surrogate decoder makes the masks.

    Raises:
        ConfigError: settings that cannot work.
        CheckpointError: weights that cannot be loaded, or `fast` without a surrogate decoder.
    """
    check_settings(config)
    composition, model, classes = RUNS[config.run], config.model, config.data.num_classes
    has_surrogate = model.has_surrogate and not config.finds_objects
    if fast and config.finds_objects:
        raise CheckpointError(
            "--fast asks for the surrogate decoder, which runs that find objects one by one "
            "(--task instances) do not have. Leave it out."
        )
    if fast and not (composition.learns_prompt and has_surrogate):
        raise CheckpointError(
            "--fast asks for the surrogate decoder. Only runs with a learned dense or "
            f"high-resolution prompt and without --model.sam_features have one; {config.title!r} "
            "has none. Leave --fast out."
        )
    if not composition.uses_sam:
        blocks = 1 if "backbone" in composition.trainable else PROBED_BLOCKS
        channels = config.data.generator_channels
        head = PlainHead(model, classes, backbone_weights, blocks, channels)
        parts = [module for part in composition.trainable for module in PLAIN_PARTS[part](head)]
        return PlainSegmenter(head, parts)
    with torch.random.fork_rng(devices=[]):  # the same prompter for every SAM
        sam = absent_sam(config.sam) if fast else build_sam(config, encoder)
    prompter = build_prompter(config, sam, backbone_weights)
    surrogate = None
    if composition.learns_prompt and has_surrogate:
        with torch.random.fork_rng(devices=[]):
            surrogate = SurrogateDecoder(sam.width, model.prompt_kinds)
    if isinstance(sam, AbsentSam):
        assert isinstance(prompter, PromptGenerator)
        assert surrogate is not None
        return SurrogateSegmenter(sam, prompter, surrogate, model.input_size)
    trainable = [module for part in composition.trainable for module in PARTS[part](sam, prompter)]
    if surrogate is not None:
        trainable.append(surrogate)
    kind = MinMaxSegmenter if config.paper.min_max_logits else Segmenter
    if config.finds_objects:
        kind = InstanceSegmenter
    encoding = Encoding(config.train.precision != "no", config.embedding == "blank")
    return kind(sam, prompter, surrogate, trainable, model.input_size, encoding)


def build_sam(config: Config, encoder: bool = True) -> Sam:
    """The SAM of a run, with fresh adapters where it trains some.

    Args:
        config: the run.
        encoder: see `load_sam`.
    """
    sam = load_sam(config.sam, config.sam_checkpoint, encoder)
    sam.spec = sam_spec(config)
    if RUNS[config.run].learns_prompt and config.model.sam_features == "blocks":
        sam.taps, sam.block_shapes = blocks_of(config.sam)
    if RUNS[config.run].tunes_encoder and encoder:
        add_lora(sam, config.lora)
    elif encoder and config.encoder_backend != "torch":
        weights = sam_hash(config.sam, config.sam_checkpoint)
        use_openvino(sam, weights, config.encoder_backend)
    return sam


def build_prompter(config: Config, sam: Sam, backbone_weights: str | None = None) -> Prompter:
    """The prompter of a run.

    Args:
        config: the run.
        sam: the SAM that it prompts.
        backbone_weights: see `build_segmenter`.
    """
    kind, classes = RUNS[config.run].prompter, config.data.num_classes
    channels = config.data.generator_channels
    if config.finds_objects:
        return InstancePrompter(config.model, classes, sam, backbone_weights, channels)
    if kind == "learned":
        return PromptGenerator(config.model, classes, sam, backbone_weights, channels)
    if kind == "grid":
        return GridPrompter(classes, config.prompt.grid)
    if kind == "none":
        return ClassTokens(classes, sam.width)
    reads = config.rough.prompt if kind == "rough" else kind
    return ObjectPrompter(classes, reads, config.prompt.multimask)


def blocks_of(name: str) -> tuple[tuple[int, ...], tuple[tuple[int, int, int], ...]]:
    """The blocks of SAM `name` that a prompt generator reads, and the shapes of their outputs,
    computed on the meta device: the image encoder may be absent."""
    with torch.device("meta"):
        sam = SAMS[name].build(SAMS[name])
        sam.taps = blocks_to_read(len(sam.block_encoder.each_block()))
        size = sam.spec.image_size
        images = torch.zeros(1, 3, size, size, dtype=torch.uint8)
        embedding = sam.encode_image(images, torch.full((1, 2), size))
    shapes = tuple(tuple(kept.shape[1:]) for kept in embedding.block_features)
    return sam.taps, cast("tuple[tuple[int, int, int], ...]", shapes)


def absent_sam(name: str) -> AbsentSam:
    """The sizes of SAM `name`, without its weights."""
    with torch.device("meta"):
        return AbsentSam(SAMS[name].build(SAMS[name]))
