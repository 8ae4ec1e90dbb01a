"""`lfq verify`: whole, same, different, damaged; its shares against numpy; what belongs to what."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from families import residual
from safetensors.numpy import save_file

from lfq_cli import native
from lfq_cli.quantizer import Quantizer

DIM, BITS = 12, 5


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def checkpoint(name="c.safetensors", *, plain=False):
    weights = {
        "project_in.weight": floats(BITS, DIM, seed=1),
        "project_out.weight": floats(DIM, BITS, seed=2),
        "project_in.bias": floats(BITS, seed=3),
    }
    quantizer = Quantizer(dim=DIM, codebook_dim=DIM if plain else BITS, weights={} if plain else weights)
    native.write(quantizer, Path(name), overwrite=True)
    return name


def encoded(lfq, *, plain=False, options=()):
    """A tree of sources and its codes: c.safetensors, in/, out/."""
    for name, seed in (("a.npy", 1), ("sub/b.npy", 2)):
        Path("in", name).parent.mkdir(parents=True, exist_ok=True)
        np.save(Path("in", name), floats(300, DIM, seed=seed))
    assert lfq("encode", checkpoint(plain=plain), "in", "-o", "out", "-q", *options)[0] == 0


def verdicts(lfq, *arguments):
    code, out, _ = lfq("verify", *arguments, "--json")
    return code, {item["path"]: item for item in json.loads(out)["files"]}


@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
@pytest.mark.parametrize("plain", [True, False])
def test_what_was_encoded_is_whole_and_the_same(lfq, plain, packing):
    encoded(lfq, plain=plain, options=("--packing", packing))
    code, found = verdicts(lfq, "out")
    assert code == 0
    assert {item["status"] for item in found.values()} == {"whole"}
    code, found = verdicts(lfq, "out", "--checkpoint", "c.safetensors", "--source", "in")
    assert code == 0
    assert len(found) == 2
    for item in found.values():
        assert item["status"] == "same"
        assert item["comparisons"]["data"]["vectors"] == 300
        assert item["comparisons"]["data"]["bits_differ"] == 0


def test_margins_are_numpys(lfq):
    encoded(lfq, plain=True)
    x = np.load("in/a.npy")
    x[:30, 0], x[:10, 1] = 5e-6, 5e-7
    np.save("in/a.npy", x)
    assert lfq("encode", "c.safetensors", "in/a.npy", "-o", "out/a.codes.safetensors", "--overwrite")[0] == 0
    _, found = verdicts(lfq, "out/a.codes.safetensors", "--checkpoint", "c.safetensors", "--source", "in/a.npy")
    shares = found["out/a.codes.safetensors"]["comparisons"]["data"]
    for margin in ("1e-06", "1e-05", "0.0001", "0.001", "0.01"):
        expected = (np.abs(x) < np.float32(margin)).mean(axis=0)
        assert shares["margin_by_bit"][margin] == pytest.approx(expected.tolist())
        assert shares["margin"][margin] == pytest.approx(expected.mean())


def test_differences_are_counted_by_index_and_bit(lfq):
    encoded(lfq, plain=True)
    x = np.load("in/a.npy")
    x[:45, 3] *= -1
    x[:9, 7] *= -1
    np.save("in/a.npy", x)
    code, found = verdicts(lfq, "out", "--checkpoint", "c.safetensors", "--source", "in")
    assert code == 4
    assert found["out/sub/b.codes.safetensors"]["status"] == "same"
    item = found["out/a.codes.safetensors"]
    assert item["status"] == "different"
    shares = item["comparisons"]["data"]
    assert shares["indices_differ"] == pytest.approx(45 / 300)
    assert shares["bits_differ"] == pytest.approx(54 / (300 * DIM))
    expected = [0.0] * DIM
    expected[3], expected[7] = 45 / 300, 9 / 300
    assert shares["bits_differ_by_bit"] == pytest.approx(expected)
    code, out, err = lfq("verify", "out", "--checkpoint", "c.safetensors", "--source", "in")
    assert code == 4
    assert "different" in out
    assert "15.000%" in out
    assert "1 different" in err


@pytest.mark.parametrize("sample", [1, 7, 100, 299, 300, 5000])
def test_a_sample_is_spread_over_the_tensor(lfq, sample):
    encoded(lfq, plain=True)
    arguments = ("out", "--checkpoint", "c.safetensors", "--source", "in", "--sample", sample)
    code, found = verdicts(lfq, *arguments)
    assert code == 0
    for item in found.values():
        assert min(sample, 300) <= item["comparisons"]["data"]["vectors"] <= min(2 * sample, 300)


@pytest.mark.slow
@pytest.mark.parametrize("sample", [16, 100, 1000])
@pytest.mark.parametrize("layout", ["last", "first"])
def test_a_sample_sees_what_changed_in_any_tenth(lfq, sample, layout):
    checkpoint(plain=True)
    x = floats(20_000, DIM) if layout == "last" else floats(10, DIM, 2100)
    np.save("x.npy", x)
    options = () if layout == "last" else ("--layout", "channel-first")
    assert lfq("encode", "c.safetensors", "x.npy", "-o", "x.codes.safetensors", *options)[0] == 0
    flat = np.moveaxis(x, 1, -1) if layout == "first" else x
    vectors = flat.reshape(-1, DIM)
    for tenth in range(10):
        changed = vectors.copy()
        changed[tenth * len(vectors) // 10 : (tenth + 1) * len(vectors) // 10] *= -1
        changed = changed.reshape(flat.shape)
        np.save("x.npy", np.moveaxis(changed, -1, 1) if layout == "first" else changed)
        arguments = ("x.codes.safetensors", "--checkpoint", "c.safetensors", "--source", "x.npy", "--sample", sample)
        code, found = verdicts(lfq, *arguments)
        assert code == 4, tenth
        shares = found["x.codes.safetensors"]["comparisons"]["data"]
        if sample >= 100:
            assert shares["indices_differ"] == pytest.approx(0.1, abs=0.08)


def test_codes_that_were_not_named_are_not_missed(lfq):
    encoded(lfq)
    np.save("in/c.npy", floats(30, DIM))
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "-q")[0] == 0
    paths = ("out/a.codes.safetensors", "out/sub/b.codes.safetensors")
    code, found = verdicts(lfq, *paths, "--checkpoint", "c.safetensors", "--source", "in")
    assert code == 0
    assert set(found) == set(paths)


def test_a_residual_quantizer_and_several_tensors(lfq):
    torch.save(residual.state_dict(1, levels=5), "r.pt")
    save_file({"a": floats(4, 50, 4), "b": floats(70, 4, seed=5)}, "x.safetensors")
    assert lfq("encode", "r.pt", "x.safetensors", "-o", "x.codes.safetensors")[0] == 0
    arguments = ("--checkpoint", "r.pt", "--source", "x.safetensors")
    code, found = verdicts(lfq, "x.codes.safetensors", *arguments)
    assert code == 0
    (item,) = found.values()
    assert set(item["comparisons"]) == {"a", "b"}
    assert len(item["comparisons"]["a"]["bits_differ_by_bit"]) == 20
    code, found = verdicts(lfq, "x.codes.safetensors", *arguments, "--tensor", "b")
    assert set(next(iter(found.values()))["comparisons"]) == {"b"}


def damage(path, position, value=None):
    data = bytearray(Path(path).read_bytes())
    data[position] = data[position] ^ 0x04 if value is None else value
    Path(path).write_bytes(data)


def test_damage_is_named_and_does_not_stop_the_rest(lfq):
    encoded(lfq)
    damage("out/a.codes.safetensors", -3)
    code, out, err = lfq("verify", "out")
    assert code == 4
    assert "out/a.codes.safetensors: 'data' is damaged" in err
    assert "whole" in out
    assert "differ" not in out  # nothing was compared
    code, found = verdicts(lfq, "out")
    assert {path: item["status"] for path, item in found.items()} == {
        "out/a.codes.safetensors": "damaged",
        "out/sub/b.codes.safetensors": "whole",
    }
    assert "damaged" in found["out/a.codes.safetensors"]["error"]


def test_every_byte_counts(lfq):
    """No bit of a codes file can change without verify seeing it, but for the kind of white space in its header."""
    encoded(lfq)
    path = Path("out/a.codes.safetensors")
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        damage(path, position)
        assert lfq("verify", path, "-q")[0] == 4, (position, whole[position - 20 : position + 20])
        path.write_bytes(whole)


def test_another_checkpoint_is_no_source_of_these_codes(lfq):
    encoded(lfq)
    checkpoint("plain.safetensors", plain=True)
    code, found = verdicts(lfq, "out", "--checkpoint", "plain.safetensors")
    assert code == 3
    assert {item["status"] for item in found.values()} == {"failed"}  # the files themselves are whole
    assert all("another checkpoint" in item["error"] for item in found.values())


def test_what_does_not_belong_together(lfq):
    encoded(lfq)
    np.save("in/a.npy", floats(299, DIM))
    code, found = verdicts(lfq, "out", "--checkpoint", "c.safetensors", "--source", "in")
    assert code == 3
    assert "299" in found["out/a.codes.safetensors"]["error"]
    Path("in/a.npy").unlink()
    code, found = verdicts(lfq, "out", "--checkpoint", "c.safetensors", "--source", "in")
    assert code == 3
    assert "none of the sources" in found["out/a.codes.safetensors"]["error"]
    Path("out/sub/b.codes.safetensors").unlink()
    code, found = verdicts(lfq, "out", "--checkpoint", "c.safetensors", "--source", "in")
    assert "is not there, but its source in/sub/b.npy is" in str(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [(("--source", "in"), "--source needs --checkpoint"), (("--sample", "3"), "--sample belongs to --source")],
)
def test_options_that_need_each_other(lfq, options, message):
    encoded(lfq)
    code, _, err = lfq("verify", "out", *options)
    assert code == 2
    assert message in err


def test_nothing_to_verify(lfq):
    code, _, err = lfq("verify", "gone.codes.safetensors")
    assert code == 1
    assert "no such file" in err
    encoded(lfq)
    code, _, err = lfq("verify", "out", "--tensor", "other")
    assert code == 3
    assert "no tensor matches" in err


def test_however_codes_and_sources_are_named(lfq):
    """Relative, absolute, through a link and through `..`: a codes file is paired with its source."""
    encoded(lfq)
    np.save("in/c.npy", floats(30, DIM))
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "-q")[0] == 0
    Path("link").symlink_to("out")
    paths = (
        "link/a.codes.safetensors",
        Path("out/sub/b.codes.safetensors").absolute(),
        "in/../out/c.codes.safetensors",
    )
    sources = ("--source", "in/a.npy", "--source", Path("in/sub/b.npy").absolute(), "--source", "in/../in/c.npy")
    code, found = verdicts(lfq, *paths, "--checkpoint", "c.safetensors", *sources)
    assert code == 0
    assert [item["status"] for item in found.values()] == ["same"] * 3


@pytest.mark.parametrize("sources", [(), ("--checkpoint", "c.safetensors", "--source", "in")])
def test_the_table_says_what_it_leaves_out(lfq, sources):
    for k in range(30):
        Path("in").mkdir(exist_ok=True)
        np.save(f"in/{k:02}.npy", floats(3, DIM, seed=k))
    assert lfq("encode", checkpoint(), "in", "-o", "out", "-q")[0] == 0
    status = "same" if sources else "whole"
    code, out, err = lfq("verify", "out", *sources)
    assert (code, out) == (0, "")
    assert f"lfq: 30 {status}; 30 of 30 not shown (-v shows all)" in err
    code, out, err = lfq("verify", "out", *sources, "-v")
    assert all(f"{k:02}.codes.safetensors" in out for k in range(30))
    assert "not shown" not in err
    for k in range(25):
        path = Path(f"out/{k:02}.codes.safetensors")
        path.write_bytes(path.read_bytes()[:-1] + b"\xff")
    code, out, err = lfq("verify", "out", *sources)
    assert code == 4
    assert out.count("damaged") == 20
    assert f"lfq: 25 damaged, 5 {status}; 10 of 30 not shown (-v shows all)" in err
