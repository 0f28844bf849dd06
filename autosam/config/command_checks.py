"""Checks of the settings of each command, before torch is imported and data are read."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

from autosam.config.commands import (
    AppConfig,
    CheckConfig,
    CompareConfig,
    EvaluateConfig,
    ExportConfig,
    PredictConfig,
    PretrainConfig,
    RoughPreview,
)
from autosam.config.runs import RUNS
from autosam.config.schema import Config, LearnedPrompt, Settings
from autosam.config.validation import (
    check_classes,
    check_data,
    check_folders,
    check_layout,
    check_settings,
)
from autosam.config.values import check_ranges
from autosam.errors import ConfigError
from autosam.utils.paths import require_new
from autosam.utils.suggest import suggest


def check_command(config: Any) -> None:
    """Refuse settings of a command that cannot work.

    Args:
        config: its settings, each of its own type and in its own range.

    Raises:
        ConfigError: naming the setting, what was found and what is expected.
    """
    if check := CHECKS.get(type(config)):
        check(config)


def check_train(config: Config) -> None:
    if not config.resume:  # those of the run are read first
        check_settings(config)


def check_inspection(config: CheckConfig) -> None:
    check_layout(config.data)
    check_classes(config.data)
    if config.output:
        require_new("output", config.output, ".png")
    if config.groups:
        require_new("groups", config.groups)


def check_rough(config: RoughPreview) -> None:
    require_new("output", config.output, ".png")
    check_data(config.data)
    check_folders(config.data)


def check_compare(config: CompareConfig) -> None:
    names = listed(config.runs)
    unknown = [name for name in names if name not in RUNS]
    if unknown or not names:
        hint = suggest(unknown[0], RUNS.keys()) if unknown else ""
        raise ConfigError(f"--runs {config.runs}: choose from {', '.join(RUNS)}.{hint}")
    if len(set(names)) < len(names):
        raise ConfigError(f"--runs {config.runs}: a run is listed twice.")
    _check_prompts(config)
    check_train_sizes(config)
    if config.data.folds is not None or config.data.fold:
        raise ConfigError("--data.folds, --data.fold: use --folds, which trains every fold.")
    shared = {f.name: getattr(config, f.name) for f in dataclasses.fields(Settings)}
    for name in names:
        check_settings(Config(**shared, run=name))
    last = dataclasses.replace(config.train, seed=config.train.seed + config.seeds - 1)
    check_ranges(last, "train")


def check_train_sizes(config: CompareConfig) -> None:
    words = listed(config.train_sizes)
    numbers = [int(word) for word in words if re.fullmatch(r"[0-9]{1,9}", word)]
    known = len(numbers) + (words[-1:] == ["all"]) == len(words)
    rising = numbers == sorted(set(numbers)) and min([4, *numbers]) >= 4
    if bool(words) != bool(config.train_sizes) or not known or not rising:
        raise ConfigError(
            f"--train-sizes {config.train_sizes}: expected numbers of labelled images of at least "
            "4, rising, and perhaps `all` at the end, such as 16,64,all."
        )
    if len(words) == 1:
        raise ConfigError(
            f"--train-sizes {config.train_sizes}: a curve needs two numbers or more. For one "
            "use --data.limit_train and --data.limit_validation."
        )
    if words and config.folds is not None:
        raise ConfigError("--train-sizes and --folds exclude each other. Leave one out.")
    data = config.data
    if words and (data.limit_train, data.limit_validation) != (None, None):
        raise ConfigError(
            "--train-sizes sets --data.limit_train and --data.limit_validation. Leave them out."
        )


def _check_prompts(config: CompareConfig) -> None:
    prompts = listed(config.prompts)
    for prompt in prompts:
        if prompt not in get_args(LearnedPrompt) or prompts.count(prompt) > 1:
            raise ConfigError(
                f"--prompts {config.prompts}: expected some of {', '.join(get_args(LearnedPrompt))}"
                f", each once.{suggest(prompt, get_args(LearnedPrompt))}"
            )
    if prompts and "autosam" not in listed(config.runs):
        raise ConfigError(f"--prompts {config.prompts}: needs autosam among --runs.")
    models = [dataclasses.replace(config.model, prompt=prompt) for prompt in prompts]  # type: ignore[arg-type]
    kinds = [model.prompt_kinds for model in models]
    for prompt, own in zip(prompts, kinds, strict=True):
        if own == config.model.prompt_kinds or kinds.count(own) > 1:
            raise ConfigError(
                f"--prompts {config.prompts}: {prompt} would be trained twice. Expected others "
                f"than autosam's own, {config.model.prompt}, each once."
            )


def listed(names: str) -> list[str]:
    """Split a list of names: "a, b" becomes ["a", "b"]."""
    return [name.strip() for name in names.split(",") if name.strip()]


def check_evaluate(config: EvaluateConfig) -> None:
    check_data(config.data)
    if config.output:
        require_new("output", config.output)
    if config.zero_shot:
        check_folders(config.data)
        if config.fast:
            raise ConfigError("--fast: --zero-shot has no surrogate decoder.")
        if config.checkpoint:
            raise ConfigError("--zero-shot scores a pretrained SAM: leave --checkpoint out.")
        return
    if not config.checkpoint:
        raise ConfigError(
            "--checkpoint RUN is needed: a run folder or a checkpoint file. (Or --zero-shot.)"
        )
    if config.sam:
        raise ConfigError(f"--sam {config.sam}: the checkpoint sets it; only for --zero-shot.")


def check_predict(config: PredictConfig) -> None:
    if missing := [name for name in ("checkpoint", "input", "output") if not vars(config)[name]]:
        needed = ", ".join(f"--{name}" for name in missing)
        raise ConfigError(f"{needed} {'is' if len(missing) == 1 else 'are'} needed.")
    if config.simplify and not (config.geojson or config.geopackage):
        raise ConfigError(
            f"--simplify {config.simplify:g}: is for the polygons of --geojson and --geopackage. "
            "Turn one of them on, or leave it out."
        )
    source, output = Path(config.input), Path(config.output)
    if output.resolve() == (source if source.is_dir() else source.parent).resolve():
        raise ConfigError(
            f"--output {output}: is the input's folder; masks would replace images. Choose another."
        )


def check_export(config: ExportConfig) -> None:
    if not config.checkpoint:
        raise ConfigError("--checkpoint RUN is needed.")
    output = Path(config.output)
    if output.suffix.lower() not in (".onnx", ".pt2"):
        raise ConfigError(f"--output {output}: the name must end in .onnx or .pt2.")
    if output.suffix.lower() == ".pt2" and config.precision != "fp32":
        raise ConfigError(f"--precision {config.precision}: is for .onnx; .pt2 is always fp32.")
    if output.exists() and not config.overwrite:
        raise ConfigError(f"--output {output}: exists. Choose another, or pass --overwrite true.")


def check_app(config: AppConfig) -> None:
    if not all(config.checkpoint or [""]):
        raise ConfigError("--checkpoint RUN is needed.")


def check_pretrain(config: PretrainConfig) -> None:
    if config.frozen_steps and config.scenes < config.batch_size:
        raise ConfigError(
            f"--scenes {config.scenes}: a step takes {config.batch_size} of them. Give more, or a "
            "lower --batch_size."
        )


CHECKS: dict[type, Callable[[Any], None]] = {
    Config: check_train,
    CheckConfig: check_inspection,
    RoughPreview: check_rough,
    CompareConfig: check_compare,
    EvaluateConfig: check_evaluate,
    PredictConfig: check_predict,
    ExportConfig: check_export,
    AppConfig: check_app,
    PretrainConfig: check_pretrain,
}
