"""decode --split: each sample is what decoding it alone gives, under a name that its key may have."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lfq_cli.errors import LfqError
from lfq_cli.jobs.decode_samples import path_of_key


@pytest.fixture(autouse=True)
def checkpoint(lfq, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)
    native("c.safetensors", {"type": "lfq", "dim": 6, "codebook_size": 8, "num_codebooks": 2})


def native(path, config, weights=None):
    description = {"format": "lfq-checkpoint", "version": 1, "config": config}
    save_file(weights or {}, path, metadata={"lfq": json.dumps(description)})


def save(folder, samples):
    for key, x in samples.items():
        path = Path(folder, f"{key}.npy")
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, x)


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def tree(folder):
    return sorted(str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file())


SETS = {
    "fixed": ([(6, 3, 2)] * 5, ["--channel-axis", "0"]),
    "in the middle": ([(2, 6, 3)] * 4, ["--channel-axis", "1"]),
    "vectors": ([(6,)] * 7, []),
    "ragged": ([(3, 6), (0, 6), (5, 6)], ["--ragged"]),
    "ragged, channel-first": ([(6, 3), (6, 0), (6, 5)], ["--ragged", "--channel-axis", "0"]),
    "ragged video": ([(3, 2, 2, 6), (1, 2, 2, 6)], ["--ragged", "--channel-axis", "-1"]),
}


@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
@pytest.mark.parametrize("kind", SETS)
def test_every_sample_is_what_decoding_it_alone_gives(lfq, kind, packing):
    shapes, options = SETS[kind]
    samples = {f"{k % 2}/{k}": floats(*shape, seed=k) for k, shape in enumerate(shapes)}
    save("in", samples)
    packed = ("encode", "c.safetensors", "in", "-o", "codes", "--samples-per-file", 3, "--packing", packing, *options)
    assert lfq(*packed)[0] == 0
    for form in ("safetensors", "npy"):
        assert lfq("decode", "c.safetensors", "codes", "-o", form, "--split", "--format", form)[0] == 0
        assert tree(form) == [f"{key}.{form}" for key in sorted(samples)]
    for key, x in samples.items():
        expected = np.where(x > 0, 1, -1).astype(np.float32)
        assert np.array_equal(load_file(f"safetensors/{key}.safetensors")["data"], expected)
        assert np.array_equal(np.load(f"npy/{key}.npy"), expected)
    code, out, _ = lfq("decode", "c.safetensors", "codes", "-o", "safetensors", "--split")
    assert code == 0
    assert out.count("up to date") == -(-len(samples) // 3)


def test_several_tensors_and_levels(lfq):
    native("r.safetensors", {"type": "residual_lfq", "dim": 4, "codebook_size": 16, "num_quantizers": 3})
    Path("in").mkdir()
    for k in range(6):
        np.savez(f"in/{k}.npz", a=floats(3, 4, seed=k), b=floats(4, seed=9 + k))
    assert lfq("encode", "r.safetensors", "in", "-o", "codes", "--samples-per-file", 9)[0] == 0
    assert lfq("encode", "r.safetensors", "in", "-o", "alone")[0] == 0
    for levels in ([], ["--num-quantizers", 1]):
        out = f"split{len(levels)}"
        assert lfq("decode", "r.safetensors", "codes", "-o", out, "--split", *levels)[0] == 0
        assert lfq("decode", "r.safetensors", "alone", "-o", f"alone{len(levels)}", *levels)[0] == 0
        for k in range(6):
            one, other = (load_file(f"{folder}/{k}.safetensors") for folder in (out, f"alone{len(levels)}"))
            assert {name: x.tolist() for name, x in one.items()} == {name: x.tolist() for name, x in other.items()}
    code, _, err = lfq("decode", "r.safetensors", "codes", "-o", "npy", "--split", "--format", "npy")
    assert code == 1
    assert "a .npy file holds one array" in err


def test_projected_samples(lfq):
    weights = {"project_in.weight": floats(6, 10), "project_out.weight": floats(10, 6, seed=1)}
    native("p.safetensors", {"type": "lfq", "dim": 10, "codebook_size": 64}, weights)
    samples = {str(k): floats(10, 3, 2, seed=k) for k in range(4)}
    save("in", samples)
    options = ("--channel-axis", 0)
    assert lfq("encode", "p.safetensors", "in", "-o", "codes", "--samples-per-file", 4, *options)[0] == 0
    assert lfq("encode", "p.safetensors", "in", "-o", "alone", *options)[0] == 0
    assert lfq("decode", "p.safetensors", "codes", "-o", "split", "--split")[0] == 0
    assert lfq("decode", "p.safetensors", "alone", "-o", "back")[0] == 0
    for key in samples:
        one, other = (load_file(f"{folder}/{key}.safetensors")["data"] for folder in ("split", "back"))
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


BAD_KEYS = ("../up", "/root", "a/../../b", ".", "..", "a\\b", "x" * 300, "é" * 128, "deep/" + "y" * 250)


@pytest.mark.parametrize("key", BAD_KEYS)
def test_keys_never_lead_out_of_the_folder(lfq, key):
    with tarfile.open("in.tar", "w") as archive:
        for name in ("good", key.replace(".", "_") if key in (".", "..") else key, "fine/too"):
            file = io.BytesIO()
            np.save(file, floats(6))
            member = tarfile.TarInfo(f"{name}.npy")
            member.size = len(file.getvalue())
            archive.addfile(member, io.BytesIO(file.getvalue()))
    assert lfq("encode", "c.safetensors", "in.tar", "-o", "x.codes.safetensors")[0] == 0
    before = tree(".")
    code, _, err = lfq("decode", "c.safetensors", "x.codes.safetensors", "-o", "out", "--split")
    if key in (".", ".."):
        assert code == 0
        return
    assert code == 1
    assert "x.codes.safetensors: the key" in err
    assert "--split" in err
    assert [name for name in tree(".") if name not in before] == ["out/fine/too.safetensors", "out/good.safetensors"]


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=40))
def test_a_path_lies_below_the_folder_or_is_refused(key):
    try:
        path = path_of_key(key, Path("/out"), ".safetensors")
    except LfqError:
        return
    assert os.path.normpath(path) == str(path)
    assert Path("/out") in path.parents


def test_a_sample_file_says_what_it_is_of(lfq):
    save("in", {"a": floats(6), "b": floats(6)})
    lfq("encode", "c.safetensors", "in", "-o", "codes", "--samples-per-file", 2)
    lfq("decode", "c.safetensors", "codes", "-o", "out", "--split")
    with safe_open("out/a.safetensors", "np") as file:
        assert file.metadata()["key"] == "a"
        assert json.loads(file.metadata()["lfq"])["format"] == "lfq-decoded"
    Path("out/b.safetensors").write_bytes(b"another's")
    code, _, err = lfq("decode", "c.safetensors", "codes", "-o", "out", "--split")
    assert code == 1
    assert "out/b.safetensors: exists" in err
    assert lfq("decode", "c.safetensors", "codes", "-o", "out", "--split", "--overwrite")[0] == 0


def test_damaged_codes_write_nothing(lfq):
    save("in", {"a": floats(6), "b": floats(6)})
    lfq("encode", "c.safetensors", "in", "-o", "codes", "--samples-per-file", 2, "--packing", "rows")
    path = Path("codes/00000.codes.safetensors")
    content = path.read_bytes()
    with safe_open(path, "np") as file:
        stored = file.get_tensor("data").tobytes()
    place = content.rindex(stored)
    path.write_bytes(content[:place] + bytes([content[place] ^ 0x80]) + content[place + 1 :])
    code, _, err = lfq("decode", "c.safetensors", "codes", "-o", "out", "--split")
    assert code == 1
    assert "is damaged" in err
    assert not Path("out").exists()


def test_a_file_without_samples(lfq):
    np.save("x.npy", floats(3, 6))
    lfq("encode", "c.safetensors", "x.npy", "-o", "x.codes.safetensors")
    code, _, err = lfq("decode", "c.safetensors", "x.codes.safetensors", "-o", "out", "--split")
    assert code == 1
    assert "holds no samples to split" in err
