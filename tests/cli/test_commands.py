"""Every command end to end, as a user runs it: real processes, real files, what comes out on which stream."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

pytestmark = pytest.mark.slow

LFQ = Path(sys.executable).with_name("lfq")
BITS, DIM = 8, 12


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self):
        """stdout, which must be exactly one JSON object."""
        value = json.loads(self.out)
        assert isinstance(value, dict)
        return value


def run(*arguments, code=0, **environment):
    """`lfq ARGUMENTS` with pipes for streams; no escape codes and no redrawn lines in any of them."""
    quiet = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "PY_COLORS")}
    environment = quiet | {"TERM": "xterm-256color"} | environment
    command = [LFQ, *map(str, arguments)]
    ran = subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert ran.returncode == code, ran.stderr
    assert "\x1b" not in ran.stdout + ran.stderr
    assert "\r" not in ran.stdout + ran.stderr
    return Result(ran.returncode, ran.stdout, ran.stderr)


def write_checkpoint(path, weights=None, **config):
    description = {"format": "lfq-checkpoint", "version": 1, "config": {"type": "lfq", **config}}
    save_file(weights or {}, path, metadata={"lfq": json.dumps(description)})


@pytest.fixture(scope="module")
def weights():
    random = np.random.default_rng(1)
    return {
        "project_in.weight": random.standard_normal((BITS, DIM), np.float32),
        "project_in.bias": random.standard_normal(BITS, np.float32),
        "project_out.weight": random.standard_normal((DIM, BITS), np.float32),
        "project_out.bias": random.standard_normal(DIM, np.float32),
    }


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, weights):
    """A working folder with a plain and a projected checkpoint."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LFQ_TRACEBACK", raising=False)
    write_checkpoint("plain.safetensors", dim=BITS, codebook_size=2**BITS)
    write_checkpoint("projected.safetensors", weights, dim=DIM, codebook_size=2**BITS)
    return tmp_path


def floats(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def tree(path):
    return sorted(item.relative_to(path).as_posix() for item in Path(path).rglob("*") if item.is_file())


def table(text):
    """The words of each row of the first table."""
    return [line.split() for line in text.splitlines()]


# without projection


@pytest.fixture
def encoded():
    """(x, codes file): a channel-first tensor and its codes."""
    x = floats(2, BITS, 3, 4)
    np.save("x.npy", x)
    run("encode", "plain.safetensors", "x.npy", "-o", "x.codes.safetensors", "-q")
    return x, "x.codes.safetensors"


def test_encode_and_decode(encoded):
    x, codes = encoded
    stream = np.packbits(np.moveaxis(x, 1, -1) > 0)
    assert np.array_equal(load_file(codes)["data"], stream)
    run("decode", "plain.safetensors", codes, "-o", "back.npy")
    back = np.load("back.npy")
    assert back.dtype == np.float32
    assert np.array_equal(back, np.where(x > 0, np.float32(1), np.float32(-1)))


def test_encode_shows_a_table_and_a_summary():
    np.save("x.npy", floats(100, BITS))
    result = run("encode", "plain.safetensors", "x.npy", "-o", "out")
    head, row = table(result.out)
    assert head == ["input", "output", "tensors", "vectors", "in", "out", "status"]
    assert row == ["x.npy", "out/x.codes.safetensors", "1", "100", "3.12", "KiB", "100", "B", "written"]
    assert result.err.startswith("lfq: 1 written; 100 vectors; 3.12 KiB -> 100 B (1:32); ")
    assert len(result.err.splitlines()) == 1


def test_encode_as_json():
    save_file({"x": floats(5, BITS), "labels": np.arange(3)}, "x.safetensors")
    result = run("encode", "plain.safetensors", "x.safetensors", "-o", "out", "--json")
    (output,) = result.json["outputs"]
    assert output == {
        "input": "x.safetensors",
        "output": "out/x.codes.safetensors",
        "status": "written",
        "tensors": 1,
        "vectors": 5,
        "bytes_in": 5 * BITS * 4,
        "bytes_out": 5,
        "left_alone": {"labels": "I64, not float"},
    }
    assert result.err == ""


def test_what_is_left_alone_is_reported_on_stderr():
    save_file({"x": floats(5, BITS), "labels": np.arange(3)}, "x.safetensors")
    result = run("encode", "plain.safetensors", "x.safetensors", "-o", "out")
    assert "lfq: x.safetensors: 'labels' left alone: I64, not float" in result.err
    assert "labels" not in result.out


def test_quiet_says_nothing():
    np.save("x.npy", floats(5, BITS))
    result = run("encode", "plain.safetensors", "x.npy", "-o", "out", "-q")
    assert (result.out, result.err) == ("", "")


def test_decode_as_json(encoded):
    _, codes = encoded
    result = run("decode", "plain.safetensors", codes, "-o", "out", "--json", "--dtype", "float16")
    (output,) = result.json["outputs"]
    assert (output["output"], output["status"], output["vectors"]) == ("out/x.safetensors", "written", 24)
    assert result.err == ""
    assert load_file("out/x.safetensors")["data"].dtype == np.float16


def test_stats(encoded):
    x, codes = encoded
    result = run("stats", codes)
    assert result.out.startswith("data: 24 indices of 8 bits\n")
    assert ["codes", "used", str(len(np.unique(load_file(codes)["data"]))), "of", "256"] in [
        r[:5] for r in table(result.out)
    ]
    assert result.err == ""
    report = run("stats", codes, "--json").json
    (tensor,) = report["tensors"]
    assert (tensor["file"], tensor["tensor"]) == (codes, "data")
    bits = np.moveaxis(x, 1, -1).reshape(-1, BITS) > 0
    counts = np.unique(np.packbits(bits, axis=1), return_counts=True)[1]
    shares = counts / counts.sum()
    entropy = -(shares * np.log2(shares)).sum()
    for (usage,) in (tensor["codebooks"], report["overall"]["codebooks"]):
        assert usage["count"] == len(bits)
        assert usage["codes_used"] == len(counts)
        assert usage["utilisation"] == pytest.approx(len(counts) / 2**BITS)
        assert usage["entropy_bits"] == pytest.approx(entropy)
        assert usage["perplexity"] == pytest.approx(2**entropy)
        assert usage["ones"] == pytest.approx(bits.mean(0).tolist())


def test_stats_over_several_files():
    for k in range(3):
        np.save(f"{k}.npy", floats(10 + k, BITS, seed=k))
    run("encode", "plain.safetensors", "0.npy", "1.npy", "2.npy", "-o", "out", "-q")
    report = run("stats", "out", "--json").json
    assert [item["codebooks"][0]["count"] for item in report["tensors"]] == [10, 11, 12]
    assert report["overall"]["codebooks"][0]["count"] == 33


def test_export_codebook():
    result = run("export-codebook", "plain.safetensors", "-o", "codes.npy")
    rows = np.unpackbits(np.arange(2**BITS, dtype=np.uint8)[:, None], axis=1)
    assert np.array_equal(np.load("codes.npy"), np.where(rows, np.float32(1), np.float32(-1)))
    assert table(result.out)[1] == ["codes.npy", "codebook", "256×8", "written"]
    assert result.err == "lfq: codebook 256×8: 8 KiB of F32\n"


def test_export_codebook_as_json():
    result = run("export-codebook", "plain.safetensors", "-o", "codes.safetensors", "--range", "3:5", "--json")
    report = result.json
    assert report["status"] == "written"
    assert report["rows"] == [3, 5]
    assert report["tables"] == {"codebook": [2, BITS]}
    assert load_file("codes.safetensors")["codebook"].tolist() == [
        [-1, -1, -1, -1, -1, -1, 1, 1],
        [-1] * 5 + [1, -1, -1],
    ]


def test_inspect(encoded):
    _, codes = encoded
    checkpoint = run("inspect", "plain.safetensors")
    assert "plain.safetensors: checkpoint, 1 quantizer" in checkpoint.out
    assert ["codebook_size", "256"] in table(checkpoint.out)
    tensors = run("inspect", "x.npy", "--checkpoint", "plain.safetensors")
    assert ["data", "F32", "2×8×3×4", "yes,", "features", "on", "axis", "1"] in table(tensors.out)
    written = run("inspect", codes)
    assert any(row[:2] == ["data", "2×3×4"] for row in table(written.out))
    assert checkpoint.err + tensors.err + written.err == ""


def test_inspect_as_json(encoded):
    _, codes = encoded
    report = run("inspect", "plain.safetensors", "x.npy", codes, "--json").json
    checkpoint, tensors, written = report["paths"]
    assert [item["kind"] for item in report["paths"]] == ["checkpoint", "tensors", "codes"]
    assert checkpoint["quantizers"][0]["config"]["codebook_size"] == 256
    assert tensors["tensors"]["data"] == {"dtype": "F32", "shape": [2, 8, 3, 4]}
    with safe_open(codes, "np") as file:
        header = json.loads(file.metadata()["lfq"])
    assert written["tensors"] == header["tensors"]
    assert (
        checkpoint["quantizers"][0]["checkpoint_sha256"] == written["checkpoint_sha256"] == header["checkpoint_sha256"]
    )


def test_inspect_of_a_folder_of_codes(encoded):
    _, codes = encoded
    Path("all/sub").mkdir(parents=True)
    for k in range(30):
        shutil.copy(codes, f"all/sub/{k:02}.codes.safetensors")
    report = run("inspect", "all", "--json").json["paths"]
    assert [item["path"] for item in report] == [f"all/sub/{k:02}.codes.safetensors" for k in range(30)]
    assert {item["kind"] for item in report} == {"codes"}
    shown = run("inspect", "all")
    assert shown.out.count(": codes, ") == 20
    assert "10 of 30 not shown (-v shows all)" in shown.err
    assert run("inspect", "all", "-v").out.count(": codes, ") == 30
    Path("all/bad.codes.safetensors").write_bytes(b"no codes")
    assert "all/bad" in run("inspect", "all", code=3).err
    shutil.copy("plain.safetensors", "all/model.safetensors")
    assert "all: checkpoint, 1 quantizer" in run("inspect", "all").out


def test_a_decoded_npy_that_is_there_is_refused_and_the_reason_is_true(encoded):
    _, codes = encoded
    run("decode", "plain.safetensors", codes, "-o", "y.npy", "--format", "npy")
    again = run("decode", "plain.safetensors", codes, "-o", "y.npy", "--format", "npy", code=1)
    assert "y.npy: exists, and a .npy file does not say what it was made from" in again.err


def test_inspect_of_a_folder_of_tensors():
    Path("all/sub").mkdir(parents=True)
    for name in ("all/a.npy", "all/sub/b.npy"):
        np.save(name, floats(5, BITS))
    report = run("inspect", "all", "--json").json["paths"]
    assert [(item["path"], item["kind"]) for item in report] == [("all/a.npy", "tensors"), ("all/sub/b.npy", "tensors")]
    Path("none").mkdir()
    assert "none: not a checkpoint folder" in run("inspect", "none", code=1).err


def test_inspect_takes_suffixes_as_encode_does():
    np.save("x.npy", floats(5, BITS))
    Path("x.npy").rename("X.NPY")
    run("encode", "plain.safetensors", "X.NPY", "-o", "out")
    assert "X.NPY: tensors" in run("inspect", "X.NPY").out


# with projection


def far_from_zero(weights, vectors):
    """x whose z is at least 1e-3 from 0: float32 sums in any order are within 1e-4 of each other here."""
    x = floats(4 * vectors, DIM, seed=3)
    z = x.astype(np.float64) @ weights["project_in.weight"].T + weights["project_in.bias"]
    kept = np.abs(z).min(1) > 1e-3
    return x[kept][:vectors], z[kept][:vectors]


def test_projected_there_and_back(weights):
    x, z = far_from_zero(weights, 50)
    np.save("x.npy", x)
    run("encode", "projected.safetensors", "x.npy", "-o", "out")
    assert np.array_equal(load_file("out/x.codes.safetensors")["data"], np.packbits(z > 0))
    result = run("decode", "projected.safetensors", "out", "-o", "back", "--format", "npy", "--json")
    assert result.json["outputs"][0]["output"] == "back/x.npy"
    expected = np.where(z > 0, 1, -1) @ weights["project_out.weight"].T + weights["project_out.bias"]
    np.testing.assert_allclose(np.load("back/x.npy"), expected, atol=1e-4)


def test_projected_export_adds_up_to_what_decodes(weights):
    run("export-codebook", "projected.safetensors", "-o", "codes.safetensors")
    tables = load_file("codes.safetensors")
    rows = np.where(np.unpackbits(np.arange(2**BITS, dtype=np.uint8)[:, None], axis=1), 1, -1)
    expected = rows @ weights["project_out.weight"].T + weights["project_out.bias"]
    np.testing.assert_allclose(tables["codebook"] + tables["bias"], expected, atol=1e-4)


def test_projected_inspect():
    report = run("inspect", "projected.safetensors", "--json").json["paths"][0]["quantizers"][0]
    assert report["tensors"]["project_in.weight"] == [BITS, DIM]


# which files are written


@pytest.fixture
def latents():
    """latents/a/b.npy, latents/c.safetensors, latents/d/e/f.npz, and what is not an input."""
    for name in ("latents/a", "latents/d/e"):
        Path(name).mkdir(parents=True)
    np.save("latents/a/b.npy", floats(5, BITS, seed=1))
    save_file({"x": floats(6, BITS, seed=2)}, "latents/c.safetensors")
    np.savez("latents/d/e/f.npz", x=floats(7, BITS, seed=3))
    Path("latents/notes.txt").write_text("no tensors")
    Path("latents/.hidden.npy").write_text("no tensors")


TREE = ["a/b.codes.safetensors", "c.codes.safetensors", "d/e/f.codes.safetensors"]


@pytest.mark.usefixtures("latents")
def test_a_folder_is_mirrored():
    run("encode", "plain.safetensors", "latents", "-o", "out")
    assert tree("out") == TREE
    run("decode", "plain.safetensors", "out", "-o", "back")
    assert tree("back") == ["a/b.safetensors", "c.safetensors", "d/e/f.safetensors"]
    run("decode", "plain.safetensors", "out", "-o", "arrays", "--format", "npy")
    assert tree("arrays") == ["a/b.npy", "c.npy", "d/e/f.npy"]


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["latents/**/*.np?"], ["a/b.codes.safetensors", "d/e/f.codes.safetensors"]),
        (["latents/*.safetensors"], ["c.codes.safetensors"]),
        (["latents/a", "latents/d"], ["a/b.codes.safetensors", "d/e/f.codes.safetensors"]),
        (["latents/a/b.npy", "latents/c.safetensors"], ["a/b.codes.safetensors", "c.codes.safetensors"]),
        (["latents/a/b.npy"], ["b.codes.safetensors"]),
        (["latents/a/b.npy", "latents"], TREE),
    ],
    ids=" ".join,
)
def test_globs_and_several_inputs(inputs, expected):
    run("encode", "plain.safetensors", *inputs, "-o", "out")
    assert tree("out") == expected


@pytest.mark.usefixtures("latents")
def test_absolute_and_relative_inputs_give_the_same(folder):
    run("encode", "plain.safetensors", folder / "latents", "-o", folder / "out")
    assert tree("out") == TREE


@pytest.mark.usefixtures("latents")
def test_nothing_is_written_outside_the_output_folder(folder):
    before = tree(".")
    run("encode", "plain.safetensors", f"../{folder.name}/latents/a", "latents/d", "-o", "out")
    outside = [name for name in tree(".") if not name.startswith("out/") and name not in before]
    assert outside == []
    assert len(tree("out")) == 2


def test_one_input_may_name_its_output():
    np.save("x.npy", floats(5, BITS))
    run("encode", "plain.safetensors", "x.npy", "-o", "deep/er/tokens.safetensors")
    assert tree("deep") == ["er/tokens.safetensors"]
    run("decode", "plain.safetensors", "deep/er/tokens.safetensors", "-o", "back.safetensors")
    run("decode", "plain.safetensors", "deep/er/tokens.safetensors", "-o", "back.npy")
    assert np.array_equal(load_file("back.safetensors")["data"], np.load("back.npy"))


@pytest.mark.usefixtures("latents")
def test_dry_run_writes_nothing(encoded):
    _, codes = encoded
    before = tree(".")
    result = run("encode", "plain.safetensors", "latents", "-o", "out", "--dry-run")
    assert [row[-1] for row in table(result.out)] == ["status"] + ["planned"] * 3
    report = run("decode", "plain.safetensors", codes, "-o", "back", "--dry-run", "--json").json
    assert report["outputs"][0]["status"] == "planned"
    report = run("export-codebook", "plain.safetensors", "-o", "codes.npy", "--dry-run", "--json").json
    assert report["status"] == "planned"
    assert tree(".") == before
    assert not Path("out").exists()


# the same again


@pytest.mark.usefixtures("latents")
def test_the_same_again_is_up_to_date():
    def files():
        return {name: (Path("out", name).read_bytes(), Path("out", name).stat().st_mtime_ns) for name in tree("out")}

    run("encode", "plain.safetensors", "latents", "-o", "out")
    before = files()
    result = run("encode", "plain.safetensors", "latents", "-o", "out")
    assert files() == before
    assert result.out.count("up to date") == 3
    assert result.err == "lfq: 3 up to date\n"
    Path("out/c.codes.safetensors").unlink()
    result = run("encode", "plain.safetensors", "latents", "-o", "out")  # goes on where it was stopped
    assert "1 written" in result.err
    assert "2 up to date" in result.err
    assert {name: data for name, (data, _) in files().items()} == {name: data for name, (data, _) in before.items()}


@pytest.mark.usefixtures("latents")
def test_decode_again_is_up_to_date():
    run("encode", "plain.safetensors", "latents", "-o", "out", "-q")
    run("decode", "plain.safetensors", "out", "-o", "back", "-q")
    assert "lfq: 3 up to date" in run("decode", "plain.safetensors", "out", "-o", "back").err


@pytest.mark.usefixtures("latents")
def test_encode_and_decode_in_place_again_and_again():
    for _ in range(2):
        run("encode", "plain.safetensors", "latents", "-o", "latents", "-q")
    Path("latents/c.safetensors").unlink()
    for _ in range(2):
        run("decode", "plain.safetensors", "latents", "-o", "latents", "-q")


@pytest.mark.usefixtures("latents")
def test_codes_beside_their_tensors_can_be_decoded_and_counted():
    run("encode", "plain.safetensors", "latents", "-o", "latents", "-q")
    assert len(run("stats", "latents", "--json").json["tensors"]) == 3
    run("decode", "plain.safetensors", "latents", "-o", "back", "-q")
    assert tree("back") == ["a/b.safetensors", "c.safetensors", "d/e/f.safetensors"]


@pytest.mark.usefixtures("latents")
@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
def test_the_same_input_gives_the_same_bytes(packing):
    for out in ("one", "two"):
        run("encode", "plain.safetensors", "latents", "-o", out, "--packing", packing)
    assert {name: Path("one", name).read_bytes() for name in TREE} == {
        name: Path("two", name).read_bytes() for name in TREE
    }


# the program itself


def test_version():
    from lfq_cli import __version__

    assert run("--version").out == f"lfq {__version__}\n"


def test_python_m():
    command = [sys.executable, "-m", "lfq_cli", "--version"]
    assert subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.startswith("lfq ")


@pytest.mark.parametrize("command", ["encode", "decode", "stats", "export-codebook", "inspect"])
def test_help_names_arguments_once(command):
    usage = next(line for line in run(command, "--help").out.splitlines() if "Usage:" in line)
    assert "......" not in usage.replace(" ", "")
    assert "...}..." not in usage, usage
