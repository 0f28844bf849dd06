"""Manifests and COCO files."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import miniature
from corpus import Bad, Good, cause, copied, cut, reading, some

from autosam.errors import DataError

# --- manifests

Rows = list[list[str]]


def listed(rng: Random, good: Good, folder: Path, change: Callable[[Rows], Any]) -> Bad:
    """A table of the images, changed. What `change` returns is the text or bytes, if not None."""
    root = copied(good, folder)
    rows = [["image", "mask"]]
    rows += [[f"{what}/{i:03d}.png" for what in ("images", "masks")] for i in range(8)]
    found = change(rows)
    text = "".join(",".join(row) + "\n" for row in rows) if found is None else found
    path = root / f"list{rng.randrange(9)}.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return manifest(rng, good, folder, path)


def manifest(rng: Random, good: Good, folder: Path, path: Path) -> Bad:
    flags = ("--data.layout=manifest", f"--data.root={path}")
    return reading(rng, good, folder, *flags), path.name


@cause("manifest", DataError, r"no 'image'; columns found: .*--data\.image_column")
def columns_of_other_names(rng: Random, folder: Path, good: Good) -> Bad:
    names = rng.choice([["file", "mask"], ["Image", "Mask"], ["image ;", "mask"]])
    return listed(rng, good, folder, lambda rows: rows[0].__setitem__(slice(None), names))


@cause("manifest", DataError, r":\d+: no '(image|mask)'; .*Set --data\.image_column and")
def an_empty_cell(rng: Random, folder: Path, good: Good) -> Bad:
    i, j = rng.randrange(1, 9), rng.randrange(2)
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(j, rng.choice(["", "  "])))


@cause("manifest", DataError, r":\d+: .*gone.*: no such file\. Fix the line")
def a_file_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    i, j = rng.randrange(1, 9), rng.randrange(2)
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(j, "images/gone.png"))


@cause("manifest", DataError, r":\d+: .* is outside of .*--data\.outside true allows it")
def a_path_out_of_the_folder(rng: Random, folder: Path, good: Good) -> Bad:
    i, j = rng.randrange(1, 9), rng.randrange(2)
    out = rng.choice([str(good.images / "images/000.png"), "../data/images/000.png",
                      "images/../../secret.png"])  # fmt: skip
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(j, out))


@cause("manifest", DataError, r":\d+: .* is not an image \(.*Fix the line")
def a_file_of_another_kind(rng: Random, folder: Path, good: Good) -> Bad:
    i, j = rng.randrange(1, 9), rng.randrange(2)
    name = f"images/000.{rng.choice(['npy', 'exe', 'png.gz', ''])}"
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(j, name))


@cause("manifest", DataError, r":\d+: .*name is too long|:\d+: .*no such file\. Fix the line")
def a_name_too_long(rng: Random, folder: Path, good: Good) -> Bad:
    i, name = rng.randrange(1, 9), "x" * rng.randrange(300, 9000) + ".png"
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(0, name))


@cause("manifest", DataError, r":\d+: .* is a duplicate of line \d+\. Keep one")
def an_image_twice(rng: Random, folder: Path, good: Good) -> Bad:
    i, j = rng.sample(range(1, 9), 2)
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(0, rows[j][0]))


@cause("manifest", DataError, r":\d+: split .*expected train, validation, test")
def a_split_of_another_name(rng: Random, folder: Path, good: Good) -> Bad:
    def change(rows: Rows) -> None:
        for row, word in zip(rows, ["split", *["train"] * 8], strict=True):
            row.append(word)
        rows[rng.randrange(1, 9)][2] = rng.choice(["dev", "0", "training", "te st"])

    return listed(rng, good, folder, change)


@cause("manifest", DataError, r"lines have no split\. Set all or none")
def lines_without_split(rng: Random, folder: Path, good: Good) -> Bad:
    def change(rows: Rows) -> None:
        for row, word in zip(rows, ["split", *["train"] * 8], strict=True):
            row.append(word)
        rows[rng.randrange(1, 9)][2] = ""

    return listed(rng, good, folder, change)


@cause("manifest", DataError, r":\d+: expected 2 values \(image, mask\).*Fix the line")
def lines_of_other_lengths(rng: Random, folder: Path, good: Good) -> Bad:
    def change(rows: Rows) -> None:
        row = rows[rng.randrange(1, 9)]
        row[:] = rng.choice([[*row, "x"], row[:1], [*row, "", "x"]])

    return listed(rng, good, folder, change)


@cause("manifest", DataError, r"duplicate column .image..*Rename one")
def a_column_twice(rng: Random, folder: Path, good: Good) -> Bad:
    def change(rows: Rows) -> None:
        for row in rows:
            row.append(row[0])

    return listed(rng, good, folder, change)


@cause("manifest", DataError, r"not UTF-8 text.*Save it as UTF-8")
def text_of_another_code(rng: Random, folder: Path, good: Good) -> Bad:
    def change(rows: Rows) -> bytes:
        rows[rng.randrange(1, 9)][0] = "images/gr\u00fcn.png"
        return "\n".join(map(",".join, rows)).encode(rng.choice(["latin-1", "utf-16-le"]))

    return listed(rng, good, folder, change)


@cause("manifest", DataError, r"holds no pair\. Write a line for each image")
def a_table_without_lines(rng: Random, folder: Path, good: Good) -> Bad:
    return listed(
        rng, good, folder, lambda rows: rng.choice(["", "image,mask\n", "\n\n", "\ufeff"])
    )


@cause("manifest", DataError, r":\d+: not CSV: .*Fix the line")
def a_quote_that_never_ends(rng: Random, folder: Path, good: Good) -> Bad:
    i = rng.randrange(1, 9)
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(0, '"' + rows[i][0]))


@cause("manifest", DataError, r":\d+: not CSV: field larger.*Fix the line")
def a_cell_without_end_in_a_manifest(rng: Random, folder: Path, good: Good) -> Bad:
    i, long = rng.randrange(1, 9), "x" * (csv.field_size_limit() + 9)
    return listed(rng, good, folder, lambda rows: rows[i].__setitem__(rng.randrange(2), long))


@cause("manifest", DataError, r"(no such file|holds|is a folder).*needs a CSV or JSONL")
def a_manifest_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    path = rng.choice([folder / "gone.csv", copied(good, folder)])
    return manifest(rng, good, folder, path)


def lines(rng: Random, good: Good, folder: Path, change: Callable[[list[str]], Any]) -> Bad:
    """The same as JSONL."""
    root = copied(good, folder)
    pairs = [{"image": f"images/{i:03d}.png", "mask": f"masks/{i:03d}.png"} for i in range(8)]
    rows = [json.dumps(pair) for pair in pairs]
    change(rows)
    path = root / f"list.{rng.choice(['jsonl', 'ndjson'])}"
    path.write_text("\n".join(rows))
    return manifest(rng, good, folder, path)


@cause("manifest", DataError, r":\d+: not JSON: .*Fix the line")
def a_line_that_is_not_json(rng: Random, folder: Path, good: Good) -> Bad:
    i = rng.randrange(8)

    def change(rows: list[str]) -> None:
        rows[i] = rng.choice([rows[i][:-2], rows[i].replace('"', "'"), "image: a.png", "{,}"])

    return lines(rng, good, folder, change)


@cause("manifest", DataError, r":\d+: expected an object, found .*Write \{")
def a_line_that_is_no_object(rng: Random, folder: Path, good: Good) -> Bad:
    i, text = rng.randrange(8), rng.choice(["[1, 2]", "5", '"a.png"', "null"])
    return lines(rng, good, folder, lambda rows: rows.__setitem__(i, text))


@cause("manifest", DataError, r":\d+: not JSON: .*Fix the line")
def a_line_too_deep(rng: Random, folder: Path, good: Good) -> Bad:
    i, depth = rng.randrange(8), rng.randrange(20_000, 90_000)
    text = rng.choice(["[" * depth, '{"image": ' * depth, "1" * depth])
    return lines(rng, good, folder, lambda rows: rows.__setitem__(i, text))


# --- COCO


def described(
    rng: Random, good: Good, folder: Path, change: Callable[[dict[str, Any]], Any], *flags: str
) -> Bad:
    """A COCO file, changed. What `change` returns is its text or bytes, if not None."""
    root = miniature.coco(folder / "data")
    path = root / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    found = change(content)
    text = json.dumps(content) if found is None else found
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    way = [f"--data.root={root}"]
    if rng.random() < 0.5:
        way = [f"--data.images={root / 'train2017'}", f"--data.annotations={path}"]
    return reading(rng, good, folder, "--data.layout=coco", *way, *flags), path.name


def entry(rng: Random, content: dict[str, Any], what: str) -> dict[str, Any]:
    return rng.choice(content[what])


@cause("coco", DataError, r"(not JSON|not UTF-8).*(Fix|Save)")
def a_file_that_is_not_json(rng: Random, folder: Path, good: Good) -> Bad:
    def change(content: dict[str, Any]) -> str | bytes:
        text = json.dumps(content)
        return rng.choice([text[: rng.randrange(len(text))], "", text.encode("utf-16"),
                           "<html></html>", "1" * 9000, "[" * 50_000])  # fmt: skip

    return described(rng, good, folder, change)


@cause("coco", DataError, r"not a COCO file: expected the lists images, annotations, categories")
def another_json(rng: Random, folder: Path, good: Good) -> Bad:
    def change(content: dict[str, Any]) -> str | None:
        what = rng.choice(list(content))
        if rng.random() < 0.3:
            return json.dumps(content["images"])
        content[what] = rng.choice([None, {}, 5, [5], ["a"]])
        return None

    return described(rng, good, folder, change)


@cause("coco", DataError, r"an entry is incomplete or mistyped .*expected")
def an_entry_without_a_key(rng: Random, folder: Path, good: Good) -> Bad:
    key, what = rng.choice([("id", "images"), ("file_name", "images"), ("height", "images"),
                            ("image_id", "annotations"), ("category_id", "annotations"),
                            ("id", "categories"), ("name", "categories")])  # fmt: skip
    return described(rng, good, folder, lambda c: entry(rng, c, what).pop(key) and None)


@cause("coco", DataError, r"an entry is incomplete or mistyped .*expected")
def an_entry_of_another_type(rng: Random, folder: Path, good: Good) -> Bad:
    key, what, value = rng.choice(
        [("id", "images", [1]), ("file_name", "images", 5), ("height", "images", "x"),
         ("image_id", "annotations", {}), ("width", "images", None), ("height", "images", 1e400)]
    )  # fmt: skip
    return described(rng, good, folder, lambda c: entry(rng, c, what).__setitem__(key, value))


@cause("coco", DataError, r"annotation \d+: its image .* is not in the list of images.*Add it")
def an_annotation_of_no_image(rng: Random, folder: Path, good: Good) -> Bad:
    number = rng.randrange(100, 999)
    return described(
        rng, good, folder, lambda c: entry(rng, c, "annotations").update(image_id=number)
    )


@cause("coco", DataError, r"annotation \d+: its category .* is not listed.*Add it")
def an_annotation_of_no_category(rng: Random, folder: Path, good: Good) -> Bad:
    number = rng.randrange(100, 999)
    return described(
        rng, good, folder, lambda c: entry(rng, c, "annotations").update(category_id=number)
    )


@cause("coco", DataError, r"has no segmentation \(a box is not a mask\).*Add it, or remove")
def a_box_alone(rng: Random, folder: Path, good: Good) -> Bad:
    value = rng.choice([None, [], {}])
    return described(
        rng, good, folder, lambda c: entry(rng, c, "annotations").update(segmentation=value)
    )


@cause("coco", DataError, r"14 of 14 annotations have polygons that enclose no pixel.*Export")
def outlines_of_two_points(rng: Random, folder: Path, good: Good) -> Bad:
    def change(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            one["segmentation"] = [[rng.uniform(1, 30) for _ in range(rng.choice([2, 4]))]]

    return described(rng, good, folder, change)


@cause("coco", DataError, r"coordinates of its polygons are from 0 to 1.*Multiply")
def outlines_in_shares_of_the_image(rng: Random, folder: Path, good: Good) -> Bad:
    def change(content: dict[str, Any]) -> None:
        for one in content["annotations"]:
            one["segmentation"] = [[round(rng.random(), 4) for _ in range(8)]]

    return described(rng, good, folder, change)


@cause("coco", DataError, r"annotation \d+: expected polygons .*or a run-length encoding")
def an_outline_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    value = rng.choice([[[1, 2, 3]], [["a", "b"]], [1, 2, 3, 4], "text", [[1, 2, [3], 4]],
                        [[True, None] * 4], [[float("nan"), 1] * 4]])  # fmt: skip
    return described(
        rng, good, folder, lambda c: entry(rng, c, "annotations").update(segmentation=value)
    )


@cause("coco", DataError, r"annotation \d+: .*far outside.*(Fix|Remove)")
def an_outline_far_outside(rng: Random, folder: Path, good: Good) -> Bad:
    """Drawing it would take all memory, or end the interpreter."""
    far = rng.choice([1e9, -1e9, 1e18, 1e300, -(2**31), 3e6, 10**400])
    square = [2, 2, far, 2, far, 8, 2, 8]
    return described(
        rng, good, folder, lambda c: entry(rng, c, "annotations").update(segmentation=[square])
    )


def code(rng: Random, content: dict[str, Any]) -> dict[str, Any]:
    found = [a for a in content["annotations"] if isinstance(a["segmentation"], dict)]
    return rng.choice(found)["segmentation"]


@cause("coco", DataError, r"annotation \d+: run lengths must add up to 2240 pixels.*Fix")
def run_lengths_of_another_sum(rng: Random, folder: Path, good: Good) -> Bad:
    counts = rng.choice([[1, 2, 3], [2241], [-5, 2245], [2**32, 2240], [2240.0], ["2240"], []])
    return described(rng, good, folder, lambda c: code(rng, c).update(counts=counts))


@cause("coco", DataError, r"annotation \d+: run-length encoding of size .*is 40 x 56.*expected")
def run_lengths_of_another_size(rng: Random, folder: Path, good: Good) -> Bad:
    size = rng.choice([[56, 40], [40], [0, 0], [40, 56, 1], 40, None, "4056"])
    return described(rng, good, folder, lambda c: code(rng, c).update(size=size))


@cause("coco", DataError, r"annotation \d+: (a run-length encoding|run lengths must).*Fix")
def run_lengths_that_are_garbage(rng: Random, folder: Path, good: Good) -> Bad:
    letters = "".join(chr(rng.randrange(48, 112)) for _ in range(rng.randrange(1, 90)))
    counts = rng.choice([letters, "\u20ac", "o" * 500, "", 5, None])
    return described(rng, good, folder, lambda c: code(rng, c).update(counts=counts))


@cause("coco", DataError, r"gone\.jpg: no such file\. Fix")
def an_image_that_is_not_there(rng: Random, folder: Path, good: Good) -> Bad:
    return described(
        rng, good, folder, lambda c: entry(rng, c, "images").update(file_name="gone.jpg")
    )


@cause("coco", DataError, r" is outside of .*--data\.outside true")
def an_image_out_of_the_folder(rng: Random, folder: Path, good: Good) -> Bad:
    name = rng.choice(["/etc/passwd", "../../secret.png", "a/../../b.jpg"])
    return described(rng, good, folder, lambda c: entry(rng, c, "images").update(file_name=name))


@cause("coco", DataError, r"pixels; expected at least one and at most|at one size|of size \[")
def a_size_that_is_none(rng: Random, folder: Path, good: Good) -> Bad:
    height = rng.choice([0, -40, 10**9, 41, 30_000_000])
    return described(rng, good, folder, lambda c: entry(rng, c, "images").update(height=height))


@cause("coco", DataError, r"two (images|categories|annotations) have the id \d+.*Number them again")
def one_number_twice(rng: Random, folder: Path, good: Good) -> Bad:
    what = rng.choice(["images", "categories"])
    return described(rng, good, folder, lambda c: c[what][0].update(id=c[what][1]["id"]))


@cause("coco", DataError, r"has no category .*which --data\.classes names; it has")
def classes_of_other_names(rng: Random, folder: Path, good: Good) -> Bad:
    classes = json.dumps([{"name": rng.choice(["Blob", "cat", "3"])}, {"name": "square"}])
    return described(rng, good, folder, lambda c: None, f"--data.classes={classes}")


@cause("coco", DataError, r"has 2 categories .*--data\.num_classes is \d.*Set it")
def another_number_of_classes(rng: Random, folder: Path, good: Good) -> Bad:
    return described(rng, good, folder, lambda c: None, f"--data.num_classes={rng.randrange(3, 9)}")


@cause("coco", DataError, r"(no such file|expected annotations/instances|cannot be read).*")
def no_annotations(rng: Random, folder: Path, good: Good) -> Bad:
    root = miniature.coco(folder / "data")
    path = root / "annotations" / "gone.json"
    images = f"--data.images={root / 'train2017'}"
    way = rng.choice([[f"--data.root={good.images}"], [images, f"--data.annotations={path}"],
                      [images, f"--data.annotations={root}"]])  # fmt: skip
    line = reading(rng, good, folder, "--data.layout=coco", *way)
    return line, way[-1].split("=")[1]


@cause("coco", DataError, r"cannot be read as an image.*replace or remove")
def an_image_cut_short(rng: Random, folder: Path, good: Good) -> Bad:
    line, _ = described(rng, good, folder, lambda c: None)
    path = cut(rng, folder / f"data/train2017/{int(some(rng)):012d}.jpg")
    return line, path.name
