"""stats/counter.py against numpy.unique, Python sums and the twin: any D, any order of adding and merging."""

import json
import math

import numpy as np
import pytest
import twin
from hypothesis import given, settings
from hypothesis import strategies as st

from lfq_cli import codesfile
from lfq_cli.bits import index_dtype, indices_to_bits
from lfq_cli.codesfile import CodesHeader, CodesTensor, SourceInfo
from lfq_cli.cpus import use_threads
from lfq_cli.pipeline.count import count as count_codes
from lfq_cli.pipeline.workers import start_workers
from lfq_cli.quantizer import Quantizer
from lfq_cli.statistics import Counter, CountOptions, TokenCounts, tables
from lfq_cli.statistics.profile import profile_of
from lfq_cli.statistics.tables import DenseTable, SparseTable

WIDTHS = [1, 4, 10, 18, 22, 32, 63, 64]
ORDERS = ("msb", "lsb")


def counted(bits, *runs):
    counter = Counter(bits)
    for run in runs:
        counter.add(np.array(run, index_dtype((bits,))))
    return counter


def brute_force(bits, indices, order):
    """count, codes_used, entropy in bits, share of ones by channel: one index at a time."""
    counts = twin.counts_of(indices)
    rows = [twin.bits_of_index(index, bits, order) for index in indices]
    ones = tuple(sum(column) / len(rows) for column in zip(*rows, strict=True)) if rows else ()
    return len(indices), len(counts), twin.entropy_bits(counts), ones


def check(usage, bits, indices, order):
    count, codes_used, entropy, ones = brute_force(bits, indices, order)
    assert (usage.bits, usage.count, usage.codes_used) == (bits, count, codes_used)
    assert usage.entropy_bits == pytest.approx(entropy, rel=1e-12, abs=1e-12)
    assert usage.perplexity == pytest.approx(2.0**entropy, rel=1e-12)
    assert usage.utilisation == codes_used / 2**bits
    assert usage.ones == pytest.approx(ones, rel=1e-12)


@st.composite
def used(draw, bits):
    """A list of indices in which some come again."""
    few = draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=6))
    return draw(st.lists(st.sampled_from([*few, 0, 2**bits - 1]), max_size=40))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [1, 4, 10, 17, 32, 63, 64])
@settings(max_examples=40)
@given(data=st.data())
def test_usage_is_that_of_a_count_by_hand(bits, order, data):
    indices = data.draw(used(bits))
    cut = data.draw(st.integers(0, len(indices)))
    check(counted(bits, indices[:cut], indices[cut:]).usage(order), bits, indices, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", WIDTHS)
def test_usage_of_many(bits, order):
    """100,000 indices, skewed, against numpy.unique."""
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, 5_000, dtype=np.uint64, endpoint=False) if bits < 64 else None
    codes = rng.integers(0, 2**64 - 1, 5_000, dtype=np.uint64, endpoint=True) if codes is None else codes
    indices = codes[(5_000 * rng.random(100_000) ** 3).astype(int)].astype(index_dtype((bits,)))
    counter = Counter(bits)
    for run in np.array_split(indices, 7):
        counter.add(run)
    usage = counter.usage(order)
    seen, counts = np.unique(indices, return_counts=True)
    shares = counts / indices.size
    assert (usage.count, usage.codes_used) == (indices.size, seen.size)
    assert usage.entropy_bits == pytest.approx(-(shares * np.log2(shares)).sum(), rel=1e-12)
    places = np.arange(bits, dtype=np.uint64)[:: -1 if order == "msb" else 1]
    ones = [(indices.astype(np.uint64) >> place & np.uint64(1)).mean() for place in places]
    assert usage.ones == pytest.approx(ones, rel=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 10, 17, 64])
@settings(max_examples=40)
@given(data=st.data())
def test_the_order_of_merging_does_not_matter(bits, data):
    runs = data.draw(st.lists(used(bits), max_size=5))
    at_once = counted(bits, [index for run in runs for index in run]).usage("msb").as_json()
    shuffled = data.draw(st.permutations(runs))
    total = Counter(bits)
    for run in shuffled:
        total.merge(counted(bits, run))
    assert total.usage("msb").as_json() == at_once
    nested = counted(bits)
    for run in shuffled:  # as a chain: each into the next
        following = counted(bits, run)
        following.merge(nested)
        nested = following
    assert nested.usage("msb").as_json() == at_once


@pytest.mark.parametrize("bits", [4, 32])
def test_merging_leaves_the_other_as_it_was(bits):
    total, other = counted(bits, [1, 2]), counted(bits, [2, 3])
    before = other.usage("msb").as_json()
    total.merge(other)
    assert other.usage("msb").as_json() == before
    check(total.usage("msb"), bits, [1, 2, 2, 3], "msb")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.uint64])
@pytest.mark.parametrize("bits", [7, 20])
def test_indices_of_any_integer_type(bits, dtype):
    counter = Counter(bits)
    counter.add(np.array([5, 127, 5], dtype))
    check(counter.usage("lsb"), bits, [5, 127, 5], "lsb")


@pytest.mark.parametrize("bits", WIDTHS)
def test_nothing_counted(bits):
    for counter in (Counter(bits), counted(bits, [])):
        usage = counter.usage("msb")
        assert (usage.count, usage.codes_used, usage.ones) == (0, 0, ())
        assert (usage.entropy_bits, usage.utilisation, usage.perplexity) == (0.0, 0.0, 1.0)


@pytest.mark.parametrize("bits", [3, 30, 64])
def test_ones_are_in_channel_order(bits):
    """Index 1 is the last channel with the most significant bit first, and the first channel the other way round."""
    ones = counted(bits, [1, 1, 0, 1]).usage
    assert ones("msb").ones == (*[0.0] * (bits - 1), 0.75)
    assert ones("lsb").ones == (0.75, *[0.0] * (bits - 1))


@pytest.mark.parametrize("bits", [1, 4, 10])
def test_a_codebook_used_evenly(bits):
    usage = counted(bits, range(2**bits)).usage("msb")
    assert (usage.entropy_bits, usage.perplexity, usage.utilisation) == (bits, 2**bits, 1.0)
    assert usage.ones == (0.5,) * bits


@pytest.mark.parametrize("bits", [4, 32])
def test_one_code_has_no_entropy_and_no_minus(bits):
    usage = counted(bits, [3, 3, 3]).usage("msb")
    assert (usage.entropy_bits, usage.perplexity) == (0.0, 1.0)
    assert math.copysign(1, usage.entropy_bits) == 1  # JSON would say -0.0


def test_statistics_are_json_under_the_names_of_record():
    found = counted(2, [1, 1, 3, 0]).usage("msb").as_json()
    assert json.loads(json.dumps(found)) == found
    expected = {
        "bits": 2,
        "count": 4,
        "codes_used": 3,
        "utilisation": 0.75,
        "perplexity": 2 * math.sqrt(2),
        "entropy_bits": 1.5,
        "ones": [0.25, 0.75],
    }
    assert expected.items() <= found.items()


def test_more_codes_than_are_unpacked_at_once():
    """The ones are added up in runs of 2^16 codes."""
    indices = np.arange(0, 3 * 70_000, 3)
    counter = Counter(32)
    counter.add(indices)
    counter.add(indices[-1:])
    usage = counter.usage("lsb")
    ones = [((indices >> k & 1).sum() + (indices[-1] >> k & 1)) / 70_001 for k in range(32)]
    assert usage.ones == pytest.approx(ones, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bits", [1, 5, 12, 20, 33, 64])
@settings(max_examples=20)
@given(data=st.data())
def test_pairs_of_bits(bits, order, data):
    """From a table as from a list of codes: how often both are one."""
    indices = data.draw(used(bits))
    rows = np.array([twin.bits_of_index(index, bits, order) for index in indices], np.int64).reshape(-1, bits)
    found = counted(bits, indices).usage(order).bit_statistics
    assert found.both.tolist() == (rows.T @ rows).tolist()


@settings(max_examples=100)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=200), st.integers(1, 3))
def test_most_and_least_used(indices, runs):
    counter = counted(12, *np.array_split(indices, runs))
    counts = twin.counts_of(indices)
    by_use = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    usage = counter.usage("msb")
    assert list(usage.least_used) == by_use[:10]
    assert list(usage.most_used) == sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:10]


def test_a_table_is_searched_in_runs(monkeypatch):
    monkeypatch.setattr("lfq_cli.statistics.counter._RUN_OF_CODES", 7)
    test_most_and_least_used()


@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
@pytest.mark.parametrize("most", [0, 1, 255, 256, 70_000, 1 << 31])
def test_a_profile_is_counts_of_counts(most, dtype):
    counts = np.random.default_rng(most).integers(0, most, 5000, dtype=dtype, endpoint=True)
    counts[:2] = most
    values, codes = np.unique(counts[counts > 0], return_counts=True)
    profile = profile_of(counts)
    assert profile.counts.dtype == np.int64
    assert profile.counts.tolist() == values[::-1].tolist()
    assert profile.codes.tolist() == codes[::-1].tolist()


@pytest.mark.parametrize("bits", [12, 20])
def test_a_table_counts_more_than_32_bits_hold(bits):
    """Tables of many codes have 32 bits for a count as long as these are enough."""
    expected, counter = np.zeros(1 << bits, np.int64), Counter(bits)
    for code, count in [(5, 1 << 31), (5, (1 << 31) - 1), (6, 1), (5, 7), (5, 1 << 33)]:
        counts = np.zeros(1 << bits, np.int64)
        counts[code] = count
        expected += counts
        counter.take(tables.Tally(None, counts))
        assert counter.total == expected.sum()
        assert np.array_equal(counter.table, expected)
        assert counter.table.dtype == np.int64
    merged = Counter(bits)
    merged.merge(counter)
    usage = merged.usage("msb")
    assert usage.most_used == ((5, int(expected[5])), (6, 1))
    assert usage.least_used == ((6, 1), (5, int(expected[5])))
    assert usage.bit_statistics.both.diagonal()[[-3, -2, -1]].tolist() == [expected.sum(), 1, expected[5]]


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("order", ORDERS)
def test_counting_is_the_same_with_any_number_of_threads(tmp_path, count, order):
    """Two threads count a large table, each half of the codes."""
    indices = np.random.default_rng(0).integers(0, 1 << 20, 200_000)
    info = CodesTensor("x", indices.shape, (20,), order, "bits", "U8", SourceInfo((len(indices), 20), "F32", 1))
    quantizer = Quantizer(dim=20, codebook_dim=20, bit_order=order)
    path = tmp_path / "x.codes.safetensors"
    header = CodesHeader(quantizer.config(), quantizer.digest, "float32", {"x": info})
    with codesfile.create(path, header) as writer, writer.tensor("x") as out:
        out.append(np.packbits(indices_to_bits(indices[:, None], (20,), order)))
    counts = TokenCounts((20,), order, CountOptions(), vectors=len(indices))
    with use_threads(count), start_workers() as workers, codesfile.open_codes(path) as codes:
        count_codes(codes["x"], counts, workers, lambda _: None)
    assert np.array_equal(counts.codebooks[0].table, np.bincount(indices, minlength=1 << 20))


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=30), max_size=12))
def test_sorted_runs_are_merged(runs):
    table = SparseTable()
    for run in runs:
        table.take(tables.tally_sparse(np.array(run, np.uint64)))
    codes, counts = table.pairs()
    assert dict(zip(codes.tolist(), counts.tolist(), strict=True)) == twin.counts_of([i for run in runs for i in run])
    assert (np.diff(codes.astype(object)) > 0).all()


def test_a_tally_does_not_change_with_the_callers_buffer():
    """Workers fill the same buffer again before what they tallied is added."""
    for bits in (4, 18, 22, 40):
        counter = Counter(bits)
        buffer = np.array([1, 2, 2], np.int64)
        tally = counter.tally(buffer)
        buffer[:] = 3
        counter.take(tally)
        assert counter.usage("msb").most_used == ((2, 2), (1, 1))


@pytest.mark.parametrize("bits", [17, 20, 22])
def test_a_few_indices_of_a_large_codebook_need_no_table(bits):
    """A header may name thousands of codebooks; what is counted is what there is."""
    few, many = Counter(bits, 100), Counter(bits, 1 << bits)
    assert isinstance(few._state, SparseTable)
    assert isinstance(many._state, DenseTable)
    indices = np.random.default_rng(bits).integers(0, 1 << bits, 100)
    few.add(indices)
    many.add(indices)
    assert few.usage("msb").as_json() == many.usage("msb").as_json()
    both = Counter(bits)
    both.merge(few)
    few.merge(many)
    both.merge(many)
    assert few.usage("lsb").as_json() == both.usage("lsb").as_json()
    assert few.usage("lsb").count == 200
