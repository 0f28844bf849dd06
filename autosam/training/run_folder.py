"""The folder of a run: who writes into it, and which settings it goes on with."""

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
from autosam.config.setting import keys_with, settings_of, value_at
from autosam.config.yaml import read_yaml
from autosam.errors import CheckpointError, ConfigError
from autosam.training import resume
from autosam.utils import provenance
from autosam.utils.io import LOCK, lock, make_folder

MAY_CHANGE = keys_with(Config, "resume")
"""Settings that --resume takes: where things are, not what is trained."""


@contextlib.contextmanager
def occupy(folder: Path, empty: bool) -> Iterator[None]:
    """Be the one process that writes into a run folder, which is made if need be.

    Args:
        folder: the run folder.
        empty: delete what an earlier run left in it.

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
    """The settings in force (paths absolute, `output` set), and the state to go on from or None.

    Raises:
        ConfigError: `--resume` with settings beside it that are not those of `MAY_CHANGE`.
        CheckpointError: nothing to resume.
    """
    if not config.resume:
        name = f"runs/{datetime.now():%Y%m%d-%H%M%S}-{config.title}"
        return dataclasses.replace(with_whole_paths(config), output=config.output or name), None
    folder, default = Path(config.resume), flatten(to_dict(Config()))
    said = {key: value for key, value in flatten(to_dict(config)).items() if value != default[key]}
    del said["resume"]
    if others := [key for key in said if key not in MAY_CHANGE]:
        raise ConfigError(
            f"--resume takes its settings from the run: leave {', '.join(others)} out. Only where "
            f"things are may change ({', '.join(MAY_CHANGE)}). (--init RUN starts a new run, with "
            "settings of its own, from its weights.)"
        )
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
    for key, value in said.items():
        section, _, last = key.rpartition(".")
        (values.setdefault(section, {}) if section else values)[last] = value
    try:
        resolved = with_whole_paths(from_dict(Config, values))
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from None
    return dataclasses.replace(resolved, output=str(folder)), saved


def with_whole_paths(config: Config) -> Config:
    """The settings with absolute paths: a checkpoint must find its files from any folder."""
    config = copy.deepcopy(config)
    for key, one in settings_of(Config).items():
        value, is_path = value_at(config, key), one.facts.get("path")
        if value and is_path and is_path(value):
            owner = value_at(config, one.section) if one.section else config
            setattr(owner, one.name, str(Path(value).resolve()))
    return config


def refuse_folder(folder: Path, config: Config) -> None:
    """Say no to an output folder that holds anything but an old run to be replaced on request.

    Raises:
        ConfigError: it must not be written to.
    """
    if not folder.exists():
        return
    # A killed run may have left no more than its lock.
    if folder.is_dir() and all(path.name == LOCK for path in folder.iterdir()):
        return
    if not config.overwrite:
        raise ConfigError(
            f"--output {folder}: exists. Choose another, pass --overwrite, or go on with it by "
            f"--resume {folder}."
        )
    if not (folder / provenance.FILE).exists():  # the first that a run writes
        raise ConfigError(
            f"--output {folder}: is not a run (no {provenance.FILE}); not overwritten."
        )
    read = (config.data.root, config.data.images, config.data.masks, config.sam_checkpoint,
            config.init)  # fmt: skip
    for path in (Path(p).resolve() for p in read if p):
        if path == folder.resolve() or folder.resolve() in path.parents:
            raise ConfigError(f"--output {folder}: holds {path}, which this run reads.")
