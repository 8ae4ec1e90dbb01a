"""`lfq verify --source` of packed samples: found by key in whatever they lie in, and every difference is seen."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lfq_cli import native
from lfq_cli.codesfile import SUFFIX
from lfq_cli.quantizer import Quantizer

Lfq = Callable[..., tuple[int, str, str]]
COUNT = 23


@pytest.fixture(autouse=True)
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    native.write(Quantizer(dim=5, codebook_dim=5), Path("c.safetensors"))


def latents() -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    return {f"{k % 3}/k{k:02}": rng.standard_normal((5, 2, 3)).astype(np.float32) for k in range(COUNT)}


def as_files(x: dict[str, NDArray[Any]]) -> list[str]:
    for key, value in x.items():
        Path("in", key).parent.mkdir(parents=True, exist_ok=True)
        np.save(Path("in", f"{key}.npy"), value)
    return []


def as_shards(x: dict[str, NDArray[Any]]) -> list[str]:
    Path("in").mkdir()
    keys = list(x)
    for number in range(3):
        with tarfile.open(f"in/{number}.tar", "w") as archive:
            for key in keys[number * 8 : number * 8 + 8]:
                file = io.BytesIO()
                np.save(file, x[key])
                info = tarfile.TarInfo(f"{key}.npy")
                info.size = file.tell()
                file.seek(0)
                archive.addfile(info, file)
    return []


def as_stack(x: dict[str, NDArray[Any]]) -> list[str]:
    Path("in/sub").mkdir(parents=True)
    np.savez("in/sub/a.npz", data=np.stack(list(x.values())), weights=np.ones(3))
    return ["--stacked", "--tensor", "data"]


ARRANGEMENTS = {"files": as_files, "shards": as_shards, "stack": as_stack}


def verdicts(lfq: Lfq, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    code, out, _ = lfq("verify", *arguments, "--checkpoint", "c.safetensors", "--source", "in", "--json")
    return code, json.loads(out)["files"]


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
@pytest.mark.parametrize("packing", ["bits", "ints"])
def test_every_sample_is_found_and_compared(lfq: Lfq, arrangement: str, packing: str) -> None:
    options = ARRANGEMENTS[arrangement](latents())
    pack = ["encode", "c.safetensors", "in", "-o", "out", "--channel-axis", "0", "--packing", packing, *options]
    assert lfq(*pack, "--samples-per-file", "10")[0] == 0
    code, found = verdicts(lfq, "out")
    assert code == 0
    assert [item["status"] for item in found] == ["same"] * 3
    assert [item["comparisons"]["data"]["vectors"] for item in found] == [60, 60, 18]
    code, found = verdicts(lfq, "out", "--sample", "12")
    assert code == 0
    assert all(12 <= item["comparisons"]["data"]["vectors"] <= 18 for item in found)


@pytest.mark.parametrize("arrangement", ["shards", "stack"])
def test_a_file_of_samples_that_was_encoded_alone(lfq: Lfq, arrangement: str) -> None:
    options = ARRANGEMENTS[arrangement](latents())
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--channel-axis", "0", *options)[0] == 0
    code, found = verdicts(lfq, "out")
    assert code == 0
    assert {item["status"] for item in found} == {"same"}
    assert sum(item["comparisons"]["data"]["vectors"] for item in found) == COUNT * 6


def test_what_changed_is_counted(lfq: Lfq) -> None:
    x = latents()
    as_files(x)
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--channel-axis", "0", "--samples-per-file", "30")[0] == 0
    changed = x["1/k04"].copy()
    changed[3, 0, 1] *= -1
    np.save("in/1/k04.npy", changed)
    code, (found,) = verdicts(lfq, "out")
    assert code == 4
    assert found["status"] == "different"
    expected = [0, 0, 0, 1 / (COUNT * 6), 0]
    assert found["comparisons"]["data"]["bits_differ_by_bit"] == pytest.approx(expected)


def test_a_missing_sample_and_one_of_another_shape_are_named(lfq: Lfq) -> None:
    as_files(latents())
    assert lfq("encode", "c.safetensors", "in", "-o", "out", "--channel-axis", "0", "--samples-per-file", "30")[0] == 0
    Path("in/1/k04.npy").rename("in/1/other.npy")
    code, (found,) = verdicts(lfq, "out")
    assert (code, found["status"]) == (1, "failed")
    assert f"out/00000{SUFFIX}: no source has its sample '1/k04'" in found["error"]
    np.save("in/1/k04.npy", np.ones((5, 3, 2), np.float32))
    code, (found,) = verdicts(lfq, "out")
    assert (code, found["status"]) == (1, "failed")
    assert "k04.npy: 'data' is F32 [5, 3, 2], the codes were made from F32 [5, 2, 3]" in found["error"]
