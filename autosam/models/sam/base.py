"""The protocol every SAM backend follows, and what a registry entry says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor, nn

from autosam.errors import ConfigError
from autosam.types import ImageEmbedding, Prompt

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SamSpec:
    """One checkpoint: what it is, where it comes from, and how images reach it."""

    name: str
    build: Callable[[SamSpec], Sam]
    """Returns the network with random weights."""
    image_size: int
    """S, pixels."""
    architecture: str = ""
    """Of the image encoder, for the table that people read."""
    pixel_mean: tuple[float, float, float] | None = IMAGENET_MEAN
    """RGB, 0..255; None: each image is stretched to 0..1 by its own least and largest value."""
    pixel_std: tuple[float, float, float] | None = IMAGENET_STD
    """RGB, 0..255; None together with `pixel_mean`."""
    geometry: str = "longest-pad"
    """`longest-pad` or `square`, see `autosam.data.geometry`."""
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    """From the file's tensors to the network's, where the two name them differently."""
    file: str = ""
    """Name of the weights file in the cache folder; one that lies in weights/ is shipped."""
    source: str = ""
    """Full address of the file."""
    sha256: str = ""
    """SHA-256 or its beginning, where the source states it; never invented."""
    megabytes: float = 0
    """Size of the file, 10^6 bytes, as its source states it (rounded)."""
    licence: str = ""
    paper: str = ""

    def normalised_twice(self) -> SamSpec:
        """The same SAM with its pixels normalised by mean and std, and the result once more.

        Raises:
            ConfigError: this SAM stretches pixels instead.
        """
        if self.pixel_mean is None or self.pixel_std is None:
            raise ConfigError(
                f"--paper.double_normalisation: {self.name} has no mean and standard deviation."
            )
        # ((x - m) / s - m) / s = (x - (m + m s)) / s^2
        pairs = list(zip(self.pixel_mean, self.pixel_std, strict=True))
        (a, b, c), (d, e, f) = (m + m * s for m, s in pairs), (s * s for _, s in pairs)
        return replace(self, pixel_mean=(a, b, c), pixel_std=(d, e, f))


class Sam(Protocol):
    """A promptable segmenter, frozen unless a run says otherwise. No learnable code of ours."""

    spec: SamSpec
    width: int
    """C."""
    grid: tuple[int, int]
    """h, w."""
    levels: int
    """Of the image embedding: 1, or 3 where the mask decoder adds finer ones while it upscales."""
    image_encoder: nn.Module
    prompt_encoder: nn.Module
    mask_decoder: nn.Module

    @property
    def no_grad_modules(self) -> tuple[nn.Module, ...]:
        """Parts of the mask decoder that no loss on masks reaches: never trained."""
        ...

    def encode_image(self, images: Tensor, valid: Tensor) -> ImageEmbedding:
        """uint8 B x 3 x S x S (zero padded) and int64 B x 2 -> image embedding."""
        ...

    def encode_prompt(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Prompt:
        """Points, boxes and masks -> prompt embeddings."""
        ...

    def no_prompt(self, batch: int) -> Prompt:
        """SAM's own embedding of "no prompt", one per image."""
        ...

    def decode_mask(
        self, embedding: ImageEmbedding, prompt: Prompt, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """-> low-resolution logits P x M x 4h x 4w and IoU estimates P x M."""
        ...
