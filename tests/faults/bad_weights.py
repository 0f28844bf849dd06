"""Checkpoints, weights of a SAM, states to resume from, and foreign files passed off as such."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from corpus import SMALL, TINY, Bad, Good, cause, cut, scoring, training
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autosam.errors import CheckpointError, ConfigError

BEST = "checkpoints/best.safetensors"


def using(rng: Random, good: Good, folder: Path, path: Path) -> Bad:
    """One of the commands that take a checkpoint."""
    flag = f"--checkpoint={path}"
    return rng.choice([
        ["predict", flag, f"--input={good.images / 'images'}", f"--output={folder / 'out'}"],
        ["evaluate", flag],
        ["export", flag, f"--output={folder / 'out.onnx'}"],
    ]), path.name  # fmt: skip


FOREIGN = {
    "empty": b"",
    "html": b"<!DOCTYPE html><html>404</html>",
    "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
    "text": b"epoch 1 loss 0.5\n",
    "onnx": b"\x08\x08\x12\x07pytorch\x1a\x052.0.0" + bytes(range(256)),
    "hdf5": b"\x89HDF\r\n\x1a\n" + bytes(64),
    "image": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "gzip": b"\x1f\x8b\x08" + bytes(40),
}


def foreign(rng: Random, folder: Path) -> Path:
    path = folder / f"model.{rng.choice(['safetensors', 'pth', 'pt', 'onnx', 'ckpt'])}"
    path.write_bytes(FOREIGN[rng.choice(list(FOREIGN))])
    return path


# --- checkpoints


@cause(
    "checkpoint",
    CheckpointError,
    r"no checkpoint there\. Give a run folder|no such file or folder\. Fix the path",
)
def nothing_there(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / f"runs/{rng.randrange(99)}"
    if rng.random() < 0.5:
        path.mkdir(parents=True)
    return using(rng, good, folder, path)


@cause("checkpoint", CheckpointError, r"not a checkpoint of autosam.*(Give|take another copy)", 6)
def a_file_of_another_kind(rng: Random, folder: Path, good: Good) -> Bad:
    return using(rng, good, folder, foreign(rng, folder))


@cause("checkpoint", CheckpointError, r"not a checkpoint of autosam.*take another copy")
def a_checkpoint_cut_short(rng: Random, folder: Path, good: Good) -> Bad:
    path = Path(shutil.copy(good.run / BEST, folder))
    return using(rng, good, folder, cut(rng, path, 0, 0.99))


@cause("checkpoint", CheckpointError, r"not a checkpoint of autosam.*take another copy")
def a_length_that_lies(rng: Random, folder: Path, good: Good) -> Bad:
    path = Path(shutil.copy(good.run / BEST, folder))
    length = rng.choice([0, 1, 2**31, 2**63, 2**64 - 1]).to_bytes(8, "little")
    path.write_bytes(length + path.read_bytes()[8:])
    return using(rng, good, folder, path)


@cause("checkpoint", CheckpointError, r"not a checkpoint of autosam \(no 'autosam' header\)\. Give")
def tensors_of_someone_else(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "model.safetensors"
    metadata = rng.choice([None, {"format": "pt"}, {"Autosam": "{}"}])
    save_file({f"layer{i}": torch.rand(3) for i in range(rng.randrange(1, 5))}, path, metadata)
    return using(rng, good, folder, path)


@cause("checkpoint", CheckpointError, r"not a readable|not a checkpoint of autosam")
def weights_of_a_sam(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / rng.choice(["sam_vit_b.pth", "sam.safetensors"])
    shutil.copy(good.sam, path)
    return using(rng, good, folder, path)


def changed(
    good: Good,
    folder: Path,
    header: Callable[[dict[str, Any]], Any] | None = None,
    tensors: Callable[[dict[str, torch.Tensor]], Any] | None = None,
    hashed: bool = False,
) -> Path:
    """A checkpoint with another header (what `header` returns replaces it), or other tensors (and
    then without their hash, which would speak first, unless `hashed`)."""
    with safe_open(good.run / BEST, "pt") as file:
        facts = json.loads(file.metadata()["autosam"])
    if tensors and not hashed:
        del facts["tensors"]
    state = load_file(good.run / BEST)
    text = header(facts) if header else None
    if tensors:
        tensors(state)
    path = folder / "best.safetensors"
    save_file(state, path, {"autosam": json.dumps(facts) if text is None else text})
    return path


@cause("checkpoint", CheckpointError, r"tensors are not those.*Take another copy")
def a_wrong_bit(rng: Random, folder: Path, good: Good) -> Bad:
    def tensors(state: dict[str, torch.Tensor]) -> None:
        value = state[rng.choice(sorted(k for k, v in state.items() if v.dtype == torch.float32))]
        bits = value.reshape(-1)[rng.randrange(value.numel())].reshape(1).view(torch.int32)
        bits ^= 1 << rng.randrange(23)  # of the fraction: the value stays a number

    return using(rng, good, folder, changed(good, folder, None, tensors, hashed=True))


@cause("checkpoint", CheckpointError, r"its header is damaged\. Take another copy")
def a_header_that_is_no_json(rng: Random, folder: Path, good: Good) -> Bad:
    def header(facts: dict[str, Any]) -> str:
        text = json.dumps(facts)
        return rng.choice([text[: rng.randrange(len(text))], "", "[]", "5", "[" * 30_000,
                           '{"format": ' + "1" * 5000 + "}"])  # fmt: skip

    return using(rng, good, folder, changed(good, folder, header))


@cause("checkpoint", CheckpointError, r"its header is damaged\. Take another copy")
def a_header_without_its_parts(rng: Random, folder: Path, good: Good) -> Bad:
    key, value = rng.choice([("format", "1"), ("config", []), ("sam", {}), ("sam", "tiny"),
                             ("sam", {"sha256": 5, "name": "x"}), ("config", None)])  # fmt: skip
    return using(
        rng, good, folder, changed(good, folder, lambda facts: facts.__setitem__(key, value))
    )


@cause("checkpoint", CheckpointError, r"its header is damaged\. Take another copy")
def a_threshold_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    value = rng.choice(["half", None, 0, 1.5, -1, [0.5], float("nan")])
    return using(
        rng, good, folder, changed(good, folder, lambda facts: facts.update(threshold=value))
    )


@cause("checkpoint", CheckpointError, r"its header is damaged\. Take another copy")
def a_smallest_area_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    value = rng.choice(["half", None, 1.5, -0.1, [0.5], float("nan")])
    return using(
        rng, good, folder, changed(good, folder, lambda facts: facts.update(min_area=value))
    )


@cause("checkpoint", CheckpointError, r"written in format \d+, .*Update autosam")
def a_later_format(rng: Random, folder: Path, good: Good) -> Bad:
    number = rng.randrange(2, 999)
    return using(
        rng, good, folder, changed(good, folder, lambda facts: facts.update(format=number))
    )


@cause("checkpoint", CheckpointError, r"settings cannot be used: .*(Take another copy|version)", 8)
def settings_that_cannot_be(rng: Random, folder: Path, good: Good) -> Bad:
    section, key, value = rng.choice([
        ("train", "lr", "fast"), ("train", "colour", 1), ("model", "input_size", 63),
        ("model", "width", -5), ("data", "num_classes", 0), ("data", "classes", [5]),
        ("loss", "dice", None), ("data", "window", [9, 1]), ("prompt", "grid", "x"),
    ])  # fmt: skip
    return using(
        rng,
        good,
        folder,
        changed(good, folder, lambda f: f["config"][section].update({key: value})),
    )


@cause("checkpoint", CheckpointError, r"settings cannot be used: .*(Take another copy|version)")
def a_section_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    key, value = rng.choice([("data", 5), ("model", None), ("train", [1]), ("run", "foo"),
                             ("extra", 1), ("run", None)])  # fmt: skip
    return using(
        rng, good, folder, changed(good, folder, lambda f: f["config"].update({key: value}))
    )


@cause("checkpoint", CheckpointError, r"needs the SAM it was trained with: .*(no such|unknown)")
def a_sam_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    key, value = rng.choice([("sam", "vit_z"), ("sam_checkpoint", "/nowhere/sam.pth")])
    return using(
        rng, good, folder, changed(good, folder, lambda f: f["config"].update({key: value}))
    )


@cause("checkpoint", CheckpointError, r"--model\.backbone.*(no such model|empty).*")
def a_backbone_that_nobody_knows(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["resnet1", "", "unet", "tf_efficientnet_lite9"])
    return using(
        rng,
        good,
        folder,
        changed(good, folder, lambda f: f["config"]["model"].update(backbone=name)),
    )


@cause("checkpoint", CheckpointError, r"trained with other weights of SAM.*--sam_checkpoint")
def another_sam(rng: Random, folder: Path, good: Good) -> Bad:
    digest = rng.randbytes(32).hex()
    return using(rng, good, folder, changed(good, folder, lambda f: f["sam"].update(sha256=digest)))


@cause("checkpoint", CheckpointError, r"holds NaN or infinite values\. Take another copy")
def tensors_that_are_no_numbers(rng: Random, folder: Path, good: Good) -> Bad:
    def tensors(state: dict[str, torch.Tensor]) -> None:
        floats = [key for key in sorted(state) if state[key].is_floating_point()]
        state[rng.choice(floats)].view(-1)[0] = rng.choice([float("nan"), float("inf")])

    return using(rng, good, folder, changed(good, folder, None, tensors))


@cause(
    "checkpoint", CheckpointError, r"\d+ tensors do not fit this run, for example .*Take another"
)
def tensors_that_do_not_fit(rng: Random, folder: Path, good: Good) -> Bad:
    def tensors(state: dict[str, torch.Tensor]) -> None:
        key = rng.choice(sorted(state))
        value = state.pop(key)
        new = rng.choice([None, value[None].contiguous(), value.to(torch.int32) if
                          value.is_floating_point() else value.float()])  # fmt: skip
        state |= {"more": value} if new is None else {key: new}

    return using(rng, good, folder, changed(good, folder, None, tensors))


@cause(
    "checkpoint",
    CheckpointError,
    r"(not a checkpoint of autosam|header is damaged).*[Tt]ake another",
)
def bytes_of_the_header_changed(rng: Random, folder: Path, good: Good) -> Bad:
    """Of the part that says where tensors are."""
    path = Path(shutil.copy(good.run / BEST, folder))
    content = path.read_bytes()
    old, new = rng.choice([
        (b'"F32"', b'"F99"'), (b'"shape":[', b'"shape":{'), (b"}}", b"}]"),
        (b'"data_offsets":[', b'"data_offsets":[9'), (b'"dtype"', b'"dtypf"'),
    ])  # fmt: skip
    path.write_bytes(content.replace(old, new, 1))
    return using(rng, good, folder, path)


# --- weights of a SAM


def loading(rng: Random, good: Good, folder: Path, path: Path) -> Bad:
    """One of the commands that take a SAM's file."""
    data = f"--data.root={good.images}"
    flag = f"--sam_checkpoint={path}"
    return rng.choice([
        ["evaluate", "--zero-shot", *TINY, flag, data],
        ["train", *TINY, *SMALL, flag, data, f"--output={folder / 'out'}"],
        ["weights", "verify", str(path), "--sam", "tiny"],
        ["predict", f"--checkpoint={good.run}", flag, f"--input={good.images / 'images'}",
         f"--output={folder / 'out'}"],
    ]), path.name  # fmt: skip


@cause("sam", CheckpointError, r"no such file.*(Give|Fix)")
def no_file(rng: Random, folder: Path, good: Good) -> Bad:
    return loading(rng, good, folder, folder / "gone.pth")


@cause(
    "sam",
    CheckpointError,
    r"is a folder\. Give the weights file itself( \(sam\.safetensors\))?\.",
)
def a_folder_as_sam(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "saved"
    path.mkdir()
    if rng.random() < 0.5:  # not as transformers names it
        save_file(torch.load(good.sam, weights_only=True), path / "sam.safetensors")
        (path / "config.json").write_text("{}", encoding="utf-8")
    return loading(rng, good, folder, path)


@cause("sam", CheckpointError, r"not a readable weights file: .*Expected a \.safetensors", 8)
def a_file_of_another_kind_as_sam(rng: Random, folder: Path, good: Good) -> Bad:
    return loading(rng, good, folder, foreign(rng, folder))


@cause("sam", CheckpointError, r"not a readable weights file: .*(truncated|damaged).*Expected a", 6)
def a_sam_cut_short(rng: Random, folder: Path, good: Good) -> Bad:
    path = Path(shutil.copy(good.sam, folder))
    if rng.random() < 0.4:
        save_file(torch.load(good.sam, weights_only=True), path)
    return loading(rng, good, folder, cut(rng, path, 0.01, 0.99))


class Harm:
    """Something that a pickle would have called."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@cause("sam", CheckpointError, r"could run code and is never loaded\. Where you trust it")
def code_in_a_pickle(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "sam.pth"
    harm = Harm(folder / "scores.yaml")
    content = rng.choice([harm, {"model": harm}, torch.nn.Linear(2, 2), {"a": [harm]}])
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.5)
    return loading(rng, good, folder, path)


@cause("sam", CheckpointError, r"(zip archive of something else: unpack it|TorchScript).*")
def a_zip_of_something_else(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "sam.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(rng.choice(["notes.txt", "code/constants.pkl", "a/b.bin"]), "x")
    return loading(rng, good, folder, path)


@cause("sam", CheckpointError, r"holds (other things than tensors under|nothing|\w+, expected)")
def no_dict_of_tensors(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "sam.pth"
    torch.save(rng.choice([[torch.rand(2)], {}, {"model": {}}, {"epoch": 5}, torch.rand(3),
                           {"optimizer": {"lr": 1}, "model": 3}]), path)  # fmt: skip
    return loading(rng, good, folder, path)


def resaved(good: Good, folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> Path:
    state = torch.load(good.sam, weights_only=True)
    change(state)
    path = folder / "sam.pth"
    torch.save(state, path)
    return path


@cause("sam", CheckpointError, r"(does not fit|not a file of SAM).*\n.*(looks like|Its tensors)")
def a_sam_without_some_tensors(rng: Random, folder: Path, good: Good) -> Bad:
    def change(state: dict[str, torch.Tensor]) -> None:
        for key in rng.sample(sorted(state), rng.randrange(1, 9)):
            del state[key]

    return loading(rng, good, folder, resaved(good, folder, change))


@cause("sam", CheckpointError, r"does not fit.*of another shape.*\n.*(looks like|Its tensors)")
def a_sam_of_another_shape(rng: Random, folder: Path, good: Good) -> Bad:
    def change(state: dict[str, torch.Tensor]) -> None:
        key = rng.choice([k for k in sorted(state) if k.startswith("mask_decoder.")])
        state[key] = torch.cat([state[key], state[key]])

    return loading(rng, good, folder, resaved(good, folder, change))


@cause(
    "sam",
    CheckpointError,
    r"(does not fit|not a file of SAM|weights file of a known SAM).*(backbone|known)",
)
def a_network_that_is_no_sam(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "net.pth"
    names = rng.choice([["conv1.weight", "layer1.0.conv1.weight", "fc.weight"], ["a", "b"]])
    torch.save({name: torch.rand(4, 3, 3, 3) for name in names}, path)
    return loading(rng, good, folder, path)


@cause("sam", CheckpointError, r"a checkpoint of autosam itself: give it as --checkpoint")
def a_run_in_place_of_its_sam(rng: Random, folder: Path, good: Good) -> Bad:
    return loading(rng, good, folder, Path(shutil.copy(good.run / BEST, folder / "sam.pth")))


@cause("sam", CheckpointError, r"holds NaN or infinite values\. Download or save it again")
def a_sam_that_is_not_finite(rng: Random, folder: Path, good: Good) -> Bad:
    def change(state: dict[str, torch.Tensor]) -> None:
        key = rng.choice([k for k in sorted(state) if k.startswith("mask_decoder.")])
        state[key].view(-1)[-1] = rng.choice([float("nan"), float("inf")])

    path = resaved(good, folder, change)
    line, named = loading(rng, good, folder, path)
    if line[0] == "predict":  # another hash, which is said first
        line = scoring(good, f"--data.root={good.images}")
        line[3] = f"--sam_checkpoint={path}"
    return line, named


@cause("sam", ConfigError, r"--sam \S+: unknown\. Choose one of lite")
def a_name_that_nobody_knows(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["vit_x", "sam", "Lite", "../lite"])
    return rng.choice([
        ["weights", "get", name], ["weights", "verify", str(good.sam), "--sam", name],
        ["weights", "add", name, str(good.sam)], ["evaluate", "--zero-shot", f"--sam={name}"],
    ]), f"--sam {name}"  # fmt: skip


@cause("sam", CheckpointError, r"downloading it from .* failed: .*Run the same again", 3)
def a_server_that_does_not_answer(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["mobile_sam", "vit_b", "medsam"])
    return ["weights", "get", name], f"--sam {name}"


@cause(
    "sam",
    CheckpointError,
    r"keeps no file in the cache folder: pass another as --sam_checkpoint",
    2,
)
def a_copy_of_what_is_shipped(rng: Random, folder: Path, good: Good) -> Bad:
    return ["weights", "add", rng.choice(["lite", "tiny"]), str(good.sam)], "--sam_checkpoint"


@cause(
    "sam", CheckpointError, r"SHA-256 is .*but according to its source .*(damaged, or another file)"
)
def a_file_with_another_hash(rng: Random, folder: Path, good: Good) -> Bad:
    path = Path(shutil.copy(good.sam, folder / "vit.pth"))
    words = [["add", "vit_b", str(path)], ["verify", str(path), "--sam", "vit_b"]]
    return ["weights", *rng.choice(words)], path.name


@cause("sam", CheckpointError, r"(not a readable weights file|does not fit the backbone).*")
def weights_of_no_backbone(rng: Random, folder: Path, good: Good) -> Bad:
    path = foreign(rng, folder) if rng.random() < 0.5 else good.sam
    flag = f"--model.backbone_weights={path}"
    return training(good, folder, flag, f"--data.root={good.images}"), path.name


# --- states to resume from


def resumed(good: Good, folder: Path) -> Path:
    return Path(shutil.copytree(good.run, folder / "run"))


def going_on(run: Path, *flags: str) -> Bad:
    return ["train", f"--resume={run}", *flags], run.name


def the_state(run: Path) -> Path:
    return next((run / "checkpoints").glob("state-*.pt"))


@cause("resume", CheckpointError, r"--resume .*no state in checkpoints: .*--overwrite")
def no_run(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    if rng.random() < 0.5:
        shutil.rmtree(run / "checkpoints")
    else:
        state = the_state(run)
        state.rename(state.with_name(rng.choice(["state.pt", "state-1.pt", "state-000001-x.pt"])))
    return going_on(run)


@cause("resume", CheckpointError, r"no state in checkpoints is valid \(1 damaged\)\. Start again")
def a_damaged_state(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    path = the_state(run)
    content = bytearray(path.read_bytes())
    content[rng.randrange(len(content))] ^= 1 + rng.randrange(255)
    path.write_bytes(content if rng.random() < 0.5 else content[: rng.randrange(len(content))])
    return going_on(run)


def restated(run: Path, content: object) -> None:
    """A state whose name agrees with what it holds."""
    path = the_state(run)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    path.rename(path.with_name(f"state-000009-{digest}.pt"))


@cause("resume", CheckpointError, r"no state in checkpoints is valid \(1 damaged\)\. Start again")
def a_state_of_someone_else(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    content = [b"", b"x" * 99, {"model": Harm(folder / "scores.yaml")}, 5, [torch.rand(2)]]
    restated(run, rng.choice(content))
    return going_on(run)


@cause(
    "resume", CheckpointError, r"state does not fit (its settings|this run).*--init|do not fit this"
)
def a_state_of_another_run(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    content = torch.load(the_state(run), weights_only=True)
    key = rng.choice(["model", "optimizer", "scheduler", "facts", "sums", "epoch", "steps"])
    if rng.random() < 0.5:
        del content[key]
    else:
        content[key] = rng.choice([{}, "x", None]) if key != "scheduler" else 5
    restated(run, content)
    return going_on(run)


@cause("resume", CheckpointError, r"config\.yaml is missing\. Restore it")
def no_settings(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    path = run / "config.yaml"
    path.unlink()
    if rng.random() < 0.3:
        path.mkdir()
    return going_on(run)


@cause(
    "resume",
    ConfigError,
    r"config\.yaml: (not valid YAML|holds|unknown|.*Parser|.*Group|data).*",
    6,
)
def damaged_settings(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    path = run / "config.yaml"
    text = path.read_text()
    path.write_text(rng.choice([
        "run: [head", "- a", "just text", text.replace("data:", "data: 5\nx:"),
        text.replace("lr: ", "lr: much"), text.replace("epochs:", "epoks:"), "\t" + text,
    ]))  # fmt: skip
    return going_on(run)


@cause("resume", ConfigError, r"--resume takes its settings from the run: leave .* out.*--init RUN")
def settings_beside(rng: Random, folder: Path, good: Good) -> Bad:
    flag = rng.choice(["--train.epochs=9", "--run=head", "--train.lr=0.1", "--data.limit=3"])
    line, _ = going_on(good.run, flag)
    return line, flag[2:].split("=")[0]


@cause("resume", CheckpointError, r"the images and masks are not those .*Restore them", 3)
def other_data(rng: Random, folder: Path, good: Good) -> Bad:
    run, data = resumed(good, folder), folder / "data"
    shutil.copytree(good.run.parent / "data", data)
    path = rng.choice(sorted((data / "train/images").iterdir()))
    path.write_bytes(path.read_bytes() + bytes(rng.randrange(1, 9)))
    return going_on(run, f"--data.root={data}")


@cause("resume", CheckpointError, r"the weights of SAM are not those .*Restore them", 2)
def another_sam_than_before(rng: Random, folder: Path, good: Good) -> Bad:
    run = resumed(good, folder)
    path = resaved(good, folder, lambda state: state["mask_decoder.iou_token.weight"].add_(1))
    return going_on(run, f"--sam_checkpoint={path}")


@cause(
    "resume",
    CheckpointError,
    r"(--init|checkpoint).*(keep its parts, prompt|Give a run folder|another copy)",
)
def a_run_to_start_from(rng: Random, folder: Path, good: Good) -> Bad:
    path = rng.choice([good.run, foreign(rng, folder), folder])
    other = rng.choice(["--run=decoder", "--run=head"])
    data = f"--data.root={good.images}"
    return training(good, folder, f"--init={path}", other, data), path.name
