"""`autosam pretrain`: train SAM `lite` as a promptable segmenter on drawn scenes.

Method: prompts, losses and iteration follow Kirillov et al. 2023 (SAM), section 3 and appendix A:
focal and dice loss 20:1, mean square error on the estimated IoU, the least loss among several masks
for ambiguous prompts, and a second round with the first round's mask and a correction point.

The trunk starts from ImageNet weights. At first it is frozen, so that its features are computed
once per scene and a step is cheap; then the whole network learns on scenes it never saw before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autosam.config.calls import make_callable, with_settings
from autosam.config.cli import run_command
from autosam.config.commands import PretrainConfig

__all__ = ["PretrainConfig", "pretrain"]


def pretrain(config: PretrainConfig | None = None, **settings: Any) -> Path:
    """Pretrain SAM `lite` on drawn scenes.

    Args:
        config: the settings.
        settings: those that differ from `config` or, without it, from the defaults, by their short
            name or their key (`epochs=5`, `**{"train.clip": 2.0}`).

    Returns:
        The weights file (float16, averaged over the last steps).

    Raises:
        ConfigError: settings that cannot work, or differ from those of the state to resume from.
        CheckpointError: that state is damaged.
        StorageError: the folder cannot be written to.
    """
    config = with_settings(PretrainConfig, config, settings, "pretrain")
    from autosam.pretraining.lite import pretrain as run

    return run(config)


def main() -> None:
    run_command(PretrainConfig, pretrain)


make_callable(__name__)

if __name__ == "__main__":
    main()
