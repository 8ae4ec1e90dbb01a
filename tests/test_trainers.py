"""CodesDataset and CodesBatches in the loaders that people use, where those are installed: `make test-trainers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sample_files
import torch
from sample_files import Sample, Schema
from torch.utils.data import DataLoader

from lfq_cli.codesfile import SUFFIX
from lfq_cli.data import CodesBatches, CodesDataset

pytestmark = pytest.mark.filterwarnings("ignore")  # what other libraries warn of


def library(name: str) -> Any:
    return pytest.importorskip(name, reason=f"{name} is not installed: make test-trainers", exc_type=ImportError)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    samples = [Sample(f"k{k}", {"x": rng.integers(0, 2, (4, 9)).astype(bool)}) for k in range(101)]
    sample_files.write(tmp_path / f"a{SUFFIX}", samples[:60], Schema({"x": (4,)}, (9,)))
    sample_files.write(tmp_path / f"b{SUFFIX}", samples[60:], Schema({"x": (4,)}, (9,)))
    return tmp_path


def keys_of(batches: Any) -> list[list[str]]:
    return [list(batch["key"]) for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_torchdata_stops_and_goes_on(folder: Path, workers: int) -> None:
    stateful = library("torchdata.stateful_dataloader")
    expected = CodesBatches(folder, 4, seed=1)
    epochs = [keys_of(expected) for _ in range(3)]

    def loader() -> Any:
        return stateful.StatefulDataLoader(CodesBatches(folder, 4, seed=1), batch_size=None, num_workers=workers)

    first = loader()
    assert keys_of(first) == epochs[0]
    running = iter(first)
    assert [list(next(running)["key"]) for _ in range(11)] == epochs[1][:11]
    state = first.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert keys_of(again) == epochs[1][11:]
    assert keys_of(again) == epochs[2]


def test_accelerate(folder: Path) -> None:
    accelerator = library("accelerate").Accelerator(cpu=True)
    loader = accelerator.prepare(DataLoader(CodesBatches(folder, 4, keys=False), batch_size=None))
    batches = [batch["x"] for batch in loader]
    assert len(batches) == 25
    assert batches[0].shape == (4, 4)


def test_lightning(folder: Path) -> None:
    lightning = library("lightning")
    seen: list[torch.Tensor] = []

    class Model(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(512, 2)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            seen.append(batch["x"].clone())
            return self.embedding(batch["x"]).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

    options = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = lightning.Trainer(max_epochs=2, accelerator="cpu", **options)
    trainer.fit(Model(), DataLoader(CodesBatches(folder, 4, seed=3, keys=False), batch_size=None))
    expected = CodesBatches(folder, 4, seed=3)
    both = [torch.from_numpy(batch["x"]) for _ in range(2) for batch in expected]
    assert len(seen) == len(both) == 50
    assert all(map(torch.equal, seen, both))


def test_grain(folder: Path) -> None:
    grain = library("grain")
    dataset = CodesDataset(folder)
    shuffled = grain.MapDataset.source(dataset).shuffle(seed=1).map(lambda item: item["key"])
    assert sorted(shuffled) == sorted(dataset.key(k) for k in range(101))
    batches = grain.MapDataset.source(dataset).map(lambda item: item["x"]).batch(10)
    assert np.array_equal(batches[3], dataset.batch(range(30, 40))["x"])
