"""Configs and command lines that cannot be, and what `predict`, `export` and others are given."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path
from random import Random

import miniature
import numpy as np
from corpus import Bad, Good, cause, copied, cut, predicting, scoring, some, training
from PIL import Image

from autosam.errors import CheckpointError, ConfigError, DataError, StorageError

TAKEN: list[socket.socket] = []
"""Ports of this machine, while the tests run."""

# --- configs


def configured(rng: Random, folder: Path, text: str | bytes) -> Bad:
    path = folder / f"c{rng.randrange(99)}.{rng.choice(['yaml', 'yml', 'txt'])}"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    verb = rng.choice(["train", "train", "evaluate", "compare", "check"])
    return [verb, "--config", str(path)], path.name


@cause("config", ConfigError, r"not valid YAML: .*Fix it", 6)
def no_yaml(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, rng.choice([
        "run: [head", "train: {lr: 1", "a: b: c", "run:\t- head\n\t- x", "%TAG", "@x",
        "train:\n lr: 1\n  x: 2", "'", "? [a, b]\n: c", "{[]: 1}",
    ]))  # fmt: skip


@cause("config", ConfigError, r"not valid YAML: .*codec can't decode.*Fix it")
def bytes_that_are_no_text(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, b"run: head # gr\xfcn" + rng.randbytes(4) + b"\xff")


@cause("config", ConfigError, r"holds \w+, expected `key: value` lines")
def no_mapping(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, rng.choice(["- a\n- b", "head", "5", "[run, head]"]))


@cause("config", ConfigError, r"unknown key .*\.")
def a_key_that_nobody_knows(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, rng.choice(["runn: head", "5: x", "lr: 0.1", "null: 1"]))


@cause("config", ConfigError, r"unknown key")
def a_key_of_a_section_that_nobody_knows(rng: Random, folder: Path, good: Good) -> Bad:
    line, name = configured(rng, folder, "data:\n  " + rng.choice(["rot: x", "1: 2", "Root: x"]))
    return line, name


@cause("config", ConfigError, r"expected .*")
def a_value_of_another_type(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, "data: " + rng.choice([
        "{num_classes: two}", "{bands: [1, 2]}", "{window: 5}", "{stratify: perhaps}",
        "{axis: 1.5}",
        "{classes: [{nam: a}]}", "{layout: zip}", "{limit: .inf}", "{test: null}",
    ]))  # fmt: skip


@cause("config", ConfigError, r"data holds .*expected `key: value` lines indented.*or remove it")
def a_section_without_keys(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, "data: " + rng.choice(["", "[1]", "5", "folders", "null"]))


@cause("config", ConfigError, r"the key '\w+' is a duplicate.*Fix it")
def a_key_twice(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, rng.choice([
        "data: {root: a}\ndata: {root: b}", "data: {root: a, root: b}", "run: head\nrun: decoder",
    ]))  # fmt: skip


@cause("config", ConfigError, r"could not determine a constructor.*Fix it")
def objects_of_python(rng: Random, folder: Path, good: Good) -> Bad:
    harm = folder / "scores.yaml"
    return configured(rng, folder, rng.choice([
        f"data: {{root: !!python/object/apply:os.system ['touch {harm}']}}",
        "data: !!python/name:os.system", "run: !own x",
    ]))  # fmt: skip


@cause(
    "config", ConfigError, r"expected text or numbers\. Put text in quotes|not valid YAML.*Fix it"
)
def values_that_are_neither_text_nor_number(rng: Random, folder: Path, good: Good) -> Bad:
    return configured(rng, folder, "data: {num_classes: " + rng.choice([
        "2024-01-31", "2024-01-31 10:00:00", "!!binary aGVsbG8=", "!!set {a, b}", "2024-13-45",
    ]) + "}")  # fmt: skip


@cause(
    "config",
    ConfigError,
    r"expands into more than 10000 values\. Write it without|not valid YAML: .*recursive",
)
def a_text_that_expands(rng: Random, folder: Path, good: Good) -> Bad:
    depth = rng.randrange(6, 30)
    lines = [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, depth)]
    bomb = "data:\n  a0: &a0 [x]\n" + "\n".join(lines)
    return configured(rng, folder, rng.choice([bomb, "data: &a\n  root: *a", "run: &a [*a]"]))


@cause("config", ConfigError, r"not valid YAML: .*(recursion|digits).*Fix it")
def a_text_too_deep(rng: Random, folder: Path, good: Good) -> Bad:
    text = rng.choice(
        ["run: " + "[" * 5000, "data: " + "{a: " * 5000, "train: {seed: " + "9" * 5000]
    )
    return configured(rng, folder, text + "}" * text.startswith("train"))


@cause("config", ConfigError, r"no such file, and not a shipped config \(default, ")
def no_config(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["nowhere", "kvasir.yml.bak", ".", str(folder), "", "../kvasir"])
    return [rng.choice(["train", "check", "evaluate"]), f"--config={name}"], f"--config {name}"


@cause("config", ConfigError, r"has nothing for this command, which reads")
def nothing_for_this_command(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["kvasir", "glas", "polyp"])
    return [rng.choice(["predict", "export"]), "--config", name], f"{name}.yaml"


@cause("config", ConfigError, r"--data\.classes.*(listed twice|expected #rrggbb|a name without /)")
def classes_that_cannot_be(rng: Random, folder: Path, good: Good) -> Bad:
    classes = rng.choice([
        "[{name: a}, {name: a}]", "[{name: a, values: [1]}, {name: b, values: [1]}]",
        "[{name: a, color: red}, {name: b}]", "[{name: a/b}]", "[{name: ''}]",
    ])  # fmt: skip
    path = folder / "c.yaml"
    path.write_text(f"data: {{root: {good.images}, classes: {classes}}}")
    return scoring(good, f"--config={path}"), "--data.classes"


@cause("config", ConfigError, r"must be (\S+ to|at least) \S+|must be a multiple of 32", 8)
def numbers_that_cannot_work(rng: Random, folder: Path, good: Good) -> Bad:
    flag, value = rng.choice([
        ("train.lr", "0"), ("train.lr", ".nan"), ("train.epochs", "0"), ("train.batch_size", "-2"),
        ("model.input_size", "100"), ("model.input_size", "0"), ("model.width", "1"),
        ("augment.flip", "1.5"), ("loss.dice", "-1"), ("loss.bce", ".inf"), ("train.seed", "-1"),
        ("cache.copies", "-1"), ("train.save_minutes", "-3"), ("train.clip", "0"),
    ])  # fmt: skip
    return training(good, folder, f"--data.root={good.images}", f"--{flag}={value}"), f"--{flag}"


@cause("config", ConfigError, r"one must be above 0|has no SAM|has one class")
def settings_that_contradict(rng: Random, folder: Path, good: Good) -> Bad:
    flags, named = rng.choice([
        (["--loss.bce=0", "--loss.dice=0"], "--loss.dice"),
        (["--run=head", "--embedding=blank"], "--embedding blank"),
        (["--run=decoder-rough", "--data.num_classes=3"], "--run decoder-rough"),
        (["--run=head", "--paper.min_max_logits=true"], "--paper.min_max_logits"),
    ])  # fmt: skip
    return training(good, folder, f"--data.root={good.images}", *flags), named


# --- words of the command line


@cause("line", ConfigError, r"unknown setting.*Did you mean")
def a_flag_misspelt(rng: Random, folder: Path, good: Good) -> Bad:
    verb, flag = rng.choice([("train", "--trian.lr=3"), ("train", "--lrr=3"),
                             ("predict", "--chekpoint=x"), ("evaluate", "--data.rot=x"),
                             ("export", "--ouput=x"), ("compare", "--sedes=3")])  # fmt: skip
    return [verb, flag], flag.split("=")[0][2:]


@cause("line", ConfigError, r"unexpected word")
def a_word_too_many(rng: Random, folder: Path, good: Good) -> Bad:
    word = rng.choice(["runs/x", "now", "-x", "--", "-1"])
    return [rng.choice(["train", "predict", "evaluate", "export", "compare", "check"]), word], word


@cause("line", ConfigError, r"[Ee]xpected .*", 6)
def a_value_of_another_kind(rng: Random, folder: Path, good: Good) -> Bad:
    verb, flag = rng.choice([
        ("train", "--train.lr=abc"), ("train", "--train.epochs=3.5"), ("predict", "--tile=wide"),
        ("predict", "--coco=yes"), ("export", "--precision=fp8"), ("compare", "--seeds=many"),
        ("evaluate", "--split=half"), ("evaluate", "--fast=maybe"), ("check", "--cache.copies=[1"),
        ("train", "--run=foo"),
    ])  # fmt: skip
    return [verb, flag], flag.split("=")[0][2:]


@cause("line", ConfigError, r"expected a value")
def a_flag_without_value(rng: Random, folder: Path, good: Good) -> Bad:
    verb, flag = rng.choice([("train", "--train.lr"), ("train", "--config"),
                             ("predict", "--checkpoint"), ("export", "--output")])  # fmt: skip
    return [verb, flag], flag


@cause("line", ConfigError, r"--\w+ (is|RUN is) needed|--checkpoint RUN is needed|needed")
def what_is_needed_left_out(rng: Random, folder: Path, good: Good) -> Bad:
    run = f"--checkpoint={good.run}"
    verb, flags, named = rng.choice([
        ("predict", [], "--checkpoint"), ("predict", [run], "--input"),
        ("predict", [run, f"--input={good.images}"], "--output"), ("export", [], "--checkpoint"),
        ("evaluate", [], "--checkpoint"),
    ])  # fmt: skip
    return [verb, *flags], named


@cause(
    "line",
    ConfigError,
    r"(unknown action|required|not allowed|give names|expected|invalid float|unrecognized)",
    12,
)
def an_action_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    words, named = rng.choice([
        (["weights", "fetch"], "fetch"), (["weights", "get"], "NAME"), (["weights", "add"], "FILE"),
        (["weights", "add", "vit_b"], "FILE"), (["embeddings"], "verb"),
        (["embeddings", "delete"], "delete"), (["embeddings", "prune"], "--days"),
        (["embeddings", "prune", "--days", "nan"], "--days"),
        (["embeddings", "prune", "--days=-1"], "--days"),
        (["embeddings", "prune", "--days", "soon"], "--days"),
        (["embeddings", "list", "all"], "all"), (["weights", "list", "x"], "x"),
        (["weights", "--sam", "x"], "x"), (["weights", "verify"], "FILE"),
    ])  # fmt: skip
    return words, named


@cause("line", DataError, r"has no cache .*see `list`")
def a_cache_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["0123456789abcdef", "..", "../../x", "/"])
    return ["embeddings", f"--dir={folder}", "prune", name], name


@cause("line", ConfigError, r"--dir .*: no such folder\. Fix the path")
def caches_in_no_folder(rng: Random, folder: Path, good: Good) -> Bad:
    path = rng.choice([good.sam, folder / "gone", ""])
    return ["embeddings", f"--dir={path}", *rng.choice([["list"], ["prune", "--days=0"]])], (
        f"--dir {path}"
    )


@cause("line", ConfigError, r"--[\w.]+: empty\. Give a value; leave it out", 8)
def a_variable_of_the_shell_that_is_not_set(rng: Random, folder: Path, good: Good) -> Bad:
    verb, flag = rng.choice([
        ("train", "--data.root"), ("train", "--resume"), ("train", "--output"), ("train", "--init"),
        ("train", "--cache.dir"), ("check", "--data.root"), ("evaluate", "--output"),
        ("evaluate", "--sam"), ("compare", "--output"), ("compare", "--data.root"),
        ("rough", "--data.masks"), ("bench", "--json"), ("bench", "--backbone"),
        ("pretrain", "--output"), ("app", "--host"), ("export", "--images"), ("export", "--output"),
    ])  # fmt: skip
    return [verb, f"{flag}="], flag


@cause("line", ConfigError, r"(choose from|listed twice|must be |use --folds|empty)", 8)
def a_comparison_that_cannot_be(rng: Random, folder: Path, good: Good) -> Bad:
    flag, named = rng.choice([
        ("--runs=foo", "--runs foo"), ("--runs=", "--runs"), ("--runs=head,head", "--runs"),
        ("--seeds=0", "--seeds 0"), ("--folds=1", "--folds 1"), ("--jobs=0", "--jobs 0"),
        ("--data.folds=3", "--data.folds"), ("--runs=autosam,", "--seeds -1"),
        ("--data.fold=1", "--data.fold"), ("--seeds=100000000000", "--seeds"),
        ("--train.seed=4294967295", "--train.seed"), ("--jobs=9999999", "--jobs"),
    ])  # fmt: skip
    more = ["--seeds=-1"] if "," in flag and "head" not in flag else []
    return ["compare", flag, *more, f"--output={folder / 'out'}"], named


@cause("line", ConfigError, r"exists[;.:] ?.*[Cc]hoose another", 6)
def an_output_that_exists(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / rng.choice(["a.csv", "b.onnx", "c.pt2"])
    path.write_text("mine")
    data = f"--data.root={good.images}"
    verb = {".csv": rng.choice([scoring(good, data), ["check", data], ["rough", data]])}
    line = verb.get(path.suffix, ["export", f"--checkpoint={good.run}"])
    return [*line, f"--output={path}"], f"--output {path}"


@cause("line", ConfigError, r"exists\. Choose another|is not a run .*not overwritten")
def a_folder_of_someone_else(rng: Random, folder: Path, good: Good) -> Bad:
    out = folder / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    more = rng.choice([[], ["--overwrite"]])
    return training(good, folder, f"--data.root={good.images}", *more), f"--output {out}"


@cause("line", StorageError, r"cannot be written \(.*\)\. Make room or fix the rights", 6)
def an_output_below_a_file(rng: Random, folder: Path, good: Good) -> Bad:
    file = folder / "file"
    file.write_text("mine")
    data = f"--data.root={good.images}"
    line = rng.choice([
        ["predict", f"--checkpoint={good.run}", f"--input={good.images / 'images'}",
         f"--output={file / 'masks'}"],
        [*scoring(good, data), f"--output={file / 'scores.csv'}"],
        ["train", *training(good, folder, data)[1:], f"--output={file / 'run'}"],
        ["rough", data, f"--output={file / 'rough.png'}"],
        ["export", f"--checkpoint={good.run}", f"--output={file / 'm.onnx'}"],
    ])  # fmt: skip
    return line, str(file)


@cause(
    "line",
    ConfigError,
    r"--sam .*: unknown|only for --zero-shot|leave --checkpoint out",
)
def a_sam_where_none_is_asked_for(rng: Random, folder: Path, good: Good) -> Bad:
    flags, named = rng.choice([
        (["check", "--sam=vit_q"], "--sam vit_q"),
        (["evaluate", f"--checkpoint={good.run}", "--sam=tiny"], "--sam"),
        (["evaluate", "--zero-shot", f"--checkpoint={good.run}"], "--checkpoint"),
    ])  # fmt: skip
    return flags, named


@cause("line", CheckpointError, r"(--fast asks for the surrogate decoder|--fast: a SAM).*", 2)
def fast_without_surrogate(rng: Random, folder: Path, good: Good) -> Bad:
    import bad_weights

    path = bad_weights.changed(good, folder, lambda f: f["config"]["model"].update(prompt="sparse"))
    return ["evaluate", f"--checkpoint={path}", "--fast"], "--fast"


@cause("line", ConfigError, r"--rough\.\w+ \S+: must be|--count .*must be at least 1", 6)
def a_rule_that_cannot_be(rng: Random, folder: Path, good: Good) -> Bad:
    flag = rng.choice(["--rough.erosion=-5", "--rough.min_share=2", "--count=0", "--count=-3",
                       "--rough.threshold=.nan", "--rough.threshold=1e9",
                       "--rough.lower=[300, 0, 0]", "--rough.upper=[179, -1, 255]"])  # fmt: skip
    return ["rough", f"--data.root={good.images}", flag], flag.split("=")[0]


@cause("line", DataError, r"cannot be read as a TIFF.*--rough\.method index are for TIFFs")
def a_rule_on_bands_of_a_png(rng: Random, folder: Path, good: Good) -> Bad:
    bands = f"--rough.bands={rng.choice(['[1, 2]', '[0, 1]', '[9, 10]', '[-1, 1]'])}"
    return ["rough", f"--data.root={good.images}", "--rough.method=index", bands], ".png"


@cause("line", ConfigError, r"the name must end in \.png")
def a_sheet_that_is_no_png(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["sheet.jpg", "sheet.txt", "sheet"])
    verb = rng.choice(["check", "rough"])
    return [verb, f"--data.root={good.images}", f"--output={name}"], f"--output {name}"


@cause("line", ConfigError, r"must be (\S+ to|at least) \S+|must be a multiple of 32", 8)
def numbers_of_a_command_out_of_range(rng: Random, folder: Path, good: Good) -> Bad:
    data = f"--data.root={good.images}"
    line, flag, value = rng.choice([
        (["bench"], "repeats", "0"), (["bench"], "repeats", "99999999"),
        (["bench"], "batch_size", "-1"), (["bench"], "batch_size", "1000000000"),
        (["bench"], "input_size", "0"), (["bench"], "input_size", "100"),
        (["check", data], "cache.copies", "-1"), (["check", data], "cache.max_gb", "-1"),
        (scoring(good, data), "batch_size", "0"), (scoring(good, data), "batch_size", "9" * 20),
        (scoring(good, data), "data.split_seed", "-1"), (["rough", data], "prompt.points", "0"),
        (["evaluate", f"--checkpoint={good.run}"], "data.limit", "-1"),
        (["evaluate", f"--checkpoint={good.run}"], "data.workers", "-1"),
        (training(good, folder, data), "train.batch_size", "9" * 20),
        (["app", f"--checkpoint={good.run}"], "port", "99999"),
        (["app", f"--checkpoint={good.run}"], "port", "0"),
        (["app", f"--checkpoint={good.run}"], "port", "-1"),
    ])  # fmt: skip
    return [*line, f"--{flag}={value}"], f"--{flag} {value}"


@cause("line", ConfigError, r"--data\.\w+: --data\.layout \w+ does not read it\. Leave it out")
def data_that_the_layout_does_not_read(rng: Random, folder: Path, good: Good) -> Bad:
    flag = rng.choice(["--data.annotations", "--data.masks"])
    more = ["--data.layout=coco"] * (flag == "--data.masks")
    line = rng.choice([["train"], ["rough"], ["evaluate", f"--checkpoint={good.run}"],
                       ["evaluate", "--zero-shot"]])  # fmt: skip
    return [*line, *more, f"{flag}={folder}"], flag


@cause("line", DataError, r"do not pair up|layout manifest needs a CSV", 2)
def data_of_the_training_read_in_another_way(rng: Random, folder: Path, good: Good) -> Bad:
    flag = rng.choice(["--data.mask_suffix=_mask", "--data.layout=manifest"])
    return ["evaluate", f"--checkpoint={good.run}", flag], str(good.run.parent / "data")


@cause("line", ConfigError, r"--data\.fold \d: needs --data\.folds")
def a_fold_of_nothing(rng: Random, folder: Path, good: Good) -> Bad:
    fold = f"--data.fold={rng.randrange(1, 9)}"
    line = rng.choice([["rough"], scoring(good), training(good, folder)])
    return [*line, f"--data.root={good.images}", fold], "--data.fold"


@cause("line", DataError, r"error.*(cannot be read|do not pair up)", 4, 1)
def data_that_check_refuses(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    path = root / rng.choice(["images", "masks"]) / f"{name}.png"
    if rng.random() < 0.5:
        path.unlink()
    else:
        cut(rng, path, most=0.6)  # the last bytes of a PNG hold no pixels
    return ["check", f"--data.root={root}", *rng.choice([[], ["--json"]])], f"{name}.png"


# --- bench, pretrain, app


@cause("bench", ConfigError, r"unknown\. Choose one of lite|not one of \w+", 6)
def a_case_or_a_sam_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    flag, value = rng.choice([
        ("sam", "vit_q"), ("sam", "lite,vit_b"), ("cases", "everything"),
        ("cases", "floor,cached"), ("cases", '["floor", "roof"]'),
    ])  # fmt: skip
    named = "--cases roof" if "roof" in value else f"--{flag} {value}"
    return ["bench", f"--{flag}={value}"], named


@cause("bench", ConfigError, r"is a folder\. Name a file")
def figures_into_a_folder(rng: Random, folder: Path, good: Good) -> Bad:
    return ["bench", f"--json={folder}"], f"--json {folder}"


@cause("bench", StorageError, r"cannot be written \(.*\)\. Make room or fix the rights")
def figures_below_a_file(rng: Random, folder: Path, good: Good) -> Bad:
    return ["bench", f"--json={good.sam / 'bench.json'}"], str(good.sam)


PRETRAIN = ["pretrain", "--steps=1", "--scenes=2", "--frozen_steps=1", "--batch_size=1",
            "--objects=2", "--held_out=1", "--workers=0"]  # fmt: skip


@cause("pretrain", ConfigError, r"must be (\S+ to|at least) \S+|a step takes \d+ of them", 10)
def numbers_that_pretraining_cannot_take(rng: Random, folder: Path, good: Good) -> Bad:
    flag, value = rng.choice([
        ("steps", "0"), ("steps", "-1"), ("batch_size", "0"), ("batch_size", "-1"),
        ("objects", "1"), ("objects", "-2"), ("scenes", "0"), ("scenes", "-1"),
        ("frozen_steps", "-1"), ("lr", "-1"), ("lr", ".nan"), ("trunk_lr", ".inf"),
        ("seed", "-1"), ("seed", "9" * 23), ("save_every", "0"), ("held_out", "-1"),
        ("workers", "-1"), ("stop_after", "0"), ("stop_after", "-3"),
    ])  # fmt: skip
    if rng.random() < 0.1:
        return [*PRETRAIN, "--batch_size=5"], "--scenes 2"
    return [*PRETRAIN, f"--{flag}={value}"], f"--{flag}"


@cause("pretrain", CheckpointError, r"damaged, or no state of this command\. Delete it", 4)
def a_state_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "state.pt"
    path.write_bytes(rng.choice([b"", b"garbage", good.sam.read_bytes()]))
    if rng.random() < 0.3:
        shutil.copy(good.sam, path)
        cut(rng, path)
    return [*PRETRAIN, f"--output={folder}"], str(path)


@cause("pretrain", StorageError, r"cannot be written \(.*\)\. Make room or fix the rights")
def an_output_that_is_a_file(rng: Random, folder: Path, good: Good) -> Bad:
    path = rng.choice([good.sam, good.sam / "deeper"])
    return [*PRETRAIN, f"--output={path}"], str(path)


@cause(
    "app", CheckpointError, r"no checkpoint there\. Give|not a checkpoint of autosam|no such f", 6
)
def a_page_of_no_run(rng: Random, folder: Path, good: Good) -> Bad:
    file = folder / "best.safetensors"
    shutil.copy(good.run / "checkpoints/best.safetensors", file)
    path = rng.choice([cut(rng, file), folder / "gone", good.images, good.sam])
    if rng.random() < 0.3:
        return ["app", f"--checkpoint={good.run}", f"--sam_checkpoint={folder / 'gone'}"], "gone"
    return ["app", f"--checkpoint={path}"], str(path)


@cause("app", ConfigError, r"--checkpoint RUN is needed|expected a value|[Ee]xpected a", 4)
def a_page_without_a_run(rng: Random, folder: Path, good: Good) -> Bad:
    more = rng.choice([[], ["--checkpoint="], ["--checkpoint"], ["--checkpoint", "[]"],
                       ["--checkpoint", "[1, 2]"], ["--checkpoint", "--port=80"]])  # fmt: skip
    return ["app", *more], "checkpoint"


@cause("app", ConfigError, r"cannot be listened on \(.*\)\. Give an address of this machine", 4)
def a_place_where_no_page_can_be(rng: Random, folder: Path, good: Good) -> Bad:
    host = rng.choice(["999.1.1.1", "8.8.8.8", "http://localhost", "a b", "::1", "x" * 99])
    return ["app", f"--checkpoint={good.run}", f"--host={host}"], f"--host {host}"


@cause("app", ConfigError, r"--port \d+: cannot be listened on \(.*in use.*a port that is free", 1)
def a_port_that_is_taken(rng: Random, folder: Path, good: Good) -> Bad:
    TAKEN.append(socket.create_server(("127.0.0.1", 0)))
    port = TAKEN[-1].getsockname()[1]
    return ["app", f"--checkpoint={good.run}", f"--port={port}"], f"--port {port}"


# --- weights


@cause(
    "weights", CheckpointError, r"no such file|is a folder|not a readable weights|of no SAM that", 8
)
def a_file_that_is_no_sam(rng: Random, folder: Path, good: Good) -> Bad:
    file = folder / "sam.pth"
    shutil.copy(good.sam, file)
    path = rng.choice([cut(rng, file), folder / "gone", good.images, good.run / "config.yaml",
                       good.run / "checkpoints/best.safetensors",
                       good.images / "images" / f"{some(rng)}.png"])  # fmt: skip
    return ["weights", "verify", str(path)], str(path)


@cause("weights", CheckpointError, r"SHA-256 is .* but according to its source|no such file")
def a_file_of_another_sam(rng: Random, folder: Path, good: Good) -> Bad:
    path = rng.choice([good.sam, folder / "gone"])
    verb = rng.choice([["add", "vit_b", str(path)], ["verify", str(path), "--sam", "vit_b"]])
    return ["weights", *verb], str(path)


@cause("weights", ConfigError, r"unknown\. Choose one of lite")
def weights_of_nobody(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["vit_q", "../lite", ""])
    verb = rng.choice([["get", name], ["get", "vit_b", name], ["add", name, str(good.sam)],
                       ["verify", str(good.sam), "--sam", name or "x"]])  # fmt: skip
    return ["weights", *verb], "--sam"


# --- predict


@cause(
    "predict",
    ConfigError,
    r"--\w+ \S+: must|threshold \S+: must be a number between 0 and 1|min_area \S+: a share",
    6,
)
def numbers_out_of_range(rng: Random, folder: Path, good: Good) -> Bad:
    flag = rng.choice(["--smooth=1", "--smooth=-0.1", "--smooth=.nan", "--tile=8", "--tile=-1",
                       "--overlap=1", "--overlap=-0.5", "--overlap=.nan", "--threshold=0",
                       "--threshold=1.5", "--threshold=.nan", "--min_area=1", "--min_area=-0.1",
                       "--min_area=.nan"])  # fmt: skip
    line = predicting(good, folder, f"--input={good.images / 'images'}", flag)
    return line, flag.split("=")[0][2:]


@cause("predict", DataError, r"no such file or folder\. Fix|holds no image|not an image, a volume")
def an_input_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    (folder / "notes.txt").write_text("x")
    path = rng.choice([folder / "gone", folder, folder / "notes.txt", folder / "*.png"])
    return predicting(good, folder, f"--input={path}"), f"--input {path}"


@cause("predict", ConfigError, r"is the input's folder; masks would replace images.*another")
def masks_over_images(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    one = root / "images" / rng.choice(["", f"{some(rng)}.png"])
    flags = [f"--input={one}", f"--output={root / 'images'}"]
    return ["predict", f"--checkpoint={good.run}", *flags], "images"


@cause("predict", DataError, r"would both write .*; rename one")
def two_images_of_one_name(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    path = root / "images" / f"{name}.png"
    Image.open(path).save(path.with_suffix(rng.choice([".bmp", ".jpg", ".tif"])))
    return predicting(good, folder, f"--input={path.parent}"), f"{name}.png"


@cause("predict", DataError, r"exists\. Choose another --output, or pass --overwrite")
def a_mask_that_nobody_noted(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / "out" / f"{some(rng)}.png"
    miniature.write(path, np.zeros((4, 4), np.uint8))
    return predicting(good, folder, f"--input={good.images / 'images'}"), path.name


@cause("predict", DataError, r"holds masks made with another .*Choose another --output")
def masks_of_another_run(rng: Random, folder: Path, good: Good) -> Bad:
    made = {"checkpoint": rng.randbytes(32).hex(), "fast": False, "threshold": None}
    (folder / "out").mkdir()
    (folder / "out/predictions.jsonl").write_text(json.dumps({"made_by": made}) + "\n")
    return predicting(good, folder, f"--input={good.images / 'images'}"), str(folder / "out")


@cause("predict", DataError, r"not a progress log of autosam, or damaged\. Choose another --output")
def a_progress_log_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    (folder / "out").mkdir()
    text = rng.choice([b"", b"{", b"5\n[1]\n", b"\xff\xfe\x00", b'{"name": "a"}\n', b"[" * 9000])
    (folder / "out/predictions.jsonl").write_bytes(text)
    line = predicting(good, folder, f"--input={good.images / 'images'}")
    return line, "predictions.jsonl"


@cause("predict", DataError, r"a file name that is not UTF-8\. Rename it")
def a_name_that_is_no_text(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    odd = os.fsencode(root / "images") + b"/gr\xf6\xdfe.png"
    os.rename(os.fsencode(root / f"images/{some(rng)}.png"), odd)
    return predicting(good, folder, f"--input={root / 'images'}"), r"gr\xf6\xdfe.png"


@cause("predict", DataError, r"skipped: .*cannot be read.*1 of 8 were skipped", 2, 2,
       ("0*.png", "areas.csv"))  # fmt: skip
def a_broken_image_among_good_ones(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    cut(rng, root / f"images/{name}.png", 0.0)
    return predicting(good, folder, f"--input={root / 'images'}"), f"{name}.png"


@cause("predict", DataError, r"skipped: .*(as a video|no frame).*Convert it.*1 of 1", 3, 2,
       ("areas.csv",))  # fmt: skip
def a_video_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / f"clip.{rng.choice(['mp4', 'avi', 'mkv', 'mov'])}"
    head = rng.choice([b"", b"\x00\x00\x00\x18ftypmp42", b"RIFF\x00\x00\x00\x00AVI "])
    path.write_bytes(head + rng.randbytes(rng.randrange(500)))
    return predicting(good, folder, f"--input={path}"), path.name


@cause("predict", DataError, r"skipped: .*(be read as an? |with pixels of|pages).*1 of 1", 6, 2,
       ("areas.csv",))  # fmt: skip
def a_tiff_for_windows(rng: Random, folder: Path, good: Good) -> Bad:
    import tifffile

    path = folder / "slide.tif"
    pixels = np.random.default_rng(0).integers(0, 255, (90, 120, 3)).astype(np.uint8)
    kind = rng.randrange(4)
    if kind == 0:
        tifffile.imwrite(path, np.stack([pixels] * 3), photometric="rgb")
    elif kind == 1:
        tifffile.imwrite(path, pixels.astype(np.complex64), photometric="rgb")
    else:
        pixels = pixels.astype(rng.choice([np.uint8, np.uint16]))
        tifffile.imwrite(path, pixels, photometric="rgb", tile=(32, 32), compression="zlib")
        cut(rng, path, 0.0, 0.95)
    return predicting(good, folder, f"--input={path}", "--tile=64"), path.name


# --- export


@cause("export", ConfigError, r"must end in \.onnx or \.pt2|must be at least 1|is for \.onnx")
def a_graph_that_cannot_be(rng: Random, folder: Path, good: Good) -> Bad:
    flags, named = rng.choice([
        ([f"--output={folder / 'm.pth'}"], "m.pth"), (["--count=0"], "--count 0"),
        ([f"--output={folder / 'm.pt2'}", "--precision=fp16"], "--precision fp16"),
    ])  # fmt: skip
    return ["export", f"--checkpoint={good.run}", *flags], named


@cause("export", ConfigError, r"--images .*holds no image to compare on\. Give others", 2)
def no_image_to_compare_on(rng: Random, folder: Path, good: Good) -> Bad:
    images = folder / "films"
    images.mkdir()
    (images / rng.choice(["a.mp4", "b.avi"])).write_bytes(b"x")
    flags = [f"--images={images}", f"--output={folder / 'm.onnx'}"]
    return ["export", f"--checkpoint={good.run}", *flags], str(images)


@cause("export", DataError, r"(too small to compare on|cannot be read).*(Give others|[Rr]emove)")
def an_image_that_does_not_serve(rng: Random, folder: Path, good: Good) -> Bad:
    path = miniature.write(folder / "films/a.png", np.zeros((rng.randrange(1, 4), 9), np.uint8))
    if rng.random() < 0.5:
        cut(rng, path)
    flags = [f"--images={path.parent}", f"--output={folder / 'm.onnx'}"]
    return ["export", f"--checkpoint={good.run}", *flags], path.name


@cause("export", ConfigError, r"--images DIR is needed.*", 2)
def data_that_went_away(rng: Random, folder: Path, good: Good) -> Bad:
    import bad_weights

    path = bad_weights.changed(good, folder, lambda f: f["config"]["data"].update(root="/nowhere"))
    return ["export", f"--checkpoint={path}", f"--output={folder / 'm.onnx'}"], "/nowhere"


@cause("export", DataError, r"no such file or folder\. Fix|holds no image|not an image, a vol")
def images_that_are_none(rng: Random, folder: Path, good: Good) -> Bad:
    path = rng.choice([folder / "gone", folder, good.run / "config.yaml"])
    return ["export", f"--checkpoint={good.run}", f"--images={path}"], f"--images {path}"


@cause("export", CheckpointError, r"takes its prompts from true masks.*Train one of autosam", 2)
def a_run_that_needs_prompts(rng: Random, folder: Path, good: Good) -> Bad:
    import bad_weights

    run = rng.choice(["sam-box", "sam-points"])
    path = bad_weights.changed(
        good, folder, lambda f: f["config"].update(run=run), lambda state: state.clear()
    )
    more = [f"--input={good.images / 'images'}", f"--output={folder / 'out'}"]
    line = rng.choice([["export", f"--output={folder / 'm.onnx'}"], ["predict", *more]])
    return [*line, f"--checkpoint={path}"], run


@cause("line", CheckpointError, r"scores\.yaml: damaged\. Delete .*trains it again", 2)
def a_comparison_that_was_damaged(rng: Random, folder: Path, good: Good) -> Bad:
    """Its only training is there, by its name, but for its scores."""
    from autosam.comparison.plan import plan
    from autosam.comparison.variants import Variant
    from autosam.config.cli import parse
    from autosam.config.commands import CompareConfig
    from autosam.data.layouts import load_splits

    line = ["compare", "--runs=sam-box", "--seeds=1", *training(good, folder)[1:],
            f"--data.root={good.images}"]  # fmt: skip
    config = parse(CompareConfig, line[1:])
    splits = load_splits(config.data)
    (job,) = plan(config, [Variant("sam-box")], 1, Path(config.output) / "runs", splits)
    shutil.copytree(good.run, job.folder)
    text = rng.choice(["", "[", "5", "\x00"])
    (job.folder / "scores.yaml").write_text(text)
    return line, "scores.yaml"
