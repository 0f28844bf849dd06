"""A web page that segments uploaded images by one or several runs."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from autosam.config import RUNS
from autosam.config.commands import AppConfig
from autosam.data.ground import ground_size
from autosam.data.images import image_size, write_png
from autosam.data.pairs import read_valid
from autosam.data.readers.files import image_file
from autosam.data.readers.memory import MemoryImage
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.evaluation.calibration import THRESHOLDS
from autosam.evaluation.predict_instances import Decide
from autosam.inference.formats import FORMATS
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor, load

TITLE = "autosam"

COLUMNS = ("image", "run", "class", "area, %", "score")
"""Columns of the table."""

MAX_UPLOAD = 16
"""Largest number of images of one upload."""

MAX_AGE = 3600
"""Seconds after which uploads and results are deleted."""


@dataclass
class Segmented:
    """An image segmented by a run, kept so that the threshold can be changed."""

    name: str
    run: str
    image: MemoryImage
    logits: np.ndarray
    """float32 K x H x W."""
    heatmaps: dict[str, np.ndarray]
    """See `Explanation`."""
    decide: Decide | None
    """See `Explanation`."""


@dataclass
class Results:
    """The content of the page."""

    gallery: list[tuple[np.ndarray, str]]
    """Images uint8 H x W x 3 with captions."""
    rows: list[list[Any]]
    """Rows of the table, see `COLUMNS`."""
    files: list[str]
    """Files to download."""


def read_upload(path: Path, predictor: Predictor, max_megapixels: int) -> MemoryImage:
    """Read an uploaded image. Its size is checked before it is decoded.

    Args:
        path: the file.
        predictor: a run, which sets how images are read.
        max_megapixels: largest size, million pixels.

    Raises:
        DataError: the file is not an image, or is too large.
    """
    height, width = image_size(path)
    if width * height > max_megapixels * 1e6:
        raise DataError(
            f"{path.name}: {width} x {height} pixels, more than the limit of {max_megapixels} "
            "million."
        )
    file = image_file(path, predictor.loaded.config.data)
    image, valid = read_valid(file)
    ground = None if predictor.resolution is None else ground_size(file)
    return MemoryImage.of(image, path.name, valid, ground)


def segment(
    paths: list[str], predictors: dict[str, Predictor], max_megapixels: int
) -> tuple[list[Segmented], list[str]]:
    """Segment every image by every run.

    Args:
        paths: uploaded files.
        predictors: runs by name.
        max_megapixels: largest size of an image, million pixels.

    Returns:
        The images by every run, image by image, and messages about files that were refused.
    """
    segmented: list[Segmented] = []
    refused = []
    if len(paths) > MAX_UPLOAD:
        refused.append(f"{len(paths)} files: only the first {MAX_UPLOAD} are segmented.")
    for path in map(Path, paths[:MAX_UPLOAD]):
        name = unique_name(path.name, segmented)
        try:
            for run, predictor in predictors.items():
                image = read_upload(path, predictor, max_megapixels)
                found = predictor.explain(image)
                logits = found.logits.cpu().numpy()
                one = Segmented(name, run, image, logits, found.heatmaps, found.decide)
                segmented.append(one)
        except AutosamError as error:
            refused.append(str(error).replace(f"{path.parent}{os.sep}", ""))
    return segmented, refused


def unique_name(name: str, segmented: list[Segmented]) -> str:
    """A name whose stem no image has yet: the files to download are called by it."""
    taken, chosen = {Path(one.name).stem for one in segmented}, Path(name)
    number = 1
    while chosen.stem in taken:
        number += 1
        chosen = Path(name).with_stem(f"{Path(name).stem}-{number}")
    return str(chosen)


def make_results(
    segmented: list[Segmented],
    predictors: dict[str, Predictor],
    thresholds: dict[str, float],
    folder: Path,
) -> Results:
    """Make the masks of each run by its threshold, and write the files to download.

    Args:
        segmented: the images by every run, image by image.
        predictors: predictors by run.
        thresholds: thresholds by run.
        folder: folder for the files.
    """
    results, before = Results([], [], []), None
    for one in segmented:
        if one.name != before:
            results.gallery.append((one.image.read(), one.name))
            before = one.name
        predictor = predictors[one.run]
        threshold = thresholds[one.run]
        if one.decide is not None:
            found = predictor.decide_objects(one.decide, threshold, one.image)
        else:
            found = predictor.decide(torch.from_numpy(one.logits), threshold, image=one.image)
        drawn = found.overlay()
        results.gallery.append((drawn, f"{one.run}: mask"))
        for title, heatmap in one.heatmaps.items():
            results.gallery.append((heatmap, f"{one.run}: prompt, {title}"))
        results.rows += _table_rows(one, found, predictor)
        results.files += _write_files(one, found, predictor, drawn, folder)
    return results


def _table_rows(one: Segmented, found: Prediction, predictor: Predictor) -> list[list[Any]]:
    rows: list[list[Any]] = []
    names = predictor.loaded.config.data.class_names
    for name, mask, likely in zip(names, found.masks, found.probabilities, strict=True):
        score = round(float(likely[mask].mean()), 3) if mask.any() else None
        rows.append([one.name, one.run, name, round(100 * float(mask.mean()), 2), score])
    return rows


def _write_files(
    one: Segmented, found: Prediction, predictor: Predictor, drawn: np.ndarray, folder: Path
) -> list[str]:
    data = predictor.loaded.config.data
    stem = folder / f"{Path(one.name).stem}-{one.run}"
    masks = FORMATS["masks"]
    files = [Path(f"{stem}{ending}") for ending in masks.endings(data)]
    masks.write(files, found, data)
    files.append(Path(f"{stem}_overlay.png"))
    write_png(files[-1], drawn)
    return [str(file) for file in files]


def build(predictors: dict[str, Predictor], max_megapixels: int) -> Any:
    """Build the page.

    Args:
        predictors: runs by name.
        max_megapixels: largest size of an image, million pixels.

    Returns:
        gradio.Blocks.
    """
    import gradio as gr

    written = tempfile.TemporaryDirectory(prefix="autosam-")  # deleted when the process ends

    def draw(segmented: list[Segmented], *values: float) -> Any:
        remove_old(Path(written.name))
        thresholds = dict(zip(predictors, values, strict=True))
        folder = Path(tempfile.mkdtemp(dir=written.name))
        results = make_results(segmented, predictors, thresholds, folder)
        return results.gallery, results.rows, results.files

    def upload(paths: list[str] | None, *values: float) -> Any:
        segmented, refused = segment(paths or [], predictors, max_megapixels)
        message = "\n".join(f"- **{reason}**" for reason in refused)
        return segmented, message, *draw(segmented, *values)

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(MAX_AGE, MAX_AGE)) as page:
        state = gr.State([])
        gr.Markdown(f"# {TITLE}\n{', '.join(predictors)}: no prompt needed.")
        chosen = gr.File(label="Images", file_count="multiple", type="filepath", elem_id="images")
        sliders = [
            threshold_slider(i, name, predictor)
            for i, (name, predictor) in enumerate(predictors.items())
        ]
        message = gr.Markdown(elem_id="messages")
        gallery = mask_gallery(predictors)
        table = gr.Dataframe(headers=list(COLUMNS), elem_id="areas", interactive=False)
        files = gr.Files(label="Masks and overlays to download", elem_id="files")
        results = [gallery, table, files]
        chosen.change(upload, [chosen, *sliders], [state, message, *results])
        for slider in sliders:
            slider.release(draw, [state, *sliders], results)
    return page


def threshold_slider(i: int, name: str, predictor: Predictor) -> Any:
    """Build the slider of a run's threshold.

    Args:
        i: index of the run.
        name: name of the run.
        predictor: the run.
    """
    import gradio as gr

    what, least = "probability above which a pixel is foreground", 0.02
    if predictor.by_object:
        what, least = "smallest score of an object", THRESHOLDS[0]  # none below it is looked for
    return gr.Slider(
        least,
        0.98,
        predictor.threshold,
        step=0.01,
        elem_id=f"threshold-{i}",
        label=f"Threshold of {name}: {what} (chosen on validation: {predictor.threshold:g})",
    )


def mask_gallery(predictors: dict[str, Predictor]) -> Any:
    """Build a gallery with one row for each image: the image, then the mask and the learned prompt
    of each run.

    Args:
        predictors: runs by name.
    """
    import gradio as gr

    width = 1
    for predictor in predictors.values():
        width += 2 if RUNS[predictor.loaded.config.run].learns_prompt else 1
    return gr.Gallery(
        label="Masks",
        columns=min(width, 6),
        height="auto",
        object_fit="contain",
        elem_id="masks",
        format="png",
    )


def remove_old(folder: Path) -> None:
    """Delete results that are older than `MAX_AGE`.

    Args:
        folder: folder of the results.
    """
    for path in folder.iterdir():
        if path.stat().st_mtime < time.time() - MAX_AGE:
            shutil.rmtree(path, ignore_errors=True)


def app(config: AppConfig, wait: bool = True) -> Any:
    """Serve the page until interrupted.

    Args:
        config: the runs, the address and the limits.
        wait: serve until interrupted; False returns at once.

    Returns:
        The running page, with `local_url` and `close()`.

    Raises:
        ConfigError, CheckpointError: before anything is served.
    """
    require_address(config)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError:
        raise ConfigError("gradio: not installed: pip install 'autosam[app]'") from None
    page = build(load_predictors(config), config.max_megapixels)
    try:
        page.launch(
            server_name=config.host,
            server_port=config.port,
            prevent_thread_lock=True,
            max_file_size=config.max_megabytes * 1_000_000,
            theme=gr.themes.Base(font=["sans-serif"], font_mono=["monospace"]),  # no downloads
            quiet=True,  # suppresses the offer of a public link
            share=False,
            footer_links=[],
        )
    except OSError as error:
        raise ConfigError(f"--port {config.port}: {error}") from None
    if wait:
        print(f"page: {page.local_url} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    return page


def require_address(config: AppConfig) -> None:
    """Check that the address is free, before checkpoints are loaded.

    Args:
        config: the settings.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    try:
        socket.create_server((config.host, config.port)).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--host {config.host} --port {config.port}: cannot be listened on ({error}). Give an "
            "address of this machine and a port that is free."
        ) from None


def load_predictors(config: AppConfig) -> dict[str, Predictor]:
    """Load the runs.

    Args:
        config: the checkpoints.

    Returns:
        Predictors by name of the run; a duplicate name gets a number.

    Raises:
        ConfigError: a run with a color prior.
        CheckpointError: see `load`.
    """
    predictors: dict[str, Predictor] = {}
    for path in config.checkpoint:
        predictor = load(path, config.sam_checkpoint)
        if predictor.loaded.config.color_prior is not None:
            raise ConfigError(f"--checkpoint {path}: runs with a color prior cannot be served.")
        name = Path(path).name if Path(path).is_dir() else Path(path).stem
        if name in predictors:
            name = f"{name} {len(predictors) + 1}"
        predictors[name] = predictor
    return predictors
