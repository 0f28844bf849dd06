"""The cases of the benchmark, and the functions that measure them; see `autosam.bench`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

import cv2
import numpy as np
import torch
from PIL import Image
from segment_anything import sam_model_registry
from torch import nn
from torch.utils.data import DataLoader

from autosam.benchmark.profiler import Stopwatch
from autosam.config import AugmentConfig, Config, LearnedPrompt, LoraConfig, LossConfig, ModelConfig
from autosam.config.commands import BenchConfig
from autosam.data.augment import build_augment
from autosam.data.dataset import PairDataset
from autosam.data.embedding_store import Layout, Store
from autosam.data.images import write_png
from autosam.data.layouts.folders import find_pairs
from autosam.data.loaders import EpochSampler, make_loader
from autosam.data.mask_encoding import MaskEncoding
from autosam.inference.predictor import Predictor
from autosam.models.checkpoint import Loaded
from autosam.models.lora import adapter_modules, add_lora
from autosam.models.losses import SegmentationLoss
from autosam.models.prompt_generator import PromptGenerator
from autosam.models.sam import SAMS, AbsentEncoder, Sam
from autosam.models.sam.encode import encode_frozen, faster_in_half
from autosam.models.sam.meta import VITS
from autosam.models.sam.openvino_encoder import installed, use_openvino
from autosam.models.sam.vit import from_meta
from autosam.models.sam.weights.locate import known
from autosam.models.segmenter import Encoding, Segmenter
from autosam.models.surrogate import SurrogateDecoder
from autosam.training.embedding_cache import Cached
from autosam.training.loop import Optimization, train_one_epoch
from autosam.training.optim import parameter_groups, warmup_cosine
from autosam.training.tracker import count_parameters
from autosam.types import ImageEmbedding
from autosam.utils.device import choose_device, trains_in_bf16, wait
from autosam.utils.distributed import make_accelerator
from autosam.utils.memory import peak_gib

PARTS = ("data", "encoder", "generator", "decoder", "loss", "backward", "optimiser")
"""Parts of a training step."""
COPIES = 4
"""Augmented copies of each image with cached embeddings, as by default."""
SIDES = (512, 640)
"""Rows and columns of the images."""


@dataclass(frozen=True)
class Case:
    """One row of a table. All weights are random."""

    name: str
    kind: Literal["encoder", "training", "prediction"]
    reference: bool = False
    """As the published loop encodes: in fp32 on any device, by PyTorch, and ViTs by the encoder of
    `segment_anything`."""
    half: bool = False
    """Compute the encoder in bfloat16, if the device is faster with it."""
    compiled: bool = False
    """Compile the encoder."""
    openvino: bool = False
    """Compute the encoder with OpenVINO."""
    embeddings: Literal["memory", "cache", "encoder"] = "encoder"
    """Source of the embeddings; with "memory" all batches are loaded before the measurement."""
    batch_size: int = 1
    sam: str = "vit_b"
    backbone: str = "tf_efficientnet_lite0"
    input_size: int = 256
    prompt: LearnedPrompt = "dense+high_res"
    """Kinds of learned prompts, see `ModelConfig`."""
    lora: LoraConfig | None = None
    """Adapters in the image encoder; with "cache" the tokens in front of them are cached."""
    repeats: int = 3
    """Number of measurements, after a warm-up that does not count."""


def build_sam(name: str, reference: bool, encoder: bool) -> Sam:
    """Build a SAM with random weights, which are the same for both implementations of the encoder.

    Args:
        name: a key of `SAMS`.
        reference: use the image encoder of `segment_anything`.
        encoder: whether to build the image encoder.

    Returns:
        The SAM, frozen and in evaluation mode.
    """
    torch.manual_seed(0)
    spec = SAMS[name]
    if not encoder:
        with torch.device("meta"):
            sam = spec.build(spec)
        sam.image_encoder = AbsentEncoder(0)
        sam.to_empty(device="cpu")
        with torch.no_grad():
            for value in sam.state_dict().values():
                value.normal_(std=0.02)
    elif name in VITS:
        published = sam_model_registry[name]()
        with torch.no_grad():
            for key, value in published.image_encoder.named_parameters():
                if "_pos" in key or key == "pos_embed":  # initialised to zero
                    value.normal_(std=0.02)
        sam = spec.build(spec)
        sam.load_state_dict(from_meta(published.state_dict()))
        if reference:
            sam.image_encoder = published.image_encoder
    else:
        sam = spec.build(spec)
    return sam.eval().requires_grad_(False)


def measure(case: Case) -> dict[str, Any]:
    """Measure one case.

    Args:
        case: the case.

    Returns:
        Seconds per image of each repeat, peak memory, and the figures of its kind.
    """
    device = choose_device()
    figures = {"encoder": encoding, "training": training, "prediction": prediction}[case.kind](
        case, device
    )
    return figures | peak_gib()


def encoding(case: Case, device: torch.device) -> dict[str, Any]:
    """Measure the image encoder on one image.

    Args:
        case: the case.
        device: device to compute on.

    Returns:
        Seconds of each repeat, of the first call, and the embedding.
    """
    sam = build_sam(case.sam, case.reference, encoder=True)
    sam.to(device)
    if case.compiled:
        sam.image_encoder.compile()
    if case.openvino:
        use_openvino(sam, weights=None, backend="openvino")
    size = sam.spec.image_size
    generator = torch.Generator().manual_seed(1)
    small = torch.rand(1, 3, 32, 32, generator=generator) * 255
    image = nn.functional.interpolate(small, (size, size), mode="bicubic").clamp(0, 255).byte()
    image, valid = image.to(device), torch.tensor([[size, size]], device=device)
    seconds = []
    for _ in range(case.repeats + 1):
        wait(device)
        started = time.perf_counter()
        embedding = encode_frozen(sam, image, valid, case.half)
        wait(device)
        seconds.append(time.perf_counter() - started)
    return {
        "seconds": seconds[1:],
        "first": seconds[0],
        "features": embedding.features.float().cpu().numpy(),
    }


def build_segmenter(case: Case) -> Segmenter:
    """Build the run `autosam`, or with adapters `autosam-lora`, with random weights.

    Args:
        case: the case.
    """
    sam = build_sam(case.sam, case.reference, case.embeddings == "encoder" or case.lora is not None)
    if case.lora is not None:
        add_lora(sam, case.lora)
    elif case.embeddings == "encoder" and not case.reference:
        use_openvino(sam, weights=None)  # as runs do
    model = ModelConfig(
        backbone=case.backbone,
        backbone_weights="none",
        input_size=case.input_size,
        prompt=case.prompt,
    )
    generator = PromptGenerator(model, num_classes=1, sam=sam)
    surrogate = SurrogateDecoder(sam.width, model.prompt_kinds)
    encoding = Encoding(half=case.half)
    trainable = [generator, surrogate, *adapter_modules(sam)]
    return Segmenter(sam, generator, surrogate, trainable, case.input_size, encoding)


def draw(folder: Path, count: int) -> None:
    """Write images of noise with an ellipse as JPEG, and their masks as PNG.

    Args:
        folder: an empty folder.
        count: number of images.
    """
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    for i in range(count):
        mask = np.zeros(SIDES, np.uint8)
        cv2.ellipse(mask, (320, 256), (150, 60 + i), 30, 0, 360, 255, -1)
        noise = cv2.resize(rng.integers(0, 256, (64, 80, 3), dtype=np.uint8), SIDES[::-1])
        noise[mask > 0] = noise[mask > 0] // 2 + 100
        Image.fromarray(noise).save(folder / "images" / f"{i:03d}.jpg", quality=95)
        write_png(folder / "masks" / f"{i:03d}.png", mask)


def training(case: Case, device: torch.device) -> dict[str, Any]:
    """Measure training in epochs of one step.

    Args:
        case: the case.
        device: device to compute on.

    Returns:
        Seconds per image of each repeat, of the parts of a step, and the number of trainable
        parameters.
    """
    accelerator = make_accelerator()
    segmenter = build_segmenter(case)
    optimizer = torch.optim.AdamW(parameter_groups(segmenter, 0.01), lr=1e-4)
    scheduler = warmup_cosine(optimizer, 1, 1000)
    model, optimizer = accelerator.prepare(segmenter, optimizer)
    criterion = SegmentationLoss(LossConfig())
    watch = Stopwatch(device)
    for owner, method, name in (
        (segmenter, "encode_image", "encoder"),
        (segmenter.prompter, "forward", "generator"),
        (segmenter, "decode_mask", "decoder"),
        (criterion, "forward", "loss"),
        (accelerator, "backward", "backward"),
        (optimizer, "step", "optimiser"),
    ):
        watch.watch(owner, method, name)
    seconds, parts = [], []
    with tempfile.TemporaryDirectory() as name:
        loader = accelerator.prepare(loader_of(case, segmenter, Path(name)))
        kept = [batch.to(device) for batch in loader] if case.embeddings == "memory" else None
        for _ in range(case.repeats + 1):
            watch.seconds.clear()
            wait(device)
            started = time.perf_counter()
            values = train_one_epoch(
                model,
                kept or loader,
                criterion,
                Optimization(optimizer, scheduler, clip=1.0),
                accelerator,
                bf16=trains_in_bf16("auto", device) and not case.reference,
            )
            wait(device)
            total = time.perf_counter() - started
            seconds.append(total / case.batch_size)
            measured = watch.seconds | {"data": values["data_wait"] * total}
            parts.append({part: measured.get(part, 0.0) / case.batch_size for part in PARTS})
    return {
        "seconds": seconds[1:],
        "parts": {part: median(p[part] for p in parts[1:]) for part in PARTS},
        "batch size": case.batch_size,
        "trainable": count_parameters(segmenter)[1],
    }


def loader_of(case: Case, segmenter: Segmenter, folder: Path) -> DataLoader:
    """Make a loader of one batch that reads images, and cached embeddings, from files.

    Args:
        case: the case.
        segmenter: sets the sizes of the inputs.
        folder: an empty folder for the files.
    """
    draw(folder, case.batch_size)
    pairs = find_pairs(folder / "images", folder / "masks")
    cached = case.embeddings != "encoder"
    augment = build_augment(AugmentConfig())
    copies = COPIES if cached else 0
    dataset = PairDataset(pairs, segmenter.input_spec, MaskEncoding(), augment, copies=copies)
    if cached:
        shapes: tuple[tuple[int, ...], ...] = segmenter.sam.shapes
        if case.lora is not None:
            size = segmenter.sam.spec.image_size
            image = torch.zeros(1, 3, size, size, dtype=torch.uint8)
            part = encode_frozen(segmenter.sam, image, torch.tensor([[size, size]]), half=True)
            shapes = tuple(tuple(level.shape[1:]) for level in part.levels)
        layout = Layout(shapes, "bf16")
        store = Store.create(folder / "cache", {}, len(pairs) * copies, layout, "bench")
        for i in range(store.count):
            first, *high_res = (torch.randn(1, *shape) for shape in shapes)
            store.put(i, ImageEmbedding(first, tuple(high_res)))
        dataset.use(Cached(store, copies))
    return make_loader(dataset, EpochSampler(len(pairs), shuffle=False), len(pairs))


def prediction(case: Case, device: torch.device) -> dict[str, Any]:
    """Measure prediction from image to mask.

    Args:
        case: the case.
        device: device to compute on.

    Returns:
        Seconds of each repeat.
    """
    loaded = Loaded(build_segmenter(case), Config(), Path("random weights"), {})
    predictor = Predictor(loaded, device)
    image = np.random.default_rng(0).integers(0, 256, (*SIDES, 3), dtype=np.uint8)
    seconds = []
    for _ in range(case.repeats + 1):
        started = time.perf_counter()
        predictor(image)
        seconds.append(time.perf_counter() - started)
    return {"seconds": seconds[1:]}


def cases_of(config: BenchConfig) -> list[Case]:
    """List all cases.

    Args:
        config: the SAM, the backbone and the batch size.
    """
    vit = config.sam in VITS
    half = faster_in_half(known(config.sam), choose_device())
    own = Case(
        "",
        "training",
        sam=config.sam,
        backbone=config.backbone,
        input_size=config.input_size,
        repeats=config.repeats,
    )
    batched = replace(own, batch_size=config.batch_size)

    def published(case: Case, **changes: Any) -> Case:
        """Change a case to the prompt generator of the published AutoSAM."""
        return replace(case, backbone="hardnet85", input_size=512, prompt="dense", **changes)

    found = []
    if vit:
        found.append(replace(own, name="segment_anything, fp32", kind="encoder", reference=True))
    found.append(replace(own, name="autosam, fp32", kind="encoder"))
    if half:
        found.append(replace(own, name="autosam, bf16", kind="encoder", half=True))
    if installed() and choose_device().type == "cpu":
        name = f"autosam, {'bf16' if half else 'fp32'}, OpenVINO"
        found.append(replace(own, name=name, kind="encoder", half=half, openvino=True))
    if config.compile:
        name = f"autosam, {'bf16' if half else 'fp32'}, compiled"
        found.append(replace(own, name=name, kind="encoder", half=half, compiled=True))
    return [
        *found,
        replace(batched, name="floor", embeddings="memory"),
        replace(batched, name="cached", embeddings="cache"),
        *(replace(own, name=f"cached, batch of {size}", embeddings="cache", batch_size=size)
          for size in sorted({1, 2 * config.batch_size} - {config.batch_size})),
        replace(batched, name="cached, dense prompt alone", embeddings="cache", prompt="dense"),
        replace(batched, name="not cached", half=True),
        replace(own, name="LoRA in the last 2 blocks, cached", embeddings="cache",
                lora=LoraConfig(blocks=2)),
        replace(own, name="LoRA in all blocks", lora=LoraConfig()),
        published(batched, name="published generator, cached", embeddings="cache"),
        published(own, name="published", reference=True, batch_size=3),
        replace(own, name="one image", kind="prediction", half=True),
        replace(own, name="one image, dense prompt alone", kind="prediction", half=True,
                prompt="dense"),
    ]  # fmt: skip
