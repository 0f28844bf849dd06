"""The run folder: lock it, and resolve the settings of a new or a resumed run."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import shutil
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from autosam.config import Config
from autosam.config.cli import flatten, from_dict, to_dict
from autosam.config.setting import refuse_with_resume, settings_of, value_at
from autosam.config.yaml import read_yaml
from autosam.errors import CheckpointError, ConfigError
from autosam.training import resume
from autosam.utils import provenance
from autosam.utils.io import LOCK, lock, make_folder


@contextlib.contextmanager
def occupy(folder: Path, empty: bool) -> Iterator[None]:
    """Create and lock a run folder.

    Args:
        folder: the run folder.
        empty: delete the files of an earlier run.

    Raises:
        ConfigError, StorageError: see `lock`.
    """
    make_folder(folder)
    with lock(folder):
        for path in folder.iterdir() if empty else ():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()
        yield


def resolve(config: Config) -> tuple[Config, dict[str, Any] | None]:
    """Resolve the settings of a run.

    Args:
        config: the settings as given; with `resume` the others come from the run folder.

    Returns:
        The settings with absolute paths and `output`, and the state to resume from or None.

    Raises:
        ConfigError: see `refuse_with_resume`.
        CheckpointError: there is nothing to resume.
    """
    if not config.resume:
        name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{config.title}"
        return dataclasses.replace(with_whole_paths(config), output=config.output or name), None
    folder, default = Path(config.resume), flatten(to_dict(Config()))
    given = {key: value for key, value in flatten(to_dict(config)).items() if value != default[key]}
    del given["resume"]
    refuse_with_resume(Config, given)
    saved, warnings = resume.load(folder)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    file = folder / "config.yaml"
    if not file.is_file():
        raise CheckpointError(
            f"--resume {folder}: its config.yaml is missing. Restore it, or start a new run "
            "from its weights with --init."
        )
    values = read_yaml(file)
    for key, value in given.items():
        section, _, last = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[last] = value
    try:
        resolved = with_whole_paths(from_dict(Config, values))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return dataclasses.replace(resolved, output=str(folder)), saved


def with_whole_paths(config: Config) -> Config:
    """Make the paths of settings absolute, so that they are valid in any working directory.

    Args:
        config: the settings.

    Returns:
        A copy.
    """
    config = copy.deepcopy(config)
    for key, one in settings_of(Config).items():
        value, is_path = value_at(config, key), one.facts.get("path")
        if value and is_path and is_path(value):
            owner = value_at(config, one.section) if one.section else config
            setattr(owner, one.name, str(Path(value).resolve()))
    return config


def refuse_folder(folder: Path, config: Config) -> None:
    """Check that an output folder is new or empty, or with `overwrite` an earlier run.

    Args:
        folder: the output folder.
        config: the run.

    Raises:
        ConfigError: the folder must not be written to.
    """
    if not folder.exists():
        return
    # A killed run may have left only its lock file.
    if folder.is_dir() and all(path.name == LOCK for path in folder.iterdir()):
        return
    if not config.overwrite:
        raise ConfigError(
            f"--output {folder}: exists. Choose another, pass --overwrite, or resume it by "
            f"--resume {folder}."
        )
    if not (folder / provenance.FILE).exists():  # the first file that a run writes
        raise ConfigError(
            f"--output {folder}: is not a run (no {provenance.FILE}); not overwritten."
        )
    read = (
        config.data.root,
        config.data.images,
        config.data.masks,
        config.sam_checkpoint,
        config.init,
    )
    for path in (Path(p).resolve() for p in read if p):
        if path == folder.resolve() or folder.resolve() in path.parents:
            raise ConfigError(f"--output {folder}: holds {path}, which this run reads.")
