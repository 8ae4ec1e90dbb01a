"""`lfq merge` and `lfq split` as a user runs them: what is printed, exit codes, who takes such files."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from sample_files import read, read_container

DIM, SAMPLES = 5, 20


@pytest.fixture(autouse=True)
def tokens(lfq):
    """A checkpoint, latents/ with a label each, and tokens/ of 6 samples a file."""
    config = {"type": "lfq", "dim": DIM, "codebook_size": 2**DIM}
    save_file(
        {}, "c.safetensors", metadata={"lfq": json.dumps({"format": "lfq-checkpoint", "version": 1, "config": config})}
    )
    Path("latents").mkdir()
    random = np.random.default_rng(0)
    for k in range(SAMPLES):
        tensors = {"z": random.standard_normal((DIM, 3), np.float32), "label": np.array(k)}
        save_file(tensors, f"latents/{k:03}.safetensors")
    assert encode(lfq, "tokens", "--samples-per-file", 6)[0] == 0


def encode(lfq, out, *more):
    options = ("--channel-axis", "0", "--tensor", "z", "--carry", "label")
    return lfq("encode", "c.safetensors", "latents", "-o", out, *options, *more)


def keys(path):
    return [sample.key for sample in read(Path(path))]


ALL = [f"{k:03}" for k in range(SAMPLES)]


def test_merge_into_one_file(lfq):
    code, out, err = lfq("merge", "tokens", "-o", "all.codes.safetensors")
    assert code == 0
    head, row = (line.split() for line in out.splitlines())
    assert head == ["input", "output", "tensors", "vectors", "in", "out", "status"]
    named = ["tokens/00000.codes.safetensors", "(and", "3", "more)", "all.codes.safetensors"]
    assert row[:7] == [*named, "1", "60"]
    assert row[-1] == "written"
    assert err.startswith("lfq: 1 written; 20 samples; 60 vectors; ")
    assert keys("all.codes.safetensors") == ALL
    assert [read(Path("all.codes.safetensors"))[k].carried["label"][0] for k in range(SAMPLES)] == list(range(SAMPLES))


def test_a_folder_gets_numbered_files(lfq):
    assert lfq("merge", "tokens", "-o", "packed")[0] == 0
    assert keys("packed/00000.codes.safetensors") == ALL
    assert lfq("merge", "tokens/*.codes.safetensors", "-o", "packed/", "-q") == (0, "", "")
    assert [path.name for path in Path("packed").iterdir()] == ["00000.codes.safetensors"]


@pytest.mark.parametrize("command", ["merge", "split"])
def test_other_numbers_of_samples(lfq, command):
    code, out, _ = lfq(command, "tokens", "-o", "parts", "--samples-per-file", 8, "--json")
    assert code == 0
    outputs = json.loads(out)["outputs"]
    assert [(item["output"], item["status"], item["samples"]) for item in outputs] == [
        (f"parts/{k:05}.codes.safetensors", "written", count) for k, count in enumerate((8, 8, 4))
    ]
    assert [key for item in outputs for key in keys(item["output"])] == ALL


@pytest.mark.parametrize("size", ["70", "100", "1KB"])
def test_files_of_a_size_are_those_that_encode_makes(lfq, size):
    encode(lfq, "encoded", "--file-size", size)
    lfq("split", "tokens", "-o", "parts", "--file-size", size)
    names = sorted(path.name for path in Path("encoded").iterdir())
    assert [path.name for path in sorted(Path("parts").iterdir())] == names
    assert len(names) > 1 or size == "1KB"
    for name in names:
        assert keys(f"parts/{name}") == keys(f"encoded/{name}")


def test_the_codes_are_those_of_encoding_all_at_once(lfq):
    encode(lfq, "once", "--samples-per-file", 1000)
    lfq("split", "tokens", "-o", "parts", "--samples-per-file", 1)
    assert len(list(Path("parts").iterdir())) == SAMPLES
    lfq("merge", "parts", "-o", "all.codes.safetensors")
    assert lfq("decode", "c.safetensors", "all.codes.safetensors", "-o", "all.npy", "--tensor", "z")[0] == 0
    assert lfq("decode", "c.safetensors", "once/00000.codes.safetensors", "-o", "once.npy", "--tensor", "z")[0] == 0
    assert np.array_equal(np.load("all.npy"), np.load("once.npy"))
    (header, stored), (expected, others) = (
        read_container(Path(name)) for name in ("all.codes.safetensors", "once/00000.codes.safetensors")
    )
    assert {**header, "made_from": 0, "header_sha256": 0} == {**expected, "made_from": 0, "header_sha256": 0}
    assert {name: value.tobytes() for name, value in stored.items()} == {n: v.tobytes() for n, v in others.items()}


def test_up_to_date_refused_and_replaced(lfq):
    arguments = ("merge", "tokens", "-o", "all.codes.safetensors")
    lfq(*arguments)
    before = Path("all.codes.safetensors").read_bytes()
    assert "up to date" in lfq(*arguments)[1]
    (Path("tokens") / "00003.codes.safetensors").unlink()
    code, _, err = lfq(*arguments)
    assert code == 1
    assert "exists, made from other codes files" in err
    assert "--overwrite" in err
    assert Path("all.codes.safetensors").read_bytes() == before
    assert lfq(*arguments, "--overwrite")[0] == 0
    assert keys("all.codes.safetensors") == ALL[:18]


def test_a_dry_run_writes_nothing(lfq):
    code, out, _ = lfq("split", "tokens", "-o", "parts", "--samples-per-file", 9, "--dry-run")
    assert code == 0
    assert out.count("planned") == 3
    assert not Path("parts").exists()


def test_encode_does_not_take_a_merged_file_for_its_own(lfq):
    """With the very options that made the samples, and where all of them would go into one file."""
    lfq("merge", "tokens", "-o", "merged")
    before = Path("merged/00000.codes.safetensors").read_bytes()
    code, _, err = encode(lfq, "merged", "--samples-per-file", 1000)
    assert code == 1
    assert "exists, made with another value of other options" in err
    assert encode(lfq, "merged", "--samples-per-file", 1000, "--append")[0] == 0  # nothing is new
    assert [path.name for path in Path("merged").iterdir()] == ["00000.codes.safetensors"]
    assert Path("merged/00000.codes.safetensors").read_bytes() == before


def test_merge_does_not_take_what_encode_made_for_its_own(lfq):
    encode(lfq, "once", "--samples-per-file", 1000)
    code, _, err = lfq("merge", "tokens", "-o", "once")
    assert code == 1
    assert "was not made by lfq merge or split" in err


USAGE = {
    "nothing says how large": (["split", "tokens", "-o", "parts"], "--samples-per-file N or --file-size SIZE"),
    "both limits": (
        ["merge", "tokens", "-o", "x", "--samples-per-file", "3", "--file-size", "1MB"],
        "both say when a file is full",
    ),
    "no size": (["split", "tokens", "-o", "x", "--file-size", "large"], "is not a size"),
    "no number": (["split", "tokens", "-o", "x", "--samples-per-file", "0"], "0 is not in the range"),
    "a file for many": (
        ["split", "tokens", "-o", "x.codes.safetensors", "--samples-per-file", "3"],
        "is the name of a file, expected a folder",
    ),
    "a name that means a tensor file": (["merge", "tokens", "-o", "x.npy"], "expected a folder or a name in .safeten"),
    "a file in the way": (["merge", "tokens", "-o", "notes"], "notes: is a file, expected a folder or a name"),
    "an input as output": (
        ["merge", "tokens", "-o", "tokens/00000.codes.safetensors", "--overwrite"],
        "is an input of this command and would be replaced",
    ),
    "the folder of the inputs": (
        ["split", "tokens", "-o", "tokens", "--samples-per-file", "3"],
        "is an input of this command and would be replaced",
    ),
    "a URL": (["merge", "ftp://bucket/tokens", "-o", "x"], "lfq does not support ftp://"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage(lfq, case):
    Path("notes").touch()
    arguments, text = USAGE[case]
    code, out, err = lfq(*arguments)
    assert (code, out) == (2, "")
    assert text in " ".join(err.replace("│", " ").split())
    assert len(list(Path("tokens").iterdir())) == 4


FAILURES = {
    "no file": (["merge", "nowhere", "-o", "x"], "nowhere: no such file"),
    "no match": (["merge", "tokens/*.npy", "-o", "x"], "no file matches"),
    "a folder without codes": (["merge", "latents", "-o", "x"], "no file in this folder has a format that lfq reads"),
    "no samples": (["merge", "whole.codes.safetensors", "-o", "x"], "and no samples"),
    "files beside": (["merge", "tokens", "-o", "other"], "other/1.codes.safetensors: is in the output folder"),
    "the same twice": (["merge", "tokens", "copy", "-o", "x"], "both hold a sample with the key '000' (and 19 more"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures(lfq, case):
    np.save("x.npy", np.zeros((4, DIM), np.float32))
    lfq("encode", "c.safetensors", "x.npy", "-o", "whole.codes.safetensors")
    for folder in ("other", "copy"):
        Path(folder).mkdir()
    Path("other/1.codes.safetensors").touch()
    for path in Path("tokens").iterdir():
        Path("copy", path.name).write_bytes(path.read_bytes())
    arguments, text = FAILURES[case]
    code, out, err = lfq(*arguments)
    assert (code, out) == (1, "")
    assert text in err
    assert "Traceback" not in err
    assert not Path("x").exists()


def test_a_damaged_input_is_named_and_the_rest_is_made(lfq):
    damaged = Path("tokens/00001.codes.safetensors")
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    code, out, err = lfq("merge", "tokens", "-o", "all.codes.safetensors")
    assert code == 1
    assert f"lfq: error: {damaged}: " in err
    assert "is damaged" in err
    assert not Path("all.codes.safetensors").exists()
    data[-1] ^= 1
    data[8 + int.from_bytes(data[:8], "little")] ^= 1  # of a label: seen only when it is moved
    damaged.write_bytes(data)
    code, out, err = lfq("split", "tokens", "-o", "parts", "--samples-per-file", 5, "--json")
    assert code == 3
    assert [item["status"] for item in json.loads(out)["outputs"]] == ["written", "failed", "failed", "written"]
    assert err.count(f"lfq: error: {damaged}: 'label' is damaged") == 2
    assert sorted(path.name for path in Path("parts").iterdir()) == [
        "00000.codes.safetensors",
        "00003.codes.safetensors",
    ]


def test_a_file_that_may_not_grow(lfq):
    """RLIMIT_FSIZE: the system refuses the write, as a full disk would."""
    command = [sys.executable, "-m", "lfq_cli", "merge", "tokens", "-o", "out/all.codes.safetensors"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert done.returncode == 1
    assert "out/all.codes.safetensors: cannot be written: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    assert not Path("out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_misses_samples(lfq):
    Path("tokens/below").mkdir(mode=0)
    code, _, err = lfq("merge", "tokens", "-o", "x")
    assert code == 1
    assert "tokens/below: cannot be read" in err
    assert not Path("x").exists()
