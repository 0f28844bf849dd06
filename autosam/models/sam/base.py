"""The base class of the SAM backends, and their registry entries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from autosam.errors import ConfigError
from autosam.models.normalize import normalise
from autosam.models.sam.blocks import BlockEncoder, Output
from autosam.types import ImageEmbedding, Prompt, high_res_shapes
from autosam.utils.device import is_traced

IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class SamSpec:
    """Registry entry of a SAM: architecture, weights file, and preprocessing of images."""

    name: str
    build: Callable[[SamSpec], Sam]
    """Builds the network with random weights."""
    image_size: int
    """S, pixels."""
    architecture: str = ""
    """Name of the image encoder, for tables."""
    pixel_mean: tuple[float, float, float] | None = IMAGENET_MEAN
    """RGB, 0..255; None: each image is scaled to 0..1 by its own minimum and maximum."""
    pixel_std: tuple[float, float, float] | None = IMAGENET_STD
    """RGB, 0..255; None together with `pixel_mean`."""
    geometry: str = "longest-pad"
    """`longest-pad` or `square`, see `autosam.data.geometry`."""
    stretch: bool = False
    """Whether each channel of an image is stretched to 0..255 before the image is resized, see
    `autosam.data.readers.stretch.stretch_channels`."""
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    """Maps the keys of the file to those of the network, if they differ."""
    file: str = ""
    """Name of the weights file in the cache folder; a file in weights/ is shipped."""
    source: str = ""
    """URL of the file."""
    sha256: str = ""
    """SHA-256 or its beginning, if the source states it."""
    megabytes: float = 0
    """Size of the file in 10^6 bytes, as its source states it (rounded)."""
    licence: str = ""
    paper: str = ""


class Sam(nn.Module):
    """Base class of the SAM backends: a promptable segmenter in three parts.

    A backend adds `encode_prompt`, `no_prompt`, `decode_mask` and `no_grad_modules`.

    Args:
        spec: its registry entry.
        image_encoder: normalised pixels float B x 3 x S x S -> features float B x C x h x w; with
            several `scales` also the tuple of the high-resolution levels.
        prompt_encoder: embeds points, boxes and masks.
        mask_decoder: image embeddings and prompts -> masks.
        width: C.
        grid: h, w.
    """

    scales: tuple[int, ...] = (1,)
    """Resolution of each level of the image embedding, in units of its grid's: (1,), or (1, 2, 4)
    or (1, 4) if the mask decoder adds high-resolution levels."""
    backend: Callable[[Tensor], Output] | None = None
    """Computes the frozen image encoder on a CPU in place of PyTorch."""
    tuned_from: int | None = None
    """The first block of the image encoder that has adapters, see `autosam.models.lora`."""
    taps: tuple[int, ...] = ()
    """Blocks of the image encoder whose outputs the embedding holds, see `block_features`."""
    block_shapes: tuple[tuple[int, int, int], ...] = ()
    """Channels, rows and columns of these outputs."""

    def __init__(
        self,
        spec: SamSpec,
        image_encoder: nn.Module,
        prompt_encoder: nn.Module,
        mask_decoder: nn.Module,
        width: int,
        grid: tuple[int, int],
    ) -> None:
        super().__init__()
        self.spec, self.width, self.grid = spec, width, grid
        self.image_encoder: nn.Module = image_encoder
        self.prompt_encoder: Any = prompt_encoder
        self.mask_decoder: Any = mask_decoder

    @property
    def no_grad_modules(self) -> tuple[nn.Module, ...]:
        """Parts of the mask decoder that get no gradient from a loss on masks: never trained."""
        raise NotImplementedError

    def encode_image(self, images: Tensor, valid: Tensor) -> ImageEmbedding:
        """Normalise and encode images.

        Args:
            images: uint8 B x 3 x S x S RGB, zero padded at the bottom and right.
            valid: int64 B x 2, rows and columns that hold image.
        """
        return self.encode_rest(self.encode_fixed(images, valid))

    def encode_fixed(self, images: Tensor, valid: Tensor) -> ImageEmbedding:
        """The part of `encode_image` that training never changes: all of it or, with adapters, the
        state in front of the first block that has some."""
        pixels = normalise(images, valid, self.spec.pixel_mean, self.spec.pixel_std)
        if self.tuned_from is None and not self.taps:
            encoder: Callable[[Tensor], Output] = self.image_encoder
            if self.backend is not None and pixels.device.type == "cpu" and not is_traced():
                encoder = self.backend
            return _as_embedding(encoder(pixels))
        encoder = self.block_encoder
        stop = len(encoder.each_block()) if self.tuned_from is None else self.tuned_from
        state, kept = encoder.run(encoder.begin(pixels), 0, stop, self.taps)
        part = ImageEmbedding.of((*encoder.to_maps(state), *kept), len(kept))
        return part if self.tuned_from is not None else self._finish(part)

    def encode_rest(self, part: ImageEmbedding) -> ImageEmbedding:
        """The image embedding from what `encode_fixed` returned."""
        if self.tuned_from is None:
            return part
        encoder = self.block_encoder
        stop = len(encoder.each_block())
        state, kept = encoder.run(encoder.from_maps(part.levels), self.tuned_from, stop, self.taps)
        kept = [*part.block_features, *kept]
        return self._finish(ImageEmbedding.of((*encoder.to_maps(state), *kept), len(kept)))

    def _finish(self, part: ImageEmbedding) -> ImageEmbedding:
        """The image embedding from the maps behind the last block."""
        encoder = self.block_encoder
        embedding = _as_embedding(encoder.finish(encoder.from_maps(part.levels)))
        return replace(embedding, block_features=part.block_features)

    @property
    def shapes(self) -> tuple[tuple[int, int, int], ...]:
        """Channels, rows and columns of each tensor of an image embedding."""
        twice, four_times = high_res_shapes(self.width, self.grid)
        every = {1: (self.width, self.grid), 2: twice, 4: four_times}
        levels = ((width, *size) for width, size in (every[scale] for scale in self.scales))
        return (*levels, *self.block_shapes)

    @property
    def block_encoder(self) -> BlockEncoder:
        """The image encoder, as blocks.

        Raises:
            ConfigError: it is not made of blocks.
        """
        if not isinstance(self.image_encoder, BlockEncoder):
            raise ConfigError(
                f"--sam {self.spec.name}: its image encoder is not made of blocks "
                "(autosam.models.sam.blocks.BlockEncoder), so LoRA has no place in it."
            )
        return self.image_encoder

    def encode_prompt(
        self,
        points: tuple[Tensor, Tensor] | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        image_index: Tensor | None = None,
    ) -> Prompt:
        """Embed P prompts of one kind. All have the same N: padding points would change the result.

        Args:
            points: float P x N x 2 (x, y in pixels of the S x S square) and int P x N labels
                (1 foreground, 0 background).
            boxes: float P x 4, x0, y0, x1, y1 in the same pixels.
            masks: float P x 1 x 4h x 4w, logits.
            image_index: int64 P, the image of each prompt; None: prompt i belongs to image i.
        """
        raise NotImplementedError

    def no_prompt(self, batch: int) -> Prompt:
        """SAM's embedding of "no prompt" for each of `batch` images."""
        raise NotImplementedError

    def decode_mask(
        self, embedding: ImageEmbedding, prompt: Prompt, multimask: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Decode P prompts at once.

        Args:
            embedding: of B images.
            prompt: P prompts with the index of their images.
            multimask: three masks per prompt (M = 3) instead of one (M = 1).

        Returns:
            Low-resolution logits float P x M x 4h x 4w; IoU estimates float P x M.
        """
        raise NotImplementedError


def _as_embedding(output: Output) -> ImageEmbedding:
    return ImageEmbedding(*output) if isinstance(output, tuple) else ImageEmbedding(output)
