"""A run as one graph of tensor operations: an image of any size in, its mask out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from autosam.data.geometry import content_sizes, resize_matrix, restore_matrix
from autosam.models.base import SegmentationModel
from autosam.models.losses import with_background
from autosam.models.segmenter import Segmenter
from autosam.types import Batch


class Graph(nn.Module):
    """Resizing, padding, normalising, prompt, image encoder, mask decoder and the way back.

    Every size follows from the image's by tensor operations, so that torch.export can leave both
    of its sides open. Resizing is by matrices, what Pillow computes (to the bit, but for the order
    of rows and columns, which newer Pillows choose for tall images: then one level of 255).

    Args:
        segmenter: one that needs no prompt; put into evaluation mode, float32.
        exclusive: see `predict_label`.
        threshold, min_area: see `predict_label`.
    """

    def __init__(
        self,
        segmenter: SegmentationModel,
        exclusive: bool,
        threshold: float = 0.5,
        min_area: float = 0.0,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter.eval().requires_grad_(False)
        if isinstance(segmenter, Segmenter):
            segmenter.encoding = replace(segmenter.encoding, half=False)
        self.exclusive = exclusive
        self.bound, self.min_area = math.log(threshold / (1 - threshold)), min_area

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            image: uint8 H x W x 3, RGB.

        Returns:
            mask: uint8. Exclusive classes: H x W, 0 background, 255 foreground for one class, else
                the class number. Independent ones: K x H x W, 0 and 255.
            logits: float32 K x H x W.
        """
        input_spec = self.segmenter.input_spec
        height, width = image.shape[:2]
        pixels = image.permute(2, 0, 1).double()
        # As tensors: a number would be fixed in the graph.
        sides = [torch.full((), side, dtype=torch.float64) for side in (height, width)]

        def fitted(size: int) -> tuple[Tensor, Tensor]:
            """uint8 1 x 3 x size x size, and int64 1 x 2."""
            rows, columns = content_sizes(sides[0], sides[1], size, input_spec.geometry)
            wide = pixels @ resize_matrix(width, columns, size).T
            wide = (wide + 0.5).floor()  # as Pillow rounds
            square = (resize_matrix(height, rows, size) @ wide + 0.5).floor()
            valid = torch.stack([rows, columns]).long()
            return square.clamp(0, 255).to(torch.uint8)[None], valid[None]

        generator_input, generator_valid = fitted(input_spec.generator_size)
        sam_input, sam_valid = None, generator_valid
        if input_spec.needs_image:
            sam_input, sam_valid = fitted(input_spec.image_size)
        batch = Batch(["image"], generator_input, generator_valid, sam_input, sam_valid, [(0, 0)])
        low = self.segmenter(batch)[0].float()
        rows, columns = content_sizes(
            sides[0], sides[1], input_spec.image_size, input_spec.geometry
        )
        up = restore_matrix(height, rows, input_spec.image_size, input_spec.mask_size)
        right = restore_matrix(width, columns, input_spec.image_size, input_spec.mask_size)
        logits = up @ low @ right.T
        if self.exclusive and len(logits) > 1:
            label = with_background(logits[None])[0].argmax(0)
            if self.min_area:
                classes = torch.arange(1, len(logits) + 1)[:, None, None]
                label = (self._without_specks(label == classes) * classes).sum(0)
            return label.to(torch.uint8), logits
        masks = self._without_specks(logits > self.bound).to(torch.uint8) * 255
        return (masks[0] if self.exclusive or len(masks) == 1 else masks), logits

    def _without_specks(self, masks: Tensor) -> Tensor:
        """See `metrics.without_specks`."""
        if not self.min_area:
            return masks
        return masks & (masks.double().mean((1, 2)) >= self.min_area)[:, None, None]
