"""torchfile/: pickles as such, against Python's pickle; what they would do and do not; what is made to harm."""

from __future__ import annotations

import argparse
import collections
import os
import pickle
import pickletools
import struct
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch_files import archive, bytes_of, close_all, opened, read, saved, stored_bytes, unpickled

from lfq_cli.errors import TensorError
from lfq_cli.torchfile.machine import MAX_TEXT, STEPS, STOP, unpickle
from lfq_cli.torchfile.stream import Stream
from lfq_cli.torchfile.values import BrokenError

pytestmark = pytest.mark.slow

MACHINE_INFO = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_all()


# Plain values


def test_every_opcode_of_every_protocol_is_known() -> None:
    assert {opcode.code.encode("latin-1") for opcode in pickletools.opcodes} == {*STEPS, STOP}


NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.booleans() | st.none()
TEXTS = st.text(max_size=300) | st.binary(max_size=300)
KEYS = st.text(max_size=9) | st.integers(-(2**63), 2**63) | st.binary(max_size=9)
PLAIN = st.recursive(
    NUMBERS | TEXTS | st.integers(-(2**127), 2**127 - 1),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=5)
        | st.dictionaries(KEYS, inner, max_size=5).map(collections.OrderedDict)
        | st.sets(KEYS, max_size=5)
        | st.frozensets(KEYS, max_size=5)
    ),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL), in_python=st.booleans())
def test_plain_values_are_what_pickle_makes_of_them(
    value: Any, protocol: int, in_python: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = pickle._dumps(value, protocol) if in_python else pickle.dumps(value, protocol)  # type: ignore[attr-defined]
    close_all()
    found = unpickled(data, tmp_path_factory.getbasetemp())
    assert found == value
    assert repr(found).replace("OrderedDict", "dict") == repr(pickle.loads(data)).replace("OrderedDict", "dict") or (
        "Ordered" in repr(value) or "set" in repr(value)
    )


def test_large_values_are_what_pickle_makes_of_them(tmp_path: Path) -> None:
    """More items than one batch of a pickler, more memo than a byte counts, more bytes than one piece of a file."""
    value = {
        "list": [float(k) for k in range(20_000)],
        "dict": {str(k): (k, [k]) for k in range(5000)},
        "text": "ä" * 2000,
    }
    value["again"] = value["list"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = unpickled(pickle.dumps(value, protocol), tmp_path)
        assert found == value
        assert found["again"] is found["list"]


def test_containers_that_hold_themselves(tmp_path: Path) -> None:
    value: list[Any] = [1]
    value.append({"self": value, "tuple": (value,)})
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        found = unpickled(pickle.dumps(value, protocol), tmp_path)
        assert found[1]["self"] is found
        assert found[1]["tuple"][0] is found


@pytest.mark.parametrize("data", [b"S'it\\'s\\n'\n.", b'S"a\\x41"\n.', b"U\x02ab.", b"T\x02\0\0\0ab.", b"U\x01\xff."])
def test_text_of_python_2(data: bytes, tmp_path: Path) -> None:
    assert unpickled(data, tmp_path) == pickle.loads(data, encoding="bytes" if b"\xff" in data else "utf-8")


def test_an_ordered_dict_of_python_2(tmp_path: Path) -> None:
    data = b"\x80\x02ccollections\nOrderedDict\nq\x01]q\x02]q\x03(U\x01aq\x04K\x01ea\x85q\x05Rq\x06."
    assert unpickled(data, tmp_path) == pickle.loads(data) == {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [str, bytes, bytearray])
def test_long_texts_and_bytes_are_passed_over_unread(kind: type, protocol: int, tmp_path: Path) -> None:
    if protocol == 0 or (protocol < 3 and kind is not str):
        pytest.skip("this protocol writes them as lines, or as text")
    size = 50 << 20
    value = {"long": "x" * size if kind is str else kind(size), "short": "y" * MAX_TEXT}
    path = tmp_path / "pickle"
    path.write_bytes(pickle.dumps(value, protocol))
    tracemalloc.start()
    try:
        found = unpickle(Stream(opened(path), 0, path.stat().st_size), lambda _: None)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert found["long"].what == kind.__name__
    assert found["short"] == value["short"]


# Nothing runs


SPY = """
import encodings.cp437, os, sys  # zipfile's, for names
from pathlib import Path
from lfq_cli.errors import LfqError
from lfq_cli.regions import InputFile
from lfq_cli.tensors.torchfile import open_file
sys.path.insert(0, os.getcwd())
seen = []
sys.addaudithook(lambda event, arguments: seen.append((event, str(arguments))) if watching else None)
watching = True
try:
    contents = open_file(InputFile(Path(sys.argv[1]), LfqError), LfqError)
except LfqError as error:
    contents = error
watching = False
found = [e for e in seen if e[0] in ("import", "exec", "compile", "os.system", "subprocess.Popen", "os.mkdir")]
found += [e for e in seen if e[0] in ("open", "pickle.find_class") and sys.argv[1] not in e[1]]
print(found, "trap" in sys.modules, "torch" in sys.modules, contents)
"""


class Trap:
    """Whatever unpickles it makes a folder."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("sprung",)


class TrapInState:
    def __reduce__(self) -> Any:
        return argparse.Namespace, (), {"a": Trap()}


class TrapInItems:
    def __reduce__(self) -> Any:
        return dict, (), None, iter([Trap()]), iter([("a", Trap())])


class TrapInSetter:
    """The sixth part of __reduce__ is a function that gets object and state."""

    def __reduce__(self) -> Any:
        return argparse.Namespace, (), {"a": 1}, None, None, print


class Nested:
    def __reduce__(self) -> Any:
        return getattr, (Trap(), "x")


class Evaluated:
    def __reduce__(self) -> Any:
        return eval, ("__import__('os').mkdir('sprung')",)


@pytest.mark.parametrize("trap", [Trap, TrapInState, TrapInItems, TrapInSetter, Nested, Evaluated])
@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_runs_or_is_imported(trap: Any, zipped: bool, tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("class Sprung: pass")
    held = {"x": torch.ones(2), "y": trap(), trap(): 1}
    saved(held, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    ran = subprocess.run(
        [sys.executable, "-c", SPY, "x.pt"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.startswith("[] False False Source(path=PosixPath('x.pt'), tensors={'x'"), ran.stdout + ran.stderr
    assert not (tmp_path / "sprung").exists()


def test_a_class_of_a_module_beside_the_file_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')")
    data = b"\x80\x02}(X\x01\0\0\0actrap\nSprung\n)\x81}bX\x01\0\0\0bctrap\nSprung\nX\x01\0\0\0c(itrap\nSprung\nu."
    archive(tmp_path / "x.pt", data)
    ran = subprocess.run(
        [sys.executable, "-c", SPY, "x.pt"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.startswith("[] False False "), ran.stdout + ran.stderr


def test_the_spy_sees_what_it_looks_for(tmp_path: Path) -> None:
    (tmp_path / "trap.py").write_text("")
    code = SPY.replace("contents = open_file", "__import__('trap'); contents = open_file")
    saved({"x": torch.ones(2)}, tmp_path / "x.pt")
    ran = subprocess.run(
        [sys.executable, "-c", code, "x.pt"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
    )
    assert "('import', " in ran.stdout
    assert " True False Source(" in ran.stdout


# Files that were made to harm

MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."


def storage(kind: bytes = b"ctorch\nFloatStorage\n", key: bytes = b"X\x01\0\0\x000", count: bytes = b"K\x04") -> bytes:
    return b"(X\x07\0\0\0storage" + kind + key + b"X\x03\0\0\0cpu" + count + b"tQ"


def tensor(on: bytes, offset: bytes = b"K\0", shape: bytes = b"K\x04\x85", stride: bytes = b"K\x01\x85") -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + on + offset + shape + stride + b"\x89)tR"


def tensor_v3(dtype: bytes) -> bytes:
    return b"ctorch._utils\n_rebuild_tensor_v3\n(" + storage() + b"K\0K\x04\x85K\x01\x85\x89)" + dtype + b"tR"


HUGE = b"\x8a\x08" + (2**62).to_bytes(8, "little")
NEGATIVE = b"J\xff\xff\xff\xff"
HARMFUL: dict[str, bytes] = {
    "nothing": b"",
    "stop alone": b".",
    "no stop": b"N",
    "an unknown opcode": b"\xff.",
    "protocol 200": b"\x80\xc8N.",
    "pop of nothing": b"0.",
    "tuple without a mark": b"t.",
    "list without a mark": b"l.",
    "items without a mark": b"}u.",
    "a key without a value": b"}(Nu.",
    "append to a number": b"K\x01Na.",
    "items of a list": b"]NNs.",
    "add to a dict": b"}(N\x90.",
    "duplicate of nothing": b"2.",
    "state of nothing": b"Nb.",
    "memo of nothing": b"q\0.",
    "nothing in the memo": b"h\0.",
    "nothing in the memo, line": b"g0\n.",
    "a memo index beyond all": b"Nr\xff\xff\xff\xff.",
    "a memo index beyond all, line": b"Np99999999999999999999\n.",
    "a negative memo index": b"Np-1\n.",
    "a memo index that is none": b"Npabc\n.",
    "a frame that is cut off": b"\x80\x04\x95\xff\xff",
    "text of 2^64 bytes": b"\x8d" + b"\xff" * 8 + b".",
    "bytes of 2^63 bytes": b"\x8e" + (2**63).to_bytes(8, "little") + b".",
    "text of 4 GiB": b"X\xff\xff\xff\xff.",
    "a byte array of 2^60 bytes": b"\x96" + (2**60).to_bytes(8, "little") + b".",
    "a long of 2 GiB": b"\x8b\xff\xff\xff\x7f.",
    "a long of negative length": b"\x8b\xff\xff\xff\xff.",
    "text that is none": b"X\x01\0\0\0\xff.",
    "a class that is not text": b"NN\x93.",
    "a class name that is not text": b"c\xff\xff\nx\n.",
    "a line without end": b"V" + b"x" * 5000,
    "a number that is none": b"Iabc\n.",
    "a float that is none": b"Fabc\n.",
    "a quote that is none": b"Sabc\n.",
    "an object of nothing": b"(o.",
    "a call of nothing": b"NR.",
    "a persistent id that is none": b"NQ.",
    "a persistent id of text": b"Pabc\n.",
    "an empty persistent id": b")Q.",
    "another persistent id": b"X\x01\0\0\0aN\x86Q.",
    "a storage that is too short": b"X\x07\0\0\0storageN\x86Q.",
    "a storage of no class": storage(kind=b"N") + b".",
    "a storage of an unknown class": storage(kind=b"cos\nsystem\n") + b".",
    "a storage without a key": storage(key=b"N") + b".",
    "a storage whose key is a list": storage(key=b"]") + b".",
    "a storage of -1": storage(count=NEGATIVE) + b".",
    "a storage of 2^62": storage(count=HUGE) + b".",
    "a storage of a huge number": storage(count=b"\x8a\x09" + b"\xff" * 8 + b"\x7f") + b".",
    "a storage of text": storage(count=b"X\x01\0\0\x004") + b".",
    "a storage outside the archive": storage(key=b"X\x05\0\0\0../../") + b".",
    "a tensor on nothing": tensor(b"N") + b".",
    "a tensor on a tensor": tensor(tensor(storage())) + b".",
    "a tensor outside its storage": tensor(storage(), offset=b"K\x01") + b".",
    "a tensor of offset -1": tensor(storage(), offset=NEGATIVE) + b".",
    "a tensor of offset 2^62": tensor(storage(), offset=HUGE) + b".",
    "a tensor of 5": tensor(storage(), shape=b"K\x05\x85") + b".",
    "a tensor of stride 2": tensor(storage(), stride=b"K\x02\x85") + b".",
    "a tensor of stride -1": tensor(storage(), stride=NEGATIVE + b"\x85") + b".",
    "a tensor of size -1": tensor(storage(), shape=NEGATIVE + b"\x85") + b".",
    "a tensor of size 2^62": tensor(storage(), shape=HUGE + b"\x85") + b".",
    "a tensor of two sizes and one stride": tensor(storage(), shape=b"K\x02K\x02\x86") + b".",
    "a tensor of no shape": tensor(storage(), shape=b"N") + b".",
    "a tensor of a shape of text": tensor(storage(), shape=b"X\x01\0\0\x004\x85") + b".",
    "a tensor of 10,000 axes": tensor(storage(), shape=b"(" + b"K\x01" * 10_000 + b"t") + b".",
    "a tensor of nothing else": b"ctorch._utils\n_rebuild_tensor_v2\n)R.",
    "a tensor of no arguments": b"ctorch._utils\n_rebuild_tensor_v2\nNR.",
    "a tensor of a dtype that is none": tensor_v3(b"N") + b".",
    "a tensor of an unknown dtype": tensor_v3(b"ctorch\nnope\n") + b".",
    "a tensor of a wider dtype": tensor_v3(b"ctorch\nfloat64\n") + b".",
    "an ordered dict of no pairs": b"ccollections\nOrderedDict\n]Na\x85R.",
    "a type without arguments": b"ctorch._tensor\n_rebuild_from_type_v2\n)R.",
}  # fmt: skip


@pytest.mark.parametrize("case", HARMFUL)
def test_a_pickle_that_is_none_is_one_error(case: str, tmp_path: Path) -> None:
    zipped = archive(tmp_path / "zip.pt", HARMFUL[case], data__0=bytes(16))
    old = tmp_path / "old.pt"
    keys = pickle.dumps(["0"], 2)
    old.write_bytes(
        MAGIC
        + pickle.dumps(1001, 2)
        + pickle.dumps(MACHINE_INFO, 2)
        + HARMFUL[case]
        + keys
        + struct.pack("<q", 4)
        + bytes(16)
    )
    for path in (zipped, old):
        with pytest.raises(TensorError, match="not a whole torch file: ") as raised:
            read(path)
        assert str(path) in raised.value.message


def test_the_parts_of_harmful_pickles_make_a_whole_one(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", b"}X\x01\0\0\0a" + tensor(storage()) + b"s.", data__0=b"\0\0\x80?" * 4)
    assert bytes_of(read(path), "a") == stored_bytes(torch.ones(4))
    assert torch.equal(torch.load(path)["a"], torch.ones(4))


def nested(opening: bytes, closing: bytes, depth: int = 50_000) -> bytes:
    return opening * depth + closing * depth


LARGE: dict[str, bytes] = {
    "lists in lists": b"]" * 50_000 + b"a" * 49_999,
    "tuples in tuples": b"N" + b"\x85" * 50_000,
    "tuples as keys": b"}N" + b"\x85" * 50_000 + b"Ns",
    "calls in calls": b"cos\nsystem\n" * 20_000 + b"N" + b"\x85R" * 20_000,
    "types in types": b"ctorch._tensor\n_rebuild_from_type_v2\n" * 20_000 + b"N" * 3 + (b"\x87\x86R" * 1),
    "marks": b"(" * 50_000 + b"1" * 50_000 + b"N",
    "duplicates": b"N" + b"2" * 50_000,
    "memo": b"N" + b"\x94" * 50_000,
    "buffers": b"\x97" * 1000 + b"\x98" * 1000,
    "extensions": b"\x82\x01\x83\x01\0\x84\x01\0\0\0",
    "a call with its own memo": b"}\x94" + b"h\0" * 100_000,
    "frames that say nothing": b"\x95" + b"\xff" * 8 + b"N",
}


@pytest.mark.parametrize("case", LARGE)
def test_a_large_pickle_is_read_or_refused_in_time_and_memory(case: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", LARGE[case] + b".")
    tracemalloc.start()
    start = time.process_time()
    try:
        read(path)
    except TensorError:
        assert case == "types in types"
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < 10
    assert peak < 400 * len(LARGE[case]) + (1 << 22)


def again_and_again(value: bytes, function: bytes, times: int) -> bytes:
    """A pickle that calls a function with the same arguments, a tuple of one value, many times."""
    return value + b"\x85\x940" + (function + b"h\0R0") * times + b"N"


BOMBS: dict[str, bytes] = {
    "sets": b"\x8f0" * 2_600_000 + b"N",
    "sets of the same list": again_and_again(b"](%be" % (b"K\x01" * 100_000), b"c__builtin__\nset\n", 1000),
    "dicts of the same pairs": again_and_again(
        b"](%be" % (b"K\x01K\x02\x86" * 50_000), b"ccollections\nOrderedDict\n", 1000
    ),
    "bytes of the same text": again_and_again(b"X\0\x10\0\0" + b"x" * 4096, b"c_codecs\nencode\n", 200_000),
}


@pytest.mark.parametrize("case", BOMBS)
def test_a_pickle_that_makes_more_than_it_holds_is_refused(case: str, tmp_path: Path) -> None:
    path = archive(tmp_path / "x.pt", BOMBS[case] + b".")
    start = time.process_time()
    with pytest.raises(TensorError, match="makes more than 10,000,000 objects"):
        read(path)
    assert time.process_time() - start < 30


def test_keys_of_one_hash_do_not_take_the_square_of_their_number(tmp_path: Path) -> None:
    """Multiples of 2^61 - 1 all hash to 0, and tuples can be made that do; none of them is hashed as itself."""
    keys = [k * (2**61 - 1) for k in range(2**30, 2**30 + 100_000)]
    data = b"}(" + b"".join(b"\x8a\x0c" + key.to_bytes(12, "little") + b"N" for key in keys) + b"u."
    start = time.process_time()
    assert len(unpickled(data, tmp_path)) == len(keys)
    assert time.process_time() - start < 10


def test_the_number_of_steps_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfq_cli.torchfile.machine.MAX_STEPS", 1000)
    assert unpickled(b"N0" * 499 + b"N.", tmp_path) is None
    with pytest.raises(BrokenError, match="more than 1,000 opcodes"):
        unpickled(b"N0" * 500 + b"N.", tmp_path)


def test_the_bytes_of_a_pickle_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lfq_cli.torchfile.stream.MAX_BYTES", 1 << 20)
    assert unpickled(b"N0" * 500_000 + b"N.", tmp_path) is None
    with pytest.raises(BrokenError, match="more than 1 MiB"):
        unpickled(b"N0" * 600_000 + b"N.", tmp_path)


def test_names_are_bounded(tmp_path: Path) -> None:
    held: Any = torch.ones(1)
    for _ in range(120):
        held = {"k" * 4000: held}
    with pytest.raises(TensorError, match="without end"):
        read(saved(held, tmp_path / "deep.pt"))
    wide: Any = {f"{k:04000}": torch.ones(1) for k in range(300)}
    wide = {f"{k:04000}": wide for k in range(300)}
    with pytest.raises(TensorError, match="without end"):
        read(saved(wide, tmp_path / "wide.pt"))


def test_a_parameter_of_something_else_is_no_tensor(tmp_path: Path) -> None:
    data = b"}X\x01\0\0\0actorch._utils\n_rebuild_parameter\nK\x03\x89)\x87RsX\x01\0\0\0bcos\nsystem\ns."
    found = read(archive(tmp_path / "x.pt", data))
    assert found.left_alone == {"a": "int", "b": "os.system"}
