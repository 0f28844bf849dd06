"""Random damage to valid files: the result is valid, or an error of autosam."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import miniature
import numpy as np
import pytest
import tifffile
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from autosam.config import Config, DataConfig
from autosam.config.cli import parse
from autosam.config.yaml import read_config
from autosam.data.images import read_bands, read_image, read_mask
from autosam.data.layouts.coco import pairs_of_coco
from autosam.data.layouts.manifest import pairs_of_manifest
from autosam.errors import AutosamError
from autosam.models import checkpoint
from autosam.models.state_dict import read_weights

bounded = settings(
    derandomize=True,
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
PIXELS, MASK = miniature.draw_image(0)


@st.composite
def damage(draw: st.DrawFn, most: int = 6) -> Callable[[bytes], bytes]:
    """Bytes changed, put in, taken out, or the rest cut off; more often near the beginning, where
    headers are."""
    places = st.one_of(st.floats(0, 0.05), st.floats(0, 1))
    steps = draw(
        st.lists(
            st.tuples(
                st.sampled_from(["change", "put", "take", "cut"]), places, st.binary(max_size=8)
            ),
            min_size=1,
            max_size=most,
        )
    )

    def apply(content: bytes) -> bytes:
        for kind, place, new in steps:
            at = int(place * len(content))
            if kind == "cut":
                content = content[: at + len(content) // 4]
            else:
                after = at + len(new) * (kind != "put")
                content = content[:at] + new * (kind != "take") + content[after:]
        return content

    return apply


def draw_image(suffix: str, deep: bool = False) -> bytes:
    file = io.BytesIO()
    if deep:
        tifffile.imwrite(file, PIXELS.astype(np.uint16) * 200, photometric="rgb")
    else:
        Image.fromarray(PIXELS).save(file, suffix)
    return file.getvalue()


IMAGES = {
    "a.png": draw_image("PNG"),
    "a.jpg": draw_image("JPEG"),
    "a.bmp": draw_image("BMP"),
    "a.webp": draw_image("WEBP"),
    "a.tif": draw_image("TIFF"),
    "deep.tif": draw_image("", deep=True),
}


@pytest.mark.parametrize("name", IMAGES)
@given(apply=damage())
@bounded
def test_images(name: str, apply: Callable[[bytes], bytes], tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(apply(IMAGES[name]))
    with suppress(AutosamError):
        pixels = read_image(path)
        assert pixels.dtype == np.uint8
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
    with suppress(AutosamError):
        values = read_mask(path, grey=True)
        assert values.dtype in (np.uint8, np.uint16)
        assert values.ndim == 2
    if path.suffix == ".tif":
        with suppress(AutosamError):
            assert read_bands(path)[0].ndim == 3


def given_text(name: str, content: bytes, folder: Path) -> Path:
    """A damaged text beside the images that it names."""
    root = folder / "named"
    if not root.exists():
        miniature.folders(root, count=3, suffix=".png")
        miniature.coco(root / "coco", count=3)
    path = root / name
    path.write_bytes(content)
    return path


CSV = b"image,mask,split\n" + b"".join(
    b"images/%03d.png,masks/%03d.png,train\n" % (i, i) for i in range(3)
)
JSONL = b"".join(
    b'{"image": "images/%03d.png", "mask": "masks/%03d.png"}\n' % (i, i) for i in (0, 1)
)


@pytest.mark.parametrize(("name", "content"), [("list.csv", CSV), ("list.jsonl", JSONL)])
@given(apply=damage())
@bounded
def test_manifests(
    name: str, content: bytes, apply: Callable[[bytes], bytes], tmp_path_factory
) -> None:
    path = given_text(name, apply(content), tmp_path_factory.getbasetemp())
    with suppress(AutosamError):
        pairs = pairs_of_manifest(DataConfig(layout="manifest", root=str(path)))
        assert all(pair.image.path.is_file() and pair.mask.path.is_file() for pair in pairs)


@given(apply=damage())
@bounded
def test_outlines(apply: Callable[[bytes], bytes], tmp_path_factory) -> None:
    root = tmp_path_factory.getbasetemp()
    given_text("list.csv", CSV, root)
    folder = root / "named" / "coco"
    whole = (folder / "annotations" / "instances_train2017.json").read_bytes()
    path = given_text("damaged.json", apply(whole), root)
    config = DataConfig(layout="coco", images=str(folder / "train2017"), annotations=str(path))
    with suppress(AutosamError):
        for pair in pairs_of_coco(config):
            if np.prod(pair.mask.shape) < 1e6:  # type: ignore[attr-defined]
                assert pair.mask.read().dtype == np.uint8


# Whatever is in place of an outline, pycocotools must not crash.
numbers = st.one_of(st.integers(), st.floats(), st.integers(-60, 60))
shapes = st.one_of(
    st.lists(st.lists(numbers, max_size=12), max_size=3),
    st.fixed_dictionaries(
        {"size": st.just([40, 56]), "counts": st.one_of(st.text(max_size=60), st.lists(numbers))}
    ),
)


@given(shape=shapes)
@bounded
def test_shapes(shape: object) -> None:
    from autosam.data.readers.polygons import rasterize

    with suppress(AutosamError):
        mask = rasterize(shape, 40, 56, "x")
        assert mask.shape == (40, 56)
        assert mask.dtype == bool


YAML = b"run: head\ndata:\n  root: photos\n  bands: [4, 3, 2]\ntrain: {lr: 0.5, epochs: 7}\n"


@given(apply=damage())
@bounded
def test_configs(apply: Callable[[bytes], bytes], tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "c.yaml"
    path.write_bytes(apply(YAML))
    with suppress(AutosamError):
        assert isinstance(read_config(str(path), Config), dict)
        assert isinstance(parse(Config, [f"--config={path}"]), Config)


words = st.one_of(
    st.sampled_from(
        ["--train.lr", "--data.classes", "--data.bands=", "--run", "--overwrite", "--"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["[1", "{a: 1}", "1e400", "null", "head", "&a [*a]", "9" * 5000, "1"]),
)


@given(argv=st.lists(words, min_size=1, max_size=4))
@bounded
def test_lines(argv: list[str]) -> None:
    with suppress(AutosamError, SystemExit):  # --help
        assert isinstance(parse(Config, argv), Config)


@given(apply=damage(most=3))
@bounded
def test_checkpoints(apply: Callable[[bytes], bytes], trained: Path, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "best.safetensors"
    path.write_bytes(apply((trained / checkpoint.BEST).read_bytes()))
    with suppress(AutosamError):
        header = checkpoint.read_header(path)
        found = checkpoint.read_trained(path)
        expected = checkpoint.read_trained(trained / checkpoint.BEST)
        if "tensors" in header:  # the damage may have hit that very word
            assert found.keys() == expected.keys()
            assert all(torch.equal(value, expected[key]) for key, value in found.items())


@given(apply=damage(most=3))
@bounded
def test_headers(apply: Callable[[bytes], bytes], trained: Path, tmp_path_factory) -> None:
    """The part of a checkpoint that says what it is, damaged, inside a file that is whole."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    whole = trained / checkpoint.BEST
    with safe_open(whole, "pt") as file:
        text = json.dumps(json.loads(file.metadata()["autosam"]))
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    damaged = apply(text.encode()).decode(errors="replace")
    save_file(load_file(whole), path, {"autosam": damaged})
    with suppress(AutosamError):
        assert isinstance(checkpoint.load(path).segmenter, torch.nn.Module)


@given(apply=damage(most=3))
@bounded
def test_weights(apply: Callable[[bytes], bytes], tiny_file: Path, tmp_path_factory) -> None:
    path = tmp_path_factory.getbasetemp() / "sam.pth"
    path.write_bytes(apply(tiny_file.read_bytes()))
    with suppress(AutosamError):
        assert all(isinstance(value, torch.Tensor) for value in read_weights(path).values())
