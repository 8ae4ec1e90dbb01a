"""lfq_cli.data: for any ranks and workers no sample is lost or comes twice; numbers of any kind; 400,000 keys."""

from __future__ import annotations

import pickle
import time
from itertools import zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import sample_files
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_files import Sample, Schema
from torch.utils.data import DataLoader

from lfq_cli.codesfile import SUFFIX
from lfq_cli.data import CodesBatches, CodesDataset
from lfq_cli.errors import OptionError

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")  # of more workers than cores
MOST = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 samples, each of which holds its number, in files of 7, 0, 30 and 23."""
    path = tmp_path_factory.mktemp("numbers")
    bits = np.array([[k >> j & 1 for j in range(5, -1, -1)] for k in range(MOST)], bool)
    samples = [Sample(f"{k}", {"x": bits[k : k + 1]}, {"label": np.int64(k).tobytes()}) for k in range(MOST)]
    schema = Schema({"x": (1,)}, (6,), carried={"label": ("I64", ())})
    for name, first, last in (("a", 0, 7), ("b", 7, 7), ("c", 7, 37), ("d", 37, MOST)):
        sample_files.write(path / f"{name}{SUFFIX}", samples[first:last], schema)
    return path


def as_worker(number: int, workers: int, seed: int) -> Any:
    """As torch tells it in a worker of a DataLoader; seed: of the epoch."""
    info = None if workers == 0 else SimpleNamespace(id=number, num_workers=workers, seed=seed + number)
    return patch("lfq_cli.data.batches._worker", return_value=info)


def read_epoch(rank: CodesBatches, workers: int, seed: int) -> list[list[int]]:
    """The batches of an epoch as a DataLoader gives them: one of each worker in turn. A worker is a copy of its own."""
    parts = []
    for number in range(max(workers, 1)):
        with as_worker(number, workers, seed):
            copy = pickle.loads(pickle.dumps(rank)) if workers else rank
            copy._epochs._word = rank._epochs._word  # memory that they share
            parts.append([batch["x"].reshape(-1).tolist() for batch in copy])
    return [batch for step in zip_longest(*parts) for batch in step if batch is not None]


@pytest.mark.slow
@settings(max_examples=80)
@given(
    batch_size=st.integers(1, 9),
    world=st.integers(1, 4),
    workers=st.integers(0, 3),
    shuffle=st.booleans(),
    memory=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_no_sample_is_lost_or_comes_twice(
    folder: Path, batch_size: int, world: int, workers: int, shuffle: bool, memory: bool, seed: int
) -> None:
    dataset = CodesDataset(folder, memory=memory)
    ranks = [
        CodesBatches(dataset, batch_size, seed=seed, shuffle=shuffle, rank=rank, world_size=world)
        for rank in range(world)
    ]
    batches = MOST // batch_size // world * world
    orders = []
    for epoch in range(3):
        found = [read_epoch(rank, workers, 1000 * epoch) for rank in ranks]
        assert {len(each) for each in found} == {len(ranks[0])} == {batches // world}
        together = [batch for step in zip(*found, strict=True) for batch in step]
        numbers = [number for batch in together for number in batch]
        assert {len(batch) for batch in together} == {batch_size}
        assert len(set(numbers)) == len(numbers) == batches * batch_size
        orders.append(numbers)
    assert (orders[0] == list(range(batches * batch_size))) or shuffle
    assert orders[0] != orders[1] or not shuffle or batches * batch_size < 9


@settings(max_examples=80)
@given(data=st.data(), batch_size=st.integers(1, 7), world=st.integers(1, 3), workers=st.integers(0, 3))
def test_what_is_resumed_goes_on_exactly(
    folder: Path, data: st.DataObject, batch_size: int, world: int, workers: int
) -> None:
    dataset = CodesDataset(folder, memory=False, keys=False)
    rank = data.draw(st.integers(0, world - 1))
    whole = CodesBatches(dataset, batch_size, seed=3, rank=rank, world_size=world)
    epochs = [read_epoch(whole, 0, epoch) for epoch in range(3)]
    epoch, step = data.draw(st.integers(0, 1)), data.draw(st.integers(0, len(whole)))
    stopped = CodesBatches(dataset, batch_size, seed=3, rank=rank, world_size=world)
    for _ in range(epoch):
        read_epoch(stopped, 0, 0)
    running = iter(stopped)
    for _ in range(step):
        next(running)
    state = stopped.state_dict() if step else stopped.state_dict(step=0)
    if not step:
        state["epoch"] = epoch
    again = CodesBatches(dataset, batch_size, rank=rank, world_size=world)
    again.load_state_dict(pickle.loads(pickle.dumps(state)))
    assert read_epoch(again, workers, 7) == epochs[epoch][step:]
    assert read_epoch(again, workers, 8) == epochs[epoch + 1]


def test_a_state_without_a_step_is_refused_where_workers_are_ahead(folder: Path) -> None:
    batches = CodesBatches(folder, 4, seed=5)
    assert batches.state_dict()["epoch"] == 0
    loader = DataLoader(batches, batch_size=None, num_workers=1)
    for _ in zip(range(3), loader, strict=False):
        pass
    with pytest.raises(OptionError, match="workers read"):
        batches.state_dict()
    assert batches.state_dict(step=3)["step"] == 3
    batches.load_state_dict(batches.state_dict(step=3))
    assert batches.state_dict()["step"] == 3
    list(loader)
    with pytest.raises(OptionError, match="workers read"):
        batches.state_dict()


# numbers


@pytest.mark.parametrize("memory", [False, True])
def test_numbers_of_any_kind(folder: Path, memory: bool) -> None:
    dataset = CodesDataset(folder, memory=memory)
    for index in (-1, np.int8(-1), np.uint64(MOST - 1), np.array(MOST - 1), torch.tensor(-1)):
        assert dataset[index]["key"] == str(MOST - 1), index
    for chosen in ([3, -1], (3, -1), np.array([3, -1], np.int8), torch.tensor([3, -1]), np.uint8([3, MOST - 1])):
        assert [item["key"] for item in dataset[chosen]] == ["3", str(MOST - 1)]
    assert [item["key"] for item in dataset[-3:]] == ["57", "58", "59"]
    assert [item["key"] for item in dataset[10:2:-3]] == ["10", "7", "4"]
    assert [item["key"] for item in dataset[np.arange(MOST) % 30 == 1]] == ["1", "31"]
    assert dataset[5:5] == dataset[[]] == dataset[np.array([], int)] == []
    for wrong in (MOST, -MOST - 1, np.uint64(2**64 - 1), 2**70, [0, MOST]):
        with pytest.raises(IndexError, match="outside the 60 items"):
            dataset[wrong]
    for index in (1.0, "0", None, [0.5], np.zeros(3, bool)):
        with pytest.raises(TypeError, match="chosen by integers"):
            dataset[index]


@pytest.mark.parametrize("memory", [False, True])
@pytest.mark.parametrize("form", ["indices", "bits", "packed"])
def test_batches_of_nothing_have_the_shape_of_others(folder: Path, tmp_path: Path, memory: bool, form: Any) -> None:
    sample_files.write(tmp_path / f"none{SUFFIX}", [], Schema({"x": (1,)}, (6,), carried={"label": ("I64", ())}))
    full = CodesDataset(folder, memory=memory, format=form)
    for dataset in (full, CodesDataset(tmp_path, memory=memory, format=form)):
        batch, other = dataset.batch([]), full.batch([0, 1])
        assert batch["key"] == []
        assert batch["x"].shape == (0, *other["x"].shape[1:])
        assert batch["x"].dtype == other["x"].dtype
        assert batch["label"].shape == (0,)
        assert dataset[0:0] == []
    windows = CodesDataset(folder, memory=memory, format=form, window=1)
    assert windows.batch([])["x"].shape[0] == 0
    assert len(CodesDataset(folder, memory=memory, window=2)) == 0


@pytest.mark.slow
def test_an_index_of_400_000_keys(tmp_path: Path) -> None:
    """Made with a copy of the bits for each file: what counts are the keys."""
    count = 100_000
    bits = np.zeros((1, 8), bool)
    for number in range(4):
        samples = [Sample(f"folder {k % 1000}/sample {number}-{k}.jpeg", {"x": bits}) for k in range(count)]
        sample_files.write(tmp_path / f"{number}{SUFFIX}", samples, Schema({"x": (1,)}, (8,)))
    started = time.process_time()
    dataset = CodesDataset(tmp_path, memory=False)
    for number in (0, 1, 399_999, 123_456, -1):
        key = dataset.key(number)
        assert dataset.find(key) == number % 400_000
    assert len(set(dataset.keys_of(np.arange(400_000)))) == 400_000
    again = pickle.loads(pickle.dumps(dataset))
    assert again.find("folder 0/sample 3-0.jpeg") == 300_000
    assert len(pickle.dumps(dataset)) < 1 << 16, "an index goes to every worker"
    assert time.process_time() - started < 10  # 1 s; a key at a time takes 20
