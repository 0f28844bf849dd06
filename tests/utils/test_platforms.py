"""Differences of Windows and macOS, simulated on any platform."""

from __future__ import annotations

import ast
import os
import pickle
import stat
from multiprocessing.context import set_spawning_popen
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import draw_folders, tiny_config
from PIL import Image

import autosam
from autosam.config import DataConfig
from autosam.config.commands import PredictConfig
from autosam.data.layouts import load_splits
from autosam.errors import StorageError
from autosam.inference.formats import write_probabilities
from autosam.inference.predictor import Prediction
from autosam.models import checkpoint
from autosam.models.build import build_segmenter
from autosam.predict import predict
from autosam.train import train
from autosam.training.data import epoch_loader, open_data
from autosam.utils.io import write_atomically
from autosam.utils.signals import Interrupt

ROOT = Path(autosam.__file__).parent
UNIX_ONLY = ("pread", "pwrite", "fork", "forkpty", "getuid", "geteuid", "getpgid", "killpg",
             "setsid", "sync", "nice", "sched_getaffinity", "mkfifo", "chown", "fchmod",
             "posix_fadvise", "sendfile", "uname", "getloadavg")  # fmt: skip
"""Of `os`; Windows has none of them."""


@pytest.fixture
def like_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """`os` without what Windows lacks, and no file replaced or removed that is mapped."""

    def refuse_mapped(path: str | os.PathLike) -> None:
        maps = Path("/proc/self/maps")
        if maps.exists() and str(Path(path).resolve()) in maps.read_text(encoding="utf-8"):
            raise PermissionError(13, "a user-mapped section is open", str(path))

    for name in UNIX_ONLY:
        monkeypatch.delattr(os, name, raising=False)
    for name in ("replace", "rename"):
        call = getattr(os, name)

        def checked(source: str, target: str, call=call, **options: int) -> None:
            refuse_mapped(source)
            refuse_mapped(target)
            call(source, target, **options)

        monkeypatch.setattr(os, name, checked)


def test_training_and_prediction_without_what_windows_lacks(
    like_windows: None, tiny_file: Path, tmp_path: Path
) -> None:
    data = draw_folders(tmp_path / "data")
    assert all(load_splits(DataConfig(root=str(data))).values())
    flags = [f"--data.root={data}", f"--output={tmp_path / 'run'}"]
    run = train(tiny_config(tiny_file, *flags, "--run=hybrid")).folder
    checkpoint.annotate(run / checkpoint.BEST, note="again")
    assert checkpoint.read_header(run / checkpoint.BEST)["note"] == "again"
    predict(PredictConfig(str(run), str(data / "test" / "images"), str(tmp_path / "out")))
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such rights")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o027])
def test_files_have_the_rights_that_the_umask_gives(
    umask: int, tiny_file: Path, tmp_path: Path
) -> None:
    data = draw_folders(tmp_path / "data")
    before = os.umask(umask)
    try:
        if umask == 0o022:
            config = tiny_config(tiny_file, f"--data.root={data}", f"--output={tmp_path / 'run'}")
            folder = train(config).folder
            autosam.load(folder).save_pretrained(folder / "saved")
        else:
            write_atomically(tmp_path / "run" / "a", lambda to: checkpoint.save_file({}, to))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask, path


def test_what_a_reading_process_needs_can_be_pickled(tiny_file: Path, tmp_path: Path) -> None:
    """Windows and macOS spawn such processes instead of forking them."""
    data = draw_folders(tmp_path / "data")
    config = tiny_config(tiny_file, f"--data.root={data}", "--data.workers=1", "--run=decoder-box")
    dataset = open_data(config, build_segmenter(config).input_spec).train
    loader, _ = epoch_loader(dataset, config, 1, Interrupt(), True)
    # As while a process is spawned.
    set_spawning_popen(SimpleNamespace(DupFd=int, duplicate_for_child=int))
    try:
        ForkingPickler.dumps(loader.worker_init_fn)
        copied, collate = pickle.loads(ForkingPickler.dumps((dataset, loader.collate_fn)))
    finally:
        set_spawning_popen(None)
    one, other = (collate([kept[(0, 0)]]) for kept in (dataset, copied))
    assert torch.equal(one.sam_input, other.sam_input)


def test_a_mac_without_cuda_computes_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    from autosam.utils.device import choose_device
    from autosam.utils.distributed import make_accelerator

    assert make_accelerator().device.type == choose_device().type


def test_nothing_is_written_in_silence(tmp_path: Path) -> None:
    found = Prediction(*(np.full((1, 4, 5), 0.5, kind) for kind in (np.float32, bool, np.float32)))
    file = tmp_path / "größe 写真.png"
    write_probabilities([file], found, DataConfig())
    assert (np.asarray(Image.open(file)) == 32768).all()
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        write_probabilities([tmp_path / "file" / "a.png"], found, DataConfig())


CALLS = [
    (f"{path.name}:{node.lineno}", node)
    for path in sorted(ROOT.rglob("*.py"))
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    if isinstance(node, ast.Call)
]
"""(file:line, call) of the package."""


def calls(name: str) -> list[tuple[str, ast.Call]]:
    """Of a function or method of that name."""
    return [(place, node) for place, node in CALLS
            if name in (getattr(node.func, "attr", ""), getattr(node.func, "id", ""))]  # fmt: skip


def texts(node: ast.Call) -> set[str]:
    return {str(part.value) for part in ast.walk(node) if isinstance(part, ast.Constant)}


def test_every_text_file_names_its_encoding() -> None:
    """Windows would take the code page of the country."""
    ours = {"read_text": calls("read_text"), "write_text": calls("write_text")}
    ours["open"] = [
        (place, node)
        for place, node in calls("open")
        if isinstance(node.func, ast.Name) and not any("b" in text for text in texts(node))
    ]
    assert sum(map(len, ours.values())) > 20
    for name, found in ours.items():
        for place, node in found:
            by_files = name == "read_text" and isinstance(node.func, ast.Name)  # files.read_text
            metadata = "direct_url.json" in texts(node)
            named = any(keyword.arg == "encoding" for keyword in node.keywords)
            assert by_files or metadata or named or "utf-8" in texts(node), place


def test_opencv_reads_and_writes_no_files() -> None:
    """On Windows it takes no name beyond the code page, and returns False instead of an error."""
    for name in ("imread", "imwrite", "imreadmulti"):
        assert not calls(name)
    for name in UNIX_ONLY:
        assert not [place for place, node in calls(name) if ast.unparse(node.func) == f"os.{name}"]
