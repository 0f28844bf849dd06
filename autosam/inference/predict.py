"""Segment new images, volumes and videos."""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unicodedata import normalize

import torch
from rich.progress import track

from autosam.config.commands import PredictConfig
from autosam.config.setting import settings_of
from autosam.data.readers.files import image_file
from autosam.data.tiles import image_shape
from autosam.errors import AutosamError, ConfigError, DataError, StorageError
from autosam.inference.mask_values import mask_endings, named_classes
from autosam.inference.measurements import require_scikit_image
from autosam.inference.predictor import Predictor, load
from autosam.inference.progress import COCO, LOG_FILE, OBJECTS, TABLE, ProgressLog
from autosam.inference.sources import Source, find_sources
from autosam.inference.writers import FRAME, WRITERS, files_of
from autosam.models.sam.encode import images_at_once
from autosam.models.state_dict import file_hash
from autosam.utils.device import choose_device
from autosam.utils.distributed import broadcast, gather, processes
from autosam.utils.io import ignores_case, lock, make_folder, require_text
from autosam.utils.memory import free_bytes

ON_GPU = 2
"""Images at a time on a GPU: one is read and written while the network computes the other."""
ON_CPU = 8
"""Most images that a CPU computes at a time; the threads are divided among them."""
LARGE = 25_000_000
"""Pixels of an image above which no other such image is in memory."""
SHARE = 0.5
"""Of the free memory that images in memory may take, as far as `LARGE` or this decides."""
BYTES = 12, 16
"""Bytes of memory for each pixel of an image, and for each of its classes; 25 measured for one
class."""


def predict(config: PredictConfig) -> list[Path]:
    """Segment every source and write its masks and the files that the settings ask for.

    Args:
        config: the checkpoint, the sources and the output options.

    Returns:
        The mask files of all sources, those of earlier calls included; for a video its folder.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is written.
        DataError: at the end, if sources were skipped: unreadable, or without what a format needs.
    """
    process = processes()
    output = Path(config.output)
    sources = find_sources(config.input, config.recursive, output)
    require_text([str(output), *(source.key for source in sources)])
    predictor = load(
        config.checkpoint,
        config.sam_checkpoint,
        fast=config.fast,
        flips=config.flips,
        threshold=config.threshold,
        min_area=config.min_area,
        encoder_backend=config.encoder_backend,
    )
    data = predictor.loaded.config.data
    if config.tile is not None:
        predictor.tile, predictor.resolution = config.tile, None
    if config.tile is not None and predictor.loaded.config.color_prior is not None:
        raise ConfigError(
            f"--tile: the run {predictor.loaded.config.run} takes its prompts from a color prior, "
            "which is computed on whole images."
        )
    if config.smooth and predictor.by_object and any(one.kind == "video" for one in sources):
        raise ConfigError(
            f"--smooth: the run {predictor.loaded.config.run} draws objects one by one, which have "
            "no average over frames. Leave it out."
        )
    files = {source: files_of(source, output, config, data) for source in sources}
    tables = [TABLE]
    if config.coco != "no":
        tables.append(COCO)
    if predictor.loaded.config.task == "instances":
        tables.append(OBJECTS)
    refuse_clashes(files, [output / name for name in tables], output, config.overwrite)
    make_folder(output)
    with lock(output) if process.is_main_process else contextlib.nullcontext():
        return _segment(config, predictor, sources, files)


def _segment(
    config: PredictConfig,
    predictor: Predictor,
    sources: list[Source],
    files: dict[Source, list[Path]],
) -> list[Path]:
    """Segment what is left to do, and return the mask files of all sources, see `predict`."""
    output, data = Path(config.output), predictor.loaded.config.data
    needs: dict[str, Any] = {"rows": None}
    if config.coco != "no":
        needs["objects_as"] = config.coco
    if config.geojson or config.geopackage:
        needs["simplified"] = config.simplify
    if predictor.loaded.config.task == "instances":
        require_scikit_image()
        needs["measured"] = None
    made_by: dict[str, Any] = {"checkpoint": file_hash(predictor.loaded.path)}
    made_by |= {
        one.first_key: getattr(config, key)
        for key, one in settings_of(PredictConfig).items()
        if one.facts.get("result", True)
    }
    log, process = ProgressLog(output, made_by, needs, config.overwrite), processes()
    main = process.is_main_process
    left = broadcast(remaining(files, log) if main else [])
    failed = []
    share = left[process.process_index :: process.num_processes]
    # Volumes, videos and tiles are not read as a whole.
    whole = predictor.tile is None and all(source.kind == "image" for source in share)
    count = on_cpu(predictor, config.fast) if predictor.device.type == "cpu" else ON_GPU
    threads = torch.get_num_threads()
    largest, alone = largest_of(count, data.num_classes), threading.Lock()

    def segment(source: Source) -> dict[str, Any]:
        make_folder(files[source][0].parent)
        recorded = {"path": str(source.path.absolute()), **fingerprint(source)}
        large = whole and math.prod(image_shape(image_file(source.path, data))) > largest
        with alone_with(alone, threads) if large else contextlib.nullcontext():
            entry = WRITERS[source.kind](source, files[source], predictor, config)
        return {"name": source.key, "source": recorded, **entry}

    calls = one_by_one(segment, share)
    if whole and predictor.device.type != "cpu":
        calls = side_by_side(segment, share)
    elif whole and count > 1:
        predictor.turn = contextlib.nullcontext()
        calls = side_by_side(segment, share, count, threads // count)
    with contextlib.closing(calls):  # after an error no image that waits is begun
        for source, result in track(calls, "segmenting", len(share), disable=not main):
            try:
                entry = result()
            except AutosamError as error:
                if isinstance(error, ConfigError):
                    raise
                if isinstance(error, StorageError) and error.everywhere:
                    raise
                failed.append(source.key)
                print(f"skipped: {error}", file=sys.stderr)
                continue
            if source.kind == "image":
                entry["simplified"] = needs.get("simplified")
            log.add(entry)
    log.gather()
    if main:
        log.table()
    if main and config.coco != "no":
        log.coco(named_classes(data))
    count = len(mask_endings(data))
    written = [
        file
        for source, paths in files.items()
        if source.key in log.done
        for file in made(paths, log.done[source.key])[: 1 if source.kind == "video" else count]
    ]
    if main:
        print(f"{len(written)} masks in {output}")
    if failed := gather(failed):
        raise DataError(f"{len(failed)} of {len(sources)} were skipped (see above).")
    return written


Call = tuple[Source, Callable[[], dict[str, Any]]]


def one_by_one(
    function: Callable[[Source], dict[str, Any]], sources: Iterable[Source]
) -> Generator[Call]:
    """Yield each source with a function that returns `function(source)`."""
    for source in sources:
        yield source, partial(function, source)


def on_cpu(predictor: Predictor, fast: bool) -> int:
    """How many images a CPU computes at a time. Small networks gain from that, because several
    threads have too little to do in each of their operations; large ones need the memory."""
    sam = predictor.segmenter.sam
    if fast or sam is None or images_at_once(sam.spec) > 1:
        return min(torch.get_num_threads(), ON_CPU)
    return 1


def largest_of(count: int, classes: int) -> float:
    """Pixels of the largest image that may be in memory together with others.

    Args:
        count: images at a time.
        classes: K.
    """
    each, per_class = BYTES
    return min(LARGE, SHARE * free_bytes() / count / (each + per_class * classes))


@contextlib.contextmanager
def alone_with(alone: threading.Lock, threads: int) -> Iterator[None]:
    """Hold a lock, and use so many threads of torch meanwhile: others wait for it."""
    with alone:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def side_by_side(
    function: Callable[[Source], dict[str, Any]],
    sources: Iterable[Source],
    count: int = ON_GPU,
    threads: int | None = None,
) -> Generator[Call]:
    """See `one_by_one`; the calls are made ahead, and returned in the order of the sources.

    Args:
        function: called in threads.
        sources: its arguments.
        count: how many are called at a time.
        threads: threads of torch that each of them uses; None for all.
    """
    left, running = iter(sources), deque[tuple[Source, Future[Any]]]()
    before = torch.get_num_threads()

    def begin() -> None:
        choose_device()  # torch's, of each thread
        torch.set_num_threads(threads or before)

    pool = ThreadPoolExecutor(count, initializer=begin)
    try:
        # As many wait: one that takes long does not leave the other threads without work.
        for source in itertools.islice(left, 2 * count):
            running.append((source, pool.submit(function, source)))
        while running:
            source, future = running.popleft()
            yield source, future.result
            for source in itertools.islice(left, 1):
                running.append((source, pool.submit(function, source)))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)  # Ctrl-C does not wait for an image
        torch.set_num_threads(before)  # some of its libraries have one number for all threads


def remaining(files: dict[Source, list[Path]], log: ProgressLog) -> list[Source]:
    """Select the sources that are not done, and print which are done again and why.

    Args:
        files: the files of each source, see `files_of`.
        log: the progress log. Entries and files of replaced sources are deleted.

    Returns:
        The sources to segment, in order.
    """
    left, states = [], Counter[str]()
    for source, paths in files.items():
        state = log.state_of(source)
        entry = log.done.get(source.key, {})
        masks = entry.get("masks", [])  # in the folder of a video
        written = [*made(paths, entry), *(paths[0] / name for name in masks)]
        if state == "done":
            if all(path.exists() for path in written):
                states["done"] += 1
                continue
        else:
            states[state] += 1
        left.append(source)
        if state == "replaced":  # the files belong to the previous source
            log.forget(source)
            for path in written:
                if path.is_file():
                    path.unlink()
    if states["done"]:
        print(f"{states['done']} of {len(files)} are done already")
    if states["replaced"]:
        print(f"{states['replaced']} were made from other files of the same names: done again")
    if states["unknown"]:
        print(
            f"{states['unknown']} were noted by an earlier version of autosam, which did not "
            "record the source files: done again"
        )
    return left


def made(paths: list[Path], entry: dict[str, Any]) -> list[Path]:
    """The files of a source as they were written: a label image may be a TIFF, see `label_path`.

    Args:
        paths: see `files_of`.
        entry: of the progress log.
    """
    return [paths[0].with_suffix(".tif"), *paths[1:]] if entry.get("tiff") else paths


def fingerprint(source: Source) -> dict[str, str]:
    """Compute what identifies the content of a source.

    Args:
        source: an image, a volume or a video.

    Returns:
        `Source.stamp` and `Source.digest`.

    Raises:
        DataError: the source cannot be read.
    """
    try:
        return {"stamp": source.stamp(), "sha256": source.digest()}
    except OSError as error:
        raise DataError(
            f"{source.path}: cannot be read ({error.strerror}). Replace or remove it."
        ) from None


def refuse_clashes(
    files: dict[Source, list[Path]], tables: list[Path], output: Path, overwrite: bool
) -> None:
    """Check that no file is written twice, and that no existing file is overwritten.

    Args:
        files: the files of each source, see `files_of`.
        tables: the files of all sources together.
        output: the output folder; files of earlier calls in it may be overwritten.
        overwrite: whether other files may be overwritten too.

    Raises:
        DataError: two sources would write one file, or a file exists.
    """
    writer: dict[Path | str, Source] = {}
    fold = ignores_case(output)
    ours = overwrite or (output / LOG_FILE).is_file()
    videos = {paths[0]: source for source, paths in files.items() if source.kind == "video"}
    for source, paths in files.items():
        for path in paths:
            key = normalize("NFC", str(path)).casefold() if fold else path
            frame = videos.get(path.parent) if re.fullmatch(FRAME, path.name) else None
            if other := writer.get(key, frame):
                where = f" in {path.parent}" if frame is not None else ""
                raise DataError(
                    f"{other.path.name} and {source.path.name} would both write "
                    f"{path.name}{where}; rename one."
                )
            writer[key] = source
    if not ours:
        for path in itertools.chain(tables, *files.values()):
            if path.exists():
                raise DataError(f"{path}: exists. Choose another --output, or pass --overwrite.")
