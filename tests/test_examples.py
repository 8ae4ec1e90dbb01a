"""The examples run: a few steps of each, whose loss falls."""

from __future__ import annotations

import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from lfq_cli import checkpoints

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text(encoding="utf-8").splitlines()) < 120, path


def test_train_gpt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = example("train_gpt")
    losses: list[float] = []
    train = module.train

    def recorded(*arguments: object) -> list[float]:
        losses.extend(train(*arguments))
        return losses

    monkeypatch.setattr(module, "train", recorded)
    monkeypatch.setattr(sys, "argv", ["train_gpt.py", "--steps", "40", "--out", str(tmp_path)])
    threads = torch.get_num_threads()
    module.main()
    assert torch.get_num_threads() == threads
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])
    png = (tmp_path / "digits.png").read_bytes()
    assert png.startswith(b"\x89PNG")
    assert struct.unpack(">II", png[16:24]) == (320, 320)
    assert "nats a token" in capsys.readouterr().out


def test_train_autoencoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    module = example("train_autoencoder")
    out = tmp_path / "lfq.safetensors"
    monkeypatch.setattr(sys, "argv", ["train_autoencoder.py", "--steps", "100", "--out", str(out)])
    found: list[tuple[float, float]] = []
    train = module.train
    monkeypatch.setattr(module, "train", lambda *arguments: found.extend(train(*arguments)))
    module.main()
    assert len(found) == 10
    left, used = found[-1]
    assert left < 0.5 * found[0][0]
    assert used > 0.7  # of ten times as many steps 0.9
    assert used > found[0][1]
    assert checkpoints.load(out).bits_per_vector == module.BITS
    assert capsys.readouterr().out.count("of the codes used") == 10
