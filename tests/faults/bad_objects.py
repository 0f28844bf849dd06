"""Settings and calls of `--task instances` that cannot be."""

from __future__ import annotations

from pathlib import Path
from random import Random

from corpus import Bad, Good, cause, training

from autosam.errors import ConfigError


@cause(
    "objects", ConfigError, r"exclude each other|no map to find|no meaning|loss on each object", 8
)
def settings_that_find_no_objects(rng: Random, folder: Path, good: Good) -> Bad:
    learned = f"--run={rng.choice(['autosam', 'hybrid', 'autosam-lora'])}"
    flags, named = rng.choice([
        (["--data.exclusive=false"], "--data.exclusive false"),
        ([learned, "--model.prompt=sparse"], "--model.prompt sparse"),
        ([learned, "--loss.resolution=full"], "--loss.resolution full"),
        ([learned, "--paper.min_max_logits=true"], "--paper.min_max_logits"),
        ([learned, "--paper.loss_on_padding=true"], "--paper.loss_on_padding"),
        ([learned, "--paper.double_normalisation=true"], "--paper.double_normalisation"),
        ([learned, "--paper.select_on_test=true"], "--paper.select_on_test"),
    ])  # fmt: skip
    data = f"--data.root={good.images}"
    return training(good, folder, data, "--task=instances", *flags), named


@cause("objects", ConfigError, r"expected .*(watershed|tokens|semantic)", 4)
def words_of_objects_that_nobody_knows(rng: Random, folder: Path, good: Good) -> Bad:
    flag, value = rng.choice([
        ("task", "instance"), ("separate", "parts"), ("model.object_prompt", "tokens+boxes"),
    ])  # fmt: skip
    return training(good, folder, f"--data.root={good.images}", f"--{flag}={value}"), f"--{flag}"


@cause("objects", ConfigError, r"number the objects of one class, .*Leave", 4)
def numbers_of_objects_of_several_classes(rng: Random, folder: Path, good: Good) -> Bad:
    task = rng.choice(["semantic", "instances"])
    flags = [f"--data.root={good.images}", "--data.instances=true", "--data.num_classes=3"]
    training_flags = training(good, folder, f"--task={task}", *flags)
    return rng.choice([training_flags, ["check", *flags]]), "--data.num_classes is 3"
