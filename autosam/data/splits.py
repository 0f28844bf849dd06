"""Split pairs into training, validation and test: splits as given, or drawn by a seed."""

from __future__ import annotations

import dataclasses
import os
import re
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from autosam.config import DataConfig
from autosam.data.checks import check_pairs
from autosam.data.labels import known
from autosam.data.locations import SQUARE, squares_of
from autosam.data.pairs import SPLITS, Pair, Splits, distinct
from autosam.data.partition import make_folds, partition
from autosam.data.tables import csv_rows
from autosam.errors import ConfigError, DataError
from autosam.utils.threads import cores

LEVELS = 5
"""Number of strata (quantiles of the foreground share) in a stratified split."""
RULE = 2
"""Version of the algorithm, increased when a seed gives other splits than before."""


def depends_on_rule(splits: Splits, config: DataConfig) -> bool:
    """Whether the splits depend on `RULE`: they were drawn with groups, strata or folds."""
    drawn = [p for split, pairs in splits.items() for p in pairs if p.given != split]
    special = config.stratify or config.folds is not None
    return bool(drawn) and (special or any(pair.group for pair in drawn))


def draw_splits(pairs: list[Pair], config: DataConfig) -> Splits:
    """Keep the given splits, and draw the missing ones from the training split.

    Groups stay together. `stratify` balances foreground shares. With `folds` all pairs are pooled
    and divided again. At most `limit` pairs of each split are kept, and of training and validation
    `limit_train` and `limit_validation`. The order of `pairs` has no effect.

    Args:
        pairs: images and masks.
        config: the data settings.

    Returns:
        The pairs of each split, sorted by name.

    Raises:
        ConfigError: shares or folds out of range.
        DataError: a split is empty, or an image or group is in two splits.
    """
    for name in ("validation", "test"):
        if not 0 < getattr(config, name) < 1:
            raise ConfigError(f"--data.{name} {getattr(config, name)}: expected a share in (0, 1).")
    pairs = with_groups(pairs, config.groups)
    if config.folds is not None:  # pooled, so names must be unique over all splits
        pairs = distinct(pairs)
    given: Splits = defaultdict(list)
    for pair in pairs:
        given[pair.given].append(pair)
    if not given.get("train"):
        where = config.root or config.images
        raise DataError(f"{where}: have {', '.join(sorted(given))} but no train split. Add one.")
    splits = dict(given)
    pool = given["train"]
    if config.folds is not None:
        if not config.fold < config.folds:
            raise ConfigError(f"--data.fold {config.fold}: must be below {config.folds} folds.")
        folds = _divide(pairs, config.folds, config)
        splits = {"test": folds.pop(config.fold)}
        pool = [pair for fold in folds for pair in fold]
    elif config.fold:
        raise ConfigError(f"--data.fold {config.fold}: needs --data.folds. Give both.")
    missing = [split for split in ("validation", "test") if split not in splits]
    shares = [getattr(config, split) for split in missing]
    divided = _divide(pool, [1 - sum(shares), *shares], config)
    splits |= dict(zip(["train", *missing], divided, strict=True))
    for split in SPLITS:
        if not splits.get(split):
            where = config.root or config.images or "the embedded set"
            groups = len({pair.group for pair in pairs if pair.group})
            raise DataError(
                f"{where}: the {split} split is empty: {len(pairs)} images"
                f"{f' in {groups} groups' if groups else ''} are too few for shares of "
                f"{config.validation} validation and {config.test} test. Give more images, other "
                "shares, or folders for each split."
            )
    splits = {split: sorted(splits[split], key=lambda pair: pair.name) for split in SPLITS}
    _refuse_leaking_groups(splits)
    refuse_copies(splits)
    if config.limit is not None:
        splits = {s: limited(found, config.limit, config.split_seed) for s, found in splits.items()}
    counts = {"train": config.limit_train, "validation": config.limit_validation}
    return {
        split: first_drawn(found, counts.get(split), [config.limit_seed, SPLITS.index(split)])
        for split, found in splits.items()
    }


def limited(pairs: list[Pair], limit: int, seed: int) -> list[Pair]:
    """A seeded sample of at most `limit` pairs, in their order."""
    if len(pairs) <= limit:
        return pairs
    kept = np.random.default_rng([seed, limit]).choice(len(pairs), limit, replace=False)
    return [pairs[i] for i in sorted(kept)]


def first_drawn(pairs: list[Pair], count: int | None, seed: list[int]) -> list[Pair]:
    """The first `count` pairs of a random order, in their own order; None: all. Those of a smaller
    count are among those of a larger one."""
    if count is None:
        return pairs
    order = np.random.default_rng(seed).permutation(len(pairs))
    return [pairs[i] for i in sorted(order[:count])]


def with_groups(pairs: list[Pair], groups: str | None) -> list[Pair]:
    """Set the group of each pair, from a table, by a regular expression or by location.

    Args:
        pairs: images and masks.
        groups: a .csv file with the columns name and group, a regular expression whose first
            bracket matches the group in the name, or the side of squares, see `squares_of`; None:
            unchanged.

    Raises:
        ConfigError: a missing file, missing columns, or an invalid expression.
        DataError: a pair without a group, or with two.
    """
    if groups is None:
        return pairs
    if groups.lower().endswith(".csv"):
        path = Path(groups)
        if not path.is_file():
            raise ConfigError(f"--data.groups {groups}: no such file. Fix the path.")
        rows = [row for _, row in csv_rows(path)]
        if not rows or not {"name", "group"} <= rows[0].keys():
            raise ConfigError(
                f"--data.groups {groups}: expected the columns name and group, "
                "and a line for each image."
            )
        found = _look_up(_table(groups, rows), pairs, groups)
    elif SQUARE.fullmatch(groups):
        found = [*squares_of(pairs, groups)]
    else:
        try:
            pattern = re.compile(groups)
        except re.error as error:
            raise ConfigError(
                f"--data.groups {groups}: not a regular expression: {error}. Fix it, or name a "
                ".csv file."
            ) from None
        if pattern.groups < 1:
            raise ConfigError(
                f"--data.groups {groups}: needs brackets around the part that is the group; or is "
                "a square such as 500m or 4096px."
            )
        matches = [pattern.search(pair.name) for pair in pairs]
        found = [match[1] if match else None for match in matches]
    for pair, group in zip(pairs, found, strict=True):
        if not group:
            raise DataError(
                f"--data.groups {groups}: has no group for {pair.name}. Give every image a group."
            )
    return [
        dataclasses.replace(pair, group=str(group))
        for pair, group in zip(pairs, found, strict=True)
    ]


def _table(groups: str, rows: list[dict[str, str]]) -> dict[str, str]:
    """Map names to groups.

    Raises:
        DataError: an image has two groups.
    """
    table: dict[str, str] = {}
    for row in rows:
        other = table.setdefault(row["name"], row["group"])
        if other != row["group"]:
            raise DataError(
                f"--data.groups {groups}: {row['name']} is in group {other} and in group "
                f"{row['group']}. Keep one of the lines."
            )
    return table


def _look_up(table: dict[str, str], pairs: list[Pair], groups: str) -> list[str | None]:
    """The group of each pair, by its name or by `split/name`; None if the table has neither.

    Raises:
        DataError: a name in the table matches several images.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    unique = [dataclasses.replace(pair, qualified=True).name for pair in pairs]
    for pair, name in zip(pairs, unique, strict=True):
        owners[pair.name].append(name)
    found = []
    for pair, name in zip(pairs, unique, strict=True):
        group = table.get(name)
        if group is None and pair.name in table:
            if len(owners[pair.name]) > 1:
                raise DataError(
                    f"--data.groups {groups}: {pair.name} is the name of "
                    f"{len(owners[pair.name])} images. Write {' and '.join(owners[pair.name])}."
                )
            group = table[pair.name]
        found.append(group)
    return found


def _divide(pool: list[Pair], shares: list[float] | int, config: DataConfig) -> list[list[Pair]]:
    """Divide pairs into splits or folds, see `autosam.data.partition`. Groups stay together; with
    `stratify` foreground shares are balanced.

    Args:
        pool: pairs.
        shares: the share of each split, with sum 1, or the number of folds.
        config: the data settings.

    Raises:
        DataError: fewer images or groups than folds.
    """
    members: dict[str, list[Pair]] = defaultdict(list)
    for pair in sorted(pool, key=lambda pair: pair.name):
        members[f"group {pair.group}" if pair.group else f"pair {pair.name}"].append(pair)
    keys = list(members)
    sizes = [len(members[key]) for key in keys]
    rng = np.random.default_rng(config.split_seed)
    if isinstance(shares, int) and len(keys) < shares:
        what = "images" if len(keys) == len(pool) else f"groups (of {len(pool)} images)"
        raise DataError(
            f"--data.folds {shares}: {len(keys)} {what} are fewer than folds. Give fewer folds, or "
            "more data."
        )
    if config.stratify or max(sizes) > 1:
        by_key = _levels(members, config) if config.stratify else dict.fromkeys(keys, 0)
        levels = [by_key[key] for key in keys]
        if isinstance(shares, int):
            divided = make_folds(sizes, levels, shares, rng)
        else:
            divided = partition(sizes, levels, shares, rng)
    else:
        order = [int(i) for i in rng.permutation(len(keys))]
        divided = []
        for count in reversed(_round_shares(shares, len(keys))):  # the last split first
            divided.insert(0, order[:count])
            order = order[count:]
    return [[pair for i in items for pair in members[keys[i]]] for items in divided]


def _round_shares(shares: list[float] | int, count: int) -> list[int]:
    """share * count, rounded so that the sum is `count`."""
    if isinstance(shares, int):
        return [count // shares + (i < count % shares) for i in range(shares)]
    numbers = [round(share * count) for share in shares]
    numbers[0] += count - sum(numbers)
    return numbers


def _levels(members: dict[str, list[Pair]], config: DataConfig) -> dict[str, int]:
    """The stratum of each group: 1..`LEVELS`, the quantile of its mean foreground share; 0 without
    foreground."""

    pairs = [pair for group in members.values() for pair in group]
    encoding = check_pairs(pairs, config).encoding

    def share(pair: Pair) -> float:
        label = encoding.read(pair.mask)
        return float(((label > 0) & known(label)).mean())

    with ThreadPoolExecutor(cores()) as pool:
        shares = dict(zip([pair.name for pair in pairs], pool.map(share, pairs), strict=True))
    means = {key: np.mean([shares[p.name] for p in group]) for key, group in members.items()}
    positive = [mean for mean in means.values() if mean > 0]
    edges = np.quantile(positive, np.arange(1, LEVELS) / LEVELS) if positive else []
    return {
        key: 1 + int(np.searchsorted(edges, mean)) if mean > 0 else 0 for key, mean in means.items()
    }


def _refuse_leaking_groups(splits: Splits) -> None:
    """
    Raises:
        DataError: a group is in two splits.
    """
    seen: dict[str, tuple[str, Pair]] = {}
    for split, pairs in splits.items():
        for pair in pairs:
            if not pair.group:
                continue
            other = seen.setdefault(pair.group, (split, pair))
            if other[0] != split:
                raise DataError(
                    f"group {pair.group!r} is in {other[0]} ({other[1].name}) and {split} "
                    f"({pair.name}): the given splits leak. Move one, or leave --data.groups out."
                )


def refuse_copies(splits: Splits) -> None:
    """Refuse identical images in two splits.

    Raises:
        DataError: an image is in two splits; the message names both files.
    """
    by_size: dict[int, list[tuple[str, Pair]]] = defaultdict(list)
    for split, pairs in splits.items():
        for pair in pairs:
            by_size[_size(pair)].append((split, pair))
    for size, alike in by_size.items():
        if len({split for split, _ in alike}) == 1:
            continue
        by_end: dict[bytes, list[tuple[str, Pair]]] = defaultdict(list)
        for split, pair in alike:
            by_end[read_tail(pair.image.path) if size else b""].append((split, pair))
        for candidates in by_end.values():
            _refuse_equal(candidates)


def _refuse_equal(candidates: list[tuple[str, Pair]]) -> None:
    """Compare the digests of images that are in different splits."""
    if len({split for split, _ in candidates}) == 1:
        return
    seen: dict[str, tuple[str, Pair]] = {}
    for split, pair in candidates:
        other = seen.setdefault(pair.image.digest(), (split, pair))
        if other[0] != split:
            raise DataError(
                f"{other[1].image} ({other[0]}) and {pair.image} ({split}) are the same "
                "image: the splits overlap. Remove one of them."
            )


def _size(pair: Pair) -> int:
    """Bytes of the image's file; 0 if the image is part of a file (a slice, a row of a table)."""
    path = str(pair.image.path)
    if str(pair.image) != path:
        return 0
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def read_tail(path: Path) -> bytes:
    """The last 256 bytes of a file, which differ between images."""
    with open(path, "rb", buffering=0) as file:  # twice as fast, with up to 100,000 files
        file.seek(max(0, os.fstat(file.fileno()).st_size - 256))
        return file.read(256)
