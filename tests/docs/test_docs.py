"""The pages of docs/: their examples run, their messages are those of the code, their links lead
somewhere."""

from __future__ import annotations

import ast
import csv
import errno
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import test_backends
import torch
import yaml
from helpers import draw_folders, liven, tiny_config
from PIL import Image

import autosam
from autosam import errors
from autosam.config import RUNS, Config, DataConfig
from autosam.config.cli import run_command
from autosam.data.layouts import LAYOUTS, load_splits
from autosam.evaluation.metrics import METRICS
from autosam.evaluation.tables import COLUMNS
from autosam.inference.formats import FORMATS
from autosam.models import checkpoint
from autosam.models.backbones.timm import Backbone
from autosam.models.build import build_segmenter
from autosam.models.parts import PARTS
from autosam.models.sam import SAMS, load_sam
from autosam.train import train

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def read(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


# ---- docs/extending.md ---------------------------------------------------------------------------


def snippets() -> list[tuple[str, str]]:
    """Title and code of each piece of Python of docs/extending.md."""
    return re.findall(r'```python title="([^"]+)"\n(.*?)```', read("extending.md"), re.S)


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the Python files of docs/extending.md, as they stand there."""
    folder = tmp_path / "examples"
    folder.mkdir()
    for name, code in snippets():
        if "/" not in name:
            (folder / name).write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    known = (SAMS, LAYOUTS, FORMATS, METRICS, COLUMNS, PARTS, RUNS)
    tables = [dict(table) for table in known]  # type: ignore[call-overload]
    yield folder
    for table, before in zip(known, tables, strict=True):
        table.clear()
        table.update(before)  # type: ignore[arg-type]
    for file in folder.iterdir():
        sys.modules.pop(file.stem, None)


def lines_of(file: str) -> list[list[str]]:
    """The words after `python FILE` of each command of the page that runs it with a folder."""
    found = re.findall(rf"^python {re.escape(file)} (.*)$", read("extending.md"), re.M)
    assert found, file
    return [shlex.split(line) for line in found]


def command(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """`python FILE WORDS`, in this process, which knows the tiny SAM."""
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *words])
    module.main()


def put(words: list[str], **places: object) -> list[str]:
    """The words of a command, with places for its capital letters."""
    return [str(places.get(word, word)) for word in words]


def small_flags(output: Path) -> list[str]:
    return ["--model.input_size=64", "--model.width=32", "--train.batch_size=2", "--train.lr=4e-3",
            "--train.epochs=15", "--train.patience=15", "--train.sheet_images=0",
            f"--output={output}"]  # fmt: skip


def test_a_backbone(
    example: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = draw_folders(tmp_path / "data"), tmp_path / "run"
    module = importlib.import_module("tiny_net")
    [words] = lines_of("tiny_net.py")
    tiny = ["--sam=tiny", f"--sam_checkpoint={tiny_file}"]
    command(module, monkeypatch, *put(words, DIR=data), *tiny, *small_flags(run))

    loaded = checkpoint.load(run)
    generator = loaded.segmenter.prompter
    assert generator is not None
    assert type(generator.backbone.net).__name__ == "FeatureListNet"
    assert generator.backbone.strides == [4, 8, 16, 32]
    assert generator.backbone.channels == [16, 24, 32, 48]
    assert generator.backbone.mean == (127.5, 127.5, 127.5)
    torch.manual_seed(0)
    fresh = build_segmenter(loaded.config, backbone_weights="none").prompter
    assert fresh is not None
    before = fresh.backbone.state_dict()
    after = generator.backbone.state_dict()
    learned = [k for k in after if k.endswith("0.weight") and not torch.equal(after[k], before[k])]
    assert len(learned) == 4
    scores = yaml.safe_load((run / "scores.yaml").read_text())
    assert scores["test"]["dice"] > 0.5

    # Its own weights are taken from a file, as the page says.
    file = tmp_path / "tiny_net.pth"
    torch.save(generator.backbone.net.state_dict(), file)
    again = build_segmenter(loaded.config, backbone_weights=str(file)).prompter
    assert again is not None
    assert torch.equal(again.backbone.state_dict()["net.stage0.0.weight"],
                       after["net.stage0.0.weight"])  # fmt: skip


def test_a_sam(
    example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data, run = draw_folders(tmp_path / "data"), tmp_path / "run"
    module = importlib.import_module("small_sam")
    torch.manual_seed(0)
    network = module.build(SAMS["small"])
    liven(network)
    file = tmp_path / "mine.pth"
    torch.save(network.state_dict(), file)

    verify, add, train = lines_of("small_sam.py")
    command(module, monkeypatch, *put(verify, FILE=file))
    command(module, monkeypatch, *put(add, FILE=file))
    said = capsys.readouterr().out
    assert re.search(rf"tensors +all {len(network.state_dict())} fit", said)
    assert (tmp_path / "cache" / "small_sam.safetensors").is_file()
    tiny = ["--model.backbone=test_efficientnet", "--model.backbone_weights=none", "--run=hybrid"]
    command(module, monkeypatch, *put(train, DIR=data), *tiny, *small_flags(run))

    found = autosam.load(run)(data / "test" / "images" / "img09.png")
    assert found.masks.shape == (1, 40, 56)
    header = checkpoint.read_header(run / checkpoint.BEST)
    assert header["sam"]["name"] == "small"
    assert header["test"]["dice"] > 0.5
    sam = load_sam("small")
    assert (sam.width, sam.grid) == (32, (8, 8))

    # What the page says a new backend must pass.
    backend = ("small", file)
    test_backends.test_the_contract(backend)
    test_backends.test_a_batch_is_its_images_one_by_one(backend)
    test_backends.test_without_its_encoder_it_decodes_the_same(backend)
    for name in ("autosam", "decoder-box", "sam-auto"):
        test_backends.test_every_run_trains(backend, name)


def test_an_output_format(
    example: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run, out = draw_folders(tmp_path / "data"), tmp_path / "run", tmp_path / "out"
    train(tiny_config(tiny_file, f"--data.root={data}", "--train.epochs=1", f"--output={run}"))
    module = importlib.import_module("npz_format")
    [words] = lines_of("npz_format.py")
    command(module, monkeypatch, *put(words, RUN=run, DIR=data / "test" / "images", OUT=out))
    found = autosam.load(run)(data / "test" / "images" / "img09.png")
    with np.load(out / "img09.npz") as written:
        assert np.array_equal(written["probabilities"], found.probabilities)
        assert written["classes"].tolist() == ["1"]


def test_a_metric(
    example: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:  # fmt: skip
    data, run, out = draw_folders(tmp_path / "data"), tmp_path / "run", tmp_path / "images.csv"
    train(tiny_config(tiny_file, f"--data.root={data}", "--train.epochs=1", f"--output={run}"))
    module = importlib.import_module("area_error")
    [words] = lines_of("area_error.py")
    command(module, monkeypatch, *put(words, RUN=run), f"--output={out}")
    assert "area" in capsys.readouterr().out.split("scoring")[-1]
    predictor = autosam.load(run)
    with open(out, newline="") as file:
        rows = {row["image"]: float(row["area_error"]) for row in csv.DictReader(file)}
    assert len(rows) == 3
    for name, value in rows.items():
        truth = np.asarray(Image.open(data / "test" / "masks" / f"{name}.png")) > 0
        found = predictor(data / "test" / "images" / f"{name}.png").masks[0]
        assert value == pytest.approx(abs(found.sum() / truth.sum() - 1), abs=1e-6)


def test_a_set_of_trainable_parts(
    example: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, run = draw_folders(tmp_path / "data"), tmp_path / "run"
    module = importlib.import_module("token_tuning")
    one, both = lines_of("token_tuning.py")
    tiny = ["--sam=tiny", f"--sam_checkpoint={tiny_file}", "--model.backbone=test_efficientnet",
            "--model.backbone_weights=none"]  # fmt: skip
    command(module, monkeypatch, *put(one, DIR=data), *tiny, *small_flags(run))
    after = checkpoint.load(run).segmenter
    assert after.sam is not None
    before = load_sam("tiny", str(tiny_file)).state_dict()
    changed = {k for k, v in after.sam.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {"mask_decoder.mask_tokens.weight"}
    stored = checkpoint.read_trained(run / checkpoint.BEST)
    assert {key for key in stored if key.startswith("sam.")} == {f"sam.{name}" for name in changed}
    assert yaml.safe_load((run / "scores.yaml").read_text())["test"]["dice"] > 0.5

    table = tmp_path / "compare"
    command(module, monkeypatch, *put(both, DIR=data), *tiny, *small_flags(table),
            "--train.epochs=1", "--prompts=", "--attribution=false")  # fmt: skip
    assert "autosam-tokens" in (table / "table.md").read_text()


def test_a_loss_term(tmp_path: Path) -> None:
    """A copy of the package, changed as the page says."""
    data, copy = draw_folders(tmp_path / "data"), tmp_path / "copy"
    shutil.copytree(ROOT / "autosam", copy / "autosam", ignore=shutil.ignore_patterns("*.pyc"))
    (losses, function), (schema, field) = [pair for pair in snippets() if "/" in pair[0]]
    file = copy / losses.split(",")[0]
    file.write_text(file.read_text() + "\n\n" + function)
    file = copy / schema.split(",")[0]
    head, rest = re.split(r"(?<=class LossConfig:\n)", file.read_text())
    doc, fields = rest.split("\n\n", 1)
    file.write_text(head + doc + "\n\n" + field + fields)
    flags = ["--run=head", "--model.backbone=test_efficientnet", "--model.backbone_weights=none"]
    [line] = re.findall(r"^autosam train .*tversky.*$", read("extending.md"), re.M)
    done = subprocess.run(
        [sys.executable, "-m", "autosam", *put(shlex.split(line)[1:], DIR=data), *flags,
         *small_flags(tmp_path / "run"), "--loss.bce=0"], cwd=copy, capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONPATH": str(copy)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(row) for row in lines]
    assert all(0 < row["train/tversky"] == row["train/loss"] < 1 for row in rows)
    assert rows[-1]["train/tversky"] < rows[0]["train/tversky"]
    help_text = subprocess.run(
        [sys.executable, "-m", "autosam", "train", "--help-all"], cwd=copy, capture_output=True,
        text=True, check=True, env={**os.environ, "PYTHONPATH": str(copy)},
    ).stdout  # fmt: skip
    assert "Tversky loss." in help_text


def cases(root: Path) -> Path:
    """root/CASE/{photo.png,mask.npy}: 8 patients with two images each."""
    images = draw_folders(root / "drawn")
    drawn = sorted(images.glob("*/images/*.png"))
    for i, path in enumerate(drawn):
        case = root / "cases" / f"patient{i // 2}-{'ab'[i % 2]}"
        case.mkdir(parents=True)
        Image.open(path).save(case / "photo.png")
        mask = np.asarray(Image.open(path.parent.parent / "masks" / path.name))
        np.save(case / "mask.npy", mask // 255)
    return root / "cases"


def test_a_data_source(
    example: Path, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, run = cases(tmp_path), tmp_path / "run"
    module = importlib.import_module("numpy_masks")
    splits = load_splits(DataConfig(layout="numpy", root=str(root)))
    assert {split: len(pairs) for split, pairs in splits.items()} == {
        "train": 8, "validation": 2, "test": 2,
    }  # fmt: skip
    homes = {pair.group: split for split, pairs in splits.items() for pair in pairs}
    assert len(homes) == 6
    for split, pairs in splits.items():
        assert {homes[pair.group] for pair in pairs} == {split}  # no patient in two splits
    pair = splits["train"][0]
    assert np.array_equal(pair.mask.read(), np.load(root / pair.name / "mask.npy"))

    check, train = lines_of("numpy_masks.py")
    command(module, monkeypatch, *put(check, DIR=root))
    tiny = ["--sam=tiny", f"--sam_checkpoint={tiny_file}", "--model.backbone=test_efficientnet",
            "--model.backbone_weights=none"]  # fmt: skip
    command(module, monkeypatch, *put(train, DIR=root), *tiny, *small_flags(run))
    scores = yaml.safe_load((run / "scores.yaml").read_text())
    assert scores["test"]["dice"] > 0.5
    assert checkpoint.load(run).config.data.layout == "numpy"

    (root / "patient0-a" / "mask.npy").write_bytes(b"no array")
    with pytest.raises(errors.DataError, match=r"mask\.npy: cannot be read as a mask"):
        pair.mask.__class__(root / "patient0-a" / "mask.npy").read()  # type: ignore[call-arg]


def test_a_file_of_ones_own_is_a_program_with_reading_processes(
    example: Path, tmp_path: Path
) -> None:
    root = cases(tmp_path)
    words = put(lines_of("numpy_masks.py")[1], DIR=root)
    flags = ["--run=head", "--model.backbone=test_efficientnet", "--model.backbone_weights=none",
             "--data.workers=1", *small_flags(tmp_path / "run"), "--train.epochs=1"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "numpy_masks.py", *words, *flags], cwd=example, capture_output=True,
        text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run" / "scores.yaml").is_file()


# ---- docs/troubleshooting.md ---------------------------------------------------------------------


def texts() -> list[str]:
    """Every text of the package's code, … for what is put in; docstrings are left out."""
    found = []
    for path in sorted((ROOT / "autosam").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [v.value if isinstance(v, ast.Constant) else "…" for v in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found += [node.value] * (id(node) not in docs)
    return found


def messages() -> list[str]:
    """The first column of the tables of messages."""
    found = re.findall(r"^\| ` ?(.+?)` \| .+ \|$", read("troubleshooting.md"), re.M)
    return [message for message in found if not message.endswith("Error") and message != "Stopped"]


TEXTS = texts()


@pytest.mark.parametrize("message", messages())
def test_quoted_messages_are_those_of_the_code(message: str) -> None:
    """What does not vary is in one text of the code, in this order."""
    fixed = [piece.strip() for piece in message.split("…")]
    assert sum(map(len, fixed)) >= 10, message
    pattern = re.compile(".*".join(map(re.escape, fixed)), re.S)
    assert any(pattern.search(text) for text in TEXTS), message


def test_the_messages_are_found_in_the_page() -> None:
    assert len(messages()) > 40
    assert "`stopped; resume with: …`" in {f"`{message}`" for message in messages()}


def test_the_table_of_errors_and_exit_codes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    rows = re.findall(r"^\| `(\w+)` \| .+? \| (.+) \|$", read("troubleshooting.md"), re.M)
    kinds = {kind.__name__: kind for kind in errors.AutosamError.__subclasses__()}
    assert {name for name, _ in rows} == set(kinds)

    def code_of(error: BaseException) -> object:
        def fail(config: Config) -> None:
            raise error

        with pytest.raises(SystemExit) as ended:
            run_command(Config, fail, [])
        capsys.readouterr()
        return ended.value.code

    for name, code in rows:
        error = kinds[name]("why")
        assert code.startswith(str(code_of(error)) if name != "Stopped" else "128 + signal")
        if isinstance(error, errors.Stopped):
            assert code_of(error) == 143
            error.signal = 2
            assert code_of(error) == 130
    assert code_of(KeyboardInterrupt()) == 130
    assert code_of(MemoryError()) == 2
    assert code_of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file")) == 2


# ---- docs/models.md ------------------------------------------------------------------------------


def table(page: str, first: str) -> list[list[str]]:
    """The cells of the table whose first heading is `first`, without its head."""
    lines = iter(read(page).splitlines())
    for line in lines:
        if line.startswith(f"| {first} |"):
            break
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def test_the_table_of_runs() -> None:
    decoders = {"sam": "SAM's", "head": "plain head"}
    assert table("models.md", "`--run`") == [
        [f"`{name}`", run.prompter, decoders[run.decoder], ", ".join(run.trainable) or "nothing"]
        for name, run in RUNS.items()
    ]


def test_the_table_of_sams() -> None:
    places = {"dl.fbaipublicfiles.com": "Meta", "huggingface.co": "Hugging Face",
              "zenodo.org": "Zenodo", "ebi.ac.uk": "BioImage.IO"}  # fmt: skip
    squares = {"longest-pad": "pad", "square": "stretch"}
    expected = {}
    for name, spec in SAMS.items():
        place = next((word for host, word in places.items() if host in spec.source), "shipped")
        expected[f"`{name}`"] = [spec.architecture, str(spec.image_size), squares[spec.geometry],
                                 f"{spec.megabytes or 8:.0f}", place]  # fmt: skip
    del expected["`tiny`"]  # of these tests
    assert {row[0]: row[1:] for row in table("models.md", "`--sam`")} == expected
    assert {name for name, spec in SAMS.items() if spec.licence == "CC-BY-4.0"} == {
        name for name in SAMS if name.endswith(("_lm", "_em_organelles"))
    }
    assert [name for name, spec in SAMS.items() if spec.licence == "SAM License"] == ["sam3"]
    licences = {"", "Apache-2.0", "CC-BY-4.0", "SAM License"}
    assert {spec.licence for spec in SAMS.values()} == licences
    assert "are CC-BY-4.0, all others\nApache-2.0" in read("models.md")


def test_the_sizes_of_backbones() -> None:
    rows = [row for row in table("models.md", "backbone") if row[0].startswith("`")]
    names: list[tuple[str, str]] = []
    for cell, sizes, _ in rows:
        names += zip(re.findall("`(.*?)`", cell), sizes.split(", "), strict=True)
    assert len(names) == 7
    for name, size in names:
        backbone = Backbone(name, "none", 64)
        assert f"{sum(p.numel() for p in backbone.parameters()) / 1e6:.2f}" == size


# ---- all pages -----------------------------------------------------------------------------------


def words(text: str) -> int:
    """Of prose and tables; code that is to be copied is left out."""
    prose = re.sub(r"```.*?```", "", text, flags=re.S)
    return sum(bool(re.search(r"\w", word)) for word in prose.split())


def test_how_long_reading_takes() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(readme.split()) <= 700
    log = "experiments.md"  # a log of what was measured: nobody has to read it
    pages = [readme, *(page.read_text(encoding="utf-8") for page in PAGES if page.name != log)]
    assert sum(map(words, pages)) <= 11_350


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub and mkdocs make them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    heads = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", [*PAGES, *sorted(ROOT.glob("*.md")), ROOT / "train/README.md"],
                         ids=lambda page: str(page.relative_to(ROOT)))  # fmt: skip
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link
        if page.parent.name == "docs":  # the pages are built from this folder alone
            assert target.is_relative_to(ROOT / "docs"), link


def test_every_page_is_in_the_menu() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]
    assert sorted(name for entry in menu for name in entry.values()) == [p.name for p in PAGES]
