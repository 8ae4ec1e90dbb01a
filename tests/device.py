"""The device that tests of the device path run on: the CPU, unless LFQ_TEST_DEVICE names another."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from lfq_cli import backends
from lfq_cli.backends import DeviceBackend
from lfq_cli.quantizer import Quantizer

NAME = os.environ.get("LFQ_TEST_DEVICE", "cpu")
IS_CPU = NAME == "cpu"


def backend_on_device(quantizer: Quantizer, compute_dtype: str = "float32") -> DeviceBackend:
    return DeviceBackend(quantizer, torch.device(NAME), compute_dtype)


@contextmanager
def selected(*, block_values: int | None = None) -> Iterator[None]:
    """Whatever device is asked for, the device's backend works, also where numpy would do."""
    select = backends.select

    def on_device(device: str, quantizer: Quantizer, compute_dtype: str, *, decoding: bool) -> Any:
        select("cpu", quantizer, compute_dtype, decoding=decoding)  # which checks the options
        backend = backend_on_device(quantizer, backends.computed_in(quantizer, compute_dtype))
        if block_values is not None:
            backend.block_values = lambda spec: block_values  # type: ignore[method-assign]
        return backend

    with patch.object(backends, "select", on_device):
        yield
