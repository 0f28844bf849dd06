"""Compute the image embeddings of a data set once, before training."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from torch import Tensor
from torch.utils.data import Dataset

from autosam.config import RUNS, CacheConfig, Config
from autosam.data.dataset import PairDataset
from autosam.data.embedding_store import Layout, Store, disk_error, entries, touch
from autosam.data.known_digests import kept_digests
from autosam.data.loaders import Workers, make_loader, worker_error
from autosam.errors import DataError
from autosam.models.build import build_sam
from autosam.models.paper import sam_spec
from autosam.models.sam import SAMS, Sam, cache_folder, sam_hash
from autosam.models.sam.encode import LARGE, encode_frozen, faster_in_half
from autosam.models.sam_features import BLOCKS
from autosam.types import ImageEmbedding
from autosam.utils.distributed import broadcast, processes
from autosam.utils.io import locked
from autosam.utils.signals import Interrupt

FORMAT = 1
"""Version of the embeddings; increased when the same image gives another embedding."""


BATCH = 4
"""Batch size of the encoder."""


def folder_of(cache: CacheConfig) -> Path:
    """Choose the folder of all caches.

    Args:
        cache: the settings of the cache.
    """
    return Path(cache.dir) if cache.dir else cache_folder() / "embeddings"


def copies_of(config: Config) -> int:
    """Choose the number of augmented copies of each training image, see `CacheConfig.copies`.

    Args:
        config: the run.

    Returns:
        The number of copies; 0 for a run without a cache or without SAM.
    """
    if not RUNS[config.run].uses_sam:
        return 0
    if RUNS[config.run].tunes_encoder and config.lora.blocks is None:
        return 0  # nothing of the image encoder stays as it is
    if config.cache.copies is not None:
        return config.cache.copies
    return 4 if SAMS[config.sam].image_size >= LARGE else 0


@dataclass(frozen=True)
class Cached:
    """Reads embeddings from a store by record, see `PairDataset.records`, and copy."""

    store: Store
    copies: int

    def __call__(self, record: int, copy: int) -> ImageEmbedding:
        return self.store.get(record * self.copies + copy)


class SamInputs(Dataset):
    """The SAM input of each record of a cache: uint8 3 x S x S, its size without padding int64 2,
    and the number of the record.

    Args:
        dataset: the images, with fixed copies.
    """

    def __init__(self, dataset: PairDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset.records) * self.dataset.copies

    def __getitem__(self, record: int) -> tuple[Tensor, Tensor, int]:
        image, valid = self.dataset.sam_input_of(*divmod(record, self.dataset.copies))
        return image, torch.tensor(valid), record


def use_cache(
    config: Config,
    splits: dict[str, PairDataset],
    device: torch.device,
    workers: int,
    interrupt: Interrupt | None = None,
) -> None:
    """Compute the missing embeddings of data sets, and let the data sets read from the cache.

    The image encoder is in memory only while embeddings are computed. The next call continues an
    interrupted one. Processes of one launch share the work. Of independent processes one computes
    a cache and the others wait for it.

    Args:
        config: the run; `copies_of(config)` is not 0.
        splits: data sets with fixed copies, by name of the split.
        device: device of the encoder.
        workers: number of processes that read images.
        interrupt: signals that were received.

    Raises:
        TrainingError: a worker process died.
        DataError: there is no room for the cache, it cannot be written, or an embedding is not
            finite.
    """
    root, main = folder_of(config.cache), processes().is_main_process

    @functools.cache
    def sam() -> Sam:
        return build_sam(config).to(device)

    for name, dataset in splits.items():
        facts = broadcast(facts_of(config, dataset, device) if main else {})
        folder = root / hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest()[:16]
        title = f"{name} of {config.data.root or config.data.images or 'the embedded set'}, SAM "
        title += f"{config.sam}, {len(dataset.records)} images x {dataset.copies} copies"
        count = len(dataset.records) * dataset.copies
        try:
            with contextlib.ExitStack() as stack:
                missing: list[int] = []
                if main:
                    store = Store.open(folder, facts, count)
                    if store is None or store.missing():
                        stack.enter_context(locked(folder, f"embeds {title}"))
                        store = _prepare(config.cache, dataset, folder, facts, title, sam)
                        missing = store.missing()
                missing = broadcast(missing)
                store = Store.open(folder, facts, count)
                if store is None:
                    raise DataError(
                        f"{folder}: is missing for some processes. --cache.dir must name a "
                        "folder that all machines share."
                    )
                if missing:
                    _encode(
                        store,
                        dataset,
                        missing,
                        sam(),
                        f"embedding {title}",
                        workers,
                        interrupt or Interrupt(),
                    )
                    processes().wait_for_everyone()
        except OSError as error:
            raise disk_error(error, folder) from None
        touch(folder)
        dataset.use(Cached(store, dataset.copies))


def facts_of(config: Config, dataset: PairDataset, device: torch.device) -> dict[str, Any]:
    """Collect all that embeddings depend on. A cache is reused if these values are equal.

    Args:
        config: the run.
        dataset: the images.
        device: device of the encoder, which decides on bfloat16.

    Returns:
        Plain values by name. The names are part of the hash that names a cache, so they never
        change.
    """
    spec = sam_spec(config)
    with kept_digests(folder_of(config.cache)), ThreadPoolExecutor() as pool:
        files = list(pool.map(lambda pair: pair.image.digest(), dataset.pairs))
    geometry = None
    if dataset.copies > 1:
        settings = dataclasses.asdict(config.augment)
        colours = ("color", "hue")
        geometry = {key: value for key, value in settings.items() if key not in colours}
        geometry["by"] = "OpenCV"  # torchvision, which it replaced, has other values at borders
    part: dict[str, Any] = {}
    if spec.stretch:
        part["stretch"] = True
    if dataset.cropping is not None:
        part["crop"] = [dataset.cropping.size, dataset.by_crop]
        if dataset.cropping.resolution is not None:
            part["resolution"] = dataset.cropping.resolution
    run = RUNS[config.run]
    if run.learns_prompt and config.model.sam_features == "blocks":
        part["features of blocks"] = BLOCKS
    if run.tunes_encoder:  # what is kept are the maps in front of these
        part["maps in front of the last blocks"] = config.lora.blocks
    return {
        **part,
        "format": FORMAT,
        "sam": sam_hash(config.sam, config.sam_checkpoint),
        "image_size": spec.image_size,
        "geometry": spec.geometry,
        "pixel_mean": list(spec.pixel_mean) if spec.pixel_mean else None,
        "pixel_std": list(spec.pixel_std) if spec.pixel_std else None,
        "pictures": hashlib.sha256("".join(files).encode()).hexdigest(),  # alias of images
        "count": len(dataset.records),
        "views": dataset.copies,  # alias of copies
        "moves": geometry,
        "dtype": config.cache.dtype,
        "bf16": config.cache.dtype != "fp32" and faster_in_half(spec, device),
    }


def _prepare(
    cache: CacheConfig,
    dataset: PairDataset,
    folder: Path,
    facts: dict[str, Any],
    title: str,
    sam: Callable[[], Sam],
) -> Store:
    """Open the store, or create it with its first record."""
    count = len(dataset.records) * dataset.copies
    store = Store.open(folder, facts, count)
    if store is None:
        image, valid, _ = SamInputs(dataset)[0]
        first = encode_frozen(sam(), image[None], valid[None], cache.dtype != "fp32")
        shapes = tuple(tuple(tensor.shape[1:]) for tensor in first.tensors)
        layout = Layout(shapes, cache.dtype, len(first.block_features))
        require_room(cache, folder, count * layout.size, title)
        store = Store.create(folder, facts, count, layout, title)
        store.put(0, first)
    return store


def _encode(
    store: Store,
    dataset: PairDataset,
    missing: list[int],
    sam: Sam,
    title: str,
    workers: int,
    interrupt: Interrupt,
) -> None:
    """Compute this process's share of the missing records.

    The batches do not depend on the number of processes or on the records that exist, because the
    last bits of an embedding may depend on the batch.
    """
    process, wanted = processes(), set(missing)
    firsts = sorted({record - record % BATCH for record in missing})
    share = [
        list(range(first, min(first + BATCH, store.count)))
        for first in firsts[process.process_index :: process.num_processes]
    ]
    size = BATCH * 3 * sam.spec.image_size**2
    readers = Workers(workers, size, process.num_processes, interrupt, warn=process.is_main_process)
    loader = make_loader(SamInputs(dataset), share, workers=readers)
    half = store.layout.dtype != "fp32"
    try:
        for images, valid, records in track(loader, title, disable=not process.is_main_process):
            embedding = encode_frozen(sam, images, valid, half)
            for i, record in enumerate(records.tolist()):
                if record not in wanted:
                    continue
                try:
                    store.put(record, embedding.part(i))
                except DataError as error:
                    pair, _ = dataset.records[record // dataset.copies]
                    path = dataset.pairs[pair].image
                    raise DataError(f"{path}: {error}") from None
    except RuntimeError as error:
        if interrupt.signal is None and (died := worker_error(error, "Run it again")) is not None:
            raise died from None
        raise


def require_room(cache: CacheConfig, folder: Path, size: int, title: str) -> None:
    """Print the size of a new cache, and check that there is room for it.

    Args:
        cache: the settings of the cache.
        folder: folder of the cache.
        size: size of the cache, bytes.
        title: description of the cache, for messages.

    Raises:
        DataError: all caches would exceed `cache.max_gb`, or the disk is too full.
    """
    others = sum(entry.bytes for entry in entries(folder.parent) if entry.folder != folder)
    free = shutil.disk_usage(folder.parent).free
    print(f"cache of {title}: {size / 1e9:.2f} GB in {folder}")
    advice = (
        "Fewer --cache.copies, --cache.dtype int8, `autosam embeddings prune`, another "
        "--cache.dir, or --cache.copies 0 for none."
    )
    if size + others > cache.max_gb * 1e9:
        raise DataError(
            f"--cache.max_gb {cache.max_gb:g}: the cache of {title} needs {size / 1e9:.2f} GB, and "
            f"other caches in {folder.parent} take {others / 1e9:.2f} GB. {advice}"
        )
    if size > free:
        raise DataError(
            f"the cache of {title} needs {size / 1e9:.2f} GB, and the disk of {folder.parent} has "
            f"{free / 1e9:.2f} GB left. {advice}"
        )
