"""Requests of the launcher (accelerate, torchrun, mpirun), read from environment variables."""

from __future__ import annotations

import os

from autosam.errors import ConfigError

OFF = ("", "0", "false", "f", "no", "n", "off")
REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism config",
    "ACCELERATE_USE_SAGEMAKER": "SageMaker's data parallelism",
    "ACCELERATE_IN_TPU_POD": "a TPU",
    "XLA_USE_BF16": "a TPU",
    "XLA_DOWNCAST_BF16": "a TPU",
    "ACCELERATE_DYNAMO_BACKEND": "dynamo",
    "ACCELERATE_TORCH_DEVICE": "a device",
}
"""Variables of accelerate that request unsupported features, with their names."""
PROCESSES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "WORLD_SIZE")
"""Variables with the number of processes launched together, in accelerate's order."""


def check_launcher() -> None:
    """Refuse requests of the launcher that this package does not support.

    Raises:
        ConfigError: naming the variable, its value and the remedy.
    """
    for variable, name in REFUSED.items():
        if (value := os.environ.get(variable, "")).lower() not in OFF:
            raise ConfigError(
                f"The launcher asks for {name} ({variable}={value}), which autosam does not use: "
                "it trains with one copy of the network on each CPU or GPU. Switch it off in "
                "`accelerate config` or among the flags of `accelerate launch`. (GPUs are chosen "
                "by --gpu_ids or CUDA_VISIBLE_DEVICES.)"
            )
    precision = launcher_precision()
    if precision not in ("no", "bf16"):
        raise ConfigError(
            f"The launcher asks for the precision {precision} (ACCELERATE_MIXED_PRECISION): "
            "autosam computes in float32 or bfloat16. Pass --mixed_precision no to `accelerate "
            "launch`, and --train.precision bf16, no or auto to autosam.train."
        )


def launcher_precision() -> str:
    """Read the mixed precision that the launcher requests: `no`, `bf16`, `fp16` or `fp8`."""
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower() or "no"


def local_rank() -> int | None:
    """Read the rank of this process on this machine, from 0; None without a launcher."""
    value = os.environ.get("LOCAL_RANK", "")
    return int(value) if value.isdigit() else None


def launched() -> int:
    """Read the number of processes launched together; 1 without a launcher."""
    counts = [os.environ.get(name, "") for name in PROCESSES]
    return next((int(count) for count in counts if count.isdigit()), 1)


def forbids_gpu() -> bool:
    """Whether the launcher requests CPUs (`accelerate launch --cpu`)."""
    return os.environ.get("ACCELERATE_USE_CPU", "").lower() not in OFF


def check_alone() -> None:
    """Refuse several processes, for commands that do not share their work.

    Raises:
        ConfigError: this is one of several.
    """
    if launched() > 1:
        raise ConfigError(
            f"{launched()} processes were launched together, and this command works in one. Start "
            "it without the launcher (train, predict and evaluate share their work)."
        )
