"""Export a run that draws objects one by one as two ONNX graphs, with peaks in between."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from autosam.data.geometry import content_size
from autosam.evaluation.assemble import assemble
from autosam.inference.onnx_graph import prepare
from autosam.models.find_objects import FoundObjects, crop_masks, ranked, shown_cells
from autosam.models.instance_prompter import ObjectMaps, center_probabilities
from autosam.models.instance_segmenter import InstanceSegmenter
from autosam.models.peaks import find_peaks, points_at
from autosam.models.prompters import CELLS
from autosam.types import ImageEmbedding, InputSpec, Instances, Prompt


class MapsGraph(nn.Module):
    """From an image to the map of centres, and what the prompts of objects are made from.

    Args:
        segmenter: put into evaluation mode, in float32.
    """

    def __init__(self, segmenter: InstanceSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter.eval().requires_grad_(False)
        segmenter.encoding = replace(segmenter.encoding, half=False)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Find the centres of objects.

        Args:
            image: uint8 H x W x 3, RGB.

        Returns:
            The map of centres, float32 K x m x m in [0, 1]; then the tensors that `DrawGraph`
            takes.
        """
        segmenter = self.segmenter
        batch, _ = prepare(image, segmenter.input_spec)
        embedding = segmenter.encode_image(batch)
        maps = segmenter.prompter.maps(batch, embedding, segmenter.sam)
        centers = center_probabilities(maps.centers, batch, segmenter.input_spec.image_size)[0]
        shared = maps.shared
        given = (shared.dense, *shared.high_res, *shared.gates, maps.features)
        return (centers, *embedding.tensors, *given)


class DrawGraph(nn.Module):
    """From the centres of objects to their masks.

    Args:
        segmenter: see `MapsGraph`.
    """

    def __init__(self, segmenter: InstanceSegmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(self, points: Tensor, tensors: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Draw objects.

        Args:
            points: float32 P x 2: x, y of the centres, pixels of the S x S square.
            tensors: the outputs of `MapsGraph` after the first.

        Returns:
            Logits float32 P x m x m; estimates of their IoU, float32 P in [0, 1].
        """
        sam, prompter = self.segmenter.sam, self.segmenter.prompter
        levels, blocks = len(sam.scales), len(sam.block_shapes)
        embedding = ImageEmbedding.of(tensors[: levels + blocks], blocks)
        dense, *rest = tensors[levels + blocks :]
        fine = 0 if prompter.high_res is None else len(prompter.high_res)
        high_res, gates, features = tuple(rest[:fine]), tuple(rest[fine:-1]), rest[-1]
        index = torch.zeros(1, dtype=torch.int64)
        shared = Prompt(dense.new_zeros(1, 0, sam.width), dense, index, high_res, gates)
        maps = ObjectMaps(shared, dense, features)  # the map of centres is not read
        images = torch.zeros_like(points[:, 0]).long()
        prompt, _ = prompter.prompt(maps, images, points, sam)
        logits, iou = sam.decode_mask(embedding, prompt)
        return logits[:, 0].float(), iou[:, 0].float().clamp(0, 1)


@dataclass(frozen=True)
class ObjectFiles:
    """The two files of a run."""

    maps: Path
    draw: Path

    @classmethod
    def of(cls, path: Path) -> ObjectFiles:
        """`NAME.onnx` and `NAME_objects.onnx`."""
        return cls(path, path.with_name(f"{path.stem}_objects{path.suffix}"))


def run_objects(
    maps: Any, draw: Any, image: np.ndarray, input_spec: InputSpec, threshold: float
) -> tuple[np.ndarray, Instances]:
    """Find the objects of an image with the two files.

    Args:
        maps: session of the first file.
        draw: session of the second file.
        image: uint8 H x W x 3.
        input_spec: sizes of the run.
        threshold: smallest score.

    Returns:
        See `assemble`.
    """
    centers, *tensors = maps.run(None, {"image": image})
    cells, classes, values = find_peaks(torch.from_numpy(centers), threshold)
    points = points_at(cells, centers.shape[-1], input_spec.image_size).numpy()
    given = {f"tensor_{i}": tensor for i, tensor in enumerate(tensors)}
    masks, quality = [], [torch.zeros(0)]
    count = max(1, CELLS["cpu"] * 16 // centers.shape[-1] ** 2)
    height, width = image.shape[:2]
    content = content_size(height, width, input_spec.image_size, input_spec.geometry)
    shown = shown_cells(content, input_spec.mask_size, input_spec.image_size)
    for start in range(0, len(points), count):
        logits, iou = draw.run(None, {"points": points[start : start + count], **given})
        masks += crop_masks(torch.from_numpy(logits), shown)
        quality.append(torch.from_numpy(iou))
    found: FoundObjects = ranked(masks, classes, values * torch.cat(quality), threshold)
    return assemble(found, (height, width), input_spec, len(centers), threshold)
