"""Settings of each command but `train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autosam.config import (
    CacheConfig,
    DataConfig,
    PromptConfig,
    RoughConfig,
    Settings,
)
from autosam.config.setting import setting
from autosam.errors import CheckpointError, DataError


@dataclass
class CheckConfig:
    """Examine a data set before training on it.

    Examples:
        autosam check --images images --masks masks
        autosam check --config kvasir --data.root Kvasir-SEG --output sheet.png
    """

    data: DataConfig = field(default_factory=DataConfig)
    """The data, as for training."""
    cache: CacheConfig = field(default_factory=CacheConfig)
    """For the size of a cache: its copies."""
    sam: str = "lite"
    """Which SAM is meant, for the smallest object that it can draw."""
    output: str | None = None
    """PNG file for a contact sheet of images with their masks outlined."""
    groups: str | None = None
    """CSV file for a proposal of groups, to be given as --data.groups."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass
class RoughPreview:
    """Preview the rough masks, and the prompts taken from them, on some training images.

    Examples:
        autosam rough --images images --masks masks
        autosam rough --config rivers-rough --data.root rivers --count 12
    """

    data: DataConfig = field(default_factory=DataConfig)
    """The data, as for training."""
    rough: RoughConfig = field(default_factory=RoughConfig)
    """The rule."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How prompts are taken."""
    count: int = setting(8, min=1)
    """Images, spread over the training split (the test split is not looked at)."""
    output: str = "rough.png"
    """PNG file of image, true mask, rough mask and prompts."""


@dataclass
class CompareConfig(Settings):
    """Train several runs on the same split with the same budget and score all of them once on test.
    Finished runs are reused, an interrupted comparison goes on.

    Examples:
        autosam compare --images images --masks masks --quick
        autosam compare --config kvasir --data.root Kvasir-SEG --runs autosam,head --folds 5
    """

    runs: str = setting("autosam,decoder,head", common=True)
    """Which runs, with commas between them; see --run of train."""
    seeds: int = setting(3, common=True, min=1, max=1000)
    """Trainings of each run, with seeds from --train.seed on."""
    folds: int | None = setting(None, common=True, min=2, max=1000)
    """Cross-validation: each image is tested once, by one of so many trainings."""
    attribution: bool = True
    """Beside the run autosam: trained and tested with blank and shuffled image embeddings, only
    tested with them, and its surrogate decoder, which uses no SAM."""
    prompts: str = ""
    """Beside the run autosam: with these learned prompts, with commas between them; see
    --model.prompt of train (dense is the published AutoSAM's)."""
    paper_compat: bool = False
    """Beside the run autosam: with each of the published code's peculiarities, and with all; see
    --paper of train."""
    quick: bool = setting(False, common=True)
    """A first look: at most 48 images of each split and 5 epochs, one seed."""
    jobs: int = setting(1, min=1, max=1000)
    """Trainings at a time."""
    output: str = setting("runs/compare", common=True)
    """Folder of the table, the report and the runs."""


@dataclass
class EvaluateConfig:
    """Score a checkpoint on a data set, or with --zero-shot a SAM by itself.

    Examples:
        autosam evaluate --checkpoint runs/kvasir
        autosam evaluate --zero-shot --sam vit_b --images images --masks masks
    """

    checkpoint: str = setting("", missing=(CheckpointError, "file or folder"))
    """Run folder or checkpoint file."""
    zero_shot: bool = False
    """Score a SAM without any training, with prompts taken from the true masks: the yardstick for
    choosing a SAM."""
    sam: str | None = None
    """Which SAM, for --zero-shot alone; unset: lite."""
    sam_checkpoint: str | None = setting(None, missing=(CheckpointError, "file"))
    """SAM weights, where they lie elsewhere than in training or than usual."""
    fast: bool = False
    """Score the mask that the learned prompt makes by itself, through the surrogate decoder."""
    split: Literal["train", "validation", "test", "all"] = setting("test", alias="part")
    """Which split to score. Of --data.images with --data.masks that were not trained on: all."""
    output: str | None = None
    """CSV file for the per-image scores."""
    batch_size: int = setting(8, min=1, max=1_000_000)
    """Images at a time (with --zero-shot always one)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Unset: the data it was trained on, split in the same way."""


@dataclass(kw_only=True)
class OutputOptions:
    """What is written beside masks, and how images are gone through."""

    overlay: bool = setting(False, common=True, result=False)
    """Also write NAME_overlay.png, the mask drawn on the image; of videos NAME_overlay.mp4 (not
    for volumes)."""
    probabilities: bool = setting(False, result=False)
    """Also write NAME_probability.png, 16 bits, 0 to 65535 (images alone)."""
    coco: Literal["no", "rle", "polygon"] = setting("no", result=False)
    """Also write coco.json, each connected part an object, as run lengths or as polygons, which
    lose holes (images alone)."""
    geojson: bool = setting(False, common=True, result=False)
    """Also write NAME.geojson, outlines with holes in pixels (images alone)."""
    tile: int | None = setting(None, common=True, min=32, alias="window")
    """Images larger than this, in pixels, are segmented tile by tile of this size, TIFFs
    without reading more than that at a time. Choose the size of the images trained on. Unset:
    every image as a whole."""
    overlap: float = setting(0.25, min=0, max=0.9)
    """Share of a tile that the next one covers again, 0 to 0.9; logits are averaged there."""
    smooth: float = setting(0.0, min=0, below=1)
    """Of videos: share of the frames before in each frame's logits, 0 (none) to below 1."""


@dataclass
class PredictConfig(OutputOptions):
    """Segment images, volumes and videos with a trained run. What is done already is skipped; a
    file that cannot be read is named and does not stop the rest, but the exit code says so.

    Examples:
        autosam predict --checkpoint runs/kvasir --input photos --output masks
        autosam predict --checkpoint runs/kvasir --input 'scans/*.tif' --output masks --tile 1024
    """

    checkpoint: str = setting(
        "", common=True, result=False, missing=(CheckpointError, "file or folder")
    )
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name)."""
    input: str = setting("", common=True, result=False, missing=(DataError, "file or folder"))
    """An image, a volume (NIfTI, or a folder of DICOM slices), a video, a DICOM file, a folder of
    such, or a pattern in quotes ('scans/*/*.png'). Hidden and system files are ignored."""
    output: str = setting("", common=True, result=False)
    """Folder for the masks: NAME.png, 0 background; 255 foreground for one class, else the class
    number; or the mask values that the data of the training named (--data.values, data.classes).
    Independent classes: NAME_1.png .. NAME_K.png, 0 and 255 each. Of volumes: .nii.gz, in the
    geometry of the volume. Of videos: a folder with a mask for each frame. Beside them
    areas.csv: area, objects and mean probability of each."""
    recursive: bool = setting(False, common=True, result=False)
    """Search folders to the bottom; the output has the same sub-folders."""
    overwrite: bool = setting(False, common=True, result=False)
    """Do again what is done already. Without it, only what is missing, or was made from other
    content, is done."""
    sam_checkpoint: str | None = setting(None, result=False, missing=(CheckpointError, "file"))
    """SAM weights, where they lie elsewhere than in training."""
    fast: bool = setting(False, common=True)
    """The mask that the learned prompt makes by itself, through the surrogate decoder; SAM is not
    loaded."""
    flips: bool = False
    """Also segment the mirror images that training drew, and average: twice or four times the
    work."""
    threshold: float | None = setting(None, common=True)
    """Probability from which on a pixel is foreground; unset: the checkpoint's own."""
    min_area: float | None = None
    """Share of the image (with --tile of a tile, of a volume of a slice) that a class covers at
    least, or it counts as not found, 0 to below 1; unset: the checkpoint's own."""


@dataclass
class ExportConfig:
    """Write a run as one graph: an image of any size in, its mask out, no prompt. The file is run
    on images and compared with PyTorch before it is kept.

    Examples:
        autosam export --checkpoint runs/kvasir --output model.onnx
        autosam export --checkpoint runs/kvasir --fast --precision fp16
    """

    checkpoint: str = setting("", missing=(CheckpointError, "file or folder"))
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name)."""
    output: str = "model.onnx"
    """The file: .onnx, or .pt2 for torch.export's own format."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Of .onnx. fp16: half the size. int8: matrix products in 8 bits, their scales found while they
    run."""
    images: str | None = None
    """Folder of images to compare on; unset: the test images of its data."""
    count: int = setting(20, min=1)
    """How many images to compare on, at most."""
    fast: bool = False
    """The mask that the learned prompt makes by itself, through the surrogate decoder: no SAM in
    the graph."""
    threshold: float | None = None
    """Probability from which on a pixel is foreground; unset: the checkpoint's own."""
    min_area: float | None = None
    """Share of the image that a class covers at least, or it counts as not found; unset: the
    checkpoint's own."""
    sam_checkpoint: str | None = setting(None, missing=(CheckpointError, "file"))
    """SAM weights, where they lie elsewhere than in training."""
    overwrite: bool = False
    """Replace the file if it is there."""


@dataclass
class AppConfig:
    """A page: drop images, see the mask of each run side by side, move the threshold, take the
    masks along. It serves this machine alone unless --host says otherwise, and asks nothing of any
    other.

    Examples:
        autosam app --checkpoint runs/kvasir
        autosam app --checkpoint runs/autosam --checkpoint runs/head --port 8000
    """

    checkpoint: list[str] = field(default_factory=list)
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name); again for each
    further run."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets others in, without a password."""
    port: int = setting(7860, min=1, max=65535)
    """Port to listen on."""
    max_megabytes: int = setting(50, min=1)
    """Largest file that is taken."""
    max_megapixels: int = setting(50, min=1)
    """Largest image that is decoded, millions of pixels."""
    sam_checkpoint: str | None = setting(None, missing=(CheckpointError, "file"))
    """SAM weights, where they lie elsewhere than in training."""


@dataclass
class BenchConfig:
    """Measure this machine.

    Examples:
        autosam bench
        autosam bench --sam vit_l --json bench.json
    """

    sam: str = "vit_b"
    """Which SAM (random weights)."""
    backbone: str = "tf_efficientnet_lite0"
    """Backbone of the prompt generator."""
    input_size: int = setting(256, min=32, multiple=32, alias="view_size")
    """G, pixels."""
    batch_size: int = setting(8, min=1, max=1000)
    """Images per step where embeddings are cached. (2 where they are not, 3 in the published
    loop.)"""
    repeats: int = setting(3, min=1, max=1000)
    """Measurements of each case, after one that does not count."""
    cases: list[str] = field(default_factory=list)
    """Which cases, by the names that the tables show; unset: all."""
    compile: bool = False
    """Also the encoder compiled by torch.compile, which takes minutes to begin and a C++
    compiler."""
    json: str | None = None
    """Also write the figures to this file."""


@dataclass
class PretrainConfig:
    """Pretraining of SAM `lite`.

    Examples:
        autosam pretrain
        autosam pretrain --output runs/lite --steps 5000
    """

    output: str = "runs/pretrain"
    """Folder for the state (resumed when it is there) and `sam_lite.safetensors`."""
    scenes: int = setting(4000, min=1, max=1_000_000)
    """Drawn scenes whose trunk features are kept in memory at first (about 0.9 MB each)."""
    frozen_steps: int = setting(1500, min=0, max=10**9)
    """Optimiser steps with a frozen trunk on those scenes."""
    steps: int = setting(2500, min=1, max=10**9)
    """Optimiser steps in all; the later ones train everything, each on new scenes."""
    batch_size: int = setting(10, min=1, max=10_000)
    """Scenes per step."""
    objects: int = setting(4, min=2, max=1000)
    """Prompted objects per scene: half by a box, half by points."""
    lr: float = setting(1e-3, min=0, max=100)
    """Peak learning rate of AdamW."""
    trunk_lr: float = setting(5e-5, min=0, max=100)
    """The same for the trunk."""
    seed: int = setting(0, min=0, max=2**32 - 1)
    """Seed of the scenes, the prompts and the weights."""
    save_every: int = setting(250, min=1, max=10**9)
    """Steps between saved states."""
    held_out: int = setting(200, min=1, max=1_000_000)
    """Scenes of another seed on which zero-shot IoU is printed at each save."""
    workers: int = setting(2, min=0, max=256)
    """Processes that draw scenes."""
    stop_after: int | None = setting(None, min=1, max=10**9)
    """Stop at this step and go on at the next call (the learning rate still aims at `steps`)."""
