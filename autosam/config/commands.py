"""Settings of each command but `train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from autosam.config import (
    CacheConfig,
    DataConfig,
    EncoderBackend,
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
    """Cache settings, for the estimated size of a cache of embeddings."""
    sam: str = "lite"
    """SAM used for the estimate of the smallest object that can be segmented."""
    output: str | None = None
    """PNG file for a contact sheet of images with their masks outlined."""
    groups: str | None = None
    """CSV file for a proposal of groups, to be given as --data.groups."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass
class RoughPreview:
    """Preview rough masks and the prompts derived from them on some training images.

    Examples:
        autosam rough --images images --masks masks
        autosam rough --config rivers-rough --data.root rivers --count 12
    """

    data: DataConfig = field(default_factory=DataConfig)
    """The data, as for training."""
    rough: RoughConfig = field(default_factory=RoughConfig)
    """The rule on colours."""
    prompt: PromptConfig = field(default_factory=PromptConfig)
    """How prompts are derived."""
    count: int = setting(8, min=1)
    """Number of images, spread evenly over the training split (never the test split)."""
    output: str = "rough.png"
    """PNG file that shows image, true mask, rough mask and prompts."""


@dataclass
class CompareConfig(Settings):
    """Train several runs on the same split with the same budget and score all of them once on test.
    Finished runs are reused, an interrupted comparison goes on.

    Examples:
        autosam compare --images images --masks masks --quick
        autosam compare --config kvasir --data.root Kvasir-SEG --runs autosam,head --folds 5
    """

    runs: str = setting("autosam,decoder,head", common=True)
    """Runs, separated by commas; see --run of train."""
    seeds: int = setting(3, common=True, min=1, max=1000)
    """Trainings per run, with consecutive seeds from --train.seed."""
    folds: int | None = setting(None, common=True, min=2, max=1000)
    """Number of folds for cross-validation: each image is tested once, by one of the trainings."""
    attribution: bool = True
    """Add controls for the run autosam: trained and tested with blank and shuffled image
    embeddings, only tested with them, and its surrogate decoder, which uses no SAM."""
    prompts: str = ""
    """Add the run autosam with these learned prompts, separated by commas; see --model.prompt of
    train (dense is the published AutoSAM's)."""
    paper_compat: bool = False
    """Add the run autosam with each peculiarity of the published code, and with all of them; see
    --paper of train."""
    train_sizes: str = setting("", common=True)
    """Learning curve: also train every run with these numbers of labelled images (training and
    validation together), separated by commas, such as 16,64,all. Each seed draws its own images;
    those of a smaller number are among those of a larger one. The table is that of the largest."""
    quick: bool = setting(False, common=True)
    """Quick comparison: at most 48 images per split, 5 epochs, one seed."""
    jobs: int = setting(1, min=1, max=1000)
    """Number of trainings that run in parallel."""
    output: str = setting("runs/compare", common=True)
    """Folder for the table, the report and the runs."""


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
    """Score a SAM without training, with prompts derived from the true masks, to choose between
    SAMs."""
    sam: str | None = None
    """SAM to score, only with --zero-shot; unset: lite."""
    sam_checkpoint: str | None = setting(None, missing=(CheckpointError, "file"))
    """File of the SAM weights, if it is another one than in training."""
    encoder_backend: EncoderBackend | None = None
    """What computes SAM's image encoder on a CPU; unset: torch if the training said so, otherwise
    auto."""
    fast: bool = False
    """Score the masks of the surrogate decoder, which needs no SAM."""
    split: Literal["train", "validation", "test", "all"] = setting("test", alias="part")
    """Split to score. For images that were not part of the training data: all."""
    output: str | None = None
    """CSV file for the per-image scores."""
    batch_size: int = setting(8, min=1, max=1_000_000)
    """Images per batch (always one with --zero-shot)."""
    data: DataConfig = field(default_factory=DataConfig)
    """Unset: the data of the training, split in the same way."""


@dataclass(kw_only=True)
class OutputOptions:
    """Outputs besides masks, and how images are processed."""

    overlay: bool = setting(False, common=True, result=False)
    """Also write NAME_overlay.png, the mask drawn on the image; NAME_overlay.mp4 for videos. Not
    for volumes."""
    probabilities: bool = setting(False, result=False)
    """Also write NAME_probability.png, 16 bits, 0 to 65535 (images only)."""
    coco: Literal["no", "rle", "polygon"] = setting("no", result=False)
    """Also write coco.json, one object per connected component, as RLE or as polygons without holes
    (images only)."""
    geojson: bool = setting(False, common=True, result=False)
    """Also write NAME.geojson, outlines with holes (images only): of georeferenced images in WGS
    84, of others in pixel coordinates."""
    geopackage: bool = setting(False, result=False)
    """Also write NAME.gpkg, the outlines of a georeferenced image in its CRS, with areas in square
    metres (images only)."""
    simplify: float = setting(0.0, min=0, max=1000, result=False)
    """Leave out corners of the outlines in GeoJSON and GeoPackage that span less than this, pixels
    (Visvalingam); 0: none. Edges that objects share stay shared; areas stay those of the masks."""
    geotiff: bool = setting(False, result=False)
    """Also write NAME_mask.tif, the masks of a georeferenced image with its CRS and transform
    (images only)."""
    tile: int | None = setting(None, common=True, min=32, alias="window")
    """Tile size, pixels: larger images are segmented in tiles of this size, and very large TIFFs
    are read tile by tile. Use the size of the training images. Unset: --data.crop of the training,
    or each image as a whole."""
    overlap: float = setting(0.25, min=0, max=0.9)
    """Overlap of neighbouring tiles as a share of their size, 0 to 0.9; logits are averaged."""
    smooth: float = setting(0.0, min=0, below=1)
    """For videos: weight of the previous frames in the logits of a frame, 0 (none) to below 1."""


@dataclass
class PredictConfig(OutputOptions):
    """Segment images, volumes and videos with a trained run. Files that are done are skipped. A
    file that cannot be read is reported and does not stop the others; the exit code is then not
    0.

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
    these, or a pattern in quotes ('scans/*/*.png'). Hidden and system files are ignored."""
    output: str = setting("", common=True, result=False)
    """Folder for the masks: NAME.png, 0 background; 255 foreground for one class, else the class
    number; or the mask values that the data of the training named (--data.values, data.classes).
    Of runs with --task instances: the number of each object, and objects.csv beside them.
    Independent classes: NAME_1.png .. NAME_K.png, 0 and 255 each. Of volumes: .nii.gz, in the
    geometry of the volume. Of videos: a folder with a mask for each frame. Beside them
    areas.csv: area, objects and mean probability of each."""
    recursive: bool = setting(False, common=True, result=False)
    """Include sub-folders; the output has the same structure."""
    overwrite: bool = setting(False, common=True, result=False)
    """Repeat files that are done. Otherwise only outputs that are missing, or that were made from
    other content, are written."""
    sam_checkpoint: str | None = setting(None, result=False, missing=(CheckpointError, "file"))
    """File of the SAM weights, if it is another one than in training."""
    encoder_backend: EncoderBackend | None = setting(None, result=False)
    """What computes SAM's image encoder on a CPU; unset: torch if the training said so, otherwise
    auto."""
    fast: bool = setting(False, common=True)
    """Use the surrogate decoder instead of SAM, which is not loaded."""
    flips: bool = False
    """Test-time augmentation: average over the flips that training used, which is two or four times
    slower."""
    threshold: float | None = setting(None, above=0, below=1, common=True)
    """Smallest probability of a foreground pixel, or smallest score of an object (--task
    instances); unset: the checkpoint's."""
    min_area: float | None = setting(None, min=0, below=1)
    """Smallest area of a class as a share of the image (of the tile with --tile, of the slice in
    volumes), 0 to below 1; a smaller one is removed. Unset: the checkpoint's."""


@dataclass
class ExportConfig:
    """Export a run as one graph that takes an image of any size and returns its mask. The file is
    compared with PyTorch on images before it is kept.

    Examples:
        autosam export --checkpoint runs/kvasir --output model.onnx
        autosam export --checkpoint runs/kvasir --fast --precision fp16
    """

    checkpoint: str = setting("", missing=(CheckpointError, "file or folder"))
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name)."""
    output: str = "model.onnx"
    """File name: .onnx, or .pt2 for torch.export."""
    precision: Literal["fp32", "fp16", "int8"] = "fp32"
    """Precision of .onnx files. fp16: half the size. int8: dynamic quantisation of matrix
    products."""
    images: str | None = setting(None, missing=(DataError, "folder"))
    """Folder of images for the comparison; unset: the test images of its data."""
    count: int = setting(20, min=1)
    """Largest number of images for the comparison."""
    fast: bool = False
    """Export the surrogate decoder instead of SAM."""
    threshold: float | None = setting(None, above=0, below=1)
    """Smallest probability of a foreground pixel, or smallest score of an object (--task
    instances); unset: the checkpoint's."""
    min_area: float | None = setting(None, min=0, below=1)
    """Smallest area of a class as a share of the image; a smaller one is removed. Unset: the
    checkpoint's."""
    sam_checkpoint: str | None = setting(None, missing=(CheckpointError, "file"))
    """File of the SAM weights, if it is another one than in training."""
    overwrite: bool = False
    """Replace an existing file."""


@dataclass
class AppConfig:
    """Start a web page: drop images, compare the masks of several runs, change the threshold,
    download masks. It is served to this machine only, unless --host is given, and loads nothing
    from other servers.

    Examples:
        autosam app --checkpoint runs/kvasir
        autosam app --checkpoint runs/autosam --checkpoint runs/head --port 8000
    """

    checkpoint: list[str] = field(
        default_factory=list, metadata={"missing": (CheckpointError, "file or folder")}
    )
    """Run folder, checkpoint file, or name on the Hugging Face hub (owner/name); can be
    repeated."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 gives every machine access, without a password."""
    port: int = setting(7860, min=1, max=65535)
    """Port to listen on."""
    max_megabytes: int = setting(50, min=1)
    """Largest accepted file, 10^6 bytes."""
    max_megapixels: int = setting(50, min=1)
    """Largest accepted image, 10^6 pixels."""
    sam_checkpoint: str | None = setting(None, missing=(CheckpointError, "file"))
    """File of the SAM weights, if it is another one than in training."""


@dataclass
class BenchConfig:
    """Measure speed and memory on this machine.

    Examples:
        autosam bench
        autosam bench --sam vit_l --json bench.json
    """

    sam: str = "vit_b"
    """SAM, with random weights."""
    backbone: str = "tf_efficientnet_lite0"
    """Backbone of the prompt generator."""
    input_size: int = setting(256, min=32, multiple=32, alias="view_size")
    """G: input size of the backbone, pixels; a multiple of 32."""
    batch_size: int = setting(8, min=1, max=1000)
    """Images per training step, with and without cached embeddings (1 of those that change the
    image encoder, 3 of the published code)."""
    repeats: int = setting(3, min=1, max=1000)
    """Measurements per case, after a warm-up."""
    images: int = setting(1000, min=1)
    """Training images of the estimated training."""
    epochs: int = setting(50, min=1)
    """Its epochs."""
    cases: list[str] = field(default_factory=list)
    """Names of the cases to run; unset: all."""
    compile: bool = False
    """Also measure the encoder with torch.compile, which takes minutes and needs a C++ compiler."""
    json: str | None = None
    """JSON file for the figures."""


@dataclass
class PretrainConfig:
    """Pretrain SAM `lite` on synthetic scenes.

    Examples:
        autosam pretrain
        autosam pretrain --output runs/lite --steps 5000
    """

    output: str = "runs/pretrain"
    """Folder for the state (resumed if it exists) and `sam_lite.safetensors`."""
    scenes: int = setting(4000, min=1, max=1_000_000)
    """Scenes of the first phase, whose trunk features are kept in memory (about 0.9 MB each)."""
    frozen_steps: int = setting(1500, min=0, max=10**9)
    """Optimiser steps of the first phase, with a frozen trunk."""
    steps: int = setting(2500, min=1, max=10**9)
    """Optimiser steps in total; the second phase trains everything, on new scenes at each step."""
    batch_size: int = setting(10, min=1, max=10_000)
    """Scenes per step."""
    objects: int = setting(4, min=2, max=1000)
    """Prompted objects per scene: half by a box, half by points."""
    lr: float = setting(1e-3, min=0, max=100)
    """Peak learning rate of AdamW."""
    trunk_lr: float = setting(5e-5, min=0, max=100)
    """Peak learning rate of the trunk."""
    seed: int = setting(0, min=0, max=2**32 - 1)
    """Seed of the scenes, the prompts and the weights."""
    save_every: int = setting(250, min=1, max=10**9)
    """Steps between saved states."""
    held_out: int = setting(200, min=1, max=1_000_000)
    """Held-out scenes for the zero-shot IoU that is printed at each save."""
    workers: int = setting(2, min=0, max=256)
    """Worker processes that draw scenes."""
    stop_after: int | None = setting(None, min=1, max=10**9)
    """Stop at this step; the next call continues (the schedule is still that of `steps`)."""
