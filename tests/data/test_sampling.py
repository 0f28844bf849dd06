"""What each of several processes sees, through accelerate's own sharding: each image once an epoch,
and after an interruption what was left."""

from __future__ import annotations

from accelerate.data_loader import BatchSamplerShard
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import BatchSampler

from autosam.data.loaders import EpochBatches, EpochSampler

SETS = {
    "length": st.integers(1, 90),
    "batch": st.integers(1, 9),
    "processes": st.integers(1, 5),
    "seed": st.integers(0, 99),
}
Batches = list[list[tuple[int, int]]]


def batches(length: int, batch: int, processes: int, seed: int, start: int = 0) -> list[Batches]:
    """Of each process, its batches of epoch 3."""
    sampler = EpochSampler(length, shuffle=True, seed=seed)
    sampler.epoch, sampler.start = 3, start
    whole = EpochBatches(sampler, batch, processes)
    shards = [BatchSamplerShard(whole, processes, i) for i in range(processes)]
    found = [list(shard) for shard in shards]
    if start == 0:
        assert [len(shard) for shard in shards] == [len(own) for own in found]
    return found


def in_turn(found: list[Batches]) -> list[int]:
    """Positions of all processes, round by round."""
    assert len({len(own) for own in found}) == 1
    for together in zip(*found, strict=True):
        assert len({len(own) for own in together}) == 1
        assert together[0]
    return [i for together in zip(*found, strict=True) for own in together for _, i in own]


@settings(max_examples=300, deadline=None)
@given(**SETS)
def test_each_image_comes_once_an_epoch(length: int, batch: int, processes: int, seed: int) -> None:
    found = batches(length, batch, processes, seed)
    seen, whole = in_turn(found), batch * processes
    assert len(set(seen)) == len(seen)
    # Beside a whole round, batches of a single image are none for BatchNorm.
    alone = length > whole and (length % whole) // processes == 1
    left_out = length % (whole if length >= 2 * whole or alone else processes)
    assert len(seen) == length - left_out
    order = EpochSampler(length, shuffle=True, seed=seed)
    order.epoch = 3
    assert seen == [i for _, i in order][: len(seen)]
    assert all(1 <= len(own) <= batch for shard in found for own in shard)


@settings(max_examples=300, deadline=None)
@given(**SETS, done=st.integers(0, 20))
def test_after_an_interruption_come_those_that_were_left(
    length: int, batch: int, processes: int, seed: int, done: int
) -> None:
    whole = batches(length, batch, processes, seed)
    start = sum(len(own) * processes for own in whole[0][:done])
    assert batches(length, batch, processes, seed, start) == [own[done:] for own in whole]


@settings(max_examples=300, deadline=None)
@given(**SETS, done=st.integers(0, 20), others=st.integers(1, 5))
def test_another_number_of_processes_goes_on_where_these_stopped(
    length: int, batch: int, processes: int, seed: int, done: int, others: int
) -> None:
    whole = batches(length, batch, processes, seed)
    start = sum(len(own) * processes for own in whole[0][:done])
    before = in_turn([own[:done] for own in whole])
    after = in_turn(batches(length, batch, others, seed, start))
    assert len(set(before + after)) == len(before) + len(after)  # none again


@settings(max_examples=200, deadline=None)
@given(**SETS)
def test_scoring_reaches_every_image(length: int, batch: int, processes: int, seed: int) -> None:
    """Accelerate fills the last batches with images that were scored already; by name they are
    one."""
    sampler = EpochSampler(length, shuffle=False)
    whole = BatchSampler(sampler, batch, drop_last=False)
    shards = [list(BatchSamplerShard(whole, processes, i)) for i in range(processes)]
    assert {i for own in shards for part in own for _, i in part} == set(range(length))
    names: dict[int, int] = {}
    for own in shards:
        names |= {i: i for part in own for _, i in part}
    assert len(names) == length
