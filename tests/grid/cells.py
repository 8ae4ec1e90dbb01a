"""One case on its way: its files, what the plain definition makes of them, and how a result is compared with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import device
import numpy as np
import torch
import twin

from grid.quantizers import CLEAR, QuantizerCase

Command = Callable[..., tuple[int, str, str]]


QUICK = {
    "encode": ("-q", "--no-fsync"),
    "decode": ("-q", "--no-fsync"),
    "export-codebook": ("-q",),
    "import": ("-q",),
}
"""What makes a command quicker; tables are drawn elsewhere."""


class Refused(Exception):  # noqa: N818
    """A command that did not end with 0."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Prepared:
    """A case's checkpoint and input in a folder, and what they make. Codes are encoded once, by the first cell."""

    def __init__(self, case: QuantizerCase, folder: Path) -> None:
        self.case, self.config, self.folder = case, case.config, folder
        made = case.make()
        self.checkpoint = folder / case.file
        if isinstance(made, dict):
            torch.save(made, self.checkpoint)
        else:
            made.save_pretrained(self.checkpoint)
        self.weights = weights_of(case, made if isinstance(made, dict) else made.state_dict())
        x = inputs(case, self.weights)
        self.x = folder / "x.npy"
        np.save(self.x, x)
        self.bits = twin.positive(twin.latents_of(self.vectors_of(x), self.config, self.weights))
        self.rows = np.array(twin.indices_of(self.bits, self.config), dtype=np.uint64)
        self.rows = self.rows.reshape(len(self.bits), len(self.config.bits_of_indices))
        widest = max(self.config.bits_of_indices)
        indices = self.rows.astype(np.uint64 if widest == 64 else np.int64)
        self.indices = indices.reshape(twin.index_shape(case.shape, self.config))
        self.values = self.tensor(twin.decoded(self.bits, self.config, self.weights))
        self.bare = self.tensor(twin.decoded(self.bits, self.config, self.weights, project_out=False))

    def vectors_of(self, tensor: np.ndarray) -> np.ndarray:
        """A tensor in the input's layout -> its vectors [n, features]."""
        return twin.vectors_of(tensor, self.config.channel_first)

    def tensor(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [n, features] -> a tensor in the input's layout."""
        return twin.tensor_of(vectors, self.case.shape, self.config.channel_first)


@dataclass
class Cell:
    """A prepared case, with a command to run in an empty folder."""

    prepared: Prepared
    lfq: Command

    def __getattr__(self, name: str) -> Any:
        return getattr(self.prepared, name)

    def run(self, *arguments: object) -> str:
        """stdout of a command; raises Refused where it does not end with 0."""
        code, out, err = self.lfq(*arguments, *QUICK.get(str(arguments[0]), ()))
        if code:
            raise Refused(code, err)
        return out

    @cached_property
    def codes(self) -> Path:
        """The case's codes file."""
        path: Path = self.prepared.folder / "x.codes.safetensors"
        if not path.exists():
            self.run("encode", self.prepared.checkpoint, self.prepared.x, "-o", path, *self.prepared.case.options)
        return path

    @property
    def facts(self) -> dict[str, Any]:
        """The options as load() takes them."""
        return facts_of(self.prepared.case.options)

    def same(self, found: np.ndarray, expected: np.ndarray, dtype: torch.dtype = torch.float32) -> None:
        """Equal; up to rounding where there was a matrix product, or another processor."""
        assert found.shape == expected.shape
        if self.prepared.case.close or not device.IS_CPU:
            near = 2e-6 if device.IS_CPU else 1e-5
            unit = max(torch.finfo(dtype).eps, near / 2)  # a value that is rounded to another neighbour
            np.testing.assert_allclose(found, expected, rtol=2 * unit, atol=near)
        else:
            np.testing.assert_array_equal(found, expected)


def weights_of(case: QuantizerCase, state: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """The quantizer's weights of a state dict, under the reference's names."""
    used = {}
    for full, tensor in state.items():
        name = full.removeprefix(case.prefix)
        for old, new in case.renamed.items():
            name = name.replace(old, new)
        if (full.startswith(case.prefix) and name.split(".")[-2:][0] in ("project_in", "project_out")) or (
            full.startswith(case.prefix) and name.endswith("orthogonal_rot")
        ):
            used[name] = tensor.detach().numpy().copy()
    return used


def inputs(case: QuantizerCase, weights: dict[str, np.ndarray]) -> np.ndarray:
    """Normal numbers of the case's shape; with zeros and tiny numbers, or far from where rounding decides a bit."""
    rng = np.random.default_rng(11)
    if not case.clear:
        x = rng.standard_normal(case.shape).astype(np.float32)
        odd = np.array([0.0, -0.0, 1e-20, -1e-20], np.float32)[: x.size // 2]
        x.flat[: odd.size] = odd
        return x
    shape, found = case.shape, []
    wanted = len(twin.vectors_of(np.empty(shape, np.float32), case.config.channel_first))
    while len(found) < wanted:
        vector = rng.standard_normal((1, case.config.dim)).astype(np.float32)
        (latents,) = twin.latents_of(vector, case.config, weights)
        if min(map(abs, latents)) > CLEAR:
            found.append(vector[0])
    return twin.tensor_of(np.array(found), shape, case.config.channel_first)


def facts_of(options: tuple[str, ...]) -> dict[str, Any]:
    """Command-line options as keyword arguments of load()."""
    facts: dict[str, Any] = {}
    words = list(options)
    while words:
        name = words.pop(0).removeprefix("--").replace("-", "_")
        if name in ("spherical", "no_spherical"):
            facts["spherical"] = name == "spherical"
        elif name == "codebook_dims":
            facts[name] = [int(bits) for bits in words.pop(0).split(",")]
        elif name in ("family", "bit_order", "soft_clamp"):
            facts[name] = words.pop(0)
        else:
            number = words.pop(0)
            facts[name] = int(number) if number.isdecimal() and name.startswith("num_") else float(number)
    return facts
