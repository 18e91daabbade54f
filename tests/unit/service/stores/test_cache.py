"""Values kept in this process: bounded, the least recently read first to go, and never older than what was told."""

from __future__ import annotations

import gc
import random
import tracemalloc
from collections.abc import Sequence

import pytest

from service.stores.cache import ENTRY_BYTES, FLUSHED, LOST, WRITTEN, ValueCache
from tests.support.cache_log import CacheLog


def opened(max_bytes: int = 1 << 20) -> ValueCache:
    cache = ValueCache(max_bytes, CacheLog())
    cache.open()
    return cache


def read(cache: ValueCache, keys: Sequence[str], values: Sequence[bytes | None]) -> None:
    """Read keys as a store does that finds these values."""
    with cache.reading(keys) as keep:
        keep(values)


def held(cache: ValueCache, *keys: str) -> list[str]:
    return [key for key in keys if key in cache.find([key])]


def test_what_was_read_is_found_and_so_is_that_there_is_none() -> None:
    cache = opened()
    read(cache, ["a", "b"], [b"x", None])
    assert cache.find(["a", "b", "c"]) == {"a": b"x", "b": None}
    assert cache.find_all(["b", "a"]) == [None, b"x"]
    assert cache.find_all(["a", "c"]) is None


def test_a_cache_that_nobody_opened_keeps_nothing() -> None:
    cache = ValueCache(1 << 20, CacheLog())
    read(cache, ["a"], [b"x"])
    assert cache.find(["a"]) == {}


def test_the_least_recently_read_goes_first() -> None:
    cache = opened(3 * (ENTRY_BYTES + 60))
    for key in "abc":
        read(cache, [key], [b"x" * 40])
    assert held(cache, "a") == ["a"]  # read again, so that b is the oldest
    read(cache, ["d"], [b"x" * 40])
    assert held(cache, "a", "b", "c", "d") == ["a", "c", "d"]
    assert cache.find_all(["a", "c"]) is not None
    read(cache, ["e"], [b"x" * 40])
    assert held(cache, "a", "b", "c", "d", "e") == ["a", "c", "e"]


def test_a_value_larger_than_the_bound_is_not_kept_and_costs_no_other_its_place() -> None:
    cache = opened(2000)
    read(cache, ["small"], [b"x"])
    read(cache, ["large"], [bytes(2000)])
    assert held(cache, "small", "large") == ["small"]


def test_a_value_that_grew_beyond_the_bound_takes_its_older_one_along() -> None:
    cache = opened(2000)
    read(cache, ["a"], [b"old"])
    read(cache, ["a"], [bytes(2000)])
    assert cache.find(["a"]) == {}
    assert cache.held_bytes == 0


def test_a_bound_is_never_passed_and_what_is_held_is_what_was_read_last() -> None:
    rng = random.Random(3)
    log = CacheLog()
    cache = ValueCache(20_000, log)
    cache.open()
    truth: dict[str, bytes | None] = {}
    for _ in range(5000):
        keys = [f"key-{rng.randrange(200)}" for _ in range(3)]
        if rng.random() < 0.2:
            truth[keys[0]] = rng.randbytes(rng.randrange(3000))
            cache.told(keys[:1])
        lacking = [key for key in keys if key not in cache.find(keys)]
        read(cache, lacking, [truth.get(key) for key in lacking])
        assert cache.held_bytes <= 20_000
        assert log.held_bytes == cache.held_bytes
        for key, value in cache.find(keys).items():
            assert value == truth.get(key)
    assert log.hits_count > 1000 and len(cache) > 5


@pytest.mark.parametrize("value_bytes", [1, 22, 500, 10_000])
def test_bytes_are_counted_honestly(value_bytes: int) -> None:
    """What Python's allocator gave out for keys, values and the cache's own tables is not more than is counted."""
    cache = opened(3 << 20)
    gc.collect()
    tracemalloc.start()
    try:
        before_bytes, _ = tracemalloc.get_traced_memory()
        for i in range(3 * (3 << 20) // (value_bytes + 300)):
            read(cache, [f"twinstar:{{{i:09d}}}:snapshot:0123456789abcdef"], [bytes(bytearray(value_bytes))])
        gc.collect()
        taken_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()
    assert cache.held_bytes > 2.9 * (1 << 20)
    assert 0.6 * cache.held_bytes <= taken_bytes <= cache.held_bytes


def test_a_key_written_while_it_is_read_is_not_kept() -> None:
    cache = opened()
    with cache.reading(["a", "b"]) as keep:
        cache.told(["a"])
        keep([b"before", b"x"])
    assert cache.find(["a", "b"]) == {"b": b"x"}


@pytest.mark.parametrize("reason", [FLUSHED, WRITTEN])
def test_nothing_read_across_a_reset_is_kept(reason: str) -> None:
    cache = opened()
    with cache.reading(["a"]) as keep:
        cache.reset(reason)
        keep([b"before"])
    assert cache.find(["a"]) == {}


def test_nothing_read_before_it_was_shut_is_kept_when_it_is_open_again() -> None:
    cache = opened()
    with cache.reading(["a"]) as keep:
        cache.shut()
        cache.open()
        keep([b"before"])
    assert cache.find(["a"]) == {}


def test_of_two_reads_of_a_key_the_one_that_began_after_the_write_is_kept() -> None:
    cache = opened()
    with cache.reading(["a"]) as keep_old:
        cache.told(["a"])
        with cache.reading(["a"]) as keep_new:
            keep_new([b"after"])
        keep_old([b"before"])
    assert cache.find(["a"]) == {"a": b"after"}
    with cache.reading(["a"]) as keep_old:
        cache.told(["a"])
        with cache.reading(["a"]) as keep_new:
            keep_old([b"before"])
            keep_new([b"after"])
    assert cache.find(["a"]) == {"a": b"after"}


def test_a_read_that_fails_leaves_nothing_behind() -> None:
    cache = opened()
    with pytest.raises(OSError), cache.reading(["a", "b"]):
        raise OSError
    assert not cache._reads


def test_a_key_asked_for_twice_in_one_read_is_kept() -> None:
    cache = opened()
    read(cache, ["a", "a"], [b"x", b"x"])
    assert cache.find(["a"]) == {"a": b"x"}
    assert len(cache) == 1


def test_what_happens_is_told() -> None:
    log = CacheLog()
    cache = ValueCache(1 << 20, log)
    cache.reset(WRITTEN)
    cache.shut()
    assert log.resets == []  # there was nothing open
    cache.open()
    cache.find(["a", "b"])
    read(cache, ["a"], [b"x"])
    cache.find_all(["a"])
    cache.find_all(["a", "b"])
    assert (log.hits_count, log.misses_count) == (1, 2)
    assert log.held_bytes == cache.held_bytes > 0
    cache.told(["a", "z"])
    assert (log.invalidated_count, log.held_bytes) == (2, 0)
    cache.told(None)
    cache.reset(WRITTEN)
    cache.shut()
    assert log.resets == [FLUSHED, WRITTEN, LOST]
