"""Scores of a pretrained SAM, prompted from the true mask of each object."""

from __future__ import annotations

import copy
import csv
import zlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from autosam.data.geometry import content_size, pad, resize_label, restore
from autosam.data.prompts import box_from_mask, objects_of, points_from_mask
from autosam.data.sample import make_sample
from autosam.evaluation.metrics import dice, iou
from autosam.models.sam import Sam
from autosam.models.sam.encode import encode_frozen
from autosam.models.sam.interactive import Prompted, mask_logits
from autosam.types import Batch, ImageEmbedding, InputSpec

AT_ONCE = 1 << 24
"""Largest number of mask pixels of the objects that are segmented together; bounds memory."""


def filled_box(mask: np.ndarray) -> np.ndarray:
    """Fill the bounding box of a mask, a baseline that needs no network.

    Args:
        mask: bool H x W, not empty.

    Returns:
        bool H x W.
    """
    result = np.zeros(mask.shape, bool)
    x0, y0, x1, y1 = box_from_mask(mask, np.random.default_rng()).astype(int)
    result[y0 : y1 + 1, x0 : x1 + 1] = True
    return result


def ellipse_in_box(mask: np.ndarray) -> np.ndarray:
    """Fill the ellipse inscribed in the bounding box of a mask, a second baseline.

    Args:
        mask: bool H x W, not empty.

    Returns:
        bool H x W.
    """
    x0, y0, x1, y1 = box_from_mask(mask, np.random.default_rng()).astype(float)
    rows, columns = np.ogrid[: mask.shape[0], : mask.shape[1]]
    across = (2 * columns - x0 - x1) / (x1 - x0 + 1)
    along = (2 * rows - y0 - y1) / (y1 - y0 + 1)
    return across**2 + along**2 <= 1


def random_decoder(sam: Sam) -> Sam:
    """Copy a SAM with a randomly initialised mask decoder, a control for the pretrained one.

    Args:
        sam: a SAM; all modules but the mask decoder are shared with the copy.

    Returns:
        The copy; its weights are the same at every call.
    """
    other = copy.copy(sam)
    other._modules = dict(other._modules)  # shared modules: the image encoder may take gigabytes
    other.mask_decoder = copy.deepcopy(sam.mask_decoder)

    def reset(module: nn.Module) -> None:
        if hasattr(module, "reset_parameters"):
            cast(Any, module).reset_parameters()
        else:  # SAM's layer norm over channels
            for name, parameter in module.named_parameters(recurse=False):
                nn.init.constant_(parameter, 1.0 if name == "weight" else 0.0)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        other.mask_decoder.apply(reset)
    return other


class ZeroShot:
    """Scores of one SAM over many images.

    Args:
        sam: frozen, in evaluation mode.
        seed: seed of the random points.
    """

    def __init__(self, sam: Sam, seed: int = 0) -> None:
        self.sam, self.untrained = sam, random_decoder(sam)
        self.seed = seed
        self.rows: list[dict[str, float | str | int]] = []
        """One row for each object and kind of prompt: image, class, object, prompt, iou."""
        self.dices: dict[str, list[float]] = {}
        """By kind of prompt: Dice of the union of the objects, for each image and class."""

    @torch.no_grad()
    def add(
        self, name: str, image: np.ndarray, masks: np.ndarray, device: torch.device | str
    ) -> None:
        """Score each object of one image with each kind of prompt.

        Args:
            name: name of the image.
            image: uint8 H x W x 3.
            masks: bool K x H x W; each connected component of a class is an object.
            device: device of SAM.
        """
        sam, spec = self.sam, self.sam.spec
        input_spec = InputSpec(
            spec.image_size,
            spec.image_size,
            4 * sam.grid[0],
            geometry=spec.geometry,
            stretch=spec.stretch,
        )
        batch = Batch.collate([make_sample(name, image, input_spec)]).to(device)
        assert batch.sam_input is not None
        embedding = encode_frozen(sam, batch.sam_input, batch.sam_valid, half=True)
        embedding = embedding.map(Tensor.float)
        seed = zlib.crc32(name.encode())
        for k, truth in enumerate(masks, 1):
            parts, numbers = objects_of(truth)
            count = max(1, min(16, AT_ONCE // truth.size))
            rng = np.random.default_rng([self.seed, seed, k])
            union: dict[str, np.ndarray] = {}
            for start in range(0, len(numbers), count):
                part = np.stack([parts == n for n in numbers[start : start + count]])
                for prompt, predicted in self._segment(
                    part, embedding, input_spec, rng, device
                ).items():
                    for i, (one, mask) in enumerate(zip(predicted, part, strict=True)):
                        self.rows.append(
                            {
                                "image": name,
                                "class": k,
                                "object": start + i,
                                "prompt": prompt,
                                "iou": iou(one, mask),
                            }
                        )
                    union.setdefault(prompt, np.zeros(truth.shape, bool))
                    union[prompt] |= predicted.any(0)
            for prompt, predicted in union.items():
                self.dices.setdefault(prompt, []).append(dice(predicted, truth))

    def _segment(
        self,
        masks: np.ndarray,
        embedding: ImageEmbedding,
        input_spec: InputSpec,
        rng: np.random.Generator,
        device: torch.device | str,
    ) -> dict[str, np.ndarray]:
        """Segment objects, bool P x H x W: predictions of the same shape by kind of prompt."""
        count, (height, width) = len(masks), masks.shape[1:]
        content = content_size(height, width, input_spec.image_size, input_spec.geometry)
        scale = np.array([content[1] / width, content[0] / height], np.float32)

        def to_sam_input(xy: list[np.ndarray]) -> Tensor:
            """Convert pixel coordinates of the image to those of the SAM input: float P x N x 2."""
            return torch.from_numpy((np.stack(xy).reshape(count, -1, 2) + 0.5) * scale - 0.5)

        sam_masks = np.stack(
            [
                pad(resize_label(m.astype(np.uint8), content), input_spec.image_size) > 0
                for m in masks
            ]
        )
        image_index = torch.zeros(count, dtype=torch.int64)
        boxes = to_sam_input([box_from_mask(m, rng) for m in masks]).flatten(1)
        prompts = {"box": Prompted(sam_masks, image_index, boxes=boxes)}
        for kind, number in (("1 point", 1), ("3 points", 3)):
            points = to_sam_input([points_from_mask(m, rng, number) for m in masks])
            labels = torch.ones(count, number, dtype=torch.int)
            prompts[kind] = Prompted(sam_masks, image_index, points, labels)
        low = mask_logits(sam_masks, input_spec.mask_size)
        prompts["mask"] = Prompted(sam_masks, image_index, low=low)
        size = (input_spec, (height, width), device)
        result = {k: self._decode(self.sam, embedding, p, *size) for k, p in prompts.items()}
        untrained = self._decode(self.untrained, embedding, prompts["box"], *size)
        result["box, untrained decoder"] = untrained
        result["(the box, filled)"] = np.stack([filled_box(m) for m in masks])
        result["(the ellipse in the box)"] = np.stack([ellipse_in_box(m) for m in masks])
        return result

    def _decode(
        self,
        sam: Sam,
        embedding: ImageEmbedding,
        prompted: Prompted,
        input_spec: InputSpec,
        shape: tuple[int, int],
        device: torch.device | str,
    ) -> np.ndarray:
        """Decode prompts to masks at the image's own size, bool P x H x W."""
        logits, _ = sam.decode_mask(embedding, prompted.encode_prompt(sam, device))
        full = restore(logits[:, 0].float(), shape, input_spec.image_size, input_spec.geometry)
        return (full > 0).cpu().numpy()

    def table(self) -> dict[str, tuple[float, float]]:
        """Average the scores.

        Returns:
            By kind of prompt: mean IoU over objects, mean Dice over images and classes.
        """
        ious: dict[str, list[float]] = {}
        for row in self.rows:
            ious.setdefault(str(row["prompt"]), []).append(float(row["iou"]))
        return {k: (float(np.mean(v)), float(np.mean(self.dices[k]))) for k, v in ious.items()}

    def write(self, path: Path) -> None:
        """Write the rows as CSV."""
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(self.rows[0]))
            writer.writeheader()
            writer.writerows(self.rows)
