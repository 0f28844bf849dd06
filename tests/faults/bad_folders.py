"""Images and masks that do not pair, and splits and groups that cannot be."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from random import Random

import helpers
from corpus import Bad, Good, cause, copied, reading, scoring, some, training
from PIL import Image

from autosam.errors import ConfigError, DataError

PAIR = r"do not pair up.*"


def of(rng: Random, good: Good, root: Path, named: str, *flags: str) -> Bad:
    return reading(rng, good, root.parent, f"--data.root={root}", *flags), named


# --- pairing


@cause("pairing", DataError, PAIR + r"images without a mask.*Remove them, or add the missing files")
def images_without_mask(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    (root / f"masks/{name}.png").unlink()
    return of(rng, good, root, f"{name}.png")


@cause("pairing", DataError, PAIR + r"masks without an image.*Remove them, or add the missing")
def masks_without_image(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    (root / f"images/{name}.png").unlink()
    return of(rng, good, root, f"{name}.png")


@cause("pairing", DataError, PAIR + r"would pair with --data\.mask_suffix")
def masks_with_an_ending(rng: Random, folder: Path, good: Good) -> Bad:
    root, ending = copied(good, folder), rng.choice(["_mask", "-gt", "_seg", "m"])
    for path in list((root / "masks").iterdir()):
        path.rename(path.with_name(f"{path.stem}{ending}.png"))
    return of(rng, good, root, f"--data.mask_suffix {ending}")


@cause("pairing", DataError, r"a duplicate name. Keep one")
def two_extensions(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    path = root / rng.choice(["images", "masks"]) / f"{name}.png"
    shutil.copy(path, path.with_suffix(rng.choice([".bmp", ".tif", ".PNG", ".jpeg"])))
    return of(rng, good, root, f"{name}.")


@cause("pairing", DataError, r"a duplicate name. Keep one")
def names_that_differ_in_case(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), rng.choice(["scan", "tile", "a"])
    for what in ("images", "masks"):
        for new in (name, name.upper()):
            shutil.copy(root / what / f"{some(rng)}.png", root / what / f"{new}.png")
    return of(rng, good, root, f"{name}.png")


@cause("pairing", DataError, r"no such folder\. Fix the path, or make it")
def no_folder_of_masks(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    (root / "masks").rename(root / rng.choice(["mask", "labels", "Masks"]))
    return of(rng, good, root, "masks")


@cause("pairing", DataError, r"holds no image \(.*Put images there")
def a_folder_without_images(rng: Random, folder: Path, good: Good) -> Bad:
    root, what = copied(good, folder), rng.choice(["images", "masks"])
    for path in (root / what).iterdir():
        path.rename(path.with_suffix(rng.choice([".npy", ".txt", ".gif", ".svg"])))
    return of(rng, good, root, f"/{what}")


@cause("pairing", DataError, r"no such folder\. Fix the path")
def a_root_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    root = folder / f"gone{rng.randrange(99)}"
    return of(rng, good, root, str(root))


@cause("pairing", DataError, r"is a file\. For CSV or JSONL use --data\.layout manifest")
def a_root_that_is_a_file(rng: Random, folder: Path, good: Good) -> Bad:
    root = folder / rng.choice(["set.zip", "set.h5", "list.csv", "clip.mp4"])
    root.write_bytes(rng.randbytes(99))
    return of(rng, good, root, str(root))


@cause("pairing", DataError, r"expected train/.* For other names pass --data\.images DIR")
def a_root_of_other_folders(rng: Random, folder: Path, good: Good) -> Bad:
    root = copied(good, folder)
    (root / "images").rename(root / rng.choice(["imgs", "pics", "input"]))
    return of(rng, good, root, str(root))


@cause("pairing", DataError, r"do not pair up|no such folder")
def classes_of_other_images(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    drawn = (root / "masks").rename(root / "drawn")
    for k in "ab":
        shutil.copytree(drawn, root / "masks" / k)
    (root / f"masks/b/{name}.png").unlink()
    classes = '--data.classes=[{"name": "a"}, {"name": "b"}]'
    return of(rng, good, root, f"{name}.png", classes, "--data.exclusive=false")


@cause("pairing", ConfigError, r"--data\.images and --data\.masks go together.*Give both")
def images_without_their_folder_of_masks(rng: Random, folder: Path, good: Good) -> Bad:
    what = rng.choice(["images", "masks"])
    flag = f"--data.{what}={good.images / what}"
    return reading(rng, good, folder, flag), "--data.images"


@cause("pairing", ConfigError, r"--data\.root and .*exclude each other.*Leave one out")
def root_and_images(rng: Random, folder: Path, good: Good) -> Bad:
    flags = [f"--data.root={good.images}", f"--data.images={good.images / 'images'}"]
    return reading(rng, good, folder, *flags, f"--data.masks={good.images}"), "--data.root"


# --- groups


def grouped(rng: Random, good: Good, path: Path, text: bytes | str) -> Bad:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    flags = (f"--data.root={good.images}", f"--data.groups={path}")
    return reading(rng, good, path.parent, *flags), path.name


def table(rng: Random) -> list[list[str]]:
    return [["name", "group"], *([f"{i:03d}", f"g{rng.randrange(3)}"] for i in range(8))]


def text_of(rows: list[list[str]]) -> str:
    return "".join(",".join(row) + "\n" for row in rows)


@cause("groups", ConfigError, r"no such file\. Fix the path")
def no_such_table(rng: Random, folder: Path, good: Good) -> Bad:
    path = folder / f"groups{rng.randrange(9)}.csv"
    flags = (f"--data.root={good.images}", f"--data.groups={path}")
    return reading(rng, good, folder, *flags), path.name


@cause("groups", ConfigError, r"expected the columns name and group")
def other_columns(rng: Random, folder: Path, good: Good) -> Bad:
    rows = table(rng)
    rows[0] = rng.choice([["file", "group"], ["name", "patient"], ["name"], ["name;group"]])
    return grouped(rng, good, folder / "groups.csv", rng.choice([text_of(rows), "", "\n\n"]))


@cause("groups", DataError, r"not UTF-8 text.*Save it as UTF-8")
def not_utf_8(rng: Random, folder: Path, good: Good) -> Bad:
    rows = table(rng)
    rows[rng.randrange(1, 9)][1] = "Grün"
    code = rng.choice(["latin-1", "utf-16-le"])
    return grouped(rng, good, folder / "groups.csv", text_of(rows).encode(code))


@cause("groups", DataError, r":\d+: not CSV: field larger.*Fix the line")
def a_cell_without_end(rng: Random, folder: Path, good: Good) -> Bad:
    rows = table(rng)
    rows[rng.randrange(1, 9)][1] = "x" * (csv.field_size_limit() + rng.randrange(1, 999))
    return grouped(rng, good, folder / "groups.csv", text_of(rows))


@cause("groups", DataError, r"has no group for \d+.*Give every image a group")
def an_image_that_is_not_listed(rng: Random, folder: Path, good: Good) -> Bad:
    rows = table(rng)
    del rows[rng.randrange(1, 9)]
    return grouped(rng, good, folder / "groups.csv", text_of(rows))


@cause("groups", DataError, r"is in group \w+ and in group \w+\. Keep one of the lines")
def an_image_in_two_groups(rng: Random, folder: Path, good: Good) -> Bad:
    rows = table(rng)
    name, group = rows[rng.randrange(1, 9)]
    rows.insert(rng.randrange(1, 10), [name, f"not_{group}"])
    return grouped(rng, good, folder / "groups.csv", text_of(rows))


@cause("groups", DataError, r"is the name of 2 images\. Write train/\d+ and test/\d+")
def a_name_of_two_images(rng: Random, folder: Path, good: Good) -> Bad:
    root = folder / "splits"
    for split in ("train", "test"):
        shutil.copytree(good.images, root / split)
    path = folder / "groups.csv"
    path.write_text("name,group\n" + "".join(f"{i:03d},b\n" for i in range(8)))
    return of(rng, good, root, path.name, f"--data.groups={path}", "--data.folds=2")


@cause("groups", DataError, r"expected 2 values|has no group for \d+.*Give every image a group")
def a_line_without_group(rng: Random, folder: Path, good: Good) -> Bad:
    rows = table(rng)
    rows[rng.randrange(1, 9)][1:] = rng.choice([[], [""]])
    return grouped(rng, good, folder / "groups.csv", text_of(rows))


def by_pattern(rng: Random, good: Good, folder: Path, pattern: str) -> Bad:
    flags = (f"--data.root={good.images}", f"--data.groups={pattern}")
    return reading(rng, good, folder, *flags), f"--data.groups {pattern}"


@cause("groups", ConfigError, r"not a regular expression.*Fix it, or name a \.csv file")
def no_expression(rng: Random, folder: Path, good: Good) -> Bad:
    return by_pattern(
        rng, good, folder, rng.choice(["^(case", "([a-z)", "(?P<1>x)", "*(.)", "()["])
    )


@cause("groups", ConfigError, r"needs brackets around the part that is the group")
def an_expression_without_brackets(rng: Random, folder: Path, good: Good) -> Bad:
    return by_pattern(rng, good, folder, rng.choice([r"^\d+", "case", r"(?:\d)", "groups.txt"]))


@cause("groups", DataError, r"has no group for \d+.*Give every image a group")
def an_expression_that_does_not_match(rng: Random, folder: Path, good: Good) -> Bad:
    return by_pattern(rng, good, folder, rng.choice(["^(case)", r"^(\d{9})", f"({rng.random()})"]))


# --- splits


def splits(folder: Path) -> Path:
    return helpers.draw_folders(folder / "data")


@cause("split", DataError, r"are the same image: the splits overlap\. Remove one")
def one_image_in_two_parts(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = splits(folder), f"img{rng.randrange(6):02d}.png"
    other = root / rng.choice(["validation", "test"])
    for what in ("images", "masks"):
        shutil.copy(root / "train" / what / name, other / what / f"copy-{name}")
    return of(rng, good, root, name)


@cause("split", DataError, r"group .* is in .*the given splits leak\. Move one")
def a_group_in_two_parts(rng: Random, folder: Path, good: Good) -> Bad:
    root = splits(folder)
    return of(rng, good, root, "img", f"--data.groups=img([01]){'.?' * rng.randrange(4)}")


@cause("split", DataError, r"have test.* but no train split\. Add one")
def no_part_to_train_on(rng: Random, folder: Path, good: Good) -> Bad:
    root = splits(folder)
    (root / "train").rename(root / rng.choice(["training", "Train", "trn"]))
    return of(rng, good, root, str(root))


@cause("split", DataError, r"split is empty: .* are too few.*Give more images, other shares")
def too_few_images(rng: Random, folder: Path, good: Good) -> Bad:
    root, kept = copied(good, folder), rng.randrange(1, 3)
    for what in ("images", "masks"):
        for path in sorted((root / what).iterdir())[kept:]:
            path.unlink()
    return of(rng, good, root, str(root))


@cause("split", DataError, r"split is empty: .* are too few.*Give more images, other shares")
def shares_of_more_than_all(rng: Random, folder: Path, good: Good) -> Bad:
    shares = [f"--data.{name}={rng.uniform(0.55, 0.95):.2f}" for name in ("validation", "test")]
    return of(rng, good, copied(good, folder), str(folder), *shares)


@cause("split", ConfigError, r"expected a share in \(0, 1\)")
def a_share_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    name, value = rng.choice(["validation", "test"]), rng.choice(["0", "1", "-0.2", "15", ".nan"])
    return of(rng, good, copied(good, folder), f"--data.{name}", f"--data.{name}={value}")


@cause("split", ConfigError, r"--data\.fold \d+: must be below")
def a_fold_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    k = rng.randrange(2, 5)
    flags = (f"--data.folds={k}", f"--data.fold={k + rng.randrange(5)}")
    return of(rng, good, copied(good, folder), "--data.fold", *flags)


@cause("split", ConfigError, r"must be \S+ to \S+\.")
def numbers_out_of_range(rng: Random, folder: Path, good: Good) -> Bad:
    """Every command refuses them, not `train` alone."""
    key, value = rng.choice([("folds", 1), ("fold", -1), ("limit", 0), ("limit", -3), ("axis", 3),
                             ("num_classes", 0), ("num_classes", -2), ("ignore", -1),
                             ("num_classes", 9999)])  # fmt: skip
    flags = [f"--data.root={good.images}", f"--data.{key}={value}"]
    line = rng.choice([scoring(good, *flags), training(good, folder, *flags), ["rough", *flags]])
    return line, f"--data.{key} {value}"


@cause("split", DataError, r"cannot be read.*[Rr]emove")
def masks_that_levels_cannot_be_told_of(rng: Random, folder: Path, good: Good) -> Bad:
    root, name = copied(good, folder), some(rng)
    Image.new("L", (56, 40)).save(root / f"masks/{name}.png")
    path = root / f"masks/{name}.png"
    path.write_bytes(path.read_bytes()[: rng.randrange(9, 60)])
    return of(rng, good, root, f"{name}.png", "--data.stratify=true")
