"""A run as one graph of tensor operations, from an image of any size to its mask."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from autosam.data.geometry import content_sizes, resize_matrix, restore_matrix
from autosam.evaluation.predict_batch import most_probable
from autosam.models.base import SegmentationModel
from autosam.models.segmenter import Segmenter
from autosam.types import Batch, InputSpec

MIN_SIDE, MAX_SIDE = 2, 16384
"""Smallest and largest side of an input image, pixels."""

OPSET = 20
"""Version of the ONNX operators."""


class Graph(nn.Module):
    """Resize, pad and normalise an image, segment it, and resize the logits to its size.

    All sizes are computed from that of the image by tensor operations, so that torch.export keeps
    height and width dynamic. Resizing is by matrix products and equals Pillow's bit for bit, except
    that newer versions of Pillow resize tall images in another order: the difference is then at
    most one level of 255.

    Args:
        segmenter: a segmenter that needs no given prompts; put into evaluation mode, in float32.
        exclusive: see `predict_label`.
        threshold: see `predict_label`.
        min_area: see `predict_label`.
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
        """Segment an image.

        Args:
            image: uint8 H x W x (3 + C): RGB, and the C channels of the prompt generator.

        Returns:
            mask: uint8. One class: H x W, 0 and 255. Several exclusive classes: H x W, 0 to K.
                Independent classes: K x H x W, 0 and 255.
            logits: float32 K x H x W.
        """
        input_spec = self.segmenter.input_spec
        height, width = image.shape[:2]
        batch, (rows, columns) = prepare(image, input_spec)
        low = self.segmenter(batch)[0].float()
        up = restore_matrix(height, rows, input_spec.image_size, input_spec.mask_size)
        right = restore_matrix(width, columns, input_spec.image_size, input_spec.mask_size)
        logits = up @ low @ right.T
        found = logits > self.bound
        if self.exclusive and len(logits) > 1:
            masks = self._without_specks(found & most_probable(logits))
            classes = torch.arange(1, len(logits) + 1)[:, None, None]
            return (masks * classes).sum(0).to(torch.uint8), logits
        masks = self._without_specks(found).to(torch.uint8) * 255
        return (masks[0] if self.exclusive or len(masks) == 1 else masks), logits

    def _without_specks(self, masks: Tensor) -> Tensor:
        """Remove classes below the smallest area, see `predict_batch.without_specks`."""
        if not self.min_area:
            return masks
        return masks & (masks.double().mean((1, 2)) >= self.min_area)[:, None, None]


def prepare(image: Tensor, input_spec: InputSpec) -> tuple[Batch, tuple[Tensor, Tensor]]:
    """Resize and pad an image, uint8 H x W x (3 + C), to the inputs of a segmenter.

    Returns:
        The batch of this image; rows and columns of the S x S square that hold it, float64 scalars.
    """
    height, width = image.shape[:2]
    pixels = image.permute(2, 0, 1).double()
    # Tensors, because numbers would become constants of the graph.
    sides = [torch.full((), side, dtype=torch.float64) for side in (height, width)]

    def fitted(pixels: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Resize and pad: uint8 1 x C x size x size, and the content size int64 1 x 2."""
        rows, columns = content_sizes(sides[0], sides[1], size, input_spec.geometry)
        wide = pixels @ resize_matrix(width, columns, size).T
        wide = (wide + 0.5).floor()  # rounds as Pillow does
        square = (resize_matrix(height, rows, size) @ wide + 0.5).floor()
        valid = torch.stack([rows, columns]).long()
        return square.clamp(0, 255).to(torch.uint8)[None], valid[None]

    shown = pixels if image.shape[2] == 3 else pixels[3:]
    generator_input, generator_valid = fitted(shown, input_spec.generator_size)
    pixels = pixels[:3]
    sam_input, sam_valid = None, generator_valid
    if input_spec.needs_image:
        if input_spec.stretch:
            pixels = _stretch(pixels)
        sam_input, sam_valid = fitted(pixels, input_spec.image_size)
    batch = Batch(["image"], generator_input, generator_valid, sam_input, sam_valid, [(0, 0)])
    return batch, content_sizes(sides[0], sides[1], input_spec.image_size, input_spec.geometry)


def _stretch(pixels: Tensor) -> Tensor:
    """`stretch_channels` with tensors, float64 3 x H x W -> the same, whole numbers."""
    lifted = (pixels - pixels.amin((1, 2), keepdim=True)).float()
    highest = lifted.amax((1, 2), keepdim=True) + 1e-7
    return (lifted / highest * 255).floor().double()
