"""codesfile/, version 2: golden files, and files that lie about their samples."""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import twin
from safetensors import safe_open

from lfq_cli.codesfile import open_codes
from lfq_cli.container import header_bytes
from lfq_cli.errors import CodesFileError
from lfq_cli.quantizer import canonical_json

GOLDEN = Path(__file__).parent / "golden" / "2"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())


def golden(name):
    return GOLDEN / f"{name}.codes.safetensors"


@pytest.mark.parametrize("name", EXPECTED)
def test_golden_files_are_read(name):
    expected = EXPECTED[name]
    with open_codes(golden(name)) as codes:
        assert codes.header.version == 2
        assert codes["data"][...].tolist() == expected["indices"]
        codes["data"].check_digest()
        assert codes.keys_of_samples == expected["keys"]
        if expected["bounds"] is not None:
            assert codes.bounds("data").tolist() == expected["bounds"]
    _, bits = twin.read_codes_file(golden(name))["data"]
    assert [int("".join(map(str, row)), 2) for row in bits] == np.ravel(expected["indices"]).tolist()


def test_golden_columns():
    with open_codes(golden("samples")) as codes:
        assert codes.column("cls").tolist() == [0, 7, 14]
        assert codes.texts("txt") == ["caption 0 ü", "caption 1 ü", "caption 2 ü"]
    stored = safetensors.numpy.load_file(golden("samples"))
    assert stored["keys"].tobytes().decode() == "a/0a/1é"
    assert stored["keys.offsets"].tolist() == [0, 3, 6, 8]


def test_golden_origin():
    with open_codes(golden("one")) as codes:
        made_from = codes.header.made_from
        assert made_from.nan == "zero"
        assert 0 < made_from.zeroed < 30
        assert codes.header.tensors["data"].source.channel_axis == 0


def test_golden_part():
    with open_codes(golden("part")) as codes:
        assert codes.header.is_part
        assert codes.header.tensors["data"].part.entry() == {"rows": [3, 6], "of": 7}


# Files that lie


def parts(name):
    """(the lfq object, stored tensors: name -> dtype, shape, bytes) of a golden file."""
    content = golden(name).read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    lfq = json.loads(head.pop("__metadata__")["lfq"])
    spans = sorted((entry["data_offsets"], tensor) for tensor, entry in head.items())
    stored = {t: [head[t]["dtype"], head[t]["shape"], data[slice(*span)]] for span, t in spans}
    return lfq, stored


def write(path, lfq, stored):
    """A sound container whose header says `lfq`, with the digests that belong to it."""
    lfq.pop("header_sha256", None)
    for name, column in lfq.get("columns", {}).items():
        if "sha256" in column and name in stored:
            column["sha256"] = hashlib.sha256(stored[name][2]).hexdigest()
    lfq["header_sha256"] = hashlib.sha256(canonical_json(lfq)).hexdigest()
    tensors = {name: (dtype, tuple(shape)) for name, (dtype, shape, _) in stored.items()}
    path.write_bytes(header_bytes({"lfq": json.dumps(lfq)}, tensors) + b"".join(data for *_, data in stored.values()))


def test_what_is_written_here_is_a_good_file(tmp_path):
    for name in EXPECTED:
        write(tmp_path / "x", *parts(name))
        with open_codes(tmp_path / "x") as codes:
            assert codes["data"][...].tolist() == EXPECTED[name]["indices"]


def put(*where):
    """A change: put(key, ..., value) sets, put(key, ..., KeyError) removes."""
    *keys, value = where

    def change(lfq, _):
        place = lfq
        for key in keys[:-1]:
            place = place[key]
        if value is KeyError:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return change


def stored(name, dtype=None, shape=None, data=None):
    """A change of a stored tensor, and of its column so that both agree."""

    def change(lfq, tensors):
        new = [dtype, shape, data]
        tensors[name] = [old if value is None else value for old, value in zip(tensors[name], new, strict=True)]
        if name in lfq["columns"]:
            lfq["columns"][name] |= {"dtype": tensors[name][0], "shape": list(tensors[name][1])}

    return change


def i64(*values):
    return np.array(values, "<i8").tobytes()


T = ("tensors", "data")
WRONG_WHEN_OPENED = {
    "another version": put("version", 3),
    "version 1": put("version", 1),
    "no version": put("version", KeyError),
    "no keys": put("keys", KeyError),
    "no columns": put("columns", KeyError),
    "no count": put("samples", KeyError),
    "a count of another kind": put("samples", "3"),
    "a negative count": put("samples", -1),
    "another count": put("samples", 4),
    "keys that are not there": put("keys", "other"),
    "keys that are not a name": put("keys", ["keys"]),
    "keys that are integers": put("keys", "cls"),
    "a carried tensor that is not there": put("carried", ["other"]),
    "carried twice": put("carried", ["cls", "cls"]),
    "carried that are not a list": put("carried", "cls"),
    "a text that is not there": put("carried_text", ["other"]),
    "a text that is a number": put("carried_text", ["cls"]),
    "a column that is not there": put("columns", "other", {"dtype": "U8", "shape": [0], "sha256": "0" * 64}),
    "a column less": put("columns", "cls", KeyError),
    "a column of another dtype": put("columns", "cls", "dtype", "F64"),
    "a column of another shape": put("columns", "cls", "shape", [1, 3]),
    "a column without digest": put("columns", "cls", "sha256", KeyError),
    "codes that are a column as well": put("columns", "data", {"dtype": "U8", "shape": [8], "sha256": "0" * 64}),
    "a tensor of another count": put(*T, "samples", 2),
    "a tensor without samples": put(*T, "samples", KeyError),
    "another sample shape": put(*T, "source", "shape", [5, 2, 3]),
    "an unknown size": put(*T, "source", "shape", [5, None, 2]),
    "an axis that is not there": put(*T, "source", "channel_axis", 3),
    "a negative axis": put(*T, "source", "channel_axis", -1),
    "an axis that is not a number": put(*T, "source", "channel_axis", True),
    "no axis": put(*T, "source", "channel_axis", KeyError),
    "an assumption that is none": put(*T, "source", "axis_is_assumed", "yes"),
    "offsets that are not a name": put(*T, "sample_offsets", 1),
    "offsets that are not there": put(*T, "sample_offsets", "other"),
    "too few labels": stored("cls", shape=[2], data=i64(0, 7)),
    "too few offsets": stored("keys.offsets", shape=[3], data=i64(0, 3, 8)),
    "offsets of another dtype": stored("keys.offsets", dtype="I32", data=np.zeros(4, "<i4").tobytes()),
    "an unknown key": put("more", 1),
    "made_from of another kind": put("made_from", []),
    "made_from without a fingerprint": put("made_from", "fingerprint", KeyError),
    "made_from with more": put("made_from", "path", "/home"),
    "a fingerprint that is none": put("made_from", "fingerprint", "abc"),
    "a policy that is none": put("made_from", "nan", "policy", "maybe"),
    "NaN that were zeroed and may not be": put("made_from", "nan", "zeroed", 3),
    "a negative size": put("made_from", "bytes", -1),
    "inputs that are not a number": put("made_from", "inputs", "3"),
    "options that are not an object": put("made_from", "options", []),
}


@pytest.mark.parametrize("case", WRONG_WHEN_OPENED)
def test_a_lie_in_the_header_is_seen(case, tmp_path):
    lfq, tensors = copy.deepcopy(parts("samples"))
    WRONG_WHEN_OPENED[case](lfq, tensors)
    write(tmp_path / "x", lfq, tensors)
    with pytest.raises(CodesFileError):
        open_codes(tmp_path / "x")


def test_ragged_samples_differ_in_their_first_axis_only(tmp_path):
    for shape, axis in (([5, None], 0), ([None, 5], 1)):
        lfq, tensors = parts("ragged")
        lfq["tensors"]["data"]["source"] |= {"shape": shape, "channel_axis": axis}
        write(tmp_path / "x", lfq, tensors)
        open_codes(tmp_path / "x").close()
    for shape, axis in (([3, 5], 1), ([None, None], 1), ([2, None, 5], 2), ([None], 0)):
        lfq, tensors = parts("ragged")
        lfq["tensors"]["data"]["source"] |= {"shape": shape, "channel_axis": axis}
        write(tmp_path / "x", lfq, tensors)
        with pytest.raises(CodesFileError):
            open_codes(tmp_path / "x")


@pytest.mark.parametrize(
    ("name", "change", "read"),
    [
        ("samples", stored("keys.offsets", data=i64(0, 6, 3, 8)), lambda codes: codes.keys_of_samples),
        ("samples", stored("keys.offsets", data=i64(1, 3, 6, 8)), lambda codes: codes.keys_of_samples),
        ("samples", stored("keys.offsets", data=i64(0, 3, 6, 7)), lambda codes: codes.keys_of_samples),
        ("samples", stored("keys.offsets", data=i64(0, 3, 6, 9)), lambda codes: codes.keys_of_samples),
        (
            "samples",
            stored("keys.offsets", data=i64(0, 3, 7, 8)),
            lambda codes: codes.keys_of_samples,
        ),  # within a letter
        ("samples", stored("keys", data=b"\xff" * 8), lambda codes: codes.keys_of_samples),
        ("samples", stored("keys", data=b"a/0a/0\xc3\xa9"), lambda codes: codes.keys_of_samples),
        ("samples", stored("keys", data=b"a/0a\n1\xc3\xa9"), lambda codes: codes.keys_of_samples),
        ("samples", stored("keys.offsets", data=i64(0, 3, 3, 8)), lambda codes: codes.keys_of_samples),
        ("samples", stored("txt.offsets", data=i64(0, -1, 6, 9)), lambda codes: codes.texts("txt")),
        ("ragged", stored("data.offsets", data=i64(0, 3, 2, 7)), lambda codes: codes.bounds("data")),
        ("ragged", stored("data.offsets", data=i64(0, 3, 3, 8)), lambda codes: codes.bounds("data")),
        ("ragged", stored("data.offsets", data=i64(-1, 3, 3, 7)), lambda codes: codes.bounds("data")),
    ],
)
def test_a_lie_in_a_column_is_seen_when_it_is_read(name, change, read, tmp_path):
    lfq, tensors = parts(name)
    change(lfq, tensors)
    write(tmp_path / "x", lfq, tensors)
    with open_codes(tmp_path / "x") as codes, pytest.raises(CodesFileError):
        read(codes)


def test_a_changed_column_has_another_digest(tmp_path):
    content = bytearray(golden("samples").read_bytes())
    place = content.index(b"caption 1")
    content[place] ^= 1
    (tmp_path / "x").write_bytes(content)
    with open_codes(tmp_path / "x") as codes:
        codes.check_column("keys")
        with pytest.raises(CodesFileError, match="sha256"):
            codes.check_column("txt")


def test_the_library_maps_every_tensor():
    """Wide items come first, so that each is aligned."""
    for name in EXPECTED:
        with safe_open(golden(name), "pt") as file:
            for tensor in file.keys():  # noqa: SIM118
                file.get_tensor(tensor)
