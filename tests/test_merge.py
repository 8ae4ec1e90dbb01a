"""Merging and splitting codes files of samples, against packing all samples at once and a reader that is numpy's."""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_files import SCHEMAS, Sample, Schema, cut_anywhere, read, read_container, samples_of, write

import lfq_cli.pipeline.merge  # noqa: F401 - whose numbers are set smaller below
from lfq_cli.codesfile import FROM_CODES, CodesHeader, CodesTensor, MadeFrom, SourceInfo, create, open_codes
from lfq_cli.errors import CodesFileError, ExistsError, LfqError, OptionError
from lfq_cli.files import PARTIAL_PREFIX
from lfq_cli.jobs.draft import Limits
from lfq_cli.jobs.merge import MergeOptions, Outputs, merge
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.verify import VerifyOptions, verify

pytestmark = pytest.mark.slow

MERGE, SURVEY = sys.modules["lfq_cli.pipeline.merge"], sys.modules["lfq_cli.pipeline.survey"]
PLAIN = Schema({"z": (3,)}, carried={"label": ("I64", ())}, texts=("caption",))


def numbered(count: int, schema: Schema = PLAIN, first: int = 0) -> list[Sample]:
    """Samples with numbers for keys."""
    random = np.random.default_rng(first)
    return [
        Sample(
            f"{k:04}",
            {"z": random.integers(0, 2, (schema.tensors["z"][0] or k % 4, schema.width)).astype(bool)},
            {name: k.to_bytes(8, "little") for name in schema.carried},
            dict.fromkeys(schema.texts, f"sample {k}"),
        )
        for k in range(first, first + count)
    ]


def write_pieces(folder: Path, pieces: list[list[Sample]], schema: Schema = PLAIN) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [write(folder / f"{k}.codes.safetensors", piece, schema) for k, piece in enumerate(pieces)]


def merge_into(path: Path, paths: list[Path], **options: object) -> Outcome:
    (outcome,) = merge(paths, Outputs(path, is_folder=False), MergeOptions(**({"durable": False} | options)))
    return outcome


def split_into(folder: Path, paths: list[Path], limits: Limits, **options: object) -> list[Path]:
    outcomes = list(merge(paths, Outputs(folder), MergeOptions(limits, **({"durable": False} | options))))
    assert all(outcome.error is None for outcome in outcomes), outcomes
    return [outcome.output for outcome in outcomes]


def made_from_of(path: Path) -> dict[str, object]:
    """What a file says of its making."""
    return read_container(path)[0]["made_from"]


def but_for_made_from(path: Path) -> tuple[object, bytes]:
    """A file's header, in order, and its data, without what it says of its making and the digest over that."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    lfq = json.loads(header["__metadata__"]["lfq"])
    del lfq["made_from"], lfq["header_sha256"]
    return (json.dumps(lfq), json.dumps({k: v for k, v in header.items() if k != "__metadata__"})), data[start:]


def plain(samples: list[Sample]) -> list[object]:
    return [sample.plain() for sample in samples]


def in_small_steps(draw: st.DrawFn) -> mock._patch_dict:
    """The loops over data in runs of a few bytes."""
    return mock.patch.dict(MERGE.__dict__, {"_RUN_BYTES": 8 * draw(st.integers(1, 9))})


# what comes out


@settings(max_examples=150)
@given(st.data())
def test_merging_pieces_equals_packing_all_at_once(data: st.DataObject) -> None:
    schema = data.draw(SCHEMAS)
    samples = data.draw(samples_of(schema))
    with TemporaryDirectory() as name, in_small_steps(data.draw), mock.patch.dict(SURVEY.__dict__, {"_RUN_KEYS": 3}):
        folder = Path(name)
        pieces = write_pieces(folder / "in", cut_anywhere(data.draw, samples), schema)
        outcome = merge_into(folder / "all.codes.safetensors", pieces)
        assert (outcome.status, outcome.samples) == ("written", len(samples)), outcome.error
        assert plain(read(outcome.output)) == plain(samples)
        at_once = write(folder / "once.codes.safetensors", samples, schema)
        assert but_for_made_from(outcome.output) == but_for_made_from(at_once)
        assert [verdict.status for verdict in verify([outcome.output], VerifyOptions())] == ["whole"]


LIMITS = st.builds(Limits, st.integers(1, 5)) | st.builds(Limits, st.none(), st.integers(1, 120))


@settings(max_examples=150)
@given(st.data())
def test_splitting_and_merging_again_changes_nothing(data: st.DataObject) -> None:
    schema, limits = data.draw(SCHEMAS), data.draw(LIMITS)
    samples = data.draw(samples_of(schema))
    with TemporaryDirectory() as name, in_small_steps(data.draw):
        folder = Path(name)
        pieces = write_pieces(folder / "in", cut_anywhere(data.draw, samples), schema)
        parts = split_into(folder / "parts", pieces, limits)
        assert parts == [folder / "parts" / f"{k:05}.codes.safetensors" for k in range(len(parts))]
        assert all(verdict.status == "whole" for verdict in verify(parts, VerifyOptions()))
        held = [read(part) for part in parts]
        assert plain(list(chain(*held))) == plain(samples)
        if limits.samples is not None:
            assert [len(each) for each in held[:-1]] == [limits.samples] * (len(held) - 1)
            assert len(held[-1]) == (len(samples) - 1) % limits.samples + 1 if samples else len(held) == 1
        else:
            assert [len(each) for each in held] == filled(samples, schema, limits.nbytes)
        again = merge_into(folder / "all.codes.safetensors", parts)
        at_once = write(folder / "once.codes.safetensors", samples, schema)
        assert but_for_made_from(again.output) == but_for_made_from(at_once)


def filled(samples: list[Sample], schema: Schema, most: int) -> list[int]:
    """How many samples go into each file of so many bytes, one by one."""
    per_vector = {"bits": schema.width, "rows": -(-schema.width // 8) * 8}.get(schema.packing)
    if per_vector is None:
        widest = max(schema.dims)
        per_vector = len(schema.dims) * next(8 * n for n, bits in ((1, 8), (2, 15), (4, 31), (8, 64)) if widest <= bits)
    counts, nbytes = [0], 0
    for sample in samples:
        size = -(-sum(len(bits) for bits in sample.bits.values()) * per_vector // 8) + 8
        size += sum(map(len, sample.carried.values()))
        size += sum(len(text.encode()) for text in (sample.key, *sample.texts.values()))
        if counts[-1] and nbytes + size > most:
            counts.append(0)
            nbytes = 0
        counts[-1] += 1
        nbytes += size
    return counts


@settings(max_examples=60)
@given(st.data())
def test_what_a_file_says_of_its_making(data: st.DataObject) -> None:
    """Inputs in order with sizes and header digests; counts that add up to those of the inputs, however it is cut."""
    samples = numbered(data.draw(st.integers(1, 12)))
    pieces = cut_anywhere(data.draw, samples)
    with TemporaryDirectory() as name:
        folder = Path(name)
        paths, counts = write_pieces(folder / "in", pieces), []
        for path, piece in zip(paths, pieces, strict=True):
            policy = data.draw(st.sampled_from(["error", "zero"]))
            zeroed = data.draw(st.integers(0, 9)) if policy == "zero" else 0
            counts.append((policy, zeroed, data.draw(st.integers(0, 9))))
            write(path, piece, PLAIN, MadeFrom(1, policy, zeroed, skipped=counts[-1][2], options={"carry": ["x"]}))
        parts = split_into(folder / "parts", paths, Limits(data.draw(st.integers(1, 5))))
        all_again = merge_into(folder / "all.codes.safetensors", parts).output
        at_once = merge_into(folder / "once.codes.safetensors", paths).output
        for path in (*parts, all_again, at_once):
            assert made_from_of(path)["options"] == FROM_CODES
        for group in (parts, [all_again], [at_once]):
            made = [made_from_of(path) for path in group]
            assert sum(each["nan"]["zeroed"] for each in made) == sum(zeroed for _, zeroed, _ in counts)
            assert sum(each.get("skipped", 0) for each in made) == sum(skipped for _, _, skipped in counts)
        policy = "zero" if any(policy == "zero" for policy, _, _ in counts) else "error"
        assert made_from_of(at_once)["nan"]["policy"] == policy
        assert (made_from_of(at_once)["bytes"], made_from_of(at_once).get("inputs", 1)) == (
            sum(map(size_of, paths)),
            len(paths),
        )
        assert "begin" not in made_from_of(at_once)
        assert "end" not in made_from_of(at_once)
        assert_places(parts, pieces)


def size_of(path: Path) -> int:
    return path.stat().st_size


def assert_places(parts: list[Path], pieces: list[list[Sample]]) -> None:
    """inputs, begin and end of every part lead to its samples."""
    every = [(k, sample.key) for k, piece in enumerate(pieces) for sample in piece]
    first = 0
    for part in parts:
        keys = [sample.key for sample in read(part)]
        held, made = every[first : first + len(keys)], made_from_of(part)
        assert [key for _, key in held] == keys
        before = [key for k, key in every[:first] if k == held[0][0]]
        behind = [key for k, key in every[first + len(keys) :] if k == held[-1][0]]
        in_last = [key for k, key in every if k == held[-1][0]]
        assert made.get("begin", 0) == len(before)
        assert made.get("end") == (len(in_last) - len(behind) if behind else None)
        first += len(keys)


def test_equal_inputs_give_equal_bytes_wherever_they_lie(tmp_path: Path) -> None:
    pieces = [numbered(3), numbered(4, first=3)]
    for name in ("one", "two"):
        write_pieces(tmp_path / name, pieces)
    (tmp_path / "two" / "1.codes.safetensors").rename(tmp_path / "two" / "other.codes.safetensors")
    made = [
        merge_into(tmp_path / f"{name}.codes.safetensors", sorted((tmp_path / name).iterdir())).output.read_bytes()
        for name in ("one", "two")
    ]
    assert made[0] == made[1]


@pytest.mark.parametrize("limit", [None, 3])
def test_a_run_that_is_repeated_skips_what_is_there(tmp_path: Path, limit: int | None) -> None:
    paths = write_pieces(tmp_path / "in", [numbered(5), numbered(4, first=5)])
    outputs = Outputs(tmp_path / "out")

    def run(**options: object) -> list[Outcome]:
        return list(merge(paths, outputs, MergeOptions(Limits(limit), **options)))

    count = 1 if limit is None else 3
    assert [outcome.status for outcome in run(dry_run=True)] == ["planned"] * count
    assert not (tmp_path / "out").exists()
    assert [outcome.status for outcome in run()] == ["written"] * count
    before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert [outcome.status for outcome in run()] == ["up to date"] * count
    assert [outcome.status for outcome in run(overwrite=True)] == ["written"] * count
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    write(paths[0], numbered(5, first=20), PLAIN)
    outcomes = run()
    assert outcomes[0].status == "refused"
    assert "made from other codes files" in outcomes[0].error.message
    assert [outcome.status for outcome in run(overwrite=True)] == ["written"] * count


def test_what_stands_in_the_way(tmp_path: Path) -> None:
    paths = write_pieces(tmp_path / "in", [numbered(5)])
    out = tmp_path / "out.codes.safetensors"
    write(out, numbered(5), PLAIN)
    assert "was not made by lfq merge or split" in merge_into(out, paths).error.message
    out.write_bytes(b"something")
    assert "not a whole codes file" in merge_into(out, paths).error.message
    assert out.read_bytes() == b"something"
    out.unlink()
    split_into(tmp_path / "parts", paths, Limits(1))
    outcomes = list(merge(paths, Outputs(tmp_path / "new"), MergeOptions(Limits(2))))
    assert [outcome.status for outcome in outcomes] == ["written"] * 3
    with pytest.raises(ExistsError, match=r"00003.codes.safetensors \(and 1 more\): is in the output folder"):
        list(merge(paths, Outputs(tmp_path / "parts"), MergeOptions(Limits(2), overwrite=True)))
    with pytest.raises(OptionError, match="is an input of this command"):
        merge_into(paths[0], paths, overwrite=True)


# what cannot be merged

OTHERS = {
    "checkpoint_sha256": (PLAIN, {"checkpoint_sha256": "cd" * 32}),
    "compute_dtype": (PLAIN, {"compute_dtype": "bfloat16"}),
    "dim of the quantizer": (PLAIN, {"quantizer": {"type": "lfq", "dim": 6}}),
    "spherical, which was assumed,": (PLAIN, {"assumed": {"spherical": False}}),
    "codebook_dims of 'z'": (replace(PLAIN, dims=(2, 3)), {"index_tail": ()}),
    "bit_order of 'z'": (replace(PLAIN, bit_order="lsb"), {}),
    "packing of 'z'": (replace(PLAIN, packing="rows"), {}),
    "the shape of a sample of 'z'": (replace(PLAIN, tensors={"z": (4,)}), {}),
    "the shape of a sample of 'z' ": (replace(PLAIN, tensors={"z": (None,)}), {}),
    "the list of tensors": (replace(PLAIN, tensors={"z": (3,), "y": (1,)}), {}),
    "the number of codebook axes of 'z'": (PLAIN, {"index_tail": (1,)}),
    "the list of carried tensors": (replace(PLAIN, carried={}), {}),
    "dtype of 'label'": (replace(PLAIN, carried={"label": ("I32", (2,))}), {}),
    "the shape of a row of 'label'": (replace(PLAIN, carried={"label": ("I64", (1,))}), {}),
    "the list of carried texts": (replace(PLAIN, texts=()), {}),
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_differs_is_named_with_both_files(tmp_path: Path, what: str) -> None:
    schema, more = OTHERS[what]
    one = write(tmp_path / "one.codes.safetensors", numbered(4), PLAIN)
    width = max(size or 1 for size in schema.tensors["z"])
    samples = [
        Sample(
            str(k),
            {name: np.zeros((width if name == "z" else 1, schema.width), bool) for name in schema.tensors},
            {name: bytes(8) for name in schema.carried},
            dict.fromkeys(schema.texts, ""),
        )
        for k in range(3)
    ]
    if what.startswith("codebook_dims"):
        more = {"index_tail": (2,)}
    two = write(tmp_path / "two.codes.safetensors", samples, schema, **more)
    for first, second in ((one, two), (two, one)):
        with pytest.raises(CodesFileError) as raised:
            merge_into(tmp_path / "out.codes.safetensors", [first, second])
        assert raised.value.message.startswith(f"{second}: {what.strip()} is ")
        assert f", in {first} it is " in raised.value.message
    assert not (tmp_path / "out.codes.safetensors").exists()


def test_sources_and_stored_integers_must_be_equal(tmp_path: Path) -> None:
    ints = replace(PLAIN, packing="ints")
    one = write(tmp_path / "one.codes.safetensors", numbered(2), ints)
    two = write(tmp_path / "two.codes.safetensors", numbered(2, first=2), ints, index_dtype="I64")
    with pytest.raises(CodesFileError, match=r'dtype of .z. is "I64", in .* it is "U8"'):
        merge_into(tmp_path / "out.codes.safetensors", [one, two])


def test_two_samples_of_one_key(tmp_path: Path) -> None:
    a, b, c = write_pieces(tmp_path / "in", [numbered(5), numbered(5, first=5), numbered(5, first=8)])
    with pytest.raises(CodesFileError) as raised:
        merge_into(tmp_path / "out.codes.safetensors", [a, b, c])
    assert raised.value.message == (f"{b} and {c} both hold a sample with the key '0008' (and 1 more repeated key)")
    twice = write(tmp_path / "twice.codes.safetensors", [*numbered(3), *numbered(1, first=2)], PLAIN)
    with pytest.raises(CodesFileError, match=r"twice.codes.safetensors holds two samples with the key '0002'$"):
        merge_into(tmp_path / "out.codes.safetensors", [twice])
    assert not (tmp_path / "out.codes.safetensors").exists()


@given(st.lists(st.text("ab", min_size=1, max_size=3), max_size=12))
def test_keys_are_compared_and_not_only_their_hashes(keys: list[str]) -> None:
    """With a hash that few values has."""

    def bad_hashes(letters: np.ndarray, ends: np.ndarray) -> np.ndarray:
        return np.diff(ends).astype(np.uint64)

    samples = [replace(sample, key=key) for sample, key in zip(numbered(len(keys)), keys, strict=True)]
    with TemporaryDirectory() as name, mock.patch.dict(SURVEY.__dict__, {"_hashes_of": bad_hashes}):
        paths = write_pieces(Path(name) / "in", [samples[: len(keys) // 2], samples[len(keys) // 2 :]])
        if len(set(keys)) == len(keys):
            assert merge_into(Path(name) / "out.codes.safetensors", paths).status == "written"
        else:
            with pytest.raises(CodesFileError, match="with the key"):
                merge_into(Path(name) / "out.codes.safetensors", paths)


@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=20))
def test_hashes_are_what_they_are_said_to_be(keys: list[str]) -> None:
    encoded = [key.encode("utf-8", "surrogatepass") for key in keys]
    ends = np.cumsum([0, *map(len, encoded)])
    weights = [splitmix64(k) for k in range(max(map(len, encoded)))]
    expected = [sum((byte + 1) * w for byte, w in zip(key, weights, strict=False)) % 2**64 for key in encoded]
    assert SURVEY._hashes_of(np.frombuffer(b"".join(encoded), np.uint8), ends).tolist() == expected


def splitmix64(k: int) -> int:
    """The k-th number of the generator that begins at 0, in plain integers."""
    z = (k + 1) * 0x9E3779B97F4A7C15 % 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return z ^ (z >> 31)


@pytest.mark.parametrize("key", ["", "line\nbreak", "\x1b[31m", "a\x7f"])
def test_keys_that_encode_refuses_are_refused_here_too(tmp_path: Path, key: str) -> None:
    samples = [*numbered(3), replace(numbered(1, first=3)[0], key=key), *numbered(3, first=4)]
    bad = write(tmp_path / "bad.codes.safetensors", samples, PLAIN)
    with pytest.raises(CodesFileError, match=r"bad.codes.safetensors: the key .* (is empty|has control characters)"):
        merge_into(tmp_path / "out.codes.safetensors", [bad])


@pytest.mark.parametrize("cut", [(b"\xc3", b"\xa4"), (b"\xff",)])
def test_keys_must_be_utf8_each_by_itself(tmp_path: Path, cut: tuple[bytes, ...]) -> None:
    class Raw(str):
        """A key that encodes to any bytes."""

        raw: bytes

        def encode(self, *_: object) -> bytes:
            return self.raw

    samples = []
    for k, raw in enumerate(cut):
        key = Raw(f"{k}")
        key.raw = raw
        samples.append(replace(numbered(1, first=k)[0], key=key))
    bad = write(tmp_path / "bad.codes.safetensors", samples, PLAIN)
    with pytest.raises(CodesFileError, match="is not UTF-8"):
        merge_into(tmp_path / "out.codes.safetensors", [bad])


def test_whole_tensors_are_no_samples(tmp_path: Path) -> None:
    path = tmp_path / "x.codes.safetensors"
    for made_from in (None, MadeFrom(1, "error")):
        tensor = CodesTensor("z", (8,), (5,), "msb", "bits", "U8", SourceInfo((8, 5), "F32", 1))
        header = CodesHeader({"dim": 5}, "ab" * 32, "float32", {"z": tensor}, made_from=made_from)
        with create(path, header, overwrite=True) as writer, writer.tensor("z") as out:
            out.append(np.zeros(5, np.uint8))
        with pytest.raises(CodesFileError, match=r"x.codes.safetensors: holds 1 tensor and no samples"):
            merge_into(tmp_path / "out.codes.safetensors", [path])


def test_a_file_that_does_not_say_what_it_was_made_from(tmp_path: Path) -> None:
    path = write(tmp_path / "x.codes.safetensors", numbered(2), PLAIN)
    stored = read_container(path)[1]
    with open_codes(path) as codes:
        header = replace(codes.header, made_from=None)
    with create(path, header, overwrite=True) as writer:
        for name in header.stored:
            with writer.tensor(name) as out:
                out.append(stored[name])
    with pytest.raises(CodesFileError, match="no record of what they were made from"):
        merge_into(tmp_path / "out.codes.safetensors", [path])


# damage


def errors_of(outcomes: Iterator[Outcome]) -> list[LfqError]:
    """What a run ends with, or what became of its outputs."""
    try:
        return [outcome.error for outcome in outcomes if outcome.error is not None]
    except CodesFileError as error:
        return [error]


@pytest.mark.parametrize("limit", [None, 2, 100])
def test_no_damaged_byte_goes_unseen(tmp_path: Path, limit: int | None) -> None:
    """Each byte of an input changed in turn: an error, and no output that holds any of its samples."""
    ragged = Schema({"z": (None,)}, carried={"label": ("I64", ())}, texts=("caption",))
    good = write(tmp_path / "a.codes.safetensors", numbered(3, ragged), ragged)
    bad = write(tmp_path / "b.codes.safetensors", numbered(3, ragged, first=3), ragged)
    whole = bad.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for position in [*range(0, start, 97), *range(start, len(whole))]:
        changed = bytearray(whole)
        changed[position] ^= 0x11
        bad.write_bytes(changed)
        out = tmp_path / "out"
        errors = errors_of(merge([good, bad], Outputs(out), MergeOptions(Limits(limit), durable=False)))
        assert errors
        assert all(str(bad) in error.message for error in errors), position
        written = sorted(out.rglob("*")) if out.exists() else []
        held = {sample.key for path in written for sample in read(path)}
        assert held <= {"0000", "0001", "0002"}, position
        assert not any(path.name.startswith(PARTIAL_PREFIX) for path in written)
        for path in written:
            path.unlink()


def test_a_damaged_input_spoils_the_outputs_that_hold_it_and_no_others(tmp_path: Path) -> None:
    paths = write_pieces(tmp_path / "in", [numbered(4, first=4 * k) for k in range(3)])
    with open_codes(paths[1]) as codes:
        place = codes.region("z").start
    data = bytearray(paths[1].read_bytes())
    data[place] ^= 0x80
    paths[1].write_bytes(data)
    outcomes = list(merge(paths, Outputs(tmp_path / "out"), MergeOptions(Limits(3))))
    assert [outcome.status for outcome in outcomes] == ["written", "failed", "failed", "written"]
    assert all("1.codes.safetensors: 'z' is damaged" in outcome.error.message for outcome in outcomes[1:3])
    assert [sample.key for sample in read(outcomes[3].output)] == ["0009", "0010", "0011"]
    first = list(merge(paths, Outputs(tmp_path / "first"), MergeOptions(Limits(3), fail_fast=True)))
    assert [outcome.status for outcome in first] == ["written", "failed"]


def test_an_input_is_checked_once_however_many_parts_it_is_cut_into(tmp_path: Path) -> None:
    (path,) = write_pieces(tmp_path / "in", [numbered(30)])
    with mock.patch.object(MERGE.StoredReader, "check", autospec=True) as check:
        split_into(tmp_path / "parts", [path], Limits(2))
    assert check.call_count == 1
    with mock.patch.object(MERGE.StoredReader, "check", autospec=True) as check:
        merge_into(tmp_path / "out.codes.safetensors", [path])
    assert check.call_count == 0


@pytest.mark.parametrize("limit", [None, 2])
@pytest.mark.parametrize("change", ["is written to", "is replaced", "shrinks", "is removed"])
def test_an_input_that_changes_after_the_plan(tmp_path: Path, change: str, limit: int | None) -> None:
    paths = write_pieces(tmp_path / "in", [numbered(4), numbered(4, first=4)])
    last, real = paths[1], MERGE.SamplesJoiner.add

    def add(self: object, source: object, part: object) -> None:
        if part.first == 0 and source.file.path == paths[0]:
            if change == "is written to":
                with last.open("r+b") as file:
                    file.seek(-1, 2)
                    file.write(b"x")
            elif change == "is replaced":
                write(tmp_path / "other.codes.safetensors", numbered(4, first=8), PLAIN).replace(last)
            elif change == "shrinks":
                with last.open("r+b") as file:
                    file.truncate(size_of(last) - 5)
            else:
                last.unlink()
        real(self, source, part)

    with mock.patch.object(MERGE.SamplesJoiner, "add", add):
        outcomes = list(merge(paths, Outputs(tmp_path / "out"), MergeOptions(Limits(limit))))
    assert outcomes[-1].error is not None
    assert str(last) in outcomes[-1].error.message
    assert not outcomes[-1].output.exists()


def test_damaged_keys_are_damage_and_not_bad_keys(tmp_path: Path) -> None:
    (path,) = write_pieces(tmp_path / "in", [numbered(3)])
    for name in ("keys", "keys.offsets", "caption.offsets"):
        with open_codes(path) as codes:
            place = codes.region(name).start
        whole = path.read_bytes()
        path.write_bytes(whole[:place] + b"\xff" + whole[place + 1 :])
        with pytest.raises(CodesFileError, match=f"'{name}' is damaged: its bytes have another sha256"):
            merge_into(tmp_path / "out.codes.safetensors", [path])
        path.write_bytes(whole)


def test_an_input_that_is_written_to_behind_its_check(tmp_path: Path) -> None:
    (path,) = write_pieces(tmp_path / "in", [numbered(4)])
    real = MERGE.SamplesJoiner.add

    def add(self: object, source: object, part: object) -> None:
        with path.open("r+b") as file:
            file.seek(source.stored["z"].start)
            file.write(b"x")
        real(self, source, part)

    with mock.patch.object(MERGE.SamplesJoiner, "add", add):
        outcomes = list(merge([path], Outputs(tmp_path / "out"), MergeOptions(Limits(2))))
    assert all("changed while it was read" in outcome.error.message for outcome in outcomes)
    assert not (tmp_path / "out").exists()
