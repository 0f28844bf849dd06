"""A web page: drop images, see what each run makes of them."""

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
from autosam.config.values import require_config
from autosam.data.images import image_size, write_png
from autosam.data.pairs import read_valid
from autosam.data.readers.files import image_file
from autosam.data.readers.memory import MemoryImage
from autosam.errors import AutosamError, ConfigError, DataError
from autosam.inference.formats import FORMATS
from autosam.inference.prediction import Prediction
from autosam.inference.predictor import Predictor, load

TITLE = "autosam"

COLUMNS = ("image", "run", "class", "area, %", "score")

MAX_UPLOAD = 16
"""Images of one upload, at most."""

KEPT = 3600
"""Seconds that files of uploads and results are kept."""


@dataclass
class Segmented:
    """An image segmented by a run, kept while the run's threshold is moved."""

    name: str
    run: str
    image: MemoryImage
    logits: np.ndarray
    """float32 K x H x W."""
    heatmaps: dict[str, np.ndarray]
    """See `Explanation`."""


@dataclass
class Results:
    """What the page shows."""

    gallery: list[tuple[np.ndarray, str]]
    """Images, uint8 H x W x 3, with captions."""
    rows: list[list[Any]]
    """Of the table, see `COLUMNS`."""
    files: list[str]
    """To download."""


def read_upload(path: Path, predictor: Predictor, max_megapixels: int) -> MemoryImage:
    """Read an uploaded image; its size is checked before its pixels are decoded.

    Raises:
        DataError: no image, or too large.
    """
    height, width = image_size(path)
    if width * height > max_megapixels * 1e6:
        raise DataError(
            f"{path.name}: {width} x {height} pixels, more than the {max_megapixels} million that "
            "are taken here."
        )
    image, valid = read_valid(image_file(path, predictor.loaded.config.data))
    return MemoryImage(image, path.name, valid=valid)


def segment(
    paths: list[str], predictors: dict[str, Predictor], max_megapixels: int
) -> tuple[list[Segmented], list[str]]:
    """Segment every image by every run.

    Returns:
        The results image by image, and messages on what was refused.
    """
    segmented, refused = [], []
    if len(paths) > MAX_UPLOAD:
        refused.append(f"{len(paths)} files: only the first {MAX_UPLOAD} are taken at once.")
    for path in map(Path, paths[:MAX_UPLOAD]):
        try:
            for run, predictor in predictors.items():
                image = read_upload(path, predictor, max_megapixels)
                found = predictor.explain(image)
                logits = found.logits.cpu().numpy()
                segmented.append(Segmented(path.name, run, image, logits, found.heatmaps))
        except AutosamError as error:
            refused.append(str(error).replace(f"{path.parent}{os.sep}", ""))
    return segmented, refused


def make_results(
    segmented: list[Segmented],
    predictors: dict[str, Predictor],
    thresholds: dict[str, float],
    folder: Path,
) -> Results:
    """Masks of each run at its own threshold.

    Args:
        segmented: the images by every run, image by image.
        predictors: by run.
        thresholds: by run.
        folder: for the files.
    """
    results, before = Results([], [], []), None
    for one in segmented:
        if one.name != before:
            results.gallery.append((one.image.read(), one.name))
            before = one.name
        predictor = predictors[one.run]
        logits = torch.from_numpy(one.logits)
        found = predictor.decide(logits, thresholds[one.run], image=one.image)
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


def is_exclusive(predictor: Predictor) -> bool:
    """Whether the most probable of several classes wins, so that no threshold matters."""
    data = predictor.loaded.config.data
    return data.exclusive and data.num_classes > 1


def build(predictors: dict[str, Predictor], max_megapixels: int) -> Any:
    """The page, as gradio.Blocks."""
    import gradio as gr

    written = tempfile.TemporaryDirectory(prefix="autosam-")  # until the process ends

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

    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        state = gr.State([])
        gr.Markdown(f"# {TITLE}\n{', '.join(predictors)}: no prompt needed.")
        chosen = gr.File(label="Images", file_count="multiple", type="filepath", elem_id="images")
        sliders = [
            threshold_slider(i, name, predictor)
            for i, (name, predictor) in enumerate(predictors.items())
        ]
        message = gr.Markdown(elem_id="said")
        gallery = mask_gallery(predictors)
        table = gr.Dataframe(headers=list(COLUMNS), elem_id="areas", interactive=False)
        files = gr.Files(label="Masks and overlays to download", elem_id="files")
        results = [gallery, table, files]
        chosen.change(upload, [chosen, *sliders], [state, message, *results])
        for slider in sliders:
            slider.release(draw, [state, *sliders], results)
    return page


def threshold_slider(i: int, name: str, predictor: Predictor) -> Any:
    """A slider for the threshold of the i-th run; hidden where no threshold matters."""
    import gradio as gr

    return gr.Slider(
        0.02,
        0.98,
        predictor.threshold,
        step=0.01,
        elem_id=f"threshold-{i}",
        visible=not is_exclusive(predictor),
        label=f"Threshold of {name}: probability from which on a pixel is foreground (chosen on "
        f"validation: {predictor.threshold:g})",
    )


def mask_gallery(predictors: dict[str, Predictor]) -> Any:
    """A gallery with a row for each image: itself, then the mask, and the prompt if it has one, of
    each run."""
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
    """Remove results that are older than `KEPT`."""
    for path in folder.iterdir():
        if path.stat().st_mtime < time.time() - KEPT:
            shutil.rmtree(path, ignore_errors=True)


def app(config: AppConfig, wait: bool = True) -> Any:
    """Serve the page until interrupted.

    Args:
        config: what to serve.
        wait: False returns the running page (its `local_url`, its `close()`).

    Raises:
        ConfigError, CheckpointError: before anything is served.
    """
    require_config(config, AppConfig, "app")
    check(config)
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
            theme=gr.themes.Base(font=["sans-serif"], font_mono=["monospace"]),  # none is fetched
            quiet=True,  # it proposes a public link
            share=False,
            footer_links=[],
        )
    except OSError as error:
        raise ConfigError(f"--port {config.port}: {error}") from None
    if wait:
        print(f"page: {page.local_url} (Ctrl-C ends it)", flush=True)
        page.block_thread()
    return page


def check(config: AppConfig) -> None:
    """Check settings, and that the address can be listened on, before minutes of loading.

    Raises:
        ConfigError: they cannot work.
    """
    if not all(config.checkpoint or [""]):
        raise ConfigError("--checkpoint RUN is needed.")
    try:
        socket.create_server((config.host, config.port)).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--host {config.host} --port {config.port}: cannot be listened on ({error}). Give an "
            "address of this machine and a port that is free."
        ) from None


def load_predictors(config: AppConfig) -> dict[str, Predictor]:
    """The runs by name; a name that repeats gets a number.

    Raises:
        ConfigError, CheckpointError: a run that cannot be shown.
    """
    predictors: dict[str, Predictor] = {}
    for path in config.checkpoint:
        predictor = load(path, config.sam_checkpoint)
        if predictor.loaded.config.color_prior is not None:
            raise ConfigError(f"--checkpoint {path}: its rule on colours is not for this page.")
        name = Path(path).name if Path(path).is_dir() else Path(path).stem
        if name in predictors:
            name = f"{name} {len(predictors) + 1}"
        predictors[name] = predictor
    return predictors
