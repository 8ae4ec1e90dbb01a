"""Bad input, one case a test: the error's form and text (docs/cli.md), the exit code, and what is left behind.

Most call `main` in this process; real processes where a signal, a stream's encoding or a hang could matter.
"""

import builtins
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
import vector_quantize_pytorch
from safetensors.numpy import save_file

from lfq_cli.cli import COMMANDS, main

LFQ = Path(sys.executable).with_name("lfq")
SEED = 7

# files left to the garbage collector have a test of their own, `test_no_file_is_left_open`
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder, and an environment that changes nothing about output."""
    monkeypatch.chdir(tmp_path)
    for name in ("LFQ_TRACEBACK", "FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "NO_COLOR", "PYTHONIOENCODING"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


@pytest.fixture
def lfq(monkeypatch, capsys):
    """lfq(*arguments) -> Result, in this process."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lfq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Result(ended.value.code or 0, captured.out, captured.err)

    return call


def lfq_process(*arguments, **environment):
    """The same in a process of its own; bytes that are not UTF-8 come back as surrogates."""
    command = [os.fsencode(LFQ), *map(os.fsencode, arguments)]
    ran = subprocess.run(command, env=os.environ | environment, capture_output=True, timeout=60, check=False)
    return Result(ran.returncode, os.fsdecode(ran.stdout), os.fsdecode(ran.stderr))


def assert_error(result, *parts, code=1):
    """One error in section 6's form, with `parts` in it; nothing else on stderr."""
    assert result.code == code, result.err
    first, *rest = result.err.splitlines()
    assert first.startswith("lfq: error: ")
    assert all(line.startswith("     hint: ") for line in rest), result.err
    assert len(rest) <= 1, result.err
    for part in parts:
        assert part in result.err


def assert_usage(result, *parts):
    assert result.code == 2, result.err
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


def checkpoint(name="lfq.safetensors", weights=None, **config):
    """A native checkpoint; by default 8 bits, nothing else."""
    config = {"type": "lfq", "dim": 8, "codebook_size": 256} | config
    description = {"format": "lfq-checkpoint", "version": 1, "config": config}
    save_file(weights or {}, name, metadata={"lfq": json.dumps(description)})
    return name


def projected(name="projected.safetensors", bias=True):
    """dim 6 -> 4 bits."""
    weights = {"project_in.weight": np.ones((4, 6), np.float32), "project_out.weight": np.ones((6, 4), np.float32)}
    if bias:
        weights["project_out.bias"] = np.ones(6, np.float32)
    return checkpoint(name, weights, dim=6, codebook_size=16)


def foreign(name="foreign.safetensors", bits=8):
    """A reference state dict without projections: the mask alone."""
    save_file({"mask": 2 ** np.arange(bits - 1, -1, -1, dtype=np.int64)}, name)
    return name


def floats(*shape):
    return np.random.default_rng(SEED).standard_normal(shape or (5, 8), np.float32)


def array(name="x.npy", values=None):
    np.save(name, floats() if values is None else values)
    return name


def codes(lfq, ckpt, source="x.npy", out="x.codes.safetensors", *more):
    assert lfq("encode", ckpt, source, "-o", out, *more).code == 0
    return out


def leftovers():
    """Partial files anywhere below the working folder."""
    return [path for path in Path().rglob("*") if ".partial" in path.name]


# files that are not there or not what they should be


def test_missing_input(lfq):
    assert_error(lfq("encode", checkpoint(), "no.npy", "-o", "out"), "no.npy: no such file or folder")
    assert not Path("out").exists()


def test_missing_checkpoint(lfq):
    assert_error(lfq("encode", "no.safetensors", array(), "-o", "out"), "no.safetensors: no such file or folder")


def test_missing_codes(lfq):
    assert_error(lfq("decode", checkpoint(), "no.codes.safetensors", "-o", "out"), "no.codes.safetensors: no such file")
    assert_error(lfq("stats", "no.codes.safetensors"), "no.codes.safetensors: no such file")


def test_inspect_of_nothing(lfq):
    assert_error(lfq("inspect", "no.npy"), "no.npy", "o such file")


def test_wrong_suffix(lfq):
    Path("x.txt").write_text("hello")
    expected = "expected one of .safetensors, .npy, .npz, .pt, .pth"
    assert_error(lfq("encode", checkpoint(), "x.txt", "-o", "out"), "x.txt: not a tensor format that lfq", expected)


def test_checkpoint_of_wrong_suffix(lfq):
    Path("c.txt").write_text("hello")
    assert_error(lfq("encode", "c.txt", array(), "-o", "out"), "c.txt: not a checkpoint", "expected .safetensors, .pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".npy", ".npz", ".pt", ".pth"])
@pytest.mark.parametrize(
    "garbage", [b"", b"hello", b"\0" * 100, b"hello world, this is not a file"], ids=["empty", "short", "zeros", "text"]
)
def test_garbage_inside(lfq, suffix, garbage):
    name = f"garbage{suffix}"
    Path(name).write_bytes(garbage)
    assert_error(lfq("encode", checkpoint(), name, "-o", "out"), f"{name}: ")
    assert not Path("out").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".ckpt"])
def test_garbage_as_checkpoint(lfq, suffix):
    name = f"garbage{suffix}"
    Path(name).write_bytes(b"hello")
    assert_error(lfq("encode", name, array(), "-o", "out"), f"{name}: not a whole ")


@pytest.mark.parametrize("garbage", [b"hello", b"\0" * 100], ids=["hello", "zeros"])
def test_a_damaged_torch_file_is_called_so_in_words(lfq, garbage):
    Path("garbage.pt").write_bytes(garbage)
    err = lfq("encode", checkpoint(), "garbage.pt", "-o", "out").err
    assert "garbage.pt: not a whole torch file" in err
    assert not re.search(r"not a whole torch file: \d+$", err, re.MULTILINE), err  # an opcode tells nobody anything


def test_tensors_are_no_checkpoint(lfq):
    save_file({"x": floats()}, "x.safetensors")
    assert_error(lfq("encode", "x.safetensors", array(), "-o", "out"), "no lookup-free quantizer in it", "expected")


def test_folder_without_model_is_no_checkpoint(lfq):
    Path("model").mkdir()
    assert_error(lfq("encode", "model", array(), "-o", "out"), "model: not a checkpoint folder", "model.safetensors")


def test_truncated_safetensors(lfq):
    save_file({"x": floats()}, "x.safetensors")
    os.truncate("x.safetensors", Path("x.safetensors").stat().st_size - 10)
    size = Path("x.safetensors").stat().st_size
    assert_error(
        lfq("encode", checkpoint(), "x.safetensors", "-o", "out"), f"{size + 10} bytes", f"the file has {size}"
    )


@pytest.mark.parametrize("cut", [10, 150, 200])
def test_truncated_npy(lfq, cut):
    os.truncate(array(), Path("x.npy").stat().st_size - cut)
    assert_error(lfq("encode", checkpoint(), "x.npy", "-o", "out"), "x.npy: ")


def test_damaged_npy_header(lfq):
    data = bytearray(Path(array()).read_bytes())
    data[data.index(b"}")] = ord("(")
    Path("x.npy").write_bytes(data)
    assert_error(lfq("encode", checkpoint(), "x.npy", "-o", "out"), "x.npy: not a whole npy array")


def test_damaged_lzma_npz(lfq):
    import zipfile

    array()
    with zipfile.ZipFile("x.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.write("x.npy")
    data = bytearray(Path("x.npz").read_bytes())
    data[60:100] = b"\xff" * 40
    Path("x.npz").write_bytes(data)
    assert_error(lfq("encode", checkpoint(), "x.npz", "-o", "out"), "x.npz: ")


def test_object_array(lfq):
    np.save("x.npy", np.array([{}, 1], dtype=object), allow_pickle=True)
    assert_error(lfq("encode", checkpoint(), "x.npy", "-o", "out"), "holds Python objects", "never unpickles")


def test_structured_array(lfq):
    array(values=np.zeros(4, [("a", "f4"), ("b", "i4")]))
    assert_error(
        lfq("encode", checkpoint(), "x.npy", "-o", "out"), "('a', '<f4')", "expected float16, float32 or float64"
    )


def test_codes_are_no_input(lfq):
    array()
    codes(lfq, checkpoint())
    result = lfq("encode", "lfq.safetensors", "x.codes.safetensors", "-o", "out")
    assert_error(result, "is a codes file, expected float tensors", "lfq decode")


def test_tensors_are_no_codes(lfq):
    save_file({"x": floats()}, "x.safetensors")
    assert_error(
        lfq("decode", checkpoint(), "x.safetensors", "-o", "out"), "not a codes file", "lfq encode writes them"
    )
    assert_error(lfq("stats", "x.safetensors"), "not a codes file")


def test_an_npy_file_given_as_codes_is_not_called_cut_off(lfq):
    result = lfq("decode", checkpoint(), array(), "-o", "out")
    assert_error(result, "x.npy: ")
    assert "cut off" not in result.err, result.err


READING = {
    "encode": "encode lfq.safetensors {} -o out",
    "encode, checkpoint": "encode {} x.npy -o out",
    "encode, samples": "encode lfq.safetensors {} -o out --samples-per-file 4",
    "decode": "decode lfq.safetensors {} -o out",
    "decode, checkpoint": "decode {} x.codes.safetensors -o out",
    "stats": "stats {}",
    "inspect": "inspect {}",
    "verify": "verify {}",
    "verify, source": "verify x.codes.safetensors --checkpoint lfq.safetensors --source {}",
    "export": "export bin {} -o out",
    "export-codebook": "export-codebook {} -o table.npy",
    "import": "import {} -o native.safetensors",
    "merge": "merge {} -o out.codes.safetensors",
    "split": "split {} -o out --samples-per-file 3",
    "train": "train {} --bits 4 -o trained.safetensors",
}
"""Every command, with a file as each argument that it reads."""


def made_of(ckpt, out="x.codes.safetensors"):
    from lfq_cli import load

    load(ckpt).encode(np.load("x.npy")).save(out)
    return out


WRONG = {
    "empty.npy": b"",
    "empty.safetensors": b"",
    "junk.pt": bytes(np.random.default_rng(SEED).integers(0, 256, 999, np.uint8)),
    "junk.npy": b"\xff\xfe" * 300,
    "text.safetensors": b"not tensors, but a line of text\n",
    "page.pt": b"<!DOCTYPE html><html><body>404</body></html>",
    "pointer.npz": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
}


def test_no_command_is_missing():
    assert {command.split()[0] for command in READING.values()} == set(COMMANDS)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("command", READING)
def test_a_wrong_file_is_one_error_with_a_hint(lfq, command, name):
    """Whatever the argument that it is given as: its name first, in one line, then what to do."""
    array(), made_of(checkpoint())
    Path(name).write_bytes(WRONG[name])
    result = lfq(*READING[command].format(name).split())
    assert result.code in (1, 4), result
    first, hint, *rest = result.err.splitlines()
    assert first.startswith(f"lfq: error: {name}: "), result.err
    assert hint.startswith("     hint: "), result.err
    assert rest in ([], ["lfq: 1 damaged"], ["lfq: 1 failed"])
    assert "\\x" not in result.err
    assert leftovers() == []


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("empty.npy", "empty.npy: not a whole npy array: it is empty"),
        ("junk.pt", "junk.pt: not a whole torch file: it begins as neither a zip archive nor a pickle"),
        ("junk.npy", "junk.npy: not a whole npy array: it does not begin as one"),
        ("text.safetensors", "text.safetensors: is text, expected a safetensors file"),
        ("page.pt", "page.pt: is a web page, expected a torch file"),
        ("pointer.npz", "pointer.npz: is a Git LFS pointer, expected an npz file\n     hint: git lfs pull"),
    ],
)
def test_a_wrong_file_is_called_what_it_is(lfq, name, found):
    Path(name).write_bytes(WRONG[name])
    assert_error(lfq("encode", checkpoint(), name, "-o", "out"), found)


SWAPPED = {
    "encode": (["encode", "x.npy", "lfq.safetensors"], "x.npy: is a file of tensors, expected a checkpoint"),
    "encode, tensors": (["encode", "f.safetensors", "lfq.safetensors"], "f.safetensors: no lookup-free quantizer"),
    "decode": (["decode", "x.codes.safetensors", "lfq.safetensors"], "is a codes file, expected a checkpoint"),
}


@pytest.mark.parametrize("case", SWAPPED)
def test_swapped_arguments_name_the_checkpoint(lfq, case):
    array(), made_of(checkpoint())
    save_file({"x": floats()}, "f.safetensors")
    arguments, found = SWAPPED[case]
    assert_error(lfq(*arguments, "-o", "out"), found, "hint: lfq.safetensors is a checkpoint: name it first")


FIRST = "lfq encode and lfq decode take the checkpoint first, then the inputs"
ENCODE, DECODE = "lfq encode takes it first, then the inputs", "lfq decode takes it first, then the codes"
MISPLACED = {
    "tensors as checkpoint": (["encode", "x.npy", "x.npy"], "x.npy: is a file of tensors, expected a che", FIRST),
    "codes as checkpoint": (["encode", "x.codes.safetensors", "x.npy"], "is a codes file, expected a check", FIRST),
    "checkpoint as input": (["encode", "lfq.safetensors", "p.safetensors"], "is a checkpoint, expected float", ENCODE),
    "checkpoint as codes": (["decode", "lfq.safetensors", "p.safetensors"], "is a checkpoint, expected a code", DECODE),
    "array as codes": (["decode", "lfq.safetensors", "x.npy"], "x.npy: is an npy array, expected a code", "lfq encode"),
}


@pytest.mark.parametrize("case", MISPLACED)
def test_a_file_in_the_place_of_another(lfq, case):
    array(), made_of(checkpoint()), projected("p.safetensors")
    arguments, found, hint = MISPLACED[case]
    assert_error(lfq(*arguments, "-o", "out"), found, f"hint: {hint}")


def test_counts_are_no_codes(lfq):
    array()
    assert lfq("stats", made_of(checkpoint()), "--save", "counts.safetensors").code == 0
    result = lfq("decode", "lfq.safetensors", "counts.safetensors", "-o", "out")
    assert_error(result, "counts.safetensors: is a file of saved counts, expected a codes file", "lfq stats reads it")


def test_an_empty_folder_says_what_it_should_hold(lfq):
    Path("empty").mkdir()
    assert_error(lfq("encode", checkpoint(), "empty", "-o", "out"), "no file in this", "expected .safetensors, ")
    assert_error(lfq("decode", "lfq.safetensors", "empty", "-o", "out"), "no file in this", "expected codes files")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs FIFOs")
@pytest.mark.parametrize("as_checkpoint", [False, True])
def test_a_fifo_does_not_hang(as_checkpoint):
    os.mkfifo("pipe.safetensors")
    arguments = ("pipe.safetensors", array()) if as_checkpoint else (checkpoint(), "pipe.safetensors")
    assert_error(lfq_process("encode", *arguments, "-o", "out"), "pipe.safetensors: not a regular file")


# code in pickles


class Touch:
    """Creates a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return builtins.open, (self.path, "w")


def zipped_pickle(path, trap):
    import torch

    torch.save({"mask": Touch(trap)}, path)


def bare_pickle(path, trap, protocol=2):
    Path(path).write_bytes(pickle.dumps({"mask": Touch(trap)}, protocol=protocol))


@pytest.mark.parametrize("write", [zipped_pickle, bare_pickle])
@pytest.mark.parametrize("role", ["checkpoint", "input", "inspected"])
def test_pickled_code_does_not_run(lfq, write, role, folder):
    trap = folder / "trap"
    write("evil.pt", trap)
    arguments = {
        "checkpoint": ("encode", "evil.pt", array(), "-o", "out"),
        "input": ("encode", checkpoint(), "evil.pt", "-o", "out"),
        "inspected": ("inspect", "evil.pt"),
    }[role]
    result = lfq(*arguments)
    assert not trap.exists()
    if write is bare_pickle:
        assert_error(result, "evil.pt: a pickle that torch.save did not write", "lfq runs no code from files")
    elif role == "input":
        assert_error(result, "evil.pt: no float tensor to encode", "'mask' (io.open)")
    elif role == "checkpoint":
        assert_error(result, "evil.pt: holds no tensors by name; 'mask' is io.open", "state_dict()")
    else:
        assert "'mask' is not a plain tensor: io.open" in result.out


def test_the_trap_works(folder):
    bare_pickle("evil.pt", folder / "trap")
    with Path("evil.pt").open("rb") as file:
        pickle.load(file)["mask"].close()
    assert (folder / "trap").exists()


@pytest.mark.parametrize("write", [zipped_pickle, bare_pickle])
def test_no_message_says_how_to_run_pickled_code(lfq, write, folder):
    write("evil.pt", folder / "trap")
    err = lfq("encode", checkpoint(), "evil.pt", "-o", "out").err
    assert "weights_only" not in err, err
    assert "can still be loaded" not in err, err


def test_nothing_but_the_error_is_reported_of_a_bare_pickle(folder):
    bare_pickle("evil.pt", folder / "trap", protocol=4)  # torch warns of protocols it did not choose
    result = lfq_process("encode", checkpoint(), "evil.pt", "-o", "out")
    assert not (folder / "trap").exists()
    assert_error(result, "evil.pt: a pickle that torch.save did not write")


def test_torchscript_and_sparse_tensors_are_called_what_they_are(lfq):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 3)), "program.pt")
    for arguments in (("encode", checkpoint(), "program.pt"), ("encode", "program.pt", array())):
        result = lfq(*arguments, "-o", "out")
        assert_error(result, "program.pt: a TorchScript archive", "torch.jit.load('program.pt').state_dict()")
    torch.save({"x": torch.eye(8).to_sparse()}, "x.pt")
    result = lfq("encode", checkpoint(), "x.pt", "-o", "out")
    assert_error(result, "x.pt: no float tensor to encode", "'x' (sparse tensor: save x.to_dense())")


# tensors that do not fit


def test_wrong_dim(lfq):
    array("latents.npy", floats(10, 12))
    result = lfq("encode", checkpoint(), "latents.npy", "-o", "out")
    assert_error(result)
    expected = "latents.npy: 'data' has 12 features on its last axis (shape 10×12), the checkpoint expects 8"
    assert result.err.splitlines()[0] == f"lfq: error: {expected}"
    assert not Path("out").exists()


def test_wrong_dim_in_a_process_of_its_own():
    array("latents.npy", floats(10, 12))
    assert_error(lfq_process("encode", checkpoint(), "latents.npy", "-o", "out"), "the checkpoint expects 8")


def test_no_layout_is_suggested_where_none_would_help(lfq):
    array(values=floats(10, 12))
    err = lfq("encode", checkpoint(), "x.npy", "-o", "out").err
    assert "no axis has 8 entries" in err
    assert "--layout channel-" not in err, err


@pytest.mark.parametrize(
    ("shape", "options", "hint"),
    [
        ((5, 8, 3), [], "--layout channel-first: the features are on axis 1"),
        ((2, 3, 4, 8), [], "--layout channel-last: the features are on the last axis"),
        ((2, 8, 3, 4), ["--layout", "channel-last"], "--layout channel-first"),
        ((5, 3, 8), ["--layout", "channel-first"], "--layout channel-last"),
    ],
)
def test_wrong_layout_names_the_right_one_and_that_one_works(lfq, shape, options, hint):
    array(values=floats(*shape))
    assert_error(lfq("encode", checkpoint(), "x.npy", "-o", "out", *options), "the checkpoint expects 8", hint)
    named = re.search(r"--layout (channel-\w+)", hint).group(1)
    assert lfq("encode", "lfq.safetensors", "x.npy", "-o", "out", "--layout", named).code == 0


def test_nan_names_tensor_count_and_place(lfq):
    x = floats(3, 4, 8)
    x[1, 2, 5] = x[2, 0, 0] = np.nan
    save_file({"fine": floats(), "latents": x}, "x.safetensors")
    result = lfq("encode", checkpoint(), "x.safetensors", "-o", "out")
    assert_error(result, "x.safetensors: 'latents' holds 2 NaN, the first at [1, 2, 5]", "--nan zero")
    assert not Path("out/x.codes.safetensors").exists()
    assert leftovers() == []


def test_nan_zero_encodes(lfq):
    x = floats()
    x[0, 3] = np.nan
    array(values=x)
    codes(lfq, checkpoint(), "x.npy", "x.codes.safetensors", "--nan", "zero")
    assert lfq("decode", "lfq.safetensors", "x.codes.safetensors", "-o", "back.npy").code == 0
    assert np.array_equal(np.load("back.npy"), np.where(x > 0, 1, -1))


def test_integers_only(lfq):
    array(values=np.zeros((5, 8), np.int64))
    assert_error(
        lfq("encode", checkpoint(), "x.npy", "-o", "out"), "no float tensor to encode", "'data' (I64, not float)"
    )


def test_single_number(lfq):
    array(values=np.float32(3))
    result = lfq("encode", checkpoint(), "x.npy", "-o", "out")
    assert_error(result, "'data' is a single number, expected 8 features", "--tensor")


def test_tensor_option_that_matches_nothing(lfq):
    save_file({"a": floats(), "b": floats()}, "x.safetensors")
    result = lfq("encode", checkpoint(), "x.safetensors", "-o", "out", "--tensor", "z*")
    assert_error(result, "x.safetensors: no float tensor to encode", "'a' (not selected), 'b' (not selected)")
    made = codes(lfq, "lfq.safetensors", "x.safetensors")
    result = lfq("decode", "lfq.safetensors", made, "-o", "out", "--tensor", "z*")
    assert_error(result, "no tensor matches", "'a', 'b'")
    assert_error(lfq("stats", made, "--tensor", "z*"), "no tensor matches", "'a', 'b'")


def test_two_tensors_of_one_dotted_name_are_not_made_one(lfq):
    import torch

    x = torch.from_numpy(floats())
    torch.save({"a.b": x, "a": {"b": -x}}, "x.pt")
    assert_error(lfq("encode", checkpoint(), "x.pt", "-o", "out"), "x.pt: ", "a.b")


def test_a_tensor_without_data(lfq):
    import torch

    torch.save({"a": torch.empty(5, 8, device="meta"), "b": torch.ones(5, 8)}, "x.pt")
    result = lfq("encode", checkpoint(), "x.pt", "-o", "out")
    assert result.code in (0, 1), result.err  # left alone or refused, as long as it is reported
    assert "'a'" in result.err


# checkpoints and codes that do not fit


def test_codes_of_another_checkpoint(lfq):
    array()
    made = codes(lfq, checkpoint())
    other = checkpoint("other.safetensors", codebook_scale=2.0)
    result = lfq("decode", other, made, "-o", "out")
    assert_error(
        result, f"{made}: made by another checkpoint", "decode with the checkpoint and options that encoded it"
    )
    assert not Path("out").exists()


@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
def test_a_flipped_bit_is_seen_at_decode(lfq, packing):
    array()
    made = codes(lfq, checkpoint(), "x.npy", "x.codes.safetensors", "--packing", packing)
    data = bytearray(Path(made).read_bytes())
    data[-2] ^= 4
    Path(made).write_bytes(data)
    assert_error(lfq("decode", "lfq.safetensors", made, "-o", "back.npy"), f"{made}: 'data' is damaged", "sha256")
    assert not Path("back.npy").exists()
    assert leftovers() == []


def test_truncated_codes(lfq):
    array()
    made = codes(lfq, checkpoint())
    os.truncate(made, Path(made).stat().st_size - 1)
    assert_error(lfq("decode", "lfq.safetensors", made, "-o", "out"), f"{made}: not a whole codes file")
    assert_error(lfq("stats", made), f"{made}: not a whole codes file")


def test_codebook_size_that_is_no_power_of_two(lfq):
    checkpoint("odd.safetensors", codebook_size=300)
    result = lfq("encode", "odd.safetensors", array(), "-o", "out")
    assert_error(result, "odd.safetensors: codebook_size is 300, expected a power of two (the next is 512)")


def test_unknown_config_key(lfq):
    checkpoint("odd.safetensors", codebok_scale=2.0)
    assert_error(lfq("encode", "odd.safetensors", array(), "-o", "out"), "odd.safetensors: ", "'codebok_scale'")


def test_dim_that_contradicts_the_codebooks(lfq):
    checkpoint("odd.safetensors", dim=9)
    assert_error(lfq("encode", "odd.safetensors", array(), "-o", "out"), "odd.safetensors: dim is 9, expected 8")


def test_option_that_contradicts_the_checkpoint(lfq):
    result = lfq("encode", checkpoint(), array(), "-o", "out", "--codebook-scale", "3")
    assert_error(result, "codebook_scale is 1.0, the options say 3.0", "leave the option out", code=2)


@pytest.mark.parametrize("command", ["encode", "decode", "export-codebook"])
def test_what_a_checkpoint_does_not_say_is_assumed_aloud(lfq, command):
    """Once on stderr, whatever the number of inputs; with what depends on it, and the options that say otherwise."""
    inputs = [array("a.npy"), array("b.npy")]
    if command == "decode":
        assert lfq("encode", foreign(), *inputs, "-o", "codes", "-q").code == 0
        inputs = ["codes"]
    files = inputs if command != "export-codebook" else []
    out = "out" if files else "out.npy"
    result = lfq(command, foreign(), *files, "-o", out)
    assert result.code == 0
    assert result.err.count("codebook_scale 1.0, soft_clamp_input_value none, spherical false") == 1
    assert "foreign.safetensors does not say everything" in result.err
    assert "the bits do not depend on it" in result.err
    for option in ("--codebook-scale", "--soft-clamp", "--spherical or --no-spherical"):
        assert option in result.err
    everything = ("--codebook-scale", "1", "--no-spherical", "--soft-clamp", "none", "--overwrite")
    assert "assumed" not in lfq(command, foreign(), *files, "-o", out, *everything).err


def test_an_assumption_that_decides_tokens_says_so(lfq):
    torch.save(vector_quantize_pytorch.ResidualLFQ(dim=4, codebook_size=16, num_quantizers=2).state_dict(), "r.pt")
    result = lfq("encode", "r.pt", array(values=floats()[..., :4]), "-o", "out")
    assert result.code == 0
    assert "TOKENS DEPEND ON spherical;" in result.err


def test_the_checkpoint_that_says_too_little_is_named(lfq):
    array()
    made = codes(lfq, foreign())
    assert "foreign.safetensors" in lfq("decode", "foreign.safetensors", made, "-o", "out").err
    assert "foreign.safetensors" in lfq("export-codebook", "foreign.safetensors", "-o", "table.npy").err


def test_unknown_module(lfq):
    result = lfq("encode", foreign(), array(), "-o", "out", "--module", "encoder.quantizer")
    assert_error(result, "foreign.safetensors: no lookup-free quantizer at 'encoder.quantizer'")


# outputs


def test_parent_of_the_output_is_a_file(lfq):
    Path("file").write_text("kept")
    for output in ("file/x.codes.safetensors", "file/folder"):
        assert_error(lfq("encode", checkpoint("c.safetensors"), array(), "-o", output), "file/")
    assert Path("file").read_text() == "kept"


def test_why_the_output_cannot_be_written_is_reported_right(lfq):
    Path("file").write_text("kept")
    err = lfq("encode", checkpoint(), array(), "-o", "file/x.codes.safetensors").err
    assert "File exists" not in err, err  # what exists is the file that should be a folder


def test_output_is_a_file_without_a_suffix_of_ours(lfq):
    Path("x.txt").write_text("kept")
    result = lfq("encode", checkpoint(), array(), "-o", "x.txt")
    assert_error(result, "x.txt: is a file, expected", code=2)
    assert "several" not in result.err, result.err  # there is one input
    assert Path("x.txt").read_text() == "kept"


def test_existing_output_is_refused_and_kept(lfq):
    Path("out").mkdir()
    Path("out/x.codes.safetensors").write_text("kept")
    result = lfq("encode", checkpoint(), array(), "-o", "out")
    assert_error(result, "out/x.codes.safetensors: exists", "--overwrite replaces it")
    assert Path("out/x.codes.safetensors").read_text() == "kept"


OTHERWISE_MADE = {
    "packing": (("--packing", "rows"), "'data' packed as bits (U8), not rows (U8)"),
    "integers": (("--packing", "ints", "--index-dtype", "int64"), "'data' packed as bits (U8), not ints (I64)"),
}


@pytest.mark.parametrize("case", OTHERWISE_MADE)
def test_output_made_with_other_options_is_refused(lfq, case):
    options, reason = OTHERWISE_MADE[case]
    array()
    made = codes(lfq, checkpoint())
    before = Path(made).read_bytes()
    result = lfq("encode", "lfq.safetensors", "x.npy", "-o", made, *options)
    assert_error(result, f"{made}: exists, {reason}", "--overwrite")
    assert Path(made).read_bytes() == before


def test_output_made_in_another_precision_is_refused(lfq):
    array(values=floats(5, 6))
    made = codes(lfq, projected())
    result = lfq("encode", "projected.safetensors", "x.npy", "-o", made, "--compute-dtype", "bfloat16")
    assert_error(result, f"{made}: exists, computed in float32, not bfloat16", "--overwrite")


def test_output_made_from_something_else_is_refused(lfq):
    array(values=floats()[:3])
    made = codes(lfq, checkpoint())
    array()
    result = lfq("encode", "lfq.safetensors", "x.npy", "-o", made)
    assert_error(result, f"{made}: exists, 'data' made from F32 [3,", "the input has F32", "--overwrite")
    np.savez("x.npz", other=floats())
    result = lfq("encode", "lfq.safetensors", "x.npz", "-o", made)
    assert_error(result, "exists, with the tensors 'data', not 'other'")


def test_a_plan_shows_what_is_refused(lfq):
    for name in ("a.npy", "b.npy"):
        array(name)
    codes(lfq, checkpoint(), "a.npy", "out/a.codes.safetensors")
    Path("out/b.codes.safetensors").write_text("not codes")
    array("c.npy")
    result = lfq("encode", "lfq.safetensors", "a.npy", "b.npy", "c.npy", "-o", "out", "--dry-run", "--json")
    assert result.code == 3
    statuses = {item["input"]: item["status"] for item in json.loads(result.out)["outputs"]}
    assert statuses == {"a.npy": "up to date", "b.npy": "refused", "c.npy": "planned"}
    assert not Path("out/c.codes.safetensors").exists()


def test_fail_fast_stops_at_the_first_bad_input(lfq):
    for name in ("a.npy", "c.npy"):
        array(name)
    Path("b.npy").write_text("no array")
    result = lfq("encode", checkpoint(), "a.npy", "b.npy", "c.npy", "-o", "out", "--fail-fast")
    assert result.code == 1
    assert "1 input not tried" in result.err
    assert [path.name for path in Path("out").iterdir()] == ["a.codes.safetensors"]
    assert lfq("encode", "lfq.safetensors", "a.npy", "b.npy", "c.npy", "-o", "out").code == 3
    assert Path("out/c.codes.safetensors").exists()


def test_output_that_is_up_to_date_is_skipped(lfq):
    array()
    made = codes(lfq, checkpoint())
    before = Path(made).stat().st_mtime_ns
    again = lfq("encode", "lfq.safetensors", "x.npy", "-o", made)
    assert (again.code, Path(made).stat().st_mtime_ns) == (0, before)
    assert "up to date" in again.out
    assert "lfq: 1 up to date" in again.err


def test_overwrite_replaces(lfq):
    Path("x.codes.safetensors").write_text("to be replaced")
    result = lfq("encode", checkpoint(), array(), "-o", "x.codes.safetensors", "--overwrite")
    assert result.code == 0
    assert b"lfq-codes" in Path("x.codes.safetensors").read_bytes()


def test_decode_refuses_what_it_did_not_make(lfq):
    array()
    made = codes(lfq, checkpoint())
    Path("back.npy").write_text("kept")
    assert_error(lfq("decode", "lfq.safetensors", made, "-o", "back.npy"), "back.npy: exists", "--overwrite")
    assert Path("back.npy").read_text() == "kept"


def test_export_refuses_what_exists(lfq):
    Path("table.npy").write_text("kept")
    assert_error(lfq("export-codebook", checkpoint(), "-o", "table.npy"), "table.npy: exists", "--overwrite")
    assert Path("table.npy").read_text() == "kept"


def test_overwrite_does_not_destroy_the_input(lfq):
    save_file({"x": floats()}, "x.safetensors")
    before = Path("x.safetensors").read_bytes()
    result = lfq("encode", checkpoint(), "x.safetensors", "-o", "x.safetensors", "--overwrite")
    assert Path("x.safetensors").read_bytes() == before, "the input is gone"
    assert_error(result, "x.safetensors", code=2)


def test_overwrite_does_not_destroy_the_checkpoint(lfq):
    before = Path(checkpoint()).read_bytes()
    lfq("encode", "lfq.safetensors", array(), "-o", "lfq.safetensors", "--overwrite")
    assert Path("lfq.safetensors").read_bytes() == before, "the checkpoint is gone"


def test_two_inputs_that_would_write_one_output(lfq):
    Path("in").mkdir()
    array("in/x.npy")
    save_file({"x": floats()}, "in/x.safetensors")
    result = lfq("encode", checkpoint(), "in", "-o", "out")
    assert_error(result, "in/x.npy and in/x.safetensors would both write out/x.codes.safetensors", code=2)
    assert not Path("out").exists()


def test_one_file_by_two_ways_is_one_input(lfq):
    Path("a").mkdir()
    Path("b").mkdir()
    array("a/x.npy")
    result = lfq("encode", checkpoint(), "a/x.npy", "b/../a/x.npy", "-o", "out")
    assert result.code in (0, 2), result.err  # one output, or refused before any work


# inputs that are several


def test_folder_without_inputs(lfq):
    Path("empty").mkdir()
    assert_error(lfq("encode", checkpoint(), "empty", "-o", "out"), "empty: no file in this folder")
    assert_error(lfq("decode", "lfq.safetensors", "empty", "-o", "out"), "empty: no file in this folder")
    assert_error(lfq("stats", "empty"), "empty: no file in this folder")


def test_glob_without_matches(lfq):
    assert_error(lfq("encode", checkpoint(), "*.npz", "-o", "out"), "*.npz: no file matches")


def test_one_bad_file_does_not_stop_the_rest(lfq):
    Path("in").mkdir()
    array("in/a.npy")
    array("in/bad.npy", floats(5, 9))
    array("in/c.npy")
    result = lfq("encode", checkpoint(), "in", "-o", "out")
    assert_error(result_without_summary(result), "in/bad.npy: 'data' has 9 features", code=3)
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.codes.safetensors", "c.codes.safetensors"]
    assert "2 written, 1 failed" in result.err
    assert "failed" in result.out


def test_one_bad_file_among_several_as_json(lfq):
    array("a.npy")
    array("bad.npy", floats(5, 9))
    result = lfq("encode", checkpoint(), "a.npy", "bad.npy", "-o", "out", "--json")
    assert_error(result_without_summary(result), "bad.npy: ", code=3)
    outputs = {item["input"]: item for item in json.loads(result.out)["outputs"]}
    assert outputs["a.npy"]["status"] == "written"
    assert outputs["bad.npy"]["status"] == "failed"
    assert "9 features" in outputs["bad.npy"]["error"]


def result_without_summary(result):
    lines = [line for line in result.err.splitlines() if not re.match(r"lfq: \d", line)]
    return Result(result.code, result.out, "\n".join(lines))


def test_a_single_bad_file_is_1_also_as_json(lfq):
    array("bad.npy", floats(5, 9))
    result = lfq("encode", checkpoint(), "bad.npy", "-o", "out", "--json")
    assert result.code == 1
    assert json.loads(result.out)["outputs"][0]["status"] == "failed"


def test_errors_go_to_stderr_also_as_json(lfq):
    array("bad.npy", floats(5, 9))
    assert_error(lfq("encode", checkpoint(), "bad.npy", "-o", "out", "--json"), "bad.npy: ")


def test_quiet_still_tells_errors(lfq):
    array("bad.npy", floats(5, 9))
    result = lfq("encode", checkpoint(), array("a.npy"), "bad.npy", "-o", "out", "-q")
    assert_error(result, "bad.npy: ", code=3)
    assert result.out == ""


def test_decode_goes_on_after_a_bad_file(lfq):
    array()
    Path("in").mkdir()
    codes(lfq, checkpoint(), "x.npy", "in/b.codes.safetensors")
    Path("in/a.codes.safetensors").write_bytes(b"garbage, not codes")
    result = lfq("decode", "lfq.safetensors", "in", "-o", "out")
    assert_error(result_without_summary(result), "in/a.codes.safetensors: ", code=3)
    assert Path("out/b.safetensors").exists()


def test_stats_goes_on_after_a_bad_file(lfq):
    array()
    codes(lfq, checkpoint())
    Path("bad.codes.safetensors").write_bytes(b"garbage, not codes")
    result = lfq("stats", "bad.codes.safetensors", "x.codes.safetensors", "--json")
    assert result.code == 3, result.err
    assert "bad.codes.safetensors" in result.err
    assert json.loads(result.out)["overall"]["codebooks"][0]["count"] == 5


def test_inspect_goes_on_after_a_bad_file(lfq):
    Path("bad.npy").write_bytes(b"garbage")
    result = lfq("inspect", "bad.npy", array())
    assert result.code == 3, result.err
    assert "bad.npy" in result.err
    assert "x.npy: tensors" in result.out


@pytest.mark.parametrize("command", ["encode", "decode", "stats"])
def test_a_broken_link_in_a_folder_is_an_error_of_that_file(lfq, command):
    Path("in").mkdir()
    array()
    codes(lfq, checkpoint(), "x.npy", "in/x.codes.safetensors")
    array("in/x.npy")
    suffix = "npy" if command == "encode" else "codes.safetensors"
    Path(f"in/broken.{suffix}").symlink_to("nowhere")
    arguments = ["in"] if command == "stats" else ["lfq.safetensors", "in", "-o", "out"]
    result = lfq(command, *arguments)
    assert result.code == 3, result.err
    assert f"lfq: error: in/broken.{suffix}" in result.err


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "codes.safetensors"])
def test_many_bad_files_leave_descriptors_for_the_good_one(suffix):
    """A run may meet more bad files than a process may hold open (1024, often 256)."""
    resource = pytest.importorskip("resource")
    Path("in").mkdir()
    array()
    command = ["decode" if suffix.startswith("codes") else "encode", checkpoint(), "in", "-o", "out"]
    if suffix.startswith("codes"):
        assert lfq_process("encode", "lfq.safetensors", "x.npy", "-o", "in/zz.codes.safetensors").code == 0
    else:
        array("in/zz.npy")
    for k in range(100):
        Path(f"in/{k}.{suffix}").write_bytes(b"garbage, no tensors")

    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    ran = subprocess.run([LFQ, *command], preexec_fn=limit, capture_output=True, text=True, timeout=60, check=False)
    assert "Too many open files" not in ran.stderr, ran.stderr[-300:]
    assert ran.returncode == 3, ran.stderr[-300:]
    assert list(Path("out").glob("zz.*"))


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("encode", "lfq.safetensors", "x.npy", "-o", "out"), 0),
        (("encode", "lfq.safetensors", "bad.npy", "-o", "out"), 1),
        (("decode", "lfq.safetensors", "bad.safetensors", "-o", "out"), 1),
        (("stats", "x.codes.safetensors"), 0),
        (("inspect", "x.npy"), 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_no_file_is_left_open(lfq, arguments, code):
    array()
    codes(lfq, checkpoint())
    Path("bad.npy").write_bytes(b"garbage, no tensors")
    Path("bad.safetensors").write_bytes(b"garbage, no tensors")
    result = lfq_process(*arguments, PYTHONWARNINGS="always::ResourceWarning")
    assert result.code == code
    assert "ResourceWarning" not in result.err, result.err


LONG = "n" * 300  # more than a name may have: the system refuses it, as it does a folder without permission


@pytest.mark.parametrize(
    "arguments",
    [
        ("encode", "lfq.safetensors", f"{LONG}.npy", "-o", "out"),
        ("encode", LONG, "x.npy", "-o", "out"),
        ("encode", "lfq.safetensors", "x.npy", "-o", LONG),
        ("encode", "lfq.safetensors", "x.npy", "-o", f"{LONG}.safetensors"),
        ("decode", "lfq.safetensors", f"{LONG}.codes.safetensors", "-o", "out"),
        ("stats", f"{LONG}.codes.safetensors"),
        ("export-codebook", "lfq.safetensors", "-o", f"{LONG}.npy"),
        ("inspect", f"{LONG}.npy"),
    ],
    ids=lambda arguments: " ".join(arguments).replace(LONG, "LONG"),
)
def test_a_path_that_the_system_refuses(lfq, arguments):
    checkpoint()
    array()
    assert_error(lfq(*arguments), LONG)


# options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bogus"], "--bogus"),
        (["bogus"], "bogus"),
        (["encode", "c", "x.npy", "-o", "out", "--bogus"], "--bogus"),
        (["encode", "c"], "INPUT"),
        (["encode", "c", "x.npy"], "--output"),
        (["encode", "c", "x.npy", "-o", "out", "--packing", "zip"], "--packing"),
        (["encode", "c", "x.npy", "-o", "out", "--layout", "nchw"], "--layout"),
        (["encode", "c", "x.npy", "-o", "out", "--num-codebooks", "0"], "--num-codebooks"),
        (["encode", "c", "x.npy", "-o", "out", "--soft-clamp", "soft"], "--soft-clamp"),
        (["decode", "c", "x", "-o", "out", "--dtype", "int8"], "--dtype"),
        (["stats", "--json"], "CODES"),
        (["export-codebook", "c", "-o", "t.npy", "--range", "x", "--dtype", "int8"], "--dtype"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_usage(lfq, arguments, message):
    assert_usage(lfq(*arguments), message)


def test_usage_in_a_process_of_its_own():
    result = lfq_process("encode", "c", "--bogus")
    assert_usage(result, "--bogus")
    assert result.out == ""


def test_index_dtype_needs_ints(lfq):
    result = lfq("encode", checkpoint(), array(), "-o", "out", "--index-dtype", "int32")
    assert_error(result, "--index-dtype belongs to --packing ints", "add --packing ints", code=2)


def test_index_dtype_too_narrow(lfq):
    ckpt = checkpoint("wide.safetensors", dim=9, codebook_size=512)
    array(values=floats(5, 9))
    result = lfq("encode", ckpt, "x.npy", "-o", "out", "--packing", "ints", "--index-dtype", "uint8")
    assert_error(result, "indices of 9 bits do not fit uint8", "--index-dtype int16", code=2)
    assert not Path("out").exists()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "int64", "uint64"])
def test_index_dtype_that_fits(lfq, dtype):
    array()
    codes(lfq, checkpoint(), "x.npy", "x.codes.safetensors", "--packing", "ints", "--index-dtype", dtype)
    from safetensors.numpy import load_file

    assert load_file("x.codes.safetensors")["data"].dtype == dtype


@pytest.mark.parametrize("rows", ["5", "a:b", "1:2:3", "1.5:2"])
def test_range_that_is_none(lfq, rows):
    assert_usage(lfq("export-codebook", checkpoint(), "-o", "t.npy", f"--range={rows}"), "--range", rows)


@pytest.mark.parametrize("rows", ["5:2", "3:3", "0:257", "-1:4", "256:"])
def test_range_outside_the_codebook(lfq, rows):
    result = lfq("export-codebook", checkpoint(), "-o", "t.npy", f"--range={rows}")
    assert_error(result, "is not within the codebook's rows 0:256", code=2)
    assert not Path("t.npy").exists()


@pytest.mark.parametrize("device", ["cuda", "cuda:99"])
def test_device_that_is_not_there(lfq, device, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = lfq("encode", checkpoint(), array(), "-o", "out", "--device", device)
    assert_error(result, f"--device {device} does not exist", "--device auto")


def test_device_that_is_none(lfq):
    result = lfq("encode", checkpoint(), array(), "-o", "out", "--device", "tpu9")
    assert_error(result, "--device tpu9 is not a device", "expected auto, cpu, cuda, cuda:N or mps")


def test_npy_holds_one_tensor(lfq):
    save_file({"a": floats(), "b": floats()}, "x.safetensors")
    made = codes(lfq, checkpoint(), "x.safetensors")
    result = lfq("decode", "lfq.safetensors", made, "-o", "out", "--format", "npy")
    assert_error(
        result, "a .npy file holds one array, there are 2: a, b", "a .safetensors file holds all of them", code=2
    )
    chosen = ("--format", "npy", "--tensor", "a")
    assert lfq("decode", "lfq.safetensors", made, "-o", "out", *chosen).code == 0


def test_npy_has_no_bfloat16(lfq):
    array()
    made = codes(lfq, checkpoint())
    result = lfq("decode", "lfq.safetensors", made, "-o", "back.npy", "--dtype", "bfloat16")
    assert_error(result, "back.npy: numpy has no BF16", ".safetensors", code=2)


def test_export_with_projection_to_npy(lfq):
    result = lfq("export-codebook", projected(), "-o", "t.npy")
    assert_error(result, "t.npy: a .npy file holds one array, there are 2: codebook, bias", code=2)


def test_export_with_projection_to_npy_suggests_options_it_has(lfq):
    err = lfq("export-codebook", projected(), "-o", "t.npy").err
    assert "--tensor" not in err, err  # an option of encode and decode
    assert lfq("export-codebook", "projected.safetensors", "-o", "t.npy", "--no-project-out").code == 0


def test_export_to_another_format(lfq):
    result = lfq("export-codebook", checkpoint(), "-o", "t.txt")
    assert_error(result, "t.txt: expected a name that ends in .safetensors or .npy", code=2)


def test_export_larger_than_the_disk(lfq):
    checkpoint("wide.safetensors", dim=40, codebook_size=2**40)
    result = lfq("export-codebook", "wide.safetensors", "-o", "t.npy")
    assert result.code == 1
    free = shutil.disk_usage(".").free
    assert free < 2**40 * 40 * 4
    lines = [line for line in result.err.splitlines() if "error" in line]
    assert lines[0].startswith(f"lfq: error: t.npy: needs {2**40 * 40 * 4 / 1e9:.3g} GB, the disk has ")
    assert "--range A:B" in result.err
    assert not Path("t.npy").exists()
    assert leftovers() == []


# bugs of our own


@pytest.mark.parametrize("message", ["boom", "boom\nand \x1b[31mmore"])
def test_a_bug_is_reported_in_one_line(lfq, monkeypatch, message):
    def broken(*_):
        raise RuntimeError(message)

    monkeypatch.setattr("lfq_cli.checkpoints.load", broken)
    result = lfq("encode", checkpoint(), array(), "-o", "out")
    assert result.code == 70
    assert len(result.err.splitlines()) == 1, result.err
    assert result.err.startswith("lfq: bug: RuntimeError: boom")
    assert "LFQ_TRACEBACK=1" in result.err
    assert "\x1b" not in result.err
    assert result.out == ""


@pytest.mark.parametrize(("value", "shown"), [("1", True), ("0", False), ("", False)])
def test_traceback_on_request(lfq, monkeypatch, value, shown):
    def broken(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr("lfq_cli.checkpoints.load", broken)
    monkeypatch.setenv("LFQ_TRACEBACK", value)
    result = lfq("encode", checkpoint(), array(), "-o", "out")
    assert result.code == 70
    assert ("Traceback (most recent call last)" in result.err) == shown
    assert "lfq: bug: RuntimeError: boom" in result.err


def test_traceback_of_an_error_on_request(lfq, monkeypatch):
    monkeypatch.setenv("LFQ_TRACEBACK", "1")
    result = lfq("encode", checkpoint(), "no.npy", "-o", "out")
    assert result.code == 1
    assert "Traceback" in result.err
    assert "lfq: error: no.npy" in result.err


# names that a terminal would obey, or that are not text

EVIL_NAME = "two\nlines\x1b[31m"
ESCAPED = r"two\nlines\x1b[31m"


def test_tensor_names_are_escaped(lfq):
    save_file({EVIL_NAME: floats()}, "x.safetensors")
    save_file({EVIL_NAME: floats(5, 9)}, "bad.safetensors")
    save_file({"x": floats(), EVIL_NAME: np.zeros(3, np.int64)}, "labels.safetensors")
    made = codes(lfq, checkpoint(), "x.safetensors")
    results = [
        lfq("encode", "lfq.safetensors", "bad.safetensors", "-o", "out"),
        lfq("encode", "lfq.safetensors", "labels.safetensors", "-o", "out"),
        lfq("inspect", "x.safetensors"),
        lfq("inspect", made),
        lfq("stats", made),
        lfq("decode", "lfq.safetensors", made, "-o", "out", "--tensor", "no"),
    ]
    for result in results:
        assert "\x1b" not in result.out + result.err
        assert EVIL_NAME.partition("\x1b")[0] not in result.out + result.err
        assert ESCAPED in result.out + result.err


def test_several_tensors_of_such_names_for_npy_are_escaped(lfq):
    save_file({EVIL_NAME: floats(), "b": floats()}, "x.safetensors")
    made = codes(lfq, checkpoint(), "x.safetensors")
    assert_error(lfq("decode", "lfq.safetensors", made, "-o", "back.npy"), ESCAPED, code=2)


def test_file_names_are_escaped(lfq):
    array(f"{EVIL_NAME}.npy")
    array(f"bad{EVIL_NAME}.npy", floats(5, 9))
    for name in (f"{EVIL_NAME}.npy", f"bad{EVIL_NAME}.npy", f"no{EVIL_NAME}.npy"):
        for arguments in (("encode", checkpoint("c.safetensors"), name, "-o", "out"), ("inspect", name)):
            result = lfq(*arguments)
            assert "\x1b" not in result.out + result.err
            assert ESCAPED in result.out + result.err


def test_json_keeps_tensor_names_as_they_are(lfq):
    save_file({EVIL_NAME: floats()}, "x.safetensors")
    result = lfq("inspect", "x.safetensors", "--json")
    assert list(json.loads(result.out)["paths"][0]["tensors"]) == [EVIL_NAME]
    assert "\x1b" not in result.out


def test_a_tensor_name_that_is_no_text(lfq):
    header = json.dumps({"\ud800": {"dtype": "F32", "shape": [5, 8], "data_offsets": [0, 160]}}).encode()
    Path("x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + floats().tobytes())
    result = lfq("encode", checkpoint(), "x.safetensors", "-o", "out")
    assert_error(result, "x.safetensors", r"\ud800")
    result = lfq("inspect", "x.safetensors", "--json")
    assert result.code in (0, 1), result.err


NOT_UTF8 = os.fsdecode(b"bad\xff")
UTF8_STREAMS = {
    "PYTHONIOENCODING": "utf-8:strict"
}  # as in any UTF-8 locale; the C locale alone lets surrogates through


@pytest.fixture
def not_utf8():
    """x.npy and codes of it under names that are not UTF-8."""
    try:
        array(f"{NOT_UTF8}.npy")
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    return f"{NOT_UTF8}.npy"


def test_file_names_that_are_no_utf8(not_utf8):
    ckpt = checkpoint()
    encoded = lfq_process("encode", ckpt, not_utf8, "-o", "out", **UTF8_STREAMS)
    assert encoded.code == 0, encoded.err
    assert r"bad\udcff.npy" in encoded.out
    assert [os.fsencode(path.name) for path in Path("out").iterdir()] == [b"bad\xff.codes.safetensors"]
    made = f"out/{NOT_UTF8}.codes.safetensors"
    assert lfq_process("decode", ckpt, made, "-o", "back", **UTF8_STREAMS).code == 0
    assert lfq_process("stats", made, **UTF8_STREAMS).code == 0
    assert lfq_process("inspect", made, not_utf8, **UTF8_STREAMS).code == 0


def test_error_about_a_file_name_that_is_no_utf8(not_utf8):
    array(not_utf8, floats(5, 9))
    assert_error(lfq_process("encode", checkpoint(), not_utf8, "-o", "out", **UTF8_STREAMS), r"bad\udcff.npy: 'data'")


@pytest.mark.parametrize("streams", [UTF8_STREAMS, {"LC_ALL": "C"}], ids=["utf-8", "C"])
def test_json_about_a_file_name_that_is_no_utf8(not_utf8, streams):
    result = lfq_process("encode", checkpoint(), not_utf8, "-o", "out", "--json", **streams)
    assert result.code == 0, result.err
    os.fsencode(result.out).decode("utf-8")  # JSON is UTF-8
    assert json.loads(result.out)["outputs"][0]["status"] == "written"


def test_a_terminal_without_times_signs():
    result = lfq_process("inspect", array(), PYTHONIOENCODING="ascii")
    assert result.code == 0, result.err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_stdout_on_a_full_disk():
    array()
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run([LFQ, "inspect", "x.npy"], stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert ran.returncode == 1, ran.stderr
    assert b"bug" not in ran.stderr
