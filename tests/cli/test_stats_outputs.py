"""What `lfq stats` and `lfq encode --stats` write: never half, never over something else, all of it or an error."""

import json
import time

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.codesfile import CodesHeader, CodesTensor, SourceInfo, create
from lfq_cli.quantizer import Quantizer


@pytest.fixture
def tree(tmp_path, lfq):
    """A checkpoint, three inputs in `in`, their codes in `codes`."""
    native.write(Quantizer(dim=10, codebook_dim=10), tmp_path / "c.safetensors")
    (tmp_path / "in").mkdir()
    for k in range(3):
        x = np.random.default_rng(k).standard_normal((200 + k, 10)).astype(np.float32)
        np.save(tmp_path / "in" / f"{k}.npy", x)
    assert lfq("encode", "c.safetensors", "in", "-o", "codes", "-q")[0] == 0
    return tmp_path


def overall(lfq, *arguments):
    code, out, err = lfq("stats", *arguments, "--json")
    assert code == 0, err
    report = json.loads(out)["overall"]
    return {key: report[key] for key in ("codebooks", "joint")}


def test_encode_saves_the_counts_of_its_codes(tree, lfq):
    code, _, err = lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors")
    assert code == 0, err
    assert overall(lfq, "k.safetensors") == overall(lfq, "codes")


def test_a_run_that_goes_on_counts_what_was_there(tree, lfq):
    """Two of three were encoded before; then all again, with nothing left to do."""
    assert lfq("encode", "c.safetensors", "in/0.npy", "in/2.npy", "-o", "out")[0] == 0
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors")[0] == 0
    whole = overall(lfq, "codes")
    assert overall(lfq, "k.safetensors") == whole
    code, _, err = lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors")
    assert (code, "3 up to date" in err) == (0, True)
    assert overall(lfq, "k.safetensors") == whole


def test_encode_refuses_the_name_before_any_work(tree, lfq):
    (tree / "k.safetensors").write_bytes(b"mine")
    for name, said in (("k.safetensors", "exists"), ("k.txt", "ends in .safetensors"), ("c.safetensors", "exists")):
        code, _, err = lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", name)
        assert code in (1, 2)
        assert said in err
    assert not (tree / "out").exists()
    assert (tree / "k.safetensors").read_bytes() == b"mine"


def test_other_counts_are_refused_when_all_codes_are_there(tree, lfq):
    assert lfq("stats", "codes/0.codes.safetensors", "--save", "k.safetensors")[0] == 0
    before = (tree / "k.safetensors").read_bytes()
    code, _, err = lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors")
    assert code == 1
    assert "k.safetensors: exists" in err
    assert len(list((tree / "out").iterdir())) == 3
    assert (tree / "k.safetensors").read_bytes() == before
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors", "--overwrite")[0] == 0
    assert overall(lfq, "k.safetensors") == overall(lfq, "codes")


def test_counts_of_a_part_are_not_saved(tree, lfq):
    (tree / "in" / "1.npy").write_bytes(b"no array")
    code, _, err = lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors")
    assert (code, "1.npy" in err) == (3, True)
    assert "k.safetensors: not saved: the codes of 1 of the outputs are missing" in err
    assert not (tree / "k.safetensors").exists()
    np.save(tree / "in" / "1.npy", np.ones((5, 10), np.float32))
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors")[0] == 0
    assert overall(lfq, "k.safetensors") == overall(lfq, "out")


def test_a_dry_run_saves_nothing(tree, lfq):
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.safetensors", "--dry-run")[0] == 0
    assert not (tree / "k.safetensors").exists()
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--stats", "k.txt", "--dry-run")[0] == 2


def test_counts_and_codes_together(tree, lfq):
    assert lfq("stats", "codes/0.codes.safetensors", "codes/1.codes.safetensors", "--save", "k.safetensors")[0] == 0
    assert overall(lfq, "k.safetensors", "codes/2.codes.safetensors") == overall(lfq, "codes")


def test_a_folder_of_counts(tree, lfq):
    for k in range(3):
        assert lfq("stats", f"codes/{k}.codes.safetensors", "--save", f"shards/{k}.safetensors")[0] == 0
    assert overall(lfq, "shards") == overall(lfq, "codes")
    assert overall(lfq, "shards/*.safetensors") == overall(lfq, "codes")


def test_counts_are_no_input_of_encode(tree, lfq):
    assert lfq("stats", "codes", "--save", "in/k.safetensors")[0] == 0
    code, _, err = lfq("encode", "c.safetensors", "in", "-o", "codes")
    assert (code, "3 up to date" in err) == (0, True)


OUTPUTS = {"--save": "a.safetensors", "--csv": "a.csv", "--plot": "a.png", "--html": "a.html"}


@pytest.mark.parametrize("option", OUTPUTS)
def test_an_output_that_is_there_is_not_replaced(option, tree, lfq):
    path = tree / OUTPUTS[option]
    path.write_bytes(b"mine")
    code, out, err = lfq("stats", "codes", option, path)
    assert (code, out) == (1, "")
    assert "exists" in err
    assert path.read_bytes() == b"mine"
    assert lfq("stats", "codes", option, path, "--overwrite")[0] == 0
    assert path.read_bytes() != b"mine"
    assert not [name for name in tree.iterdir() if name.name.startswith(".lfq")]


@pytest.mark.parametrize("option", OUTPUTS)
def test_names_of_another_kind(option, tree, lfq):
    code, out, err = lfq("stats", "codes", option, "a.txt")
    assert (code, out) == (2, "")
    assert "a.txt" in err


def test_two_outputs_of_one_name(tree, lfq):
    code, _, err = lfq("stats", "codes", "--plot", "a.png", "--html", "a.png")
    assert (code, "twice" in err) == (2, True)


def test_an_input_is_never_replaced(tree, lfq):
    assert lfq("stats", "codes", "--save", "k.safetensors")[0] == 0
    code, _, err = lfq("stats", "k.safetensors", "--save", "k.safetensors", "--overwrite")
    assert (code, "would be replaced" in err) == (2, True)
    code, _, err = lfq("stats", "codes", "--compare", "k.safetensors", "--save", "k.safetensors", "--overwrite")
    assert (code, "would be replaced" in err) == (2, True)


def test_a_csv_of_estimates_is_refused(tmp_path, lfq):
    native.write(Quantizer(dim=40, codebook_dim=40), tmp_path / "c.safetensors")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((40_000, 40)).astype(np.float32))
    assert lfq("encode", "c.safetensors", "x.npy", "-o", "x.codes.safetensors")[0] == 0
    code, _, err = lfq("stats", "x.codes.safetensors", "--memory", "1", "--csv", "a.csv")
    assert code == 1
    assert "--memory" in err
    assert not (tmp_path / "a.csv").exists()
    assert lfq("stats", "x.codes.safetensors", "--csv", "a.csv")[0] == 0
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 1 + 40_000


def test_nothing_counted_writes_nothing(tree, lfq):
    outputs = [part for pair in OUTPUTS.items() for part in pair if part != "a.txt"]
    code, _, err = lfq("stats", "codes", "--tensor", "nobody", *outputs)
    assert code == 3
    assert "no tensor matches" in err
    assert not [path for path in tree.iterdir() if path.name.startswith("a.")]


def test_an_output_that_fails_loses_no_statistics(tree, lfq):
    (tree / "file").write_bytes(b"")
    code, out, err = lfq("stats", "codes", "--save", "file/k.safetensors")
    assert code == 1
    assert "cannot be written" in err
    assert "603 indices of 10 bits" in out


def test_comparisons_say_what_was_written(tree, lfq):
    code, _, err = lfq("stats", "codes", "--compare", "codes", "--csv", "a.csv")
    assert (code, "without --compare" in err) == (0, True)


def test_inspect_tells_counts(tree, lfq):
    assert lfq("stats", "codes", "--save", "k.safetensors")[0] == 0
    code, out, _ = lfq("inspect", "k.safetensors")
    assert code == 0
    assert "counts of codes" in out
    assert "lfq stats" in out


@pytest.mark.slow
def test_a_page_of_thousands_of_files_is_small_and_soon_there(tmp_path, lfq):
    """At most 1 MB and 10 s (of this process: other work on the machine does not count), with one set of pictures."""
    codebook = Quantizer(dim=18, codebook_dim=18)
    (tmp_path / "codes").mkdir()
    rng = np.random.default_rng(0)
    for k in range(2000):
        tensor = CodesTensor("latents", (64,), (18,), "msb", "bits", "U8", SourceInfo((64, 18), "F32", 1))
        header = CodesHeader(codebook.config(), codebook.digest, "float32", {"latents": tensor})
        path = tmp_path / "codes" / f"{k:05}.codes.safetensors"
        with create(path, header, durable=False) as writer, writer.tensor("latents") as out:
            out.append(rng.integers(0, 256, 144, dtype=np.uint8))
    begin = time.process_time()
    code, _, err = lfq("stats", "codes", "-q", "--html", "many.html")
    seconds = time.process_time() - begin
    assert code == 0, err
    assert seconds < 10
    page = (tmp_path / "many.html").read_text()
    assert len(page.encode()) < 1_000_000
    assert lfq("stats", "codes/00000.codes.safetensors", "-q", "--html", "one.html")[0] == 0
    assert page.count("<svg") <= (tmp_path / "one.html").read_text().count("<svg") + 1  # coverage, of more indices
    assert "all 2000" in page
    assert "01999.codes.safetensors: latents" in page
