"""A page: drop images, see what each run makes of them."""

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
from autosam.evaluation.visualize import overlay, palette
from autosam.inference.formats import mask_files, mask_names
from autosam.inference.predictor import Predictor, load

TITLE = "autosam"


COLUMNS = ("image", "run", "class", "area, %", "score")


AT_ONCE = 16
"""Images of one upload, at most."""


KEPT = 3600
"""Seconds that files of uploads and results are kept."""


@dataclass
class Seen:
    """An image and what a run makes of it, kept while its threshold is moved."""

    name: str
    run: str
    image: np.ndarray
    """uint8 H x W x 3."""
    logits: np.ndarray
    """float32 K x H x W."""
    heatmaps: dict[str, np.ndarray]
    """See `Explanation`."""


def read_upload(path: Path, predictor: Predictor, max_megapixels: int) -> MemoryImage:
    """An uploaded image, its size looked at before its pixels.

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
) -> tuple[list[Seen], list[str]]:
    """Every image by every run, and what was refused."""
    seen, refused = [], []
    if len(paths) > AT_ONCE:
        refused.append(f"{len(paths)} files: only the first {AT_ONCE} are taken at once.")
    for path in map(Path, paths[:AT_ONCE]):
        try:
            for run, predictor in predictors.items():
                image = read_upload(path, predictor, max_megapixels)
                found = predictor.explain(image)
                logits = found.logits.cpu().numpy()
                seen.append(Seen(path.name, run, image.read(), logits, found.heatmaps))
        except AutosamError as error:
            refused.append(str(error).replace(f"{path.parent}{os.sep}", ""))
    return seen, refused


def show(
    seen: list[Seen],
    predictors: dict[str, Predictor],
    thresholds: dict[str, float],
    folder: Path,
) -> tuple[list[tuple[np.ndarray, str]], list[list[Any]], list[str]]:
    """Images with captions, rows of the table, and files to take along; each run at its own
    threshold."""
    images: list[tuple[np.ndarray, str]] = []
    rows, files, before = [], [], None
    for found in seen:
        predictor = predictors[found.run]
        data = predictor.loaded.config.data
        if found.name != before:
            images.append((found.image, found.name))
            before = found.name
        result = predictor.decide(torch.from_numpy(found.logits), thresholds[found.run])
        drawn = overlay(found.image, result.masks, palette(data))
        images.append((drawn, f"{found.run}: mask"))
        images += [
            (heatmap, f"{found.run}: prompt, {title}") for title, heatmap in found.heatmaps.items()
        ]
        for name, mask, likely in zip(
            data.class_names, result.masks, result.probabilities, strict=True
        ):
            score = round(float(likely[mask].mean()), 3) if mask.any() else None
            rows.append([found.name, found.run, name, round(100 * float(mask.mean()), 2), score])
        stem = folder / f"{Path(found.name).stem}-{found.run}"
        ends = mask_names(data.num_classes, data.exclusive)
        for end, pixels in zip(ends, mask_files(result, data), strict=True):
            files.append(f"{stem}{end}.png")
            write_png(Path(files[-1]), pixels)
        files.append(f"{stem}_overlay.png")
        write_png(Path(files[-1]), drawn)
    return images, rows, files


def is_exclusive(predictor: Predictor) -> bool:
    """Whether the most probable of several classes wins."""
    data = predictor.loaded.config.data
    return data.exclusive and data.num_classes > 1


def build(predictors: dict[str, Predictor], max_megapixels: int) -> Any:
    """The page, as gradio.Blocks."""
    import gradio as gr

    written = tempfile.TemporaryDirectory(prefix="autosam-")  # until the process ends

    def draw(seen: list[Seen], *values: float) -> Any:
        for old in Path(written.name).iterdir():
            if old.stat().st_mtime < time.time() - KEPT:
                shutil.rmtree(old, ignore_errors=True)
        thresholds = dict(zip(predictors, values, strict=True))
        return show(seen, predictors, thresholds, Path(tempfile.mkdtemp(dir=written.name)))

    def upload(paths: list[str] | None, *values: float) -> Any:
        seen, refused = segment(paths or [], predictors, max_megapixels)
        message = "\n".join(f"- **{reason}**" for reason in refused)
        return seen, message, *draw(seen, *values)

    caches = (KEPT, KEPT)
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=caches) as page:
        seen = gr.State([])
        gr.Markdown(f"# {TITLE}\n{', '.join(predictors)}: no prompt needed.")
        chosen = gr.File(label="Images", file_count="multiple", type="filepath", elem_id="images")
        # Of several exclusive classes the most probable wins: a threshold has no say.
        sliders = [
            gr.Slider(
                0.02, 0.98, predictor.threshold, step=0.01, elem_id=f"threshold-{i}",
                visible=not is_exclusive(predictor), label=f"Threshold of {name}: probability from "
                f"which on a pixel is foreground (chosen on validation: {predictor.threshold:g})",
            )
            for i, (name, predictor) in enumerate(predictors.items())
        ]  # fmt: skip
        said = gr.Markdown(elem_id="said")
        # A row for each image: itself, then a mask and maybe a prompt of each run.
        wide = 1 + sum(1 + RUNS[p.loaded.config.run].learns_prompt for p in predictors.values())
        gallery = gr.Gallery(
            label="Masks", columns=min(wide, 6), height="auto", object_fit="contain",
            elem_id="masks", format="png",
        )  # fmt: skip
        table = gr.Dataframe(headers=list(COLUMNS), elem_id="areas", interactive=False)
        files = gr.Files(label="Masks and overlays to take along", elem_id="files")
        results = [gallery, table, files]
        chosen.change(upload, [chosen, *sliders], [seen, said, *results])
        for slider in sliders:
            slider.release(draw, [seen, *sliders], results)
    return page


def app(config: AppConfig, wait: bool = True) -> Any:
    """Serve the page until interrupted.

    Args:
        config: what to serve.
        wait: False returns the running page (its `local_url`, its `close()`).

    Raises:
        ConfigError, CheckpointError: before anything is served.
    """
    require_config(config, AppConfig, "app")
    if not all(config.checkpoint or [""]):
        raise ConfigError("--checkpoint RUN is needed.")
    try:  # before minutes of loading
        socket.create_server((config.host, config.port)).close()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"--host {config.host} --port {config.port}: cannot be listened on ({error}). Give an "
            "address of this machine and a port that is free."
        ) from None
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio as gr
    except ImportError:
        raise ConfigError("gradio: not installed: pip install 'autosam[app]'") from None
    predictors: dict[str, Predictor] = {}
    for path in config.checkpoint:
        predictor = load(path, config.sam_checkpoint)
        if predictor.loaded.config.color_prior is not None:
            raise ConfigError(f"--checkpoint {path}: its rule on colours is not for this page.")
        name = Path(path).name if Path(path).is_dir() else Path(path).stem
        if name in predictors:
            name = f"{name} {len(predictors) + 1}"
        predictors[name] = predictor
    page = build(predictors, config.max_megapixels)
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
