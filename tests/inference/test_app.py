"""The web page in a real browser: uploads, masks, refusals."""

from __future__ import annotations

import re
import shutil
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from helpers import TINY, tiny_config
from PIL import Image
from playwright.sync_api import Browser, Page, expect, sync_playwright

from autosam.app import app
from autosam.config.commands import AppConfig
from autosam.errors import ConfigError
from autosam.inference.app import build, make_results, segment
from autosam.inference.predictor import load
from autosam.models.sam import SAMS
from autosam.train import train

expect.set_options(timeout=60_000)  # the browser may share its core
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browser_needed = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium on the path")


@pytest.fixture(scope="module")
def page(trained: Path, tiny_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The running page of two runs."""
    folder = tmp_path_factory.mktemp("app")
    flags = (f"--data.root={trained.parent / 'data'}", f"--output={folder / 'plain'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SAMS, "tiny", TINY)
        patch.setenv("no_proxy", "127.0.0.1")
        patch.setenv("GRADIO_TEMP_DIR", str(folder / "uploads"))
        train(tiny_config(tiny_file, "--run=head", "--train.epochs=1", *flags))
        config = AppConfig(
            [str(trained), str(folder / "plain")], port=0, max_megabytes=2, max_megapixels=20
        )
        config.port = free_port()
        running = app(config, wait=False)
        yield running
        running.close()


def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as tools:
        opened = tools.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def tab(page: Any, browser: Browser) -> Iterator[Page]:
    """The page in a fresh profile; afterwards: no error on the console, nothing asked elsewhere."""
    context = browser.new_context()
    context.set_default_timeout(180_000)  # of a browser that shares its core
    opened = context.new_page()
    errors: list[str] = []
    elsewhere: list[str] = []

    def listen(request: Any) -> None:
        if not request.url.startswith((page.local_url, "data:", "blob:")):
            elsewhere.append(request.url)

    opened.on("request", listen)
    opened.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(page.local_url)
    yield opened
    context.close()
    assert elsewhere == []
    assert errors == []


def drop(tab: Page, *files: Path) -> None:
    tab.set_input_files("#images input[type=file]", [str(file) for file in files])


def shown(tab: Page) -> list[str]:
    return [
        image.get_attribute("src") or "" for image in tab.locator("#masks .grid-wrap img").all()
    ]


@browser_needed
def test_images_masks_threshold_and_download(tab: Page, trained: Path, tmp_path: Path) -> None:
    test = sorted((trained.parent / "data/test/images").iterdir())
    drop(tab, test[0], test[1])
    # Of each image: itself, the mask and three maps of the prompt of one run, the other's mask.
    expect(tab.locator("#masks .grid-wrap img")).to_have_count(12, timeout=180_000)
    for image in tab.locator("#masks .grid-wrap img").all():
        assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") == 56
    expect(tab.locator("#areas")).to_contain_text(test[1].name)
    links = tab.locator("#files a[download]")
    expect(links).to_have_count(8)
    with tab.expect_download() as started:
        links.first.click()
    started.value.save_as(tmp_path / "mask.png")
    mask = np.asarray(Image.open(tmp_path / "mask.png"))
    assert np.array_equal(mask > 0, load(trained)(test[0]).masks[0])
    before = shown(tab)
    number = tab.locator("#threshold-0 input[type=number]")
    number.fill("0.9")
    number.press("Enter")
    number.blur()
    tab.wait_for_function(
        "before => document.querySelectorAll('#masks .grid-wrap img').length == 12 && "
        "document.querySelectorAll('#masks .grid-wrap img')[1].src != before",
        arg=before[1],
        timeout=180_000,
    )


def bomb(path: Path) -> None:
    """A PNG that says it has 200 million pixels, in a few bytes."""
    head = struct.pack(">IIBBBBB", 20_000, 10_000, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
            for name, body in parts
        )
    )


@browser_needed
def test_what_is_no_image_is_refused_with_a_message(
    tab: Page, trained: Path, tmp_path: Path
) -> None:
    bomb(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("no image")
    good = sorted((trained.parent / "data/test/images").iterdir())[0]
    drop(tab, tmp_path / "bomb.png", tmp_path / "text.png", good)
    said = tab.locator("#messages")
    expect(said).to_contain_text("20000 x 10000 pixels, more than the limit of 20", timeout=180_000)
    expect(said).to_contain_text("text.png: cannot be read as an image")
    expect(tab.locator("#masks .grid-wrap img")).to_have_count(6)


def test_no_path_that_the_browser_names_is_read(page: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    url = page.local_url.rstrip("/")
    with httpx.Client(trust_env=False) as client:
        for way in (
            f"/gradio_api/file={secret}",
            f"/file={secret}",
            "/gradio_api/file=/etc/passwd",
        ):
            assert client.get(url + way).status_code in (403, 404)
        named = {"path": str(secret), "meta": {"_type": "gradio.FileData"}}
        config = client.get(f"{url}/config").json()
        number = next(d["id"] for d in config["dependencies"] if d["targets"][0][1] == "change")
        asked = {"data": [[named], 0.5, 0.5], "fn_index": number, "session_hash": "x"}
        client.post(f"{url}/gradio_api/queue/join", json=asked)
        with client.stream("GET", f"{url}/gradio_api/queue/data?session_hash=x") as answer:
            text = "".join(answer.iter_text())
        assert re.search(r'"success":\s*false', text)
        assert "secret.png: mask" not in text
        large = client.post(
            f"{url}/gradio_api/upload", files={"files": ("big.png", bytes(3_000_000))}
        )
        assert large.status_code == 413


def test_what_it_shows_without_a_browser(trained: Path, tmp_path: Path) -> None:
    predictors = {"one": load(trained)}
    image = sorted((trained.parent / "data/test/images").iterdir())[0]
    seen, refused = segment([str(image)] * 17, predictors, 50)
    assert len(seen) == 16
    assert refused == ["17 files: only the first 16 are segmented."]
    thresholds = {"one": predictors["one"].threshold}
    results = make_results(seen[:1], predictors, thresholds, tmp_path)
    found = predictors["one"](image)
    assert [caption for _, caption in results.gallery] == [
        image.name, "one: mask",
        "one: prompt, 8 x 8", "one: prompt, 16 x 16", "one: prompt, 32 x 32",
    ]  # fmt: skip
    area = pytest.approx(100 * found.masks.mean(), abs=0.01)
    score = pytest.approx(found.score, abs=0.001)
    assert results.rows == [[image.name, "one", "1", area, score]]
    assert [Path(file).name for file in results.files] == ["img09-one.png", "img09-one_overlay.png"]


def test_files_of_one_name(trained: Path, tmp_path: Path) -> None:
    """As uploaded from two folders, or with two extensions."""
    predictors = {"one": load(trained)}
    images = sorted((trained.parent / "data/test/images").iterdir())[:3]
    paths = [tmp_path / name for name in ("a/x.png", "b/x.png", "b/x.jpg")]
    for image, path in zip(images, paths, strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.open(image).convert("RGB").save(path)
    seen, refused = segment([*map(str, paths)], predictors, 50)
    assert refused == []
    (tmp_path / "files").mkdir()
    results = make_results(seen, predictors, {"one": 0.5}, tmp_path / "files")
    assert [row[0] for row in results.rows] == ["x.png", "x-2.png", "x-3.jpg"]
    assert len(set(results.files)) == len(results.files) == 6
    for file, path in zip(results.files[::2], paths, strict=True):
        expected = load(trained, threshold=0.5)(path).masks[0]
        assert np.array_equal(np.asarray(Image.open(file)) > 0, expected)


def test_each_run_is_shown_at_its_own_threshold(trained: Path, tmp_path: Path) -> None:
    predictors = {"one": load(trained, threshold=0.3), "two": load(trained, threshold=0.7)}
    image = sorted((trained.parent / "data/test/images").iterdir())[0]
    page = build(predictors, 50)
    sliders = [block for block in page.blocks.values() if type(block).__name__ == "Slider"]
    assert [slider.value for slider in sliders] == [0.3, 0.7]
    assert [slider.label.split(":")[0] for slider in sliders] == [
        "Threshold of one", "Threshold of two",
    ]  # fmt: skip
    seen, _ = segment([str(image)], predictors, 50)
    own = {name: predictor.threshold for name, predictor in predictors.items()}
    rows = make_results(seen, predictors, own, tmp_path).rows
    areas = {name: 100 * predictor(image).masks.mean() for name, predictor in predictors.items()}
    assert areas["one"] > areas["two"]
    assert [row[3] for row in rows] == pytest.approx(list(areas.values()), abs=0.01)


def test_settings_that_cannot_work(trained: Path) -> None:
    with pytest.raises(ConfigError, match="--checkpoint RUN is needed"):
        app(AppConfig())
    with pytest.raises(ConfigError, match="--max_megapixels 0: must be at least 1"):
        app(AppConfig([str(trained)], max_megapixels=0))
