"""`lfq stats` end to end: floats -> `lfq encode` -> `lfq stats --json`, every key against the slow twin.

The twin's bits are those of the floats, or, of residual quantizers, those that the slow reader finds in the codes file.
"""

import csv
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import stats_twin
import twin
from safetensors.numpy import save_file

pytestmark = pytest.mark.slow

NOT_COMPARED = {"file", "tensor", "advice", "notes"}


@dataclass(frozen=True)
class QuantizerCase:
    """A quantizer: what its checkpoint says, and what its codes files should say."""

    config: dict
    dims: list
    order: str = "msb"
    channels: int = 0

    @property
    def dim(self):
        return self.channels or sum(self.dims)


def lfq_case(bits, codebooks=1, order="msb"):
    config = {"type": "lfq", "dim": bits * codebooks, "codebook_size": 2**bits, "num_codebooks": codebooks}
    return QuantizerCase(config | {"bit_order": order}, [bits] * codebooks, order)


RESIDUAL = QuantizerCase(
    {"type": "residual_lfq", "dim": 18, "codebook_size": 2**18, "num_quantizers": 8}, [18] * 8, channels=18
)
QUANTIZERS = {
    "1 bit": lfq_case(1),
    "10 bits": lfq_case(10),
    "18 bits": lfq_case(18),
    "32 bits": lfq_case(32),
    "64 bits": lfq_case(64),
    "4 codebooks of 16 bits": lfq_case(16, 4),
    "3 codebooks of 4 bits": lfq_case(4, 3),
    "20 codebooks of 6 bits": lfq_case(6, 20),
    "10 bits, lsb": lfq_case(10, order="lsb"),
    "3 codebooks of 5 bits, lsb": lfq_case(5, 3, "lsb"),
    "64 bits, lsb": lfq_case(64, order="lsb"),
    "8 residual levels of 18 bits": RESIDUAL,
}
every_quantizer = pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
PACKINGS = ("bits", "rows", "ints")


def floats(dim, *outer, seed=0):
    """float32 [*outer, dim]: a few vectors that come again and again, some once, a biased and a dead channel."""
    random = np.random.default_rng([seed, dim])
    vectors = int(np.prod(outer))
    few = random.standard_normal((max(2, vectors // 6), dim)).astype(np.float32)
    x = few[(len(few) * random.random(vectors) ** 3).astype(int)]
    fresh = random.random(vectors) < 0.2
    x[fresh] = random.standard_normal((int(fresh.sum()), dim)).astype(np.float32)
    if dim > 2:
        x[:, 1] = np.abs(x[:, 1])
        x[:, 2] += 1
    return x.reshape(*outer, dim)


@pytest.fixture
def encode(lfq):
    """encode(quantizer, {tensor: floats}, codes file) -> {tensor: bits}; writes checkpoint, floats and codes."""

    def call(quantizer, tensors, path, packing="bits"):
        description = {"format": "lfq-checkpoint", "version": 1, "config": quantizer.config}
        save_file({}, "checkpoint.safetensors", metadata={"lfq": json.dumps(description)})
        save_file(tensors, "floats.safetensors")
        options = ("-o", path, "--packing", packing, "--layout", "channel-last", "--no-fsync", "--overwrite", "-q")
        code, _, err = lfq("encode", "checkpoint.safetensors", "floats.safetensors", *options)
        assert code == 0, err
        found = {name: bits for name, (_, bits) in twin.read_codes_file(path).items()}
        if quantizer is not RESIDUAL:
            for name, x in tensors.items():
                assert found[name] == (x.reshape(-1, quantizer.dim) > 0).astype(int).tolist()
        return found

    return call


@pytest.fixture
def stats(lfq):
    """stats(*arguments, code=0) -> the JSON object of `lfq stats ... --json`."""

    def call(*arguments, code=0):
        ended, out, err = lfq("stats", *arguments, "--json")
        assert ended == code, err
        report = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert isinstance(report, dict)
        return report

    return call


def check(report, quantizer, bits, min_count=1, shape=None):
    """Every key of an object of `tensors`, or of `overall`, is the twin's; `advice` and `notes` are sentences."""
    expected = stats_twin.token_usage(bits, quantizer.dims, quantizer.order, min_count)
    if shape is not None:
        codes = stats_twin.codes_of(bits, quantizer.dims, quantizer.order)
        expected["positions"] = [stats_twin.positions(column, shape) for column in codes]
    stats_twin.same({key: value for key, value in report.items() if key not in NOT_COMPARED}, expected)
    for key in ("advice", "notes"):
        assert isinstance(report[key], list)
        assert all(isinstance(line, str) and line for line in report[key])


@every_quantizer
def test_every_statistic(encode, stats, quantizer):
    bits = encode(quantizer, {"x": floats(quantizer.dim, 400)}, "x.codes.safetensors")
    report = stats("x.codes.safetensors")
    assert set(report) == {"tensors", "overall", "failed"}
    (tensor,) = report["tensors"]
    assert (tensor["file"], tensor["tensor"]) == ("x.codes.safetensors", "x")
    assert report["failed"] == {}
    check(tensor, quantizer, bits["x"])
    check(report["overall"], quantizer, bits["x"])


@every_quantizer
@pytest.mark.parametrize("packing", PACKINGS[1:])
def test_packings_have_the_same_statistics(encode, stats, quantizer, packing):
    x = {"x": floats(quantizer.dim, 101)}
    bits = encode(quantizer, x, "x.codes.safetensors", packing)
    (tensor,) = stats("x.codes.safetensors")["tensors"]
    check(tensor, quantizer, bits["x"])
    encode(quantizer, x, "x.codes.safetensors")
    assert stats("x.codes.safetensors")["tensors"] == [tensor]


@every_quantizer
def test_several_files_and_tensors(encode, stats, quantizer):
    """Each by itself; overall as if all were one. One tensor is empty, one has a single vector."""
    outers = [{"a": (50,), "b": (7, 9)}, {"a": (0,), "c": (1,)}, {"a": (30,)}]
    bits = {}
    for k, shapes in enumerate(outers):
        tensors = {name: floats(quantizer.dim, *outer, seed=k) for name, outer in shapes.items()}
        for name, rows in encode(quantizer, tensors, f"codes/{k}.codes.safetensors", PACKINGS[k]).items():
            bits[f"codes/{k}.codes.safetensors", name] = rows
    report = stats("codes", "--min-count", 2)
    assert sorted((item["file"], item["tensor"]) for item in report["tensors"]) == sorted(bits)
    for item in report["tensors"]:
        check(item, quantizer, bits[item["file"], item["tensor"]], min_count=2)
    check(report["overall"], quantizer, [row for rows in bits.values() for row in rows], min_count=2)


@pytest.mark.parametrize(
    "quantizer", [QUANTIZERS["18 bits"], QUANTIZERS["4 codebooks of 16 bits"], RESIDUAL], ids=["18", "4x16", "8x18"]
)
def test_nothing_to_count(encode, stats, quantizer):
    encode(quantizer, {"x": floats(quantizer.dim, 3)[:0]}, "x.codes.safetensors")
    report = stats("x.codes.safetensors")
    check(report["tensors"][0], quantizer, [])
    check(report["overall"], quantizer, [])


def test_chosen_tensors(encode, stats):
    quantizer = QUANTIZERS["10 bits"]
    bits = encode(
        quantizer, {"a1": floats(10, 40), "a2": floats(10, 50, seed=1), "b": floats(10, 60, seed=2)}, "x.safetensors"
    )
    report = stats("x.safetensors", "--tensor", "a*")
    assert [item["tensor"] for item in report["tensors"]] == ["a1", "a2"]
    check(report["overall"], quantizer, bits["a1"] + bits["a2"])


def test_different_codebooks_have_no_overall_statistics(encode, stats):
    ten, wide = QUANTIZERS["10 bits"], QUANTIZERS["3 codebooks of 4 bits"]
    bits = [encode(ten, {"x": floats(10, 40)}, "1.safetensors"), encode(wide, {"x": floats(12, 40)}, "2.safetensors")]
    report = stats("1.safetensors", "2.safetensors")
    assert report["overall"] is None
    for item, quantizer, tensors in zip(report["tensors"], (ten, wide), bits, strict=True):
        check(item, quantizer, tensors["x"])


def test_the_order_of_bits_is_a_part_of_the_codebook(encode, stats):
    """The same vectors in another bit order: other codes, the same bits."""
    x = {"x": floats(10, 200)}
    for order in ("msb", "lsb"):
        encode(lfq_case(10, order=order), x, f"{order}.safetensors")
    report = stats("msb.safetensors", "lsb.safetensors")
    assert report["overall"] is None
    msb, lsb = (item["codebooks"][0] for item in report["tensors"])
    assert msb["most_used"] != lsb["most_used"]
    assert {name for name in msb if msb[name] != lsb[name]} <= {"most_used", "least_used"}


def test_a_file_that_fails_is_named(encode, stats):
    quantizer = QUANTIZERS["10 bits"]
    bits = encode(quantizer, {"x": floats(10, 40)}, "1.safetensors")
    Path("2.safetensors").write_bytes(Path("1.safetensors").read_bytes()[:-1])
    report = stats("1.safetensors", "2.safetensors", code=3)
    assert list(report["failed"]) == ["2.safetensors"]
    assert isinstance(report["failed"]["2.safetensors"], str)
    check(report["overall"], quantizer, bits["x"])


# options


@pytest.mark.parametrize("min_count", [1, 2, 5, 10**6])
def test_min_count(encode, stats, min_count):
    quantizer = QUANTIZERS["3 codebooks of 4 bits"]
    bits = encode(quantizer, {"x": floats(12, 300)}, "x.safetensors")
    check(stats("x.safetensors", "--min-count", min_count)["overall"], quantizer, bits["x"], min_count)


def test_no_joint(encode, stats):
    quantizer = QUANTIZERS["3 codebooks of 4 bits"]
    bits = encode(quantizer, {"x": floats(12, 300)}, "x.safetensors")
    (tensor,) = stats("x.safetensors", "--no-joint")["tensors"]
    assert tensor["joint"] is None
    expected = stats_twin.token_usage(bits["x"], quantizer.dims, quantizer.order)
    stats_twin.same(tensor["codebooks"], expected["codebooks"])


@pytest.mark.parametrize(
    ("quantizer", "outer"),
    [
        *((quantizer, (5, 3, 4)) for quantizer in QUANTIZERS.values()),
        *((QUANTIZERS["3 codebooks of 4 bits"], outer) for outer in ((130, 7), (1, 6), (3, 1, 1), (2, 1, 2, 3))),
    ],
)
def test_by_position(encode, stats, quantizer, outer):
    x = floats(quantizer.dim, *outer)
    x.reshape(outer[0], -1, quantizer.dim)[:, 0] = 1  # the first position never changes
    bits = encode(quantizer, {"x": x}, "x.safetensors", "rows")
    report = stats("x.safetensors", "--by-position")
    check(report["tensors"][0], quantizer, bits["x"], shape=outer)
    check(report["overall"], quantizer, bits["x"], shape=outer)


def test_by_position_of_several(encode, stats):
    """The same axes: counts add up. Other axes: each has its own, overall there are none."""
    quantizer = QUANTIZERS["10 bits"]
    one = encode(quantizer, {"x": floats(10, 5, 4), "y": floats(10, 8, 4, seed=1)}, "1.safetensors")
    report = stats("1.safetensors", "--by-position")
    check(report["overall"], quantizer, one["x"] + one["y"], shape=(13, 4))
    two = encode(quantizer, {"x": floats(10, 3, 6, seed=2)}, "2.safetensors")
    report = stats("1.safetensors", "2.safetensors", "--by-position")
    check(report["tensors"][2], quantizer, two["x"], shape=(3, 6))
    check(report["overall"], quantizer, one["x"] + one["y"] + two["x"])
    assert report["overall"]["notes"]


def test_an_empty_tensor_takes_no_positions_away(encode, stats):
    quantizer = QUANTIZERS["10 bits"]
    bits = encode(quantizer, {"x": floats(10, 5, 4), "y": floats(10, 5, 4)[:0]}, "x.safetensors")
    check(stats("x.safetensors", "--by-position")["overall"], quantizer, bits["x"], shape=(5, 4))


def test_a_sequence_of_vectors_has_no_positions(encode, stats):
    quantizer = QUANTIZERS["10 bits"]
    bits = encode(quantizer, {"x": floats(10, 30)}, "x.safetensors")
    (tensor,) = stats("x.safetensors", "--by-position")["tensors"]
    check(tensor, quantizer, bits["x"])
    assert tensor["notes"]


# comparing


@every_quantizer
def test_compare(encode, stats, quantizer):
    bits = []
    for k in range(2):
        x = floats(quantizer.dim, 200 + 50 * k)
        x[100:] += np.float32(0.3 * k)
        bits.append(encode(quantizer, {"x": x}, f"{k}.safetensors")["x"])
    report = stats("0.safetensors", "--compare", "1.safetensors")
    found = report["comparison"]
    usages = [stats_twin.token_usage(rows, quantizer.dims, quantizer.order) for rows in bits]
    codes = [stats_twin.codes_of(rows, quantizer.dims, quantizer.order) for rows in bits]
    expected = [
        stats_twin.comparison(*parts) for parts in zip(*(usage["codebooks"] for usage in usages), *codes, strict=True)
    ]
    stats_twin.same(found["codebooks"], expected)
    if len(quantizer.dims) == 1:
        assert found["joint"] is None
    else:
        joint = stats_twin.comparison(*(u["joint"] for u in usages), *(stats_twin.joint_codes(rows) for rows in bits))
        stats_twin.same(found["joint"], joint)
    for name, rows in zip("ab", bits, strict=True):
        check(report[name]["overall"], quantizer, rows)


def test_compare_with_nothing(encode, stats):
    quantizer = QUANTIZERS["10 bits"]
    encode(quantizer, {"x": floats(10, 40)}, "a.safetensors")
    encode(quantizer, {"x": floats(10, 40)[:0]}, "b.safetensors")
    (found,) = stats("a.safetensors", "--compare", "b.safetensors")["comparison"]["codebooks"]
    assert found["divergence_bits"] is found["codes_only_a"] is found["share_only_b"] is None
    assert found["figures"]["count"] == {"a": 40, "b": 0, "change": -40}


def test_other_bit_orders_are_not_compared(encode, stats):
    """Equal integers mean other vectors there: a divergence of them would say nothing."""
    x = {"x": floats(10, 100)}
    for order in ("msb", "lsb"):
        encode(lfq_case(10, order=order), x, f"{order}.safetensors")
    assert stats("msb.safetensors", "--compare", "lsb.safetensors")["comparison"] is None


# files of counts


@every_quantizer
def test_csv(encode, stats, quantizer):
    bits = encode(quantizer, {"x": floats(quantizer.dim, 150), "y": floats(quantizer.dim, 90, seed=1)}, "x.safetensors")
    stats("x.safetensors", "--csv", "counts.csv")
    rows = bits["x"] + bits["y"]
    columns = {str(k): column for k, column in enumerate(stats_twin.codes_of(rows, quantizer.dims, quantizer.order))}
    if len(quantizer.dims) > 1 and sum(quantizer.dims) <= 64:
        columns["joint"] = stats_twin.joint_codes(rows)
    expected = [
        ["0", name, str(sum(quantizer.dims) if name == "joint" else quantizer.dims[int(name)]), str(code), str(count)]
        for name, column in columns.items()
        for code, count in sorted(Counter(column).items())
    ]
    with Path("counts.csv").open(newline="", encoding="utf-8") as file:
        head, *found = csv.reader(file)
    assert head == ["set", "codebook", "bits", "code", "count"]
    assert found == expected


@every_quantizer
def test_saved_counts_have_the_same_statistics(encode, stats, quantizer):
    bits = []
    for k in range(3):
        x = {"x": floats(quantizer.dim, 60 + k, 4, seed=k)}
        bits += encode(quantizer, x, f"{k}.codes.safetensors", PACKINGS[k])["x"]
        stats(f"{k}.codes.safetensors", "--by-position", "--save", f"{k}.counts.safetensors")
    report = stats("0.counts.safetensors", "1.counts.safetensors", "2.codes.safetensors", "--by-position")
    check(report["overall"], quantizer, bits, shape=(183, 4))
    stats("0.counts.safetensors", "1.codes.safetensors", "--by-position", "--save", "both.counts.safetensors")
    report = stats("both.counts.safetensors", "2.counts.safetensors", "--by-position")
    check(report["overall"], quantizer, bits, shape=(183, 4))


# past the memory cap


@pytest.mark.parametrize("quantizer", [lfq_case(32), lfq_case(16, 2)], ids=["32 bits", "2 codebooks of 16 bits"])
def test_estimates_are_marked_and_near(encode, stats, quantizer):
    """80,000 tokens, most of them once, and memory for a fourth of them: within five standard errors."""
    bits = encode(quantizer, {"x": floats(32, 80_000)}, "x.safetensors")["x"]
    (tensor,) = stats("x.safetensors", "--memory", 1)["tensors"]
    usage = tensor["joint"] or tensor["codebooks"][0]
    counts = Counter(stats_twin.joint_codes(bits) if tensor["joint"] else stats_twin.codes_of(bits, [32], "msb")[0])
    assert usage["exact"] is False
    assert set(usage["estimated"]) >= {"codes_used", "entropy_bits"}
    truth = {"codes_used": len(counts), "entropy_bits": stats_twin.entropy_bits(list(counts.values()))}
    for name, true in truth.items():
        error = usage["estimated"][name]["standard_error"]
        assert 0 < error < 0.03 * true
        assert abs(usage[name] - true) < 5 * error
        assert usage["estimated"][name]["method"]
    once = sum(1 for n in counts.values() if n == 1)
    assert usage["unseen_probability"] == pytest.approx(once / 80_000, rel=0.1)
    assert usage["count"] == 80_000
    ones = np.array(bits).mean(0)
    assert usage["ones"] == pytest.approx(ones.tolist(), rel=1e-12)
    assert all(counts[item["code"]] == item["count"] for item in usage["most_used"] + usage["least_used"])
    if tensor["joint"]:
        expected = stats_twin.token_usage(bits, quantizer.dims, quantizer.order)["codebooks"]
        stats_twin.same(tensor["codebooks"], expected)
