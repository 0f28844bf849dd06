"""Python functions of commands refuse other objects than settings, and wrong types."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autosam
from autosam.app import app
from autosam.bench import bench
from autosam.check import check
from autosam.compare import compare
from autosam.config import ClassConfig, Config, DataConfig, TrainConfig
from autosam.config.commands import EvaluateConfig
from autosam.config.validation import check_settings
from autosam.errors import ConfigError
from autosam.evaluate import evaluate
from autosam.export import export
from autosam.predict import predict
from autosam.pretrain import pretrain
from autosam.rough import rough
from autosam.train import train


def test_functions_say_what_they_take() -> None:
    functions: Any = (
        train, export, evaluate, predict, check, compare, rough, pretrain, bench, app
    )  # fmt: skip
    for config in ("kvasir", {"run": "head"}, None, Config):
        for function in functions:
            with pytest.raises(ConfigError, match=f"{function.__name__}.*expected settings as"):
                function(config)
    with pytest.raises(ConfigError, match=r"--run autosm: expected one of .* Did you mean autosam"):
        Config(run="autosm")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"data: 'kvasir'; expected DataConfig"):
        Config(data="kvasir")  # type: ignore[arg-type]
    config = Config()
    config.model.prompt = "dens"  # type: ignore[assignment]
    with pytest.raises(ConfigError, match=r"--model.prompt dens: .* Did you mean dense"):
        check_settings(config)
    with pytest.raises(ConfigError, match=r"autosam.load\(3\): expected the path"):
        autosam.load(3)  # type: ignore[arg-type]
    assert {"load", "Predictor", "Prediction", "Config"} <= set(dir(autosam))


def of(kind: Any, **values: Any) -> Any:
    return kind(**values)


@pytest.mark.parametrize(("settings", "words"), [
    (lambda: Config(train=of(TrainConfig, epochs="1")), "train.epochs: '1'; expected a whole num"),
    (lambda: Config(train=of(TrainConfig, epochs=1.5)), "train.epochs: 1.5; expected a whole num"),
    (lambda: Config(train=of(TrainConfig, batch_size=True)), "batch_size: True; expected a whole"),
    (lambda: of(Config, deterministic="no"), "deterministic: 'no'; expected true or false"),
    (lambda: Config(data=of(DataConfig, root=3)), "data.root: 3; expected text or None"),
    (lambda: Config(data=of(DataConfig, window=(1,))), "data.window: .* expected 2 numbers"),
    (lambda: Config(data=of(DataConfig, classes=[{"name": "a"}])), "expected a list of ClassConfi"),
    (lambda: Config(data=DataConfig(classes=[of(ClassConfig, name=3)])),
     r"data.classes\[0\].name: 3; expected text"),
    (lambda: train(Config(sam="lte")), "--sam lte: unknown. Choose one of lite"),
    (lambda: evaluate(of(EvaluateConfig, data=Config())), "data: .*expected DataConfig"),
])  # fmt: skip
def test_settings_made_in_python_have_their_types(settings: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        settings()


def test_settings_take_paths_and_numbers_of_numpy() -> None:
    config = Config(
        data=of(DataConfig, root=Path("d"), window=[0, 9]),
        train=of(TrainConfig, epochs=np.int64(3), lr=np.float32(0.5)),
    )
    assert (config.data.root, config.train.epochs, config.train.lr) == ("d", 3, 0.5)
    assert type(config.train.epochs) is int
