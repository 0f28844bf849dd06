"""What can be set: the settings and their defaults, the table of runs, YAML files and flags."""

from autosam.config.data import MOST_OVERLAPPING, ClassConfig, DataConfig
from autosam.config.runs import RUNS, Composition
from autosam.config.schema import (
    AugmentConfig,
    CacheConfig,
    Config,
    EncoderBackend,
    LearnedPrompt,
    LoraConfig,
    LossConfig,
    ModelConfig,
    PaperConfig,
    PromptConfig,
    RoughConfig,
    Settings,
    TrainConfig,
)

__all__ = [
    "MOST_OVERLAPPING",
    "RUNS",
    "AugmentConfig",
    "CacheConfig",
    "ClassConfig",
    "Composition",
    "Config",
    "DataConfig",
    "EncoderBackend",
    "LearnedPrompt",
    "LoraConfig",
    "LossConfig",
    "ModelConfig",
    "PaperConfig",
    "PromptConfig",
    "RoughConfig",
    "Settings",
    "TrainConfig",
]
