"""`lfq encode --part-rows` and `lfq merge` of parts: together they are what one run makes, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from lfq_cli import native
from lfq_cli.codesfile import PartRows, create, open_codes
from lfq_cli.container import header_bytes
from lfq_cli.errors import CodesFileError
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.merge import MergeOptions
from lfq_cli.jobs.merge_parts import merge_parts
from lfq_cli.jobs.parts import cut_jobs, part_path, whole_path
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

Lfq = Callable[..., tuple[int, str, str]]
DIM = 3
QUANTIZERS = (
    Quantizer(dim=DIM, codebook_dim=DIM),
    Quantizer(dim=DIM, codebook_dim=1, num_codebooks=3),
)
DTYPES = {
    "F16": np.dtype(np.float16),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "BF16": np.dtype("<u2"),
}


@st.composite
def tensors(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int]:
    """(dtype, shape, channel axis), features never on axis 0."""
    rank = draw(st.integers(2, 4))
    axis = draw(st.integers(1, rank - 1))
    sizes = draw(st.lists(st.integers(0, 5), min_size=rank, max_size=rank))
    sizes[0] = draw(st.integers(0, 40))
    sizes[axis] = DIM
    return draw(st.sampled_from(sorted(DTYPES))), tuple(sizes), axis


def write_safetensors(path: Path, named: dict[str, tuple[str, NDArray[Any]]]) -> None:
    """Any dtype, BF16 among them, which numpy's own writer lacks."""
    described = {name: (dtype, array.shape) for name, (dtype, array) in named.items()}
    path.write_bytes(header_bytes({}, described) + b"".join(array.tobytes() for _, array in named.values()))


def values(random: np.random.Generator, dtype: str, shape: tuple[int, ...], *, nan: bool) -> NDArray[Any]:
    wide = random.standard_normal(shape).astype(np.float32)
    if nan:
        wide[random.random(shape) < 0.2] = np.nan
    if dtype == "BF16":
        return (wide.view(np.uint32) >> 16).astype("<u2").reshape(shape)
    return wide.astype(DTYPES[dtype])


def run_encode(quantizer: Quantizer, jobs: list[Job], options: EncodeOptions) -> None:
    for outcome in encode(quantizer, jobs, options):
        assert outcome.error is None, outcome.error
        assert outcome.status == "written"


@settings(max_examples=120)
@given(st.data())
def test_merged_parts_are_the_whole(data: st.DataObject) -> None:
    axis_of: dict[str, int] = {}
    named: dict[str, tuple[str, NDArray[Any]]] = {}
    random = np.random.default_rng(data.draw(st.integers(0, 9)))
    nan = data.draw(st.booleans())
    found = data.draw(st.lists(tensors(), min_size=1, max_size=3))
    axis = found[0][2]
    for k, (dtype, shape, own_axis) in enumerate(found):
        if own_axis == axis:  # one axis for all of a run
            named[f"t{k}"] = dtype, values(random, dtype, shape, nan=nan)
            axis_of[f"t{k}"] = axis
    rows = data.draw(st.integers(1, 45))
    packing = data.draw(st.sampled_from(["bits", "rows", "ints"]))
    quantizer = data.draw(st.sampled_from(QUANTIZERS))
    options = EncodeOptions(packing, layout=axis, zero_nan=True, durable=False, part_rows=rows)
    with TemporaryDirectory() as name:
        folder = Path(name)
        source, once = folder / "x.safetensors", folder / "once" / "x.codes.safetensors"
        write_safetensors(source, named)
        run_encode(quantizer, [Job(source, once)], replace(options, part_rows=None))
        jobs = cut_jobs([Job(source, folder / "parts" / "x.codes.safetensors")], quantizer, rows, layout=axis)
        assert len(jobs) == max(1, *(-(-array.shape[0] // rows) for _, array in named.values()))
        assert sum(job.nbytes or 0 for job in jobs) == sum(array.nbytes for _, array in named.values())
        run_encode(quantizer, data.draw(st.permutations(jobs)), options)
        for number, job in enumerate(jobs):
            check_part(job.output, once, {name: array.shape for name, (_, array) in named.items()}, number, rows)
        output = folder / "whole.codes.safetensors"
        shuffled = data.draw(st.permutations([Job(job.output, output) for job in jobs]))
        (outcome,) = merge_parts(shuffled, MergeOptions(durable=False))
        assert outcome.error is None, outcome.error
        assert output.read_bytes() == once.read_bytes()
        with safe_open(output, "np"):
            pass


def check_part(path: Path, whole: Path, shapes: dict[str, tuple[int, ...]], number: int, rows: int) -> None:
    """A part holds the indices of its rows of every tensor that has them, and says which they are."""
    with open_codes(path) as part, open_codes(whole) as codes:
        assert set(part) == {name for name, shape in shapes.items() if number == 0 or number * rows < shape[0]}
        for name, indices in part.items():
            of = shapes[name][0]
            first, last = min(number * rows, of), min((number + 1) * rows, of)
            assert indices.info.part == PartRows(first, last, of)
            assert indices[...].tolist() == codes[name][first:last].tolist()


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """in/a.npy of 23 rows, in/deep/b.safetensors of two tensors and labels."""
    monkeypatch.chdir(tmp_path)
    native.write(Quantizer(dim=5, codebook_dim=5), Path("c.safetensors"))
    random = np.random.default_rng(0)
    Path("in/deep").mkdir(parents=True)
    np.save("in/a.npy", random.standard_normal((23, 3, 5)).astype(np.float32))
    save_file(
        {
            "x": random.standard_normal((10, 5)).astype(np.float32),
            "y": random.standard_normal((4, 5, 7, 1)).astype(np.float16),
            "labels": np.arange(3),
        },
        "in/deep/b.safetensors",
    )


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


ENCODE = ("encode", "c.safetensors", "in", "--part-rows", "4")
PARTS = {*(f"a.{k:05}.codes.safetensors" for k in range(6)), *(f"deep/b.{k:05}.codes.safetensors" for k in range(3))}


@pytest.mark.usefixtures("tree")
def test_a_tree_in_parts_and_back(lfq: Lfq) -> None:
    assert lfq(*ENCODE, "-o", "parts", "--stats", "parts-counts.safetensors")[0] == 0
    assert set(contents("parts")) == PARTS
    assert lfq("encode", "c.safetensors", "in", "-o", "once", "--stats", "once-counts.safetensors")[0] == 0
    assert lfq("merge", "parts", "-o", "whole")[0] == 0
    assert contents("whole") == contents("once")
    assert lfq("merge", "parts/deep", "-o", "b.codes.safetensors")[0] == 0
    assert Path("b.codes.safetensors").read_bytes() == contents("once")["deep/b.codes.safetensors"]
    out = lfq("merge", "parts", "-o", "whole", "--json")[1]
    assert {each["status"] for each in json.loads(out)["outputs"]} == {"up to date"}
    counts = [json.loads(lfq("stats", f"{each}-counts.safetensors", "--json")[1]) for each in ("parts", "once")]
    assert counts[0]["overall"] == counts[1]["overall"]


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("count", [2, 5, 20])
def test_ranks_share_one_file(lfq: Lfq, count: int) -> None:
    assert lfq(*ENCODE, "-o", "alone")[0] == 0
    written = []
    for index in [*range(count), count // 2]:  # one of them twice
        code, out, err = lfq(*ENCODE, "-o", "parts", "--shard", f"{index}/{count}", "--json")
        assert code == 0, err
        written.append(sum(each["status"] == "written" for each in json.loads(out)["outputs"]))
    assert contents("parts") == contents("alone")
    assert sum(written) == len(PARTS)
    assert written[-1] == 0
    if count == 2:
        assert min(written[:2]) > 0


@pytest.mark.usefixtures("tree")
def test_what_is_there_is_up_to_date_and_status_counts_parts(lfq: Lfq) -> None:
    code, out, _ = lfq(*ENCODE, "-o", "parts", "--dry-run", "--json")
    assert {each["output"] for each in json.loads(out)["outputs"]} == {f"parts/{name}" for name in PARTS}
    assert [each["part"] for each in json.loads(out)["outputs"]] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    assert lfq(*ENCODE, "-o", "parts", "--status")[0] == 0
    Path("parts/a.00003.codes.safetensors").unlink()
    code, out, _ = lfq(*ENCODE, "-o", "parts", "--status", "--json")
    assert code == 5
    report = json.loads(out)
    assert report["missing"] == {"files": 1, "bytes": 4 * 3 * 5 * 4}
    assert report["current"]["bytes"] == (23 - 4) * 60 + 10 * 20 + 4 * 35 * 2
    code, out, _ = lfq(*ENCODE, "-o", "parts", "--json")
    statuses = [each["status"] for each in json.loads(out)["outputs"]]
    assert statuses.count("written") == 1
    assert statuses.count("up to date") == 8


@pytest.mark.usefixtures("tree")
def test_parts_of_another_cut_are_not_mixed(lfq: Lfq) -> None:
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    code, _, err = lfq("encode", "c.safetensors", "in/a.npy", "-o", "parts", "--part-rows", "3")
    assert code == 3
    assert "'data' holds rows 0 to 4 of 23, this run would write rows 0 to 3 of 23" in err
    code, _, err = lfq("encode", "c.safetensors", "in/a.npy", "-o", "parts", "--part-rows", "8", "--overwrite")
    assert code == 1
    assert "parts/a.00003.codes.safetensors: exists, although in/a.npy has only 3 parts" in err
    assert lfq("encode", "c.safetensors", "in/a.npy", "-o", "other", "--part-rows", "8")[0] == 0
    Path("parts/a.00001.codes.safetensors").write_bytes(Path("other/a.00001.codes.safetensors").read_bytes())
    code, _, err = lfq("merge", "parts", "-o", "whole")
    assert code == 3
    assert "no part has rows 4 to 8 of the 23 of 'data'" in err
    assert set(contents("whole")) == {"deep/b.codes.safetensors"}


@pytest.mark.usefixtures("tree")
def test_what_is_not_one_whole_is_refused(lfq: Lfq) -> None:
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    part = Path("parts/a.00002.codes.safetensors")
    good = part.read_bytes()

    def refusal() -> str:
        code, _, err = lfq("merge", "parts/a.*", "-o", "whole.codes.safetensors")
        assert code == 1
        assert not Path("whole.codes.safetensors").exists()
        return err

    part.unlink()
    assert "no part has rows 8 to 12 of the 23 of 'data'" in refusal()
    part.write_bytes(good)
    Path("parts/a.00005.codes.safetensors").rename("last")
    assert "no part has rows 20 to 23 of the 23 of 'data'" in refusal()
    Path("last").rename("parts/a.00005.codes.safetensors")
    Path("parts/a.99999.codes.safetensors").write_bytes(good)
    assert "both hold row 8 of 'data'" in refusal()
    Path("parts/a.99999.codes.safetensors").unlink()

    part.write_bytes(good[:-1] + bytes([good[-1] ^ 0x80]))
    assert "have another sha256 than the header says" in refusal()
    part.write_bytes(Path("parts/deep/b.00001.codes.safetensors").read_bytes())
    assert "the size of its source is" in refusal()
    for options, what in ((["--nan", "zero"], "--nan is"), (["--packing", "rows"], "packing of 'data' is")):
        assert lfq(*ENCODE, "-o", "other", "--overwrite", *options)[0] == 0
        part.write_bytes(Path("other/a.00002.codes.safetensors").read_bytes())
        assert what in refusal()
    array = np.load("in/a.npy")
    np.save("in/a.npy", array * 2)
    assert lfq(*ENCODE, "-o", "other", "--overwrite")[0] == 0
    part.write_bytes(Path("other/a.00002.codes.safetensors").read_bytes())
    assert "the fingerprint of its source is" in refusal()
    assert lfq("encode", "c.safetensors", "in/a.npy", "-o", "other.codes.safetensors")[0] == 0
    part.write_bytes(Path("other.codes.safetensors").read_bytes())
    assert "holds no part of a tensor, but others do" in refusal()
    native.write(Quantizer(dim=5, codebook_dim=5, codebook_scale=2.0), Path("c.safetensors"), overwrite=True)
    np.save("in/a.npy", array)
    assert lfq(*ENCODE, "-o", "other", "--overwrite")[0] == 0
    part.write_bytes(Path("other/a.00002.codes.safetensors").read_bytes())
    assert "checkpoint_sha256 is" in refusal()


@pytest.mark.usefixtures("tree")
def test_an_output_that_is_something_else_stays(lfq: Lfq) -> None:
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    assert lfq("encode", "c.safetensors", "in/deep/b.safetensors", "-o", "w.codes.safetensors")[0] == 0
    before = Path("w.codes.safetensors").read_bytes()
    code, _, err = lfq("merge", "parts/a.*", "-o", "w.codes.safetensors")
    assert code == 1
    assert "is not what these parts make" in err
    assert Path("w.codes.safetensors").read_bytes() == before
    assert lfq("merge", "parts/a.*", "-o", "w.codes.safetensors", "--overwrite")[0] == 0
    code, _, err = lfq("merge", "parts/a.*", "-o", "parts/a.00000.codes.safetensors", "--overwrite")
    assert code == 2
    assert "is an input of this command" in err


@pytest.mark.usefixtures("tree")
def test_decode_inspect_and_verify_of_parts(lfq: Lfq) -> None:
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    assert lfq("encode", "c.safetensors", "in", "-o", "once")[0] == 0
    assert lfq("decode", "c.safetensors", "parts", "-o", "back")[0] == 0
    assert lfq("decode", "c.safetensors", "once", "-o", "whole")[0] == 0
    joined = [load_file(f"back/a.{k:05}.safetensors")["data"] for k in range(6)]
    assert np.array_equal(np.concatenate(joined), load_file("whole/a.safetensors")["data"])
    assert np.array_equal(load_file("back/deep/b.00000.safetensors")["y"], load_file("whole/deep/b.safetensors")["y"])

    assert "rows 20 to 23 of 23" in lfq("inspect", "parts/a.00005.codes.safetensors")[1]
    report = json.loads(lfq("inspect", "parts/a.00005.codes.safetensors", "--json")[1])["paths"][0]
    assert report["tensors"]["data"]["part"] == {"rows": [20, 23], "of": 23}
    assert report["version"] == 2

    verify = ("verify", "parts", "--checkpoint", "c.safetensors", "--source", "in", "--json")
    code, out, err = lfq(*verify)
    assert code == 0, err
    assert [each["status"] for each in json.loads(out)["files"]] == ["same"] * 9
    alone = ("verify", "parts/a.00003.codes.safetensors", "--checkpoint", "c.safetensors", "--source", "in/a.npy")
    assert lfq(*alone)[0] == 0
    array = np.load("in/a.npy")
    array[13, 1, 2] *= -1  # a row of part 3
    np.save("in/a.npy", array)
    code, out, _ = lfq(*verify)
    assert code == 4
    assert [each["status"] for each in json.loads(out)["files"]] == ["same"] * 3 + ["different"] + ["same"] * 5
    assert lfq(*alone)[0] == 4
    Path("parts/a.00001.codes.safetensors").unlink()
    assert "no part has rows 4 to 8 of the 23 of 'data'" in lfq(*verify)[1]
    np.save("in/a.npy", array[:20])
    assert "the codes were made from F32 [23, 3, 5]" in lfq(*verify)[1]


@pytest.mark.usefixtures("tree")
def test_what_cannot_be_cut_is_refused_and_the_rest_done(lfq: Lfq) -> None:
    np.save("in/vector.npy", np.ones(5, np.float32))
    np.save("in/nothing.npy", np.zeros((0, 5), np.float32))
    np.save("in/labels.npy", np.arange(4))
    code, _, err = lfq(*ENCODE, "-o", "parts")
    assert code == 3
    assert "in/vector.npy: 'data' has its features on axis 0 (shape 5), along which --part-rows would cut" in err
    assert "in/labels.npy: no float tensor to encode" in err
    assert set(contents("parts")) == PARTS | {"nothing.00000.codes.safetensors"}
    assert lfq("merge", "parts/nothing*", "-o", "n.codes.safetensors")[0] == 0
    assert lfq("encode", "c.safetensors", "in/nothing.npy", "-o", "once.codes.safetensors")[0] == 0
    assert Path("n.codes.safetensors").read_bytes() == Path("once.codes.safetensors").read_bytes()

    np.save("first.npy", np.ones((5, 9), np.float32))
    code, _, err = lfq("encode", "c.safetensors", "first.npy", "--channel-axis", "0", "-o", "x", "--part-rows", "2")
    assert code == 1
    assert "features on axis 0 (shape 5×9)" in err
    for options in (["--samples-per-file", "2"], ["--file-size", "1MB"], ["--stacked"]):
        code, _, err = lfq(*ENCODE, "-o", "x", *options)
        assert code == 2
        assert "--part-rows cuts tensors, not samples" in err
    code, _, err = lfq("split", "parts", "-o", "x", "--samples-per-file", "2")
    assert code == 2
    assert "parts of a file hold no samples" in err


@pytest.mark.usefixtures("tree")
def test_nan_is_named_by_its_row_in_the_whole(lfq: Lfq) -> None:
    array = np.load("in/a.npy")
    array[13, 1, 2] = array[22, 0, 0] = np.nan
    for save in (np.save, lambda path, x: np.savez_compressed(path.replace("npy", "npz"), data=x)):
        for old in Path("in").glob("a.*"):
            old.unlink()
        save("in/a.npy", array)
        code, _, err = lfq(*ENCODE, "-o", "parts", "--overwrite")
        assert code == 3
        assert "holds 1 NaN, the first at [13, 1, 2]" in err
        assert "holds 1 NaN, the first at [22, 0, 0]" in err
        assert lfq(*ENCODE, "-o", "zeroed", "--nan", "zero", "--overwrite")[0] == 0
        with open_codes("zeroed/a.00003.codes.safetensors") as codes:
            assert codes.header.made_from is not None
            assert codes.header.made_from.zeroed == 1


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.usefixtures("tree")
def test_archives_in_parts(lfq: Lfq, save: Callable[..., None]) -> None:
    """Compressed members are read from their beginning: what lies before a part is read in vain."""
    array = np.load("in/a.npy")
    Path("in/a.npy").unlink()
    save("in/a.npz", one=array, two=np.asfortranarray(-array[:9]))
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    assert lfq("encode", "c.safetensors", "in", "-o", "once")[0] == 0
    assert lfq("merge", "parts", "-o", "whole")[0] == 0
    assert contents("whole") == contents("once")


def test_numbers_in_names() -> None:
    for name in ("a", "a.b", "a.00001", "x.12345.codes", "ä\n"):
        output = Path("out", f"{name}.codes.safetensors")
        for number in (0, 7, 99_999, 100_000, 1_234_567):
            assert whole_path(part_path(output, number)) == output
    assert part_path(Path("one.safetensors"), 3) == Path("one.00003.codes.safetensors")
    assert whole_path(Path("a.codes.safetensors")) is None
    assert whole_path(Path("a.001.codes.safetensors")) is None


# headers that lie

P = ("tensors", "data", "part")
LIES: dict[str, tuple[tuple[str, ...], Any]] = {
    "no object": (P, [0, 4]),
    "null": (P, None),
    "no rows": ((*P, "rows"), KeyError),
    "an unknown key": ((*P, "more"), 1),
    "one row": ((*P, "rows"), [4]),
    "rows that are text": ((*P, "rows"), ["4", "8"]),
    "rows that are bools": ((*P, "rows"), [False, True]),
    "negative rows": ((*P, "rows"), [-4, 0]),
    "rows backwards": ((*P, "rows"), [8, 4]),
    "no rows of many": ((*P, "rows"), [4, 4]),
    "more rows than it has": ((*P, "rows"), [4, 9]),
    "fewer rows than it has": ((*P, "rows"), [4, 7]),
    "rows behind the end": ((*P, "of"), 7),
    "a whole that no memory holds": ((*P, "of"), 2**60),
    "a number of rows that is a float": ((*P, "of"), 23.0),
    "no source": (("made_from",), KeyError),
    "features on the axis that is cut": (("tensors", "data", "source", "channel_axis"), 0),
}


def write_lie(path: Path, where: tuple[str, ...], value: Any) -> None:
    import hashlib

    from lfq_cli.quantizer import canonical_json

    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    head, data = json.loads(content[8 : 8 + length]), content[8 + length :]
    lfq = json.loads(head.pop("__metadata__")["lfq"])
    place = lfq
    for key in where[:-1]:
        place = place[key]
    if value is KeyError:
        del place[where[-1]]
    else:
        place[where[-1]] = value
    del lfq["header_sha256"]
    lfq["header_sha256"] = hashlib.sha256(canonical_json(lfq)).hexdigest()
    described = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in head.items()}
    path.write_bytes(header_bytes({"lfq": json.dumps(lfq)}, described) + data)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("lie", LIES)
def test_a_reader_believes_no_part(lfq: Lfq, lie: str) -> None:
    assert lfq("encode", "c.safetensors", "in/a.npy", "-o", "parts", "--part-rows", "4")[0] == 0
    path = Path("parts/a.00001.codes.safetensors")
    write_lie(path, ("compute_dtype",), "float32")
    with open_codes(path) as codes:  # what is written here is a good file, but for the lie
        assert codes["data"].info.part == PartRows(4, 8, 23)
    write_lie(path, *LIES[lie])
    with pytest.raises(CodesFileError, match="not a valid codes file"):
        open_codes(path)


@pytest.mark.usefixtures("tree")
def test_a_part_beside_a_whole_tensor_is_refused(lfq: Lfq) -> None:
    assert lfq(*ENCODE, "-o", "parts")[0] == 0
    path = Path("parts/deep/b.00000.codes.safetensors")
    write_lie(path, ("tensors", "y", "part"), KeyError)
    with pytest.raises(CodesFileError, match="some of its tensors are parts"):
        open_codes(path)


def test_rows_of_files_are_read_alone(tmp_path: Path) -> None:
    """A part reads its rows and the fingerprint, not the whole file."""
    array = np.random.default_rng(0).standard_normal((4096, 256, DIM)).astype(np.float32)
    np.save(tmp_path / "x.npy", array)
    jobs = cut_jobs([Job(tmp_path / "x.npy", tmp_path / "x.codes.safetensors")], QUANTIZERS[0], 64)
    assert len(jobs) == 64
    before = bytes_read()
    run_encode(QUANTIZERS[0], jobs[20:21], EncodeOptions(part_rows=64, durable=False))
    assert bytes_read() - before < prod(array.shape[1:]) * 64 * 4 + (2 << 20)


def bytes_read() -> int:
    counters = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return int(counters["rchar"])


@pytest.mark.slow
def test_merging_takes_constant_memory(tmp_path: Path) -> None:
    """Parts of 96 MB of codes, read and written in runs."""
    import tracemalloc

    quantizer = Quantizer(dim=13, codebook_dim=13)
    jobs = []
    zeros = np.zeros(1 << 20, np.uint8)
    (one,) = cut_jobs_of_zeros(tmp_path, quantizer)
    with open_codes(one) as codes:
        like = codes.header.without_digests(keep_origin=True)
    (info,) = like.tensors.values()
    rows = 20_000_003
    for k in range(3):
        part = replace(
            info,
            shape=(rows,),
            source=replace(info.source, shape=(rows, 13)),
            part=PartRows(k * rows, (k + 1) * rows, 3 * rows),
        )
        path = tmp_path / f"x.{k:05}.codes.safetensors"
        with create(path, replace(like, tensors={"data": part}), durable=False) as writer, writer.tensor("data") as out:
            left = part.stored_bytes
            while left:
                out.append(zeros[: min(left, len(zeros))])
                left -= min(left, len(zeros))
        jobs.append(Job(path, tmp_path / "whole.codes.safetensors"))
    tracemalloc.start()
    (outcome,) = merge_parts(jobs, MergeOptions(durable=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert outcome.error is None, outcome.error
    assert outcome.bytes_out == -(-3 * rows * 13 // 8)
    assert peak < 16 << 20


def cut_jobs_of_zeros(folder: Path, quantizer: Quantizer) -> list[Path]:
    np.save(folder / "zeros.npy", np.zeros((2, 13), np.float32))
    jobs = cut_jobs([Job(folder / "zeros.npy", folder / "zeros.codes.safetensors")], quantizer, 2)
    run_encode(quantizer, jobs, EncodeOptions(part_rows=2, durable=False))
    return [job.output for job in jobs]
