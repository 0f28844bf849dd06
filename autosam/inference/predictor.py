"""`autosam.load` and `Predictor`: a trained run as a function from images to masks."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from numbers import Real
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from huggingface_hub import ModelCard, ModelHubMixin
from PIL import Image

from autosam.config import RUNS, EncoderBackend
from autosam.data.color_prior import color_prior_mask
from autosam.data.pairs import Pixels, read_valid
from autosam.data.readers.files import image_file
from autosam.data.readers.memory import MemoryImage, array_of
from autosam.data.sample import make_tiles
from autosam.data.tiles import tile_side
from autosam.errors import CheckpointError, ConfigError, DataError, is_out_of_memory
from autosam.evaluation.assemble import separate
from autosam.evaluation.calibration import THRESHOLDS
from autosam.evaluation.explain import Explanation, center_heatmap, explain, with_embedding
from autosam.evaluation.predict_batch import predict_batch, predict_label
from autosam.evaluation.predict_instances import Decide, masks_of, predict_instances
from autosam.inference.model_card import model_card
from autosam.inference.prediction import Prediction
from autosam.models import checkpoint
from autosam.models.checkpoint import Loaded
from autosam.models.find_objects import draws_objects
from autosam.models.losses import probabilities
from autosam.types import Batch
from autosam.utils.device import choose_device

ImageInput = str | os.PathLike[str] | np.ndarray | torch.Tensor | Image.Image | Pixels
BATCH = 8
"""Batch size of `Predictor.stream`."""
NO_DATA = -1e4
"""Logit of pixels without data: their probability is 0."""
TURN = threading.Lock()
"""Held while a network computes, see `Predictor.turn`."""


class Predictor(ModelHubMixin, library_name="autosam", pipeline_tag="image-segmentation"):
    """A trained run that segments images. It may be called from several threads.

    Args:
        loaded: see `autosam.models.checkpoint.load`.
        device: device to compute on; None for a GPU if there is one, else the CPU.
        flips: also segment the mirror images that training used, and average the logits.
        threshold: probability in (0, 1) above which a pixel is foreground; None for that of the
            checkpoint. Of several exclusive classes the most probable wins.
        min_area: share of the image in [0, 1); a class that covers less is removed. None for that
            of the checkpoint.

    Raises:
        CheckpointError: the run needs prompts from true masks, or is a control.
        ConfigError: the device cannot be used, or `threshold` or `min_area` is out of range.
    """

    turn: AbstractContextManager[Any] = TURN
    """Held while the network computes: of several threads one needs memory for it, while the others
    read and write."""

    def __init__(
        self,
        loaded: Loaded,
        device: str | torch.device | None = None,
        flips: bool = False,
        threshold: float | None = None,
        min_area: float | None = None,
    ) -> None:
        require_promptless(loaded)
        if threshold is not None and not (isinstance(threshold, Real) and 0 < threshold < 1):
            raise ConfigError(f"threshold {threshold!r}: must be a number between 0 and 1.")
        if min_area is not None and not (isinstance(min_area, Real) and 0 <= min_area < 1):
            raise ConfigError(
                f"min_area {min_area!r}: a share of the image, must be at least 0 and below 1."
            )
        self.loaded, self.flips = loaded, flips
        self.tile = loaded.config.data.crop
        """Side of the tiles of larger images, pixels; None: images are segmented as a whole."""
        self.resolution = loaded.config.data.resolution
        """Metres of the ground that a pixel of `tile` covers; None: those of each image."""
        instances = loaded.config.task == "instances"
        self.by_object = instances and draws_objects(loaded.segmenter)
        if min_area is not None and self.by_object:
            raise ConfigError(
                f"min_area {min_area}: the run {loaded.config.run} draws objects one by one, of "
                "which none is removed for its area. Leave it out; objects.csv has the areas."
            )
        if flips and self.by_object:
            raise ConfigError(
                f"flips: the run {loaded.config.run} draws objects one by one, whose mirror images "
                "have no average. Leave flips out."
            )
        try:
            self.device = torch.device(device) if device is not None else choose_device()
            self.segmenter = loaded.segmenter.to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
            if is_out_of_memory(error):
                raise
            raise ConfigError(
                f"device {device!r}: cannot be used ({str(error).splitlines()[0][:120]}). Leave it "
                "out, or give cpu or cuda:0."
            ) from None
        self.threshold = self.segmenter.decision.threshold if threshold is None else threshold
        self.min_area = self.segmenter.decision.min_area if min_area is None else min_area
        self._hub_mixin_config = None  # arguments of the call are not saved

    @overload
    def __call__(self, images: ImageInput) -> Prediction: ...
    @overload
    def __call__(self, images: list[Any] | tuple[Any, ...]) -> list[Prediction]: ...
    def __call__(self, images: Any) -> Prediction | list[Prediction]:
        """Segment one or several images.

        Args:
            images: a path, a PIL image, an array (see `MemoryImage`) or a tensor (see `array_of`),
                of any size; or a list of these.

        Returns:
            The prediction at the image's own size; a list for a list.

        Raises:
            DataError: an image cannot be read.
        """
        if isinstance(images, list | tuple):
            return list(self.stream(images))
        return next(self.stream([images]))

    def stream(self, images: Iterable[ImageInput], smooth: float = 0.0) -> Iterator[Prediction]:
        """Segment any number of images in batches of `BATCH`.

        Args:
            images: see `__call__`.
            smooth: factor s in [0, 1) of an exponential moving average over the frames of a video:
                l = s * l_before + (1 - s) * l, of the logits. 0 for no average.

        Yields:
            The prediction of each image, at its own size.

        Raises:
            DataError: a single image is given, or an image cannot be read.
        """
        if isinstance(images, str | os.PathLike | Image.Image) or not isinstance(images, Iterable):
            raise DataError(
                f"{images!r:.60}: stream takes several images, such as a list of paths. For one "
                "image use predictor(image)."
            )
        sources = map(self._pixels, images)
        before: torch.Tensor | None = None
        if self.by_object:
            if smooth:
                raise ConfigError(
                    f"smooth: the run {self.loaded.config.run} draws objects one by one, which "
                    "have no average over frames. Leave it out."
                )
            while batch := list(itertools.islice(sources, BATCH)):
                decisions = self._decisions(batch, self.threshold)
                for source, decide in zip(batch, decisions, strict=True):
                    yield self.decide_objects(decide, image=source)
            return
        while batch := list(itertools.islice(sources, BATCH)):
            for source, logits in zip(batch, self._segment(batch), strict=True):
                if smooth and before is not None:
                    logits = smooth * before + (1 - smooth) * logits
                before = logits
                yield self.decide(logits, image=source)

    def _pixels(self, image: ImageInput) -> Pixels:
        data = self.loaded.config.data
        if isinstance(image, np.ndarray | Image.Image | torch.Tensor):
            return MemoryImage(array_of(image), window=data.window, nodata=data.nodata)
        if isinstance(image, str | os.PathLike):
            return image_file(Path(image), data)
        if hasattr(image, "digest") and hasattr(image, "read"):
            return image
        hint = ""
        if isinstance(image, bytes | bytearray | memoryview):
            hint = " For an encoded image in memory: PIL.Image.open(io.BytesIO(data))."
        elif hasattr(image, "read"):
            hint = " For an open file: PIL.Image.open(file)."
        raise DataError(
            f"{type(image).__name__}: not an image. Expected a path, a PIL image, an array H x W "
            f"or H x W x 3, a tensor 3 x H x W, or a list of these.{hint}"
        )

    def _read(self, image: Pixels) -> tuple[np.ndarray, np.ndarray | None]:
        """See `read_valid`.

        Raises:
            DataError: it lacks the channels that the prompt generator reads.
        """
        values, valid = read_valid(image)
        data = self.loaded.config.data
        if data.generator_channels is not None and values.shape[2] == 3:
            wanted = "a TIFF file, of which it reads --data.generator_bands"
            if data.slices > 1:
                wanted = f"a volume, of which it reads {data.slices} slices at a time"
            raise DataError(f"{image}: cannot be segmented by this run. Give the path of {wanted}.")
        return values, valid

    @torch.no_grad()
    def _segment(self, sources: list[Pixels]) -> list[torch.Tensor]:
        """Compute the logits of each image, float K x H x W."""
        config, input_spec = self.loaded.config, self.segmenter.input_spec
        images, valid = zip(*map(self._read, sources), strict=True)
        rough = config.color_prior
        priors = [None if rough is None else color_prior_mask(one, rough) for one in sources]
        sums: list[torch.Tensor | float] = [0.0] * len(images)
        mirrors = self._mirrors()
        for axes in mirrors:
            samples = [
                make_tiles(
                    str(source),
                    np.flip(image, axes),
                    input_spec,
                    self.tile_of(source),
                    prompting=config.prompt,
                    prior=None if prior is None else np.flip(prior, axes),
                )
                for source, image, prior in zip(sources, images, priors, strict=True)
            ]
            batch = Batch.collate(samples)
            with self.turn:
                predicted = predict_batch(self.segmenter, batch.to(self.device))
            for i in range(len(images)):
                full = predicted.full_logits(i)
                sums[i] = sums[i] + full.flip([axis + 1 for axis in axes]) / len(mirrors)
        pairs = zip(sums, valid, strict=True)
        return [_mask_invalid(torch.as_tensor(mean), known) for mean, known in pairs]

    @torch.no_grad()
    def _decisions(self, sources: list[Pixels], least: float = THRESHOLDS[0]) -> list[Decide]:
        """Find the objects of each image, see `predict_instances`."""
        batch = self._batch(sources)
        with self.turn:
            return self._objects(batch.to(self.device), least)

    def _objects(self, batch: Batch, least: float = THRESHOLDS[0]) -> list[Decide]:
        """Find the objects of each image of a batch on the device, see `predict_instances`."""
        data, how = self.loaded.config.data, self.loaded.config.separate
        return predict_instances(self.segmenter, batch, data.exclusive, how, least=least)

    def _batch(self, sources: list[Pixels]) -> Batch:
        """Read images, with where they hold data."""
        config, input_spec = self.loaded.config, self.segmenter.input_spec
        images, valid = zip(*map(self._read, sources), strict=True)
        samples = []
        for source, image, known in zip(sources, images, valid, strict=True):
            rough = config.color_prior
            prior = None if rough is None else color_prior_mask(source, rough)
            prompting = None if rough is None else config.prompt
            sample = make_tiles(
                str(source),
                image,
                input_spec,
                self.tile_of(source),
                prompting=prompting,
                prior=prior,
            )
            sample.valid = known
            samples.append(sample)
        return Batch.collate(samples)

    def decide_objects(
        self, decide: Decide, threshold: float | None = None, image: Pixels | None = None
    ) -> Prediction:
        """Convert the objects that were found in an image to a prediction.

        Args:
            decide: see `predict_instances`.
            threshold: smallest score of an object; None for that of the predictor.
            image: the image to draw the prediction on.
        """
        logits, objects = decide(threshold or self.threshold)
        masks = masks_of(objects, self.segmenter.num_classes)
        likely = probabilities(torch.from_numpy(logits)[None], exclusive=False)[0].numpy()
        return Prediction(likely, masks, logits, self.loaded.config.data, image, objects)

    def _mirrors(self) -> list[tuple[int, ...]]:
        """The axes of the image to mirror, for each forward pass."""
        augment = self.loaded.config.augment
        if not self.flips:
            return [()]
        upside_down = augment.vertical_flip > 0 or augment.quarter_turns
        return [(), (1,), (0,), (0, 1)] if upside_down else [(), (1,)]

    def explain(self, image: ImageInput) -> Explanation:
        """Segment an image and draw its learned prompt, with one pass of the image encoder.

        Args:
            image: see `__call__`.

        Returns:
            Logits and heatmaps at the image's own size.

        Raises:
            DataError: the image cannot be read.
        """
        pixels = self._pixels(image)
        batch = self._batch([pixels]).to(self.device)
        if self.by_object:
            batch = with_embedding(self.segmenter, batch)
            decide = self._objects(batch)[0]
            heatmaps = center_heatmap(self.segmenter, batch)
            return Explanation(torch.from_numpy(decide(self.threshold)[0]), heatmaps, None, decide)
        found = explain(self.segmenter, batch)
        return dataclasses.replace(found, logits=_mask_invalid(found.logits, batch.valid[0]))

    def decide(
        self,
        logits: torch.Tensor,
        threshold: float | None = None,
        min_area: float | None = None,
        image: Pixels | None = None,
    ) -> Prediction:
        """Convert logits to a prediction.

        Args:
            logits: float K x H x W at the image's own size.
            threshold: see `Predictor`; None for that of the predictor.
            min_area: see `Predictor`; None for that of the predictor.
            image: the image to draw the prediction on.

        Returns:
            Masks, probabilities and logits.
        """
        data = self.loaded.config.data
        area = self.min_area_of(*logits.shape[-2:]) if min_area is None else min_area
        masks = predict_label(logits, data.exclusive, threshold or self.threshold, area)
        likely = probabilities(logits[None], data.exclusive)[0].cpu().numpy()
        objects = None
        if self.loaded.config.task == "instances":
            objects = separate(masks, likely, self.loaded.config.separate)
        return Prediction(likely, masks, logits.cpu().numpy(), data, image, objects)

    def tile_of(self, image: Pixels) -> int | None:
        """Side of the tiles of an image, in its own pixels; None: it is segmented as a whole.

        Raises:
            DataError: see `tile_side`.
        """
        return None if self.tile is None else tile_side(image, self.tile, self.resolution)

    def without_tiles(self) -> Predictor:
        """The same predictor, for images that are tiles."""
        other = copy.copy(self)
        other.tile = None
        return other

    def min_area_of(self, height: int, width: int) -> float:
        """Smallest area as a share of an image. That of a run that was trained on whole images is a
        share of the network's input, here of a tile."""
        if self.tile is None or self.loaded.config.data.crop is not None:
            return self.min_area
        return self.min_area * min(1.0, self.tile**2 / (height * width))

    def __repr__(self) -> str:
        config = self.loaded.config
        sam = f", SAM {config.sam}" if RUNS[config.run].uses_sam else ""
        classes = ", ".join(config.data.class_names)
        return f"Predictor({config.title}{sam}, classes: {classes}, {self.device})"

    def _save_pretrained(self, save_directory: Path) -> None:
        checkpoint.publish(self.loaded, Path(save_directory))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        sam_checkpoint: str | None = None,
        fast: bool = False,
        encoder_backend: EncoderBackend | None = None,
        **model_kwargs: Any,
    ) -> Predictor:
        file = checkpoint.find(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        loaded = checkpoint.load(file, sam_checkpoint, fast, encoder_backend=encoder_backend)
        return cls(loaded, **model_kwargs)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """Write the model card, see `autosam.inference.model_card`; arguments are not used."""
        return model_card(self.loaded)


def _mask_invalid(logits: torch.Tensor, valid: np.ndarray | None) -> torch.Tensor:
    """Set logits K x H x W to `NO_DATA` outside of the valid pixels, bool H x W."""
    if valid is None:
        return logits
    return torch.where(torch.from_numpy(valid).to(logits.device), logits, NO_DATA)


def require_promptless(loaded: Loaded) -> None:
    """Check that a run segments images without true masks.

    Args:
        loaded: a checkpoint.

    Raises:
        CheckpointError: the run needs prompts from true masks, or is a control.
    """
    if RUNS[loaded.config.run].needs_truth:
        others = [name for name, one in RUNS.items() if one.learns and not one.needs_truth]
        raise CheckpointError(
            f"{loaded.path}: the run {loaded.config.run} takes its prompts from true masks, which "
            f"new images do not have. Train one of {', '.join(others)}."
        )
    if loaded.config.embedding == "shuffled":
        raise CheckpointError(
            f"{loaded.path}: a control, trained with --embedding shuffled: the embeddings were of "
            "other images. It can only be scored, by `autosam evaluate`."
        )


def load(
    path: str | Path,
    sam_checkpoint: str | None = None,
    device: str | torch.device | None = None,
    fast: bool = False,
    flips: bool = False,
    threshold: float | None = None,
    min_area: float | None = None,
    encoder_backend: EncoderBackend | None = None,
) -> Predictor:
    """Load a trained run.

    Args:
        path: a run folder, a checkpoint file, a saved folder, or a name on the hub (`owner/name`).
        sam_checkpoint: file of SAM's weights, if it has moved since training.
        device: see `Predictor`.
        fast: use the surrogate decoder instead of SAM, which is then not loaded.
        flips: see `Predictor`.
        threshold: see `Predictor`.
        min_area: see `Predictor`.
        encoder_backend: what computes SAM's image encoder on a CPU, "auto", "torch" or "openvino";
            None: "torch" if the training said so, otherwise "auto".

    Returns:
        A function from images to predictions.

    Raises:
        CheckpointError: see `autosam.models.checkpoint.load` and `Predictor`.
        ConfigError: `path` is not a path, or see `Predictor`.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"autosam.load({path!r:.60}): expected the path of a run folder or checkpoint, or a "
            "name on the hub."
        )
    loaded = checkpoint.load(path, sam_checkpoint, fast, encoder_backend=encoder_backend)
    return Predictor(loaded, device, flips, threshold, min_area)
