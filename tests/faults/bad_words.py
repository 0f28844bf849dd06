"""Words of settings that are misspelt, and files that `predict` cannot tell apart
or that only look like images."""

from __future__ import annotations

from pathlib import Path
from random import Random

import cv2
import numpy as np
from corpus import Bad, Good, cause, predicting, training
from PIL import Image

from autosam.errors import CheckpointError, ConfigError, DataError


def misspelt(rng: Random, word: str) -> str:
    i = rng.randrange(1, len(word))
    return word[: i - 1] + word[i] + word[i - 1] + word[i + 1 :]


@cause(
    "words", CheckpointError, r"(no checkpoint there|no such file).*Did you mean \S*mymodel\?", 4
)
def a_checkpoint_that_is_misspelt(rng: Random, folder: Path, good: Good) -> Bad:
    (folder / "mymodel").mkdir()
    name = str(folder / misspelt(rng, "mymodel"))
    verb = rng.choice(["predict", "evaluate", "export"])
    given = {"predict": [f"--input={good.images}", f"--output={folder / 'out'}"],
             "evaluate": [f"--data.root={good.images}"],
             "export": [f"--output={folder / 'm.onnx'}"]}  # fmt: skip
    return [verb, f"--checkpoint={name}", *given[verb]], name


@cause("words", ConfigError, r"Choose one of lite|timm has no such model|no such file, and", 5)
def a_sam_a_backbone_or_a_config_that_is_misspelt(rng: Random, folder: Path, good: Good) -> Bad:
    flag, word = rng.choice([("sam", "vit_b"), ("model.backbone", "resnet18"),
                             ("config", "kvasir")])  # fmt: skip
    wrong = misspelt(rng, word)
    line = training(good, folder, f"--data.root={good.images}")
    return [*line, f"--{flag}={wrong}"], wrong


@cause("predict", DataError, r"would both write \d{6}\.png in .*clip; rename one")
def a_video_beside_its_frames(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = folder / "in", f"{rng.randrange(100):06d}.png"
    (root / "clip").mkdir(parents=True)
    video = cv2.VideoWriter(str(root / "clip.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 5, (56, 40))
    video.write(np.zeros((40, 56, 3), np.uint8))
    video.release()
    Image.new("RGB", (56, 40)).save(root / "clip" / name)
    return predicting(good, folder, f"--input={root}", "--recursive=true"), name


@cause("predict", DataError, r"skipped: .*(tiles of an|RescaleSlope is 0|a video: save).*1 of 1",
       6, 2, ("areas.csv",))  # fmt: skip
def a_dicom_file_of_something_else(rng: Random, folder: Path, good: Good) -> Bad:
    import dicom_files
    from pydicom.encaps import encapsulate
    from pydicom.uid import MPEG4HP41

    values = np.zeros((40, 56), np.uint8)
    kind = rng.randrange(3)
    data = dicom_files.make(np.stack([values] * 2) if kind == 0 else values)
    if kind == 0:
        data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = 112, 40
    elif kind == 1:
        data.RescaleSlope, data.RescaleIntercept = 0, rng.randrange(9)
    else:
        data.PixelData = encapsulate([rng.randbytes(40)])
        data["PixelData"].is_undefined_length = True
        data.file_meta.TransferSyntaxUID = MPEG4HP41
    path = dicom_files.save(data, folder / "in" / f"scan{rng.randrange(9)}.dcm")
    return predicting(good, folder, f"--input={path}"), path.name
