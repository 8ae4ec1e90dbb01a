"""jobs/pack.py: packed samples are the samples encoded one by one, whatever the files, however often it is run."""

from __future__ import annotations

import io
import json
import os
import tarfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import safetensors.numpy as st_numpy
import twin
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open

from lfq_cli.codesfile import SUFFIX, open_codes
from lfq_cli.cpus import use_threads
from lfq_cli.errors import OptionError
from lfq_cli.jobs import processes, reading
from lfq_cli.jobs.draft import Limits
from lfq_cli.jobs.keys import KeySet
from lfq_cli.jobs.merge import MergeOptions, merge, name_codes
from lfq_cli.jobs.outcome import Outcome
from lfq_cli.jobs.pack import PackOptions, pack
from lfq_cli.jobs.plan import name_samples
from lfq_cli.pipeline.samples import SampleOptions
from lfq_cli.quantizer import Quantizer

Array = NDArray[Any]
PLAIN = Quantizer(dim=5, codebook_dim=5)
TWO = Quantizer(dim=6, codebook_dim=3, num_codebooks=2, bit_order="lsb")
PROJECTED = Quantizer(
    dim=7,
    codebook_dim=5,
    weights={
        "project_in.weight": np.random.default_rng(0).integers(-3, 4, (5, 7)).astype(np.float32),
        "project_out.weight": np.random.default_rng(1).integers(-3, 4, (7, 5)).astype(np.float32),
    },
)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)


def save(folder: Path, samples: dict[str, Array]) -> None:
    for key, x in samples.items():
        path = folder / f"{key}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, x)


def run(quantizer: Quantizer, folder: Path, out: Path, **options: Any) -> list[Outcome]:
    samples = options.pop("samples", SampleOptions())
    chosen = PackOptions(samples=samples, **options)
    inputs, missed = name_samples([str(folder)], out, stacked=chosen.stacked, inputs_kept=[])
    return list(pack(quantizer, inputs, out, chosen, missed=missed))


def held(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.iterdir())} if out.exists() else {}


def unpacked(out: Path) -> dict[str, dict[str, list[list[int]]]]:
    """key -> tensor -> the bits of its vectors, by the twin, and the container read by the library."""
    found: dict[str, dict[str, list[list[int]]]] = {}
    for path in sorted(out.glob(f"*{SUFFIX}")):
        with safe_open(path, "np") as file:
            description = json.loads(file.metadata()["lfq"])
            text, offsets = (
                file.get_tensor(description["keys"]).tobytes(),
                file.get_tensor(description["keys"] + ".offsets"),
            )
            keys = [text[a:b].decode() for a, b in pairwise(offsets)]
            assert len(keys) == description["samples"]
            for name, (entry, bits) in twin.read_codes_file(path).items():
                bounds = np.linspace(0, len(bits), len(keys) + 1).astype(int)
                if "sample_offsets" in entry:
                    bounds = file.get_tensor(entry["sample_offsets"])
                for key, a, b in zip(keys, bounds[:-1], bounds[1:], strict=True):
                    found.setdefault(key, {})[name] = bits[a:b]
    return found


def bits_of(x: Array, axis: int, quantizer: Quantizer) -> list[list[int]]:
    vectors = np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis]).astype(np.float32)
    if quantizer.has_projections:
        vectors = vectors @ quantizer.weights["project_in.weight"].T
    return (vectors > 0).astype(int).tolist()


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[Quantizer, dict[str, Array], SampleOptions]:
    """Samples of one shape or ragged, with features on any axis."""
    quantizer = draw(st.sampled_from([PLAIN, TWO, PROJECTED]))
    ragged = draw(st.booleans())
    rest = draw(st.lists(st.integers(0, 4), min_size=int(ragged), max_size=3))
    axis = draw(st.integers(0, len(rest)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    keys = draw(st.lists(st.text("abé/_- ", min_size=1, max_size=6), min_size=1, max_size=12, unique=True))
    keys = [f"k{n}" + "".join(key.split("/")) for n, key in enumerate(keys)]
    keys = [f"folder {n % 2}/{key}" if draw(st.booleans()) else key for n, key in enumerate(keys)]
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    samples = {}
    for key in keys:
        positions = [draw(st.integers(0, 5)), *rest[1:]] if ragged else rest
        shape = (*positions[:axis], quantizer.dim, *positions[axis:])
        samples[key] = rng.integers(-3, 4, shape).astype(dtype)
    return quantizer, samples, SampleOptions(layout=axis, ragged=ragged)


@settings(deadline=None, max_examples=120)
@given(
    data_sets(),
    st.sampled_from(["bits", "rows", "ints"]),
    st.integers(1, 14) | st.none(),
    st.integers(1, 400),
    st.integers(1, 5),
)
def test_packed_samples_are_the_samples(
    tmp_path_factory: pytest.TempPathFactory,
    data: tuple[Quantizer, dict[str, Array], SampleOptions],
    packing: str,
    each: int | None,
    file_bytes: int,
    batch: int,
) -> None:
    quantizer, samples, options = data
    folder = tmp_path_factory.mktemp("pack")
    save(folder / "in", samples)
    limits: dict[str, Any] = {"samples_per_file": each} if each else {"file_bytes": file_bytes}
    with patch.object(reading, "_RUN_INPUTS", batch):
        outcomes = run(quantizer, folder / "in", folder / "out", samples=options, packing=packing, **limits)
    assert {outcome.status for outcome in outcomes} == {"written"}, [str(outcome.error) for outcome in outcomes]
    assert isinstance(options.layout, int)
    expected = {key: {"data": bits_of(x, options.layout, quantizer)} for key, x in samples.items()}
    assert unpacked(folder / "out") == expected
    if each:
        counts = [outcome.samples for outcome in outcomes]
        assert counts == [each] * (len(samples) // each) + [len(samples) % each] * (len(samples) % each > 0)
    for path in (folder / "out").iterdir():
        st_numpy.load_file(path)
        with open_codes(path) as codes:
            assert codes.header.version == 2
            for name in codes:
                codes[name].check_digest()
                assert codes.bounds(name)[-1] == codes[name].info.vectors

    before = held(folder / "out")
    again = run(quantizer, folder / "in", folder / "out", samples=options, packing=packing, **limits)
    assert {outcome.status for outcome in again} == {"up to date"}
    assert held(folder / "out") == before


def grid(count: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {f"{k % 3}/{k:04}": rng.standard_normal((5, 3, 2)).astype(np.float32) for k in range(count)}


AXIS_0 = SampleOptions(layout=0)


@pytest.mark.parametrize("gone", [[], [0], [1], [2], [0, 2], [1, 2], [0, 1, 2]])
@pytest.mark.parametrize("containers", [False, True])
def test_what_is_missing_is_made_again_and_the_bytes_are_those_of_one_run(
    tmp_path: Path, gone: list[int], containers: bool
) -> None:
    if containers:
        for k in range(5):
            shard(tmp_path / "in" / f"{k}.tar", {f"{k}_{j}": x for j, x in enumerate(grid(7, k).values())})
    else:
        save(tmp_path / "in", grid(35))
    out = tmp_path / "out"
    assert len(run(PLAIN, tmp_path / "in", out, samples=AXIS_0, samples_per_file=13)) == 3
    whole = held(out)
    for number in gone:
        (out / f"{number:05}{SUFFIX}").unlink()
    outcomes = run(PLAIN, tmp_path / "in", out, samples=AXIS_0, samples_per_file=13)
    assert [o.status == "written" for o in outcomes] == [k in gone for k in range(3)]
    assert held(out) == whole


def test_several_processes_make_the_bytes_of_one(tmp_path: Path) -> None:
    save(tmp_path / "in", grid(processes.MANY_JOBS + 50))
    with use_threads(1):
        run(PLAIN, tmp_path / "in", tmp_path / "one", samples=AXIS_0, samples_per_file=100)
    with use_threads(3), patch.object(reading, "_RUN_INPUTS", 16):
        run(PLAIN, tmp_path / "in", tmp_path / "many", samples=AXIS_0, samples_per_file=100)
    assert held(tmp_path / "many") == held(tmp_path / "one")
    assert len(held(tmp_path / "one")) == 4


def shard(path: Path, samples: dict[str, Array], **members: dict[str, bytes]) -> None:
    """A tar shard with a .npy for each sample, and other members by suffix and key."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for key, x in samples.items():
            file = io.BytesIO()
            np.save(file, x)
            data = {"npy": file.getvalue()} | {suffix: of[key] for suffix, of in members.items() if key in of}
            for suffix, content in data.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))


def test_labels_and_captions_come_along(tmp_path: Path) -> None:
    samples = {f"k{n}": x for n, x in enumerate(grid(9).values())}
    labels = {key: str(n * 10).encode() for n, key in enumerate(samples)}
    captions = {key: f"a picture, no. {n} é".encode() for n, key in enumerate(samples)}
    notes = {key: json.dumps({"w": n / 4, "t": f"t{n}", "x": None}).encode() for n, key in enumerate(samples)}
    shard(tmp_path / "in" / "a.tar", samples, cls=labels, txt=captions, json=notes)
    options = replace(AXIS_0, carry=("cls", "json.w"), carry_text=("txt", "json.t"))
    (outcome,) = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=options, samples_per_file=100)
    assert outcome.error is None
    (path,) = (tmp_path / "out").iterdir()
    stored = st_numpy.load_file(path)
    assert stored["cls"].tolist() == [n * 10 for n in range(9)]
    assert stored["json.w"].tolist() == [n / 4 for n in range(9)]
    with open_codes(path) as codes:
        assert codes.keys_of_samples == list(samples)
        assert codes.texts("txt") == [text.decode() for text in captions.values()]
        assert codes.texts("json.t") == [f"t{n}" for n in range(9)]
        for name in codes.header.samples.columns:  # type: ignore[union-attr]
            codes.check_column(name)


def test_numbers_beside_a_sample_are_no_latents(tmp_path: Path) -> None:
    samples = {f"k{n}": x for n, x in enumerate(grid(3).values())}
    notes = {key: json.dumps({"score": 0.5, "label": 3}).encode() for key in samples}
    shard(tmp_path / "in" / "a.tar", samples, json=notes)
    (outcome,) = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=9)
    assert outcome.error is None
    assert unpacked(tmp_path / "out") == {key: {"data": bits_of(x, 0, PLAIN)} for key, x in samples.items()}
    asked = replace(AXIS_0, tensors=("json.score",))
    (outcome,) = run(PLAIN, tmp_path / "in", tmp_path / "out2", samples=asked, samples_per_file=9)
    assert "'json.score' is a single number" in str(outcome.error)


def test_stacked_tensors_are_samples_and_their_labels(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((10, 5, 2, 3)).astype(np.float32)
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "in" / "a.npz", latents=x, labels=np.arange(10), weights=np.ones((10, 2)))
    options = SampleOptions(tensors=("latents",), layout=0, carry=("labels",))
    run(PLAIN, tmp_path / "in", tmp_path / "out", samples=options, samples_per_file=4, stacked=True)
    found = unpacked(tmp_path / "out")
    assert found == {f"a/{k}": {"latents": bits_of(x[k], 0, PLAIN)} for k in range(10)}
    assert [st_numpy.load(data)["labels"].tolist() for data in held(tmp_path / "out").values()] == [
        [0, 1, 2, 3],
        [4, 5, 6, 7],
        [8, 9],
    ]


def messages(outcomes: list[Outcome]) -> str:
    return "\n".join(str(outcome.error.message) for outcome in outcomes if outcome.error is not None)


BAD = {
    "no array": (lambda path: path.write_text("no array"), "not a whole npy array"),
    "another shape": (lambda path: np.save(path, np.ones((5, 3, 3), np.float32)), "--ragged lets samples differ"),
    "another dtype": (lambda path: np.save(path, np.ones((5, 3, 2), np.float64)), "is F64 [5, 3, 2], of the samples"),
    "nan": (lambda path: np.save(path, np.full((5, 3, 2), np.nan, np.float32)), "holds 30 NaN, the first at [0, 0, 0]"),
    "other features": (lambda path: np.save(path, np.ones((4, 3, 2), np.float32)), "has 4 features on axis 0"),
    "cut off": (lambda path: path.write_bytes(path.read_bytes()[:-1]), "it is incomplete"),
    "integers": (lambda path: np.save(path, np.ones((5, 3, 2), np.int32)), "no float tensor to encode"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_bad_sample_is_named_and_the_rest_done(tmp_path: Path, kind: str, skip_bad: bool) -> None:
    make, message = BAD[kind]
    save(tmp_path / "in", grid(30))
    make(tmp_path / "in" / "1" / "0004.npy")
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=10, skip_bad=skip_bad)
    if skip_bad:
        assert [(o.status, o.samples, o.skipped) for o in outcomes] == [
            ("written", 10, 0),
            ("written", 9, 1),
            ("written", 10, 0),
        ]
        (text,) = outcomes[1].notes
        assert "0004" not in unpacked(tmp_path / "out")
        assert len(unpacked(tmp_path / "out")) == 29
        with open_codes(tmp_path / "out" / f"00001{SUFFIX}") as codes:
            assert codes.header.made_from is not None
            assert codes.header.made_from.skipped == 1
    else:
        assert [outcome.status for outcome in outcomes] == ["written", "failed", "written"]
        assert sorted(held(tmp_path / "out")) == [f"00000{SUFFIX}", f"00002{SUFFIX}"]
        text = messages(outcomes)
    assert "in/1/0004.npy" in text
    assert message in text


def test_a_file_of_bad_samples_alone_is_empty_and_not_there(tmp_path: Path) -> None:
    save(tmp_path / "in", grid(3))
    for path in (tmp_path / "in").rglob("*.npy"):
        path.write_text("no array")
    (outcome,) = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=9, skip_bad=True)
    assert (outcome.status, outcome.samples, outcome.skipped, len(outcome.notes)) == ("empty", 0, 3, 3)
    assert held(tmp_path / "out") == {}


@pytest.mark.parametrize("key", ["a\nb", "a\x1b[31mb", "tab\tb"])
def test_keys_that_a_terminal_would_obey_are_refused(tmp_path: Path, key: str) -> None:
    save(tmp_path / "in", {"good": np.ones((5, 1, 1), np.float32), key: np.ones((5, 1, 1), np.float32)})
    (outcome,) = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=10)
    assert "control characters" in str(outcome.error)
    assert held(tmp_path / "out") == {}


def test_two_samples_of_one_key(tmp_path: Path) -> None:
    x = np.ones((5, 1, 1), np.float32)
    shard(tmp_path / "in" / "a.tar", {"k1": x, "k2": x})
    shard(tmp_path / "in" / "b.tar", {"k3": x, "k1": x})
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=2)
    assert [outcome.status for outcome in outcomes] == ["written", "failed"]
    assert "b.tar: 'k1': a sample with the same key came before" in messages(outcomes)
    save(tmp_path / "two", {"a": x})
    np.savez(tmp_path / "two" / "a.npz", x)
    with pytest.raises(OptionError, match="would both have the key 'a'"):
        run(PLAIN, tmp_path / "two", tmp_path / "out2", samples=AXIS_0, samples_per_file=2)


def test_append_adds_what_is_new_and_changes_nothing(tmp_path: Path) -> None:
    everything = grid(50)
    first = dict(list(everything.items())[:20])
    save(tmp_path / "in", first)
    run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=15)
    before = held(tmp_path / "out")
    save(tmp_path / "in", everything)
    refused = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=15)
    assert refused[-1].status == "refused"
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=15, append=True)
    assert [(o.status, o.samples) for o in outcomes] == [("written", 15), ("written", 15)]
    after = held(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert unpacked(tmp_path / "out") == {key: {"data": bits_of(x, 0, PLAIN)} for key, x in everything.items()}
    assert run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=15, append=True) == []


def test_append_takes_of_shards_what_is_in_no_file_yet(tmp_path: Path) -> None:
    everything = {f"k{n:02}": x for n, x in enumerate(grid(30).values())}
    some = dict(list(everything.items())[:13])
    options: dict[str, Any] = {"samples": AXIS_0, "samples_per_file": 6, "append": True}
    shard(tmp_path / "in" / "a.tar", some)
    run(PLAIN, tmp_path / "in", tmp_path / "out", **options)
    before = held(tmp_path / "out")
    shard(tmp_path / "in" / "a.tar", everything)
    shard(tmp_path / "in" / "b.tar", {"other": next(iter(everything.values()))})
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", **options)
    assert [(o.status, o.samples) for o in outcomes] == [("written", 6), ("written", 6), ("written", 6)]
    after = held(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert unpacked(tmp_path / "out").keys() == everything.keys() | {"other"}
    assert run(PLAIN, tmp_path / "in", tmp_path / "out", **options) == []
    (tmp_path / "out" / f"00005{SUFFIX}").unlink()  # as if that run had been killed before its last file
    run(PLAIN, tmp_path / "in", tmp_path / "out", **options)
    assert held(tmp_path / "out").keys() == after.keys()
    assert unpacked(tmp_path / "out").keys() == everything.keys() | {"other"}


def test_append_to_what_was_merged_and_with_another_number_of_samples(tmp_path: Path) -> None:
    everything = grid(20)
    save(tmp_path / "in", dict(list(everything.items())[:9]))
    run(PLAIN, tmp_path / "in", tmp_path / "parts", samples=AXIS_0, samples_per_file=4)
    paths, outputs = name_codes([str(tmp_path / "parts")], tmp_path / "out", Limits(samples=7))
    assert [outcome.error for outcome in merge(paths, outputs, MergeOptions(limits=Limits(samples=7)))] == [None, None]
    save(tmp_path / "in", everything)
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=50, append=True)
    assert [(o.status, o.samples) for o in outcomes] == [("written", 11)]
    assert unpacked(tmp_path / "out") == {key: {"data": bits_of(x, 0, PLAIN)} for key, x in everything.items()}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples_per_file": 11}, "other options"),
        ({"packing": "rows"}, "--packing"),
        ({"samples": replace(AXIS_0, zero_nan=True)}, "--nan"),
        ({"samples": replace(AXIS_0, ragged=True)}, "other options"),
    ],
)
def test_files_of_other_options_are_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    save(tmp_path / "in", grid(20))
    options: dict[str, Any] = {"samples": AXIS_0, "samples_per_file": 10}
    run(PLAIN, tmp_path / "in", tmp_path / "out", **options)
    before = held(tmp_path / "out")
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", **(options | change))
    assert [outcome.status for outcome in outcomes] == ["refused"]
    assert message in messages(outcomes)
    assert held(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["content", "name", "one more", "one fewer"])
def test_other_inputs_are_seen(tmp_path: Path, change: str) -> None:
    save(tmp_path / "in", grid(20))
    run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=10)
    path = tmp_path / "in" / "2" / "0017.npy"
    if change == "content":
        x = np.load(path)
        x[-1, -1, -1] *= -1
        np.save(path, x)
        os.utime(path, (0, 0))
    elif change == "name":
        path.rename(path.with_name("0018.npy"))
    elif change == "one more":
        np.save(tmp_path / "in" / "2" / "0016.npy", np.load(path))
    else:
        path.unlink()
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=10)
    assert [outcome.status for outcome in outcomes] == ["up to date", "refused"]


def test_codes_wait_on_the_disk_where_memory_should_not_hold_them(tmp_path: Path) -> None:
    save(tmp_path / "in", grid(40))
    run(PLAIN, tmp_path / "in", tmp_path / "memory", samples=AXIS_0, samples_per_file=40)
    with patch("lfq_cli.codesfile.builder._IN_MEMORY_BYTES", 10):
        run(PLAIN, tmp_path / "in", tmp_path / "disk", samples=AXIS_0, samples_per_file=40)
    assert held(tmp_path / "disk") == held(tmp_path / "memory")


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    save(tmp_path / "in", grid(20))
    outcomes = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, samples_per_file=15, dry_run=True)
    assert [(o.status, o.samples) for o in outcomes] == [("planned", 15), ("planned", 5)]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("packing", ["bits", "rows", "ints"])
def test_the_size_of_a_file_is_kept_to(tmp_path: Path, packing: str) -> None:
    save(tmp_path / "in", {f"{k:03}": np.ones((5, 40, 40), np.float32) for k in range(40)})
    run(PLAIN, tmp_path / "in", tmp_path / "out", samples=AXIS_0, file_bytes=10_000, packing=packing)
    sizes = [len(content) for content in held(tmp_path / "out").values()]
    assert len(sizes) == (5 if packing == "bits" else 7)
    assert all(9_000 < size < 12_000 for size in sizes[:-1])


@given(st.lists(st.lists(st.text(max_size=2), max_size=9), max_size=20))
def test_a_set_of_keys_is_a_set(batches: list[list[str]]) -> None:
    keys, seen = KeySet(), set[str]()
    for batch in batches:
        expected = []
        for key in batch:
            expected.append(key in seen)
            seen.add(key)
        assert keys.add(batch) == expected


def test_ragged_samples_of_as_many_vectors_as_features(tmp_path: Path) -> None:
    """A sample [5, 5] of 5 features alone leaves its axis open; beside [n, 5] nothing about it is."""
    save(tmp_path / "in", {f"k{n}": np.random.default_rng(n).standard_normal((n, 5)) for n in (3, 5, 7)})
    (outcome,) = run(PLAIN, tmp_path / "in", tmp_path / "out", samples=SampleOptions(ragged=True), samples_per_file=9)
    assert outcome.error is None
    assert outcome.assumptions == []
