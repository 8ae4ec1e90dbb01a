"""lfq_cli.data: samples, windows and batches are those of a list made by hand, in any process and any cut."""

from __future__ import annotations

import multiprocessing
import pickle
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import sample_files
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sample_files import Sample, Schema
from torch.utils.data import DataLoader

import lfq_cli
from lfq_cli.codesfile import SUFFIX
from lfq_cli.data import CodesBatches, CodesDataset, codes_of, open_codes, shelf
from lfq_cli.data.shuffle import Permutation
from lfq_cli.errors import CodesFileError, CodesUnreadableError, OptionError
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.quantizer import Quantizer

Array = NDArray[Any]
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of more workers than cores
LABEL, CAPTION = "label", "caption"


def samples_of(count: int, lengths: Any, width: int, seed: int = 0, prefix: str = "k") -> list[Sample]:
    rng = np.random.default_rng(seed)
    return [
        Sample(
            f"{prefix}/{k}é",
            {"x": rng.integers(0, 2, (lengths(rng), width)).astype(bool)},
            {LABEL: np.int32(rng.integers(9)).tobytes()},
            {CAPTION: f"c{k}"},
        )
        for k in range(count)
    ]


def write(folder: Path, samples: list[Sample], schema: Schema, sizes: list[int], **more: Any) -> None:
    folder.mkdir(exist_ok=True)
    for number, (first, last) in enumerate(pairwise(np.cumsum([0, *sizes]).tolist())):
        sample_files.write(folder / f"{number:03}{SUFFIX}", samples[first:last], schema, **more)


def cut_by_hand(bits: Array, dims: tuple[int, ...], order: str) -> Array:
    """bits [vectors, B] -> indices [vectors, len(dims)]."""
    fields = np.split(bits, np.cumsum(dims)[:-1], axis=1)
    step = -1 if order == "msb" else 1
    return np.stack([field[:, ::step] @ (1 << np.arange(field.shape[1])) for field in fields], axis=1)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_items_are_the_samples(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("data")
    ragged = data.draw(st.booleans())
    positions: tuple[int | None, ...] = (None,) if ragged else data.draw(st.sampled_from([(2, 3), (4,), (1,)]))
    length = None if ragged else int(np.prod([size or 0 for size in positions]))
    dims = data.draw(st.sampled_from([(5,), (2, 3), (8,), (1, 2)]))
    schema = Schema(
        {"x": positions},
        dims,
        bit_order=data.draw(st.sampled_from(["msb", "lsb"])),
        packing=data.draw(st.sampled_from(["bits", "rows", "ints"])),
        carried={LABEL: ("I32", ())},
        texts=(CAPTION,),
    )
    sizes = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=4))
    samples = samples_of(sum(sizes), lambda rng: length if length is not None else int(rng.integers(0, 6)), sum(dims))
    write(folder, samples, schema, sizes)
    cut = data.draw(st.sampled_from([None, (sum(dims),), (1,) * sum(dims), (1, sum(dims) - 1)]))
    order = data.draw(st.sampled_from([None, "msb", "lsb"]))
    memory = data.draw(st.booleans())
    form: Any = data.draw(st.sampled_from(["indices", "bits", "packed"]))
    dataset = CodesDataset(folder, dims=cut, order=order, memory=memory, format=form)
    assert len(dataset) == len(samples)
    assert [dataset.key(k) for k in range(len(samples))] == [each.key for each in samples]
    assert [dataset.find(each.key) for each in samples] == list(range(len(samples)))
    with pytest.raises(KeyError):
        dataset.find("nowhere")
    chosen = data.draw(st.lists(st.integers(-len(samples), len(samples) - 1), max_size=9)) if samples else []
    for number, item in zip(chosen, dataset[chosen], strict=True):
        sample = samples[number]
        assert item["key"] == sample.key
        assert item[CAPTION] == sample.texts[CAPTION]
        assert item[LABEL] == np.frombuffer(sample.carried[LABEL], np.int32)[0]
        bits = sample.bits["x"]
        shape = (len(bits),) if ragged else positions
        if form == "packed":
            expected: Array = np.packbits(bits)
        elif form == "bits":
            expected = bits.reshape(*shape, sum(dims))
        else:
            found = cut_by_hand(bits, cut or dims, order or schema.bit_order)
            expected = found.reshape(*shape, *(() if found.shape[1] == 1 else found.shape[1:]))
        assert np.array_equal(item["x"], expected)
    if not ragged and chosen:
        batch = dataset.batch(chosen)
        assert np.array_equal(batch["x"], np.stack([item["x"] for item in dataset[chosen]]))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.booleans(), st.booleans())
def test_windows_never_cross_a_sample(
    tmp_path_factory: pytest.TempPathFactory, window: int, stride: int, ragged: bool, memory: bool
) -> None:
    folder = tmp_path_factory.mktemp("windows")
    samples = samples_of(9, lambda rng: int(rng.integers(0, 9)) if ragged else 6, 3)
    write(folder, samples, _plain(3, (None,) if ragged else (2, 3)), [4, 5])
    dataset = CodesDataset(folder, window=window, stride=stride, memory=memory)
    expected = [
        (each.key, start, cut_by_hand(each.bits["x"][start : start + window], (3,), "msb")[:, 0].tolist())
        for each in samples
        for start in range(0, len(each.bits["x"]) - window + 1, stride)
    ]
    assert [(item["key"], item["start"], item["x"].tolist()) for item in dataset] == expected
    assert len(dataset) == len(expected)


def test_version_1_and_files_without_samples(tmp_path: Path) -> None:
    """Axis 0 counts samples, called by their file and row."""
    x = np.random.default_rng(0).standard_normal((7, 5, 2, 2)).astype(np.float32)
    quantizer = Quantizer(dim=5, codebook_dim=5)
    for name, part in (("a", x[:3]), ("b", x[3:])):
        np.save(tmp_path / f"{name}.npy", part)
        job = Job(tmp_path / f"{name}.npy", tmp_path / f"{name}{SUFFIX}")
        (outcome,) = encode(quantizer, [job], EncodeOptions(layout="channel-first", durable=False))
        assert outcome.error is None
    dataset = open_codes(tmp_path)
    assert isinstance(dataset, CodesDataset)
    expected = np.moveaxis(x > 0, 1, -1) @ (1 << np.arange(4, -1, -1))
    assert np.array_equal(dataset.batch(range(7))["data"], expected)
    assert [dataset.key(k) for k in (0, 2, 3)] == ["a/0", "a/2", "b/0"]
    assert [dataset.find(dataset.key(k)) for k in range(7)] == list(range(7))
    with pytest.raises(KeyError):
        dataset.find("a/3")
    golden = Path(__file__).parent / "golden" / "0.1"
    old = next(iter(sorted(golden.rglob(f"*{SUFFIX}"))))
    with lfq_cli.open_codes(old) as codes:
        name = next(iter(codes))
        assert np.array_equal(CodesDataset(old, tensors=[name]).batch([0])[name][0], codes[name][0])


def test_files_that_are_no_data_set_together_are_named(tmp_path: Path) -> None:
    schema = Schema({"x": (2,)}, (5,))
    samples = [Sample(f"{k}", {"x": np.ones((2, 5), bool)}) for k in range(2)]
    for change, what in (
        ({"schema": Schema({"x": (2,)}, (2, 3))}, "the cut and shape of 'x'"),
        ({"schema": Schema({"x": (1, 2)}, (5,))}, "the cut and shape of 'x'"),
        ({"checkpoint_sha256": "cd" * 32}, "checkpoint_sha256"),
        ({"schema": Schema({"y": (2,)}, (5,))}, "tensors"),
    ):
        sample_files.write(tmp_path / f"a{SUFFIX}", samples, schema)
        other: Any = dict(change)
        of = other.pop("schema", schema)
        renamed = [Sample(each.key, {next(iter(of.tensors)): each.bits["x"]}) for each in samples]
        sample_files.write(tmp_path / f"b{SUFFIX}", renamed, of, **other)
        with pytest.raises(CodesUnreadableError, match=what) as raised:
            CodesDataset(tmp_path)
        assert f"b{SUFFIX}" in raised.value.message
        assert f"a{SUFFIX}" in raised.value.message


def test_cuts_and_dtypes_that_do_not_fit(tmp_path: Path) -> None:
    sample_files.write(tmp_path / f"a{SUFFIX}", samples_of(2, lambda _: 2, 18), _plain(18, (2,)))
    for options, message in (
        ({"dims": (9, 8)}, "not a cut of the 18 bits"),
        ({"dtype": "int16"}, "do not fit int16"),
        ({"order": "big"}, "order 'big'"),
        ({"format": "ids"}, "format 'ids'"),
        ({"window": 0}, "window 0"),
    ):
        with pytest.raises(OptionError, match=message):
            CodesDataset(tmp_path, **options)  # type: ignore[arg-type]
    dataset = CodesDataset(tmp_path, dims=(9, 9), dtype="int16")
    assert dataset.vocabulary() == (512, 512)
    assert dataset[0]["x"].dtype == np.int16
    with pytest.raises(IndexError, match="2 is outside the 2 items"):
        dataset[2]


def _plain(width: int, positions: tuple[int | None, ...]) -> Schema:
    return Schema({"x": positions}, (width,), carried={LABEL: ("I32", ())}, texts=(CAPTION,))


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    write(tmp_path, samples_of(40, lambda _: 2, 5), _plain(5, (2,)), [1] * 40)
    with patch.object(shelf, "MOST_OPEN", 4):
        dataset = CodesDataset(tmp_path, memory=False)
        before = len(list(Path("/proc/self/fd").iterdir()))
        keys = [item["key"] for item in dataset]
        assert len(keys) == len(set(keys)) == 40
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


def test_a_file_that_changes_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, samples_of(4, lambda _: 2, 5), _plain(5, (2,)), [2, 2])
    dataset = CodesDataset(tmp_path, memory=False)
    dataset.close()
    write(tmp_path, samples_of(4, lambda _: 2, 5, seed=1), _plain(5, (2,)), [2, 2])
    with pytest.raises(CodesFileError, match="changed since it was opened"):
        dataset[0]


@pytest.mark.parametrize("how", ["in place", "replaced", "removed"])
def test_so_is_one_that_changes_while_it_is_open(tmp_path: Path, how: str) -> None:
    write(tmp_path, samples_of(4, lambda _: 2, 5), _plain(5, (2,)), [2, 2])
    dataset = CodesDataset(tmp_path, memory=False)
    assert dataset[0]["key"]
    path = dataset.files[0]
    if how == "removed":
        path.unlink()
    elif how == "replaced":
        write(tmp_path, samples_of(4, lambda _: 2, 5, seed=1), _plain(5, (2,)), [2, 2])
    else:
        with path.open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\xff")
    with pytest.raises(CodesFileError, match="changed since it was opened"):
        dataset.batch([0, 1])


def test_files_by_url_are_read_again_and_again(tmp_path: Path) -> None:
    pytest.importorskip("aiohttp", reason="aiohttp is not installed")
    samples = samples_of(4, lambda _: 2, 5)
    write(tmp_path, samples, _plain(5, (2,)), [2, 2])
    handler = partial(QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = [f"http://127.0.0.1:{server.server_port}/{k:03}{SUFFIX}" for k in range(2)]
        dataset = CodesDataset(urls, memory=False)
        for _ in range(2):
            assert [item["key"] for item in dataset[[3, 0]]] == [samples[3].key, samples[0].key]
        server.shutdown()


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


# batches


@pytest.mark.parametrize("count", [1, 2, 3, 7, 64, 1000, 4097])
def test_a_permutation_is_one_and_no_other(count: int) -> None:
    orders = [Permutation(count, seed, epoch)(np.arange(count)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    for order in orders:
        assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(orders[0], orders[3])
    if count > 7:
        assert not np.array_equal(orders[0], orders[1])
        assert not np.array_equal(orders[0], orders[2])


def test_a_permutation_shuffles() -> None:
    """No trace of the order is left: neighbours are as far apart, and places as evenly filled, as by chance."""
    count = 20_000
    order = Permutation(count, 3, 0)(np.arange(count))
    assert abs(np.corrcoef(order, np.arange(count))[0, 1]) < 0.03
    assert abs(np.corrcoef(order[1:], order[:-1])[0, 1]) < 0.03
    table = np.histogram2d(np.arange(count), order, bins=10)[0]
    assert abs(table - count / 100).max() < 6 * np.sqrt(count / 100)
    assert np.unique(Permutation(count, 3, 1)(np.arange(count)) == order).size > 0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "d", samples_of(101, lambda _: 4, 6), _plain(6, (2, 2)), [40, 1, 60])
    return tmp_path / "d"


def keys_of(batches: Any) -> list[list[str]]:
    return [list(batch["key"]) for batch in batches]


def test_ranks_share_one_list_of_batches(folder: Path) -> None:
    alone = CodesBatches(folder, 4, seed=5)
    epochs = [keys_of(alone), keys_of(alone)]
    assert epochs[0] != epochs[1]
    for keys in epochs:
        assert len(keys) == 25
        assert len({key for batch in keys for key in batch}) == 100
    for world in (2, 3, 5):
        ranks = [CodesBatches(folder, 4, seed=5, rank=rank, world_size=world) for rank in range(world)]
        for keys in epochs:
            found = [keys_of(rank) for rank in ranks]
            assert {len(each) for each in found} == {25 // world}
            together = [batch for step in zip(*found, strict=True) for batch in step]
            assert together == keys[: 25 // world * world]
    ordered = CodesBatches(folder, 4, shuffle=False)
    assert keys_of(ordered)[0] == [ordered.dataset.key(k) for k in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_every_kind_give_the_same_batches(folder: Path, method: str, persistent: bool) -> None:
    expected = CodesBatches(folder, 4, seed=5)
    epochs = [keys_of(expected) for _ in range(2)]
    loader = DataLoader(
        CodesBatches(folder, 4, seed=5, memory=persistent),
        batch_size=None,
        num_workers=2,
        multiprocessing_context=method,
        persistent_workers=persistent,
    )
    assert [keys_of(loader) for _ in range(2)] == epochs


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_a_state_goes_on_with_another_number_of_workers(folder: Path, workers: int) -> None:
    whole = CodesBatches(folder, 4, seed=5)
    epochs = [keys_of(whole) for _ in range(3)]
    first = CodesBatches(folder, 4, seed=5)
    list(first)
    running = iter(first)
    for _ in range(7):
        next(running)
    state = pickle.loads(pickle.dumps(first.state_dict()))
    assert {name: state[name] for name in ("seed", "epoch", "step")} == {"seed": 5, "epoch": 1, "step": 7}
    again = CodesBatches(folder, 4)
    again.load_state_dict(state)
    loader = DataLoader(again, batch_size=None, num_workers=workers)
    assert keys_of(loader) == epochs[1][7:]
    assert keys_of(loader) == epochs[2]
    other = CodesBatches(folder, 5)
    with pytest.raises(OptionError, match="other data"):
        other.load_state_dict(state)


def test_the_state_of_one_that_trains_behind_its_workers(folder: Path) -> None:
    batches = CodesBatches(folder, 4, seed=5)
    expected = [keys_of(CodesBatches(folder, 4, seed=5)), None]
    loader = iter(DataLoader(batches, batch_size=None, num_workers=2))
    used = [list(next(loader)["key"]) for _ in range(6)]
    state = batches.state_dict(step=6)
    assert used == expected[0][:6]  # type: ignore[index]
    again = CodesBatches(folder, 4)
    again.load_state_dict(state)
    assert keys_of(again) == expected[0][6:]  # type: ignore[index]


def test_a_plain_loader_takes_the_data_set(folder: Path) -> None:
    dataset = CodesDataset(folder, dtype="int64")
    loader = DataLoader(dataset, batch_size=10, shuffle=False, num_workers=2)
    found = [batch["x"] for batch in loader]
    assert torch.equal(torch.cat(found), torch.from_numpy(dataset.batch(range(101))["x"]))


def read_in_a_process(dataset: CodesDataset, numbers: list[int]) -> list[str]:
    return [item["key"] for item in dataset[numbers]]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_data_set_goes_to_processes(folder: Path, method: str) -> None:
    dataset = CodesDataset(folder, memory=False)
    expected = [item["key"] for item in dataset[[3, 50]]]  # files are open when it goes
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap(read_in_a_process, [(dataset, [3, 50])] * 3) == [expected] * 3


def test_packed_bits_become_code_vectors(folder: Path) -> None:
    dataset = CodesDataset(folder, format="packed")
    bits = CodesDataset(folder, format="bits").batch(range(5))["x"].reshape(5, 4, 6)
    quantizer = Quantizer(dim=6, codebook_dim=6, codebook_scale=0.5)
    codes = codes_of(dataset.batch(range(5))["x"], quantizer)
    assert codes.dtype == torch.float32
    assert torch.equal(codes, torch.from_numpy(bits.astype(np.float32) - 0.5))
    with pytest.raises(OptionError, match="not ± one number"):
        codes_of(dataset[0]["x"], Quantizer(dim=6, codebook_dim=6, num_quantizers=2))


# what models factorise, in their own arithmetic


def test_the_numbers_of_models(tmp_path: Path) -> None:
    """Open-MAGVIT2, 1xgpt, MaskBit and Infinity count in their own ways; a cut gives each of them its own."""
    samples = samples_of(3, lambda _: 4, 18)
    write(tmp_path, samples, _plain(18, (4,)), [3])
    bits = np.stack([each.bits["x"] for each in samples]).astype(np.int64)
    index = bits @ (1 << np.arange(17, -1, -1))
    # Open-MAGVIT2 (arXiv 2409.04410, asymmetric factorisation): of 18 bits in two, 2^6 and 2^12, one after the other
    found = CodesDataset(tmp_path, dims=(6, 12)).batch(range(3))["x"]
    assert np.array_equal(found, np.stack([bits[..., :6] @ (1 << np.arange(5, -1, -1)), index % 2**12], axis=-1))
    # 1xgpt: factorize_token_ids takes id % 512 first, id // 512 second, of MAGVIT-v2's msb-first index
    found = CodesDataset(tmp_path, dims=(9, 9)).batch(range(3))["x"]
    assert np.array_equal(found[..., ::-1], np.stack([index % 512, index // 512], axis=-1))
    # MaskBit (arXiv 2409.16211): two groups of 9 bits of the same order
    lsb = CodesDataset(tmp_path, dims=(9, 9), order="lsb").batch(range(3))["x"]
    weights = 1 << np.arange(9)
    assert np.array_equal(lsb, np.stack([bits[..., :9] @ weights, bits[..., 9:] @ weights], axis=-1))
    # Infinity (arXiv 2412.04431) predicts the bits themselves
    assert np.array_equal(CodesDataset(tmp_path, format="bits").batch(range(3))["x"], bits)
