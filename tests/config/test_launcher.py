"""`accelerate launch`: environment variables made by accelerate's own code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import PartialState
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import launch
from helpers import draw_folders, tiny_config

from autosam.config import Config
from autosam.config.cli import run_command
from autosam.config.commands import EvaluateConfig, PredictConfig
from autosam.errors import ConfigError
from autosam.evaluate import evaluate
from autosam.predict import predict
from autosam.train import train
from autosam.utils.device import choose_device
from autosam.utils.distributed import make_accelerator, processes
from autosam.utils.launcher import check_alone, check_launcher, launcher_precision


def variables(monkeypatch: pytest.MonkeyPatch, *flags: str) -> dict[str, str]:
    """The variables that `accelerate launch FLAGS` sets for each process it starts."""
    monkeypatch.setattr(launch, "is_fp8_available", lambda: True)
    monkeypatch.setattr(launch, "is_port_in_use", lambda port: False)
    words = ["--num_machines=1", "--num_processes=2", *flags, "script.py"]
    args = launch_command_parser().parse_args(words)
    args.mixed_precision = args.mixed_precision or "no"  # as the command does by default
    args.dynamo_backend = args.dynamo_backend or "no"
    args.deepspeed_fields_from_accelerate_config, args.use_cpu = "", False
    if args.use_deepspeed:
        found = launch.prepare_deepspeed_cmd_env(args)[1]
    elif args.multi_gpu or args.use_fsdp or args.use_megatron_lm:
        found = launch.prepare_multi_gpu_env(args)
    else:
        found = launch.prepare_simple_launcher_cmd_env(args)[1]
    return {key: value for key, value in found.items() if os.environ.get(key) != value}


REFUSED = {
    "FSDP": ("--use_fsdp",),
    "Megatron-LM": ("--use_megatron_lm",),
    "DeepSpeed": ("--use_deepspeed", "--zero_stage=2"),
    "a parallelism config": ("--use_fsdp", "--use_parallelism_config", "--fsdp_version=2"),
    "dynamo": ("--dynamo_backend=inductor",),
    "the precision fp16": ("--mixed_precision=fp16",),
    "the precision fp8": ("--multi_gpu", "--mixed_precision=fp8"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_supported_is_refused_before_any_work(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, value in variables(monkeypatch, *REFUSED[name]).items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("ACCELERATE_USE_FSDP" if "parallelism" in name else "NONE", raising=False)
    for call in (
        check_launcher,
        processes,
        make_accelerator,
        lambda: train(Config(resume="nowhere")),  # nothing is looked at before
        lambda: predict(PredictConfig(checkpoint="a", input="b", output="c")),
        lambda: evaluate(EvaluateConfig(checkpoint="nowhere")),
    ):
        with pytest.raises(ConfigError, match=f"launcher asks for {name} "):
            call()
    with pytest.raises(SystemExit):
        run_command(Config, train, [])
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(f"error: The launcher asks for {name} (")


def test_plain_launches_are_not_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags in ((), ("--multi_gpu",), ("--mixed_precision=bf16",), ("--cpu",)):
        with pytest.MonkeyPatch.context() as patch:
            for key, value in variables(monkeypatch, *flags).items():
                patch.setenv(key, value)
            check_launcher()
            assert launcher_precision() == ("bf16" if "--mixed_precision=bf16" in flags else "no")


def test_commands_that_share_no_work_refuse_several_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="2 processes were launched together"):
        check_alone()
    with pytest.raises(ConfigError, match="2 processes"):
        evaluate(EvaluateConfig(zero_shot=True))
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_alone()


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[torch.device]:
    """torch says that there are two GPUs; the devices made current are listed."""
    current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    return current


def test_each_process_has_the_gpu_that_accelerate_gives_it(
    two_gpus: list[torch.device], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_device() == torch.device("cuda")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        state = SimpleNamespace(
            device=None, distributed_type="DistributedType.MULTI_GPU", local_process_index=rank
        )
        PartialState.set_device(state)
        assert choose_device() == state.device == torch.device("cuda", rank)
        assert two_gpus[-1] == state.device
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match=r"Process 3 .* there are 2\. Launch 2 processes"):
        choose_device()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    assert choose_device() == torch.device("cpu")


def test_accumulation_and_precision_are_those_of_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for kind in (AcceleratorState, GradientState, PartialState):
        kind._reset_state()  # as in a fresh process
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "7")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    accelerator = make_accelerator(3)
    assert accelerator.gradient_accumulation_steps == 3
    assert accelerator.mixed_precision == "no"
    assert not accelerator.native_amp
    net = torch.nn.Linear(3, 3)
    assert accelerator.prepare(net)(torch.ones(1, 3)).dtype == torch.float32
    with accelerator.autocast():
        assert net(torch.ones(1, 3)).dtype == torch.float32


def start(*words: str, **extra: str) -> str:
    """The output of a command in a process of its own."""
    ended = subprocess.run(
        [sys.executable, "-m", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", **extra},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ended.returncode == 0, (ended.stdout + ended.stderr)[-3000:]
    return ended.stdout + ended.stderr


def test_bf16_of_the_launcher_changes_no_figure(
    tmp_path: Path,
    tiny_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """accelerate would wrap the network in bfloat16 for good, final scores included."""
    data = draw_folders(tmp_path / "data")
    found = {}
    for precision in ("no", "bf16"):
        for kind in (AcceleratorState, GradientState, PartialState):
            kind._reset_state()  # as in a fresh process
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", precision)
        flags = (f"--data.root={data}", f"--output={tmp_path / precision}", "--train.epochs=1")
        folder = train(tiny_config(tiny_file, "--train.precision=no", *flags)).folder
        found[precision] = [
            (folder / "test_scores.csv").read_text(),
            yaml.safe_load((folder / "scores.yaml").read_text())["validation"],
        ]
        said = capsys.readouterr().out
        assert ("the launcher's precision bf16 is not used" in said) == (precision == "bf16")
    assert found["bf16"] == found["no"]


def test_two_processes_of_accelerate_evaluate_as_one(
    tmp_path: Path, tiny_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw_folders(tmp_path / "data")
    flags = (f"--data.root={data}", f"--output={tmp_path / 'run'}", "--train.epochs=1")
    run = train(tiny_config(tiny_file, "--run=head", *flags)).folder
    alone = evaluate(EvaluateConfig(checkpoint=str(run), output=str(tmp_path / "one.csv")))
    said = start(
        "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
        "--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no", "-m",
        "autosam.evaluate", f"--checkpoint={run}", f"--output={tmp_path / 'two.csv'}",
    )  # fmt: skip
    assert said.count("per image") == 1
    one, two = ((tmp_path / f"{n}.csv").read_text() for n in ("one", "two"))
    assert one == two
    assert len(one.splitlines()) == 4
    assert f"{alone['dice']:.4f}" in said
