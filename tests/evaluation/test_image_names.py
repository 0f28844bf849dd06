"""Scores by image name: unique names, one score each."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from helpers import draw, tiny_config
from PIL import Image

from autosam.check import check
from autosam.compare import compare
from autosam.comparison.jobs import Job
from autosam.comparison.scores import gather
from autosam.comparison.variants import Variant
from autosam.config import Config, DataConfig, Settings
from autosam.config.commands import CheckConfig, CompareConfig, EvaluateConfig
from autosam.data.checks import MaskEncoding
from autosam.data.dataset import PairDataset
from autosam.data.layouts import load_pairs, load_splits
from autosam.data.pairs import SPLITS
from autosam.errors import CheckpointError, DataError
from autosam.evaluate import evaluate
from autosam.evaluation.metrics import by_subset, require_all
from autosam.evaluation.scores import read_scores, write_scores
from autosam.types import InputSpec


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """root/{train,validation,test}/{images,masks} with 4, 2 and 2 images, whose names begin again
    in each; no two images are alike."""
    for start, split, count in ((0, "train", 4), (4, "validation", 2), (6, "test", 2)):
        draw(tmp_path / "drawn", count, start)
        for kind in ("images", "masks"):
            (tmp_path / "repeated" / split / kind).mkdir(parents=True)
            for i in range(count):
                source = tmp_path / "drawn" / kind / f"img{start + i:02d}.png"
                shutil.copy(source, tmp_path / "repeated" / split / kind / f"img{i:02d}.png")
    return tmp_path / "repeated"


ALL = {
    *(f"train/img{i:02d}" for i in range(4)),
    *(f"{split}/img{i:02d}" for split in ("validation", "test") for i in range(2)),
}


def test_folds_over_splits_that_repeat_names_score_every_image(
    tiny_file: Path, repeated: Path, tmp_path: Path
) -> None:
    tiny = tiny_config(tiny_file, f"--data.root={repeated}", "--train.epochs=1")
    shared = {f.name: getattr(tiny, f.name) for f in dataclasses.fields(Settings)}
    output = tmp_path / "compare"
    config = CompareConfig(**shared, runs="head", seeds=1, folds=4, output=str(output))
    found = compare(config)
    (scores,) = found[Variant("head")].scores
    assert scores.keys() == ALL
    tables = sorted((output / "runs").glob("*/test_scores.csv"))
    assert [len(read_scores(table)) for table in tables] == [2, 2, 2, 2]
    # The test images of a fold are no test set of their own.
    assert not [k for k in json.loads((tables[0].parent / "metrics.jsonl").read_text()) if " " in k]
    assert "test train" not in (tables[0].parent / "scores.yaml").read_text()
    # Two folds that tested the same images are no cross-validation.
    shutil.copy(tables[0], tables[1])
    with pytest.raises(CheckpointError, match="as another fold did"):
        compare(config)


def test_names_stay_as_they_are_where_none_repeats(folders: Path, repeated: Path) -> None:
    splits = load_splits(DataConfig(root=str(folders), folds=3))
    assert {pair.name for split in SPLITS for pair in splits[split]} == {
        f"img{i:02}" for i in range(12)
    }
    given = load_splits(DataConfig(root=str(repeated)))
    assert [pair.name for pair in given["test"]] == ["img00", "img01"]


def test_evaluate_all_scores_every_image(tiny_file: Path, repeated: Path, tmp_path: Path) -> None:
    from autosam.train import train

    flags = (f"--data.root={repeated}", "--train.epochs=1", "--run=head")
    folder = train(tiny_config(tiny_file, *flags, f"--output={tmp_path / 'run'}")).folder
    table = tmp_path / "all.csv"
    evaluate(EvaluateConfig(checkpoint=str(folder), split="all", output=str(table)))
    assert read_scores(table).keys() == ALL


def test_groups_of_splits_that_repeat_names(repeated: Path, tmp_path: Path) -> None:
    table = tmp_path / "groups.csv"
    config = DataConfig(root=str(repeated), folds=2, groups=str(table))
    table.write_text("name,group\n" + "".join(f"img{i:02d},{i}\n" for i in range(4)))
    with pytest.raises(DataError, match=r"img00 is the name of 3 images. Write .*train/img00"):
        load_splits(config)
    lines = [f"{name},{int(name[-1]) % 4}\n" for name in sorted(ALL)]
    table.write_text("name,group\n" + "".join(lines))
    splits = load_splits(config)
    for split in SPLITS:
        for pair in splits[split]:
            assert pair.group == str(int(pair.name[-1]) % 4)
    table.write_text("name,group\nimg00,a\nimg00,b\n")
    with pytest.raises(DataError, match="img00 is in group a and in group b"):
        load_splits(config)


def test_check_proposes_groups_under_names_that_groups_take(repeated: Path, tmp_path: Path) -> None:
    """One scene over two splits, whose names repeat."""
    from PIL import Image, ImageEnhance

    for kind in ("images", "masks"):
        shutil.copy(repeated / "train" / kind / "img00.png", repeated / "test" / kind / "img00.png")
    path = repeated / "test/images/img00.png"
    ImageEnhance.Brightness(Image.open(path)).enhance(0.8).save(path)
    table = tmp_path / "groups.csv"
    found = check(CheckConfig(data=DataConfig(root=str(repeated)), groups=str(table)))
    assert any("several splits" in warning for warning in found.warnings)
    with open(table, newline="") as file:
        groups = {row["name"]: row["group"] for row in csv.DictReader(file)}
    assert groups.keys() == ALL
    assert groups["train/img00"] == groups["test/img00"]
    splits = load_splits(DataConfig(root=str(repeated), folds=3, groups=str(table)))
    homes = {split for split in SPLITS for p in splits[split] if p.group == groups["train/img00"]}
    assert len(homes) == 1


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_check_with_a_limit(repeated: Path, limit: int) -> None:
    found = check(CheckConfig(data=DataConfig(root=str(repeated), limit=limit)))
    assert found.facts["splits"] == {
        "train": min(4, limit), "validation": min(2, limit), "test": min(2, limit),
    }  # fmt: skip
    assert found.facts["pairs"] == 8


def test_a_data_set_of_two_images_of_one_name_is_refused(repeated: Path) -> None:
    pairs = load_pairs(DataConfig(root=str(repeated)))
    input_spec = InputSpec(64, 64, 16, "longest-pad")
    with pytest.raises(DataError, match="both have the name img00"):
        PairDataset(pairs, input_spec, MaskEncoding(127))


def test_fewer_scores_than_images_are_an_error(repeated: Path) -> None:
    pairs = load_splits(DataConfig(root=str(repeated)))["train"]
    rows = {pair.name: {"dice": 1.0} for pair in pairs}
    require_all(rows, pairs)
    del rows["img02"]
    with pytest.raises(DataError, match=r"4 images, but 3 scores .*img02"):
        require_all(rows, pairs)


def test_sets_by_name_are_those_of_the_pairs(repeated: Path) -> None:
    """A stem may hold a slash: it is no set."""
    pairs = load_splits(DataConfig(root=str(repeated)))["test"]
    pairs = [dataclasses.replace(pairs[0], stem="a/b"), dataclasses.replace(pairs[1], subset="S")]
    rows = {"a/b": {"dice": 0.0}, "S/img01": {"dice": 1.0}}
    assert by_subset(rows, pairs) == {"S": {"dice": 1.0}}


def test_a_table_of_scores_with_two_rows_of_one_image_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "test_scores.csv"
    rows = {"a": {"dice": 0.5}, "b": {"dice": 0.25}}
    write_scores(file, rows)
    assert read_scores(file) == rows
    job = Job(Variant("head"), 0, Config(output=str(tmp_path)))
    assert gather([job], lambda t: t.read(file.name, read_scores)) == [rows]
    with open(file, "a") as opened:
        opened.write("a,0.75\n")
    with pytest.raises(CheckpointError, match="damaged"):
        gather([job], lambda t: t.read(file.name, read_scores))


def test_seeds_that_tested_other_images_are_not_averaged(tmp_path: Path) -> None:
    jobs = [Job(Variant("head"), seed, Config(output=str(tmp_path / str(seed)))) for seed in (0, 1)]
    with pytest.raises(CheckpointError, match=r"did not test the same images \(a, b\)"):
        gather(jobs, lambda job: {"ab"[job.seed]: {"dice": 1.0}})


def test_a_split_that_an_earlier_version_drew_otherwise_is_not_called_test(
    tiny_file: Path, tmp_path: Path
) -> None:
    from autosam.models import checkpoint
    from autosam.train import train

    draw(tmp_path / "data", 12)
    flags = (f"--data.root={tmp_path / 'data'}", "--train.epochs=1", "--run=head")
    for name, more in (("plain", ()), ("grouped", ("--data.groups=(.)$",))):
        config = tiny_config(tiny_file, *flags, *more, f"--output={tmp_path / name}")
        file = train(config).folder / checkpoint.BEST
        evaluate(EvaluateConfig(checkpoint=str(tmp_path / name)))
        header = checkpoint.read_header(file)
        assert header.pop("split_rule") == 2
        checkpoint._write(file, checkpoint.read_trained(file), header)  # as one of before
        if name == "plain":
            evaluate(EvaluateConfig(checkpoint=str(tmp_path / name)))
            continue
        with pytest.raises(DataError, match="images that it was trained on would be scored"):
            evaluate(EvaluateConfig(checkpoint=str(tmp_path / name)))


def test_images_added_after_the_training_do_not_make_test_images_of_those_trained_on(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from autosam.models import checkpoint
    from autosam.train import train

    root = tmp_path / "data"
    draw(root, 12)
    flags = (f"--data.root={root}", "--train.epochs=1", "--run=head", "--data.test=0.4")
    folder = train(tiny_config(tiny_file, *flags, f"--output={tmp_path / 'run'}")).folder
    splits = load_splits(DataConfig(root=str(root), test=0.4))
    learnt = {pair.name for split in ("train", "validation") for pair in splits[split]}
    own = EvaluateConfig(checkpoint=str(folder))
    evaluate(own)
    evaluate(dataclasses.replace(own, data=DataConfig(limit=2)))
    shutil.copytree(root, tmp_path / "moved")
    capsys.readouterr()

    # The same images elsewhere, all of them or the split that another seed draws.
    evaluate(dataclasses.replace(own, data=DataConfig(root=str(tmp_path / "moved")), split="all"))
    assert "of 12 images" in (said := capsys.readouterr().out)
    assert "If they are the same images, the scores do not show how well" in said
    draw(tmp_path / "new", 6, 40)
    evaluate(dataclasses.replace(own, data=DataConfig(root=str(tmp_path / "new")), split="all"))
    assert "If they are the same" not in capsys.readouterr().out

    # As many bytes under the same names are not enough: uncompressed images of another patient.
    for name in ("bmp", "others"):
        for kind in ("images", "masks"):
            (tmp_path / name / kind).mkdir(parents=True)
    for i, source in enumerate(sorted((root / "images").iterdir())):
        mask = root / "masks" / source.name
        for name, turned in (("bmp", 0), ("others", 180)):
            Image.open(source).rotate(turned).save(tmp_path / name / "images" / f"{i}.bmp")
            shutil.copy(mask, tmp_path / name / "masks" / f"{i}.png")
    flat = tiny_config(tiny_file, *flags[1:], f"--data.root={tmp_path / 'bmp'}",
                       f"--output={tmp_path / 'flat'}")  # fmt: skip
    other = EvaluateConfig(checkpoint=str(train(flat).folder), split="all")
    for name in ("bmp", "others"):
        capsys.readouterr()
        folders = {kind: str(tmp_path / name / kind) for kind in ("images", "masks")}
        evaluate(dataclasses.replace(other, data=DataConfig(**folders)))
        assert ("If they are the same" in capsys.readouterr().out) == (name == "bmp")

    draw(root, 4, 12)
    leaked = learnt & {p.name for p in load_splits(DataConfig(root=str(root), test=0.4))["test"]}
    assert leaked
    with pytest.raises(DataError, match="images were added to the folder, removed or renamed"):
        evaluate(own)
    evaluate(dataclasses.replace(own, split="all"))  # as asked
    # Only digests are kept, and a published checkpoint has not even those.
    header = checkpoint.read_header(folder / checkpoint.BEST)
    assert not any(name in json.dumps(header["seen"]) for name in learnt)
    (tmp_path / "saved").mkdir()
    checkpoint.publish(checkpoint.load(folder), tmp_path / "saved")
    assert "seen" not in checkpoint.read_header(tmp_path / "saved" / checkpoint.PUBLISHED)
