"""stats/sketch.py: more codes than memory holds; estimates within their stated errors, in any order of merging."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lfq_cli.statistics import Counter
from lfq_cli.statistics.profile import profile_of
from lfq_cli.statistics.sketch import HLL_ERROR, Sketch, mixed
from lfq_cli.statistics.tables import tally_sparse

LITTLE = 1 << 18  # bytes: 4,096 codes, of which 1,024 are sampled
BITS = 40


def zipf(count, seed, codes=200_000):
    """Indices whose codes are spread over 40 bits, used as 1 / rank."""
    drawn = np.exp(np.random.default_rng(seed).random(count) * np.log(codes)).astype(np.int64)
    return mixed(drawn.astype(np.uint64)) >> np.uint64(64 - BITS)


def statistics_of(indices):
    _, counts = np.unique(indices, return_counts=True)
    shares = counts / counts.sum()
    return len(counts), float(-(shares * np.log2(shares)).sum()), int((counts == 1).sum())


def counter_of(*runs, memory_bytes=LITTLE):
    counter = Counter(BITS, memory_bytes=memory_bytes)
    for run in runs:
        counter.add(run)
    return counter


def check(counter, indices, errors=4):
    """Each statistic within so many standard errors."""
    used, entropy, singletons = statistics_of(indices)
    usage = counter.usage("msb")
    assert not usage.exact
    assert usage.count == indices.size
    error = usage.estimated["codes_used"].standard_error
    assert error <= used * HLL_ERROR * 1.1
    assert abs(usage.codes_used - used) < errors * error
    error = usage.estimated["entropy_bits"].standard_error
    assert 0 < error < 0.5
    assert abs(usage.entropy_bits - entropy) < errors * error
    assert usage.unseen_probability == pytest.approx(singletons / indices.size, rel=0.25)
    rows = (indices[:, None] >> np.arange(BITS, dtype=np.uint64)[::-1]) & np.uint64(1)
    rows = rows.astype(np.float64)
    assert usage.bit_statistics.both.tolist() == (rows.T @ rows).astype(int).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_estimates_within_their_errors(seed):
    indices = zipf(200_000, seed)
    check(counter_of(*np.array_split(indices, 9)), indices)


def test_errors_are_what_they_say():
    """Over many samples by different hashes the spread of the entropy is the stated standard error."""
    offs, errors = [], []
    for seed in range(40):
        indices = mixed(zipf(20_000, 7, codes=20_000) + np.uint64(seed << 48))
        indices = indices >> np.uint64(64 - BITS)
        usage = counter_of(indices, memory_bytes=LITTLE // 2).usage("msb")
        offs.append(usage.entropy_bits - statistics_of(indices)[1])
        errors.append(usage.estimated["entropy_bits"].standard_error)
    assert 0.6 < np.std(offs) / np.mean(errors) < 1.6
    assert abs(np.mean(offs)) < 4 * np.mean(errors) / np.sqrt(len(offs))


@pytest.mark.parametrize("parts", [2, 5])
def test_shards_merge(parts):
    indices = zipf(300_000, 1)
    shards = [counter_of(part) for part in np.array_split(indices, parts)]
    total = Counter(BITS, memory_bytes=LITTLE)
    for shard in shards:
        before = shard.usage("msb").as_json()
        total.merge(shard)
        assert shard.usage("msb").as_json() == before
    check(total, indices)


def test_an_exact_counter_takes_a_sketch_and_the_other_way_round():
    many, few = zipf(200_000, 2), zipf(2_000, 3)
    both = np.concatenate([many, few])
    exact, sketched = counter_of(few), counter_of(many)
    assert exact.sketch is None
    exact.merge(sketched)
    check(exact, both)
    sketched.merge(counter_of(few))
    check(sketched, both)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("first", [False, True])
def test_frequent_codes_are_held(first, merged):
    """A code that half of all indices have must not depend on its hash, whenever it comes, in whatever shard."""
    runs = [zipf(50_000, 4), zipf(50_000, 5), np.full(100_000, 12345, np.uint64)]
    runs = runs[::-1] if first else runs
    counter = counter_of(*runs)
    if merged:
        counter = counter_of()
        for run in runs:
            counter.merge(counter_of(run))
    usage = counter.usage("msb")
    indices = np.concatenate(runs)
    assert usage.most_used[0] == (12345, 100_000)
    assert abs(usage.entropy_bits - statistics_of(indices)[1]) < 4 * usage.estimated["entropy_bits"].standard_error


@settings(max_examples=30)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(0, 2**32))
def test_a_sketch_that_holds_all_is_exact(counts, seed):
    codes = np.sort(mixed(np.arange(len(counts), dtype=np.uint64) + np.uint64(seed)))
    sketch = Sketch.of((codes, np.array(counts, np.int64)), 64, 1 << 12)
    assert sketch.level == 0
    known = sketch.known()
    assert profile_of(known[1], known[2]).entropy_bits(sketch.total) == pytest.approx(
        profile_of(np.array(counts, np.int64)).entropy_bits(sum(counts)), abs=1e-9
    )
    assert sketch.entropy_error_bits() == 0
    assert sketch.codes_used()[0] == len(counts)


@pytest.mark.parametrize("used", [1, 100, 10_000, 30_000, 60_000, 1_000_000])
def test_hyperloglog(used):
    """Both ranges, and where they meet."""
    sketch = Sketch.of(tally_pairs(np.arange(1)), 64, 1 << 12)
    for part in np.array_split(np.arange(used, dtype=np.uint64), 4):
        sketch.take(tally_sparse(part))
    assert abs(sketch._by_registers() - used) <= max(1, 4 * HLL_ERROR * used)
    estimate, how = sketch.codes_used()
    assert abs(estimate - used) <= 4 * how.standard_error
    assert how.standard_error <= HLL_ERROR * used * 1.1


def tally_pairs(indices):
    tally = tally_sparse(indices)
    return tally.codes, tally.counts


def test_the_hash_is_one_to_one():
    codes = np.random.default_rng(0).integers(0, 2**63, 100_000, dtype=np.uint64)
    assert np.unique(mixed(codes)).size == np.unique(codes).size
    assert mixed(np.array([0], np.uint64))[0] == 0xE220A8397B1DCDAF  # SplitMix64 from seed 0, its first number


def test_statistics_that_were_returned_stay():
    """What a file's statistics are does not change with the files that come after it."""
    counter = counter_of(zipf(50_000, 1))
    usage = counter.usage("msb")
    before = usage.as_json()
    counter.add(np.full(100_000, 2**BITS - 1, np.uint64))
    counter.merge(counter_of(np.full(1_000, 5, np.uint64)))
    counter.merge(counter_of(zipf(50_000, 2)))
    assert usage.as_json() == before


def test_memory_has_an_end_whatever_comes():
    """Every run has other codes, each of them frequent in it."""
    rng = np.random.default_rng(0)
    counter = counter_of(rng.integers(0, 2**BITS, 20_000, dtype=np.uint64), memory_bytes=1 << 16)
    for _ in range(50):
        counter.add(np.repeat(rng.integers(0, 2**BITS, 200, dtype=np.uint64), 40))
    sketch = counter.sketch
    assert sketch.sampled[0].size <= sketch.capacity
    assert sketch.held[0].size <= sketch.capacity // 2
    other = counter_of(np.repeat(rng.integers(0, 2**BITS, 2_000, dtype=np.uint64), 40), memory_bytes=1 << 16)
    counter.merge(other)
    assert sketch.held[0].size <= sketch.capacity // 2


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6))
def test_codes_that_become_frequent_in_small_files(seed):
    """220 files in the order of their data: noise, then a hundred codes that have a third of what follows."""
    rng = np.random.default_rng(seed)
    total, runs = Counter(BITS, memory_bytes=LITTLE), []
    hot = rng.integers(0, 2**BITS, 100, dtype=np.uint64)
    for number in range(220):
        noise = rng.integers(0, 2**BITS, 4096, dtype=np.uint64)
        runs.append(noise if number < 20 else np.concatenate([noise[1400:], np.repeat(hot, 14)]))
        total.merge(counter_of(runs[-1], memory_bytes=LITTLE))
    check_entropy(total, np.concatenate(runs))


@pytest.mark.parametrize("seed", range(6))
def test_errors_cover_what_came_late(seed):
    """Too rare in each run to be held, too many to be overlooked."""
    rng = np.random.default_rng(seed)
    hot = rng.integers(0, 2**BITS, 300, dtype=np.uint64)
    runs = [rng.integers(0, 2**BITS, 50_000, dtype=np.uint64)]
    for _ in range(100):
        runs.append(np.concatenate([rng.integers(0, 2**BITS, 1_000, dtype=np.uint64), hot, hot]))
    check_entropy(counter_of(*runs), np.concatenate(runs))


def check_entropy(counter, indices):
    usage = counter.usage("msb")
    error = usage.estimated["entropy_bits"].standard_error
    assert error > 0
    assert abs(usage.entropy_bits - statistics_of(indices)[1]) < 4 * error


def test_no_error_is_none_where_nothing_repeats():
    """A sample without repeats is not proof that there are none."""
    indices = np.random.default_rng(0).integers(0, 2**BITS, 100_000, dtype=np.uint64)
    check_entropy(counter_of(indices), indices)
