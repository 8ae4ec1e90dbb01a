"""Devices by name."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from lfq_cli.errors import DeviceError

if TYPE_CHECKING:
    import torch


def _local_rank() -> int:
    """The index of this process's device: as set by torchrun, if it is."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return int(rank) if rank.isdecimal() else 0


def torch_device(name: str) -> torch.device:
    """The device that `--device` names. Raises DeviceError if it does not exist."""
    import torch

    if name == "auto":
        return torch.device(f"cuda:{_local_rank()}" if torch.cuda.is_available() else "cpu")
    if "," in name:
        count = name.count(",") + 1
        raise DeviceError(
            f"--device {name}: a process works on one device",
            f"torchrun --nproc-per-node {count} --no-python lfq encode ... --shard auto --device auto",
        )
    try:
        device = torch.device(name)
    except RuntimeError as reason:
        raise DeviceError(f"--device {name} is not a device", "expected auto, cpu, cuda, cuda:N or mps") from reason
    there = {
        "cpu": True,
        "cuda": torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count(),
        "mps": torch.backends.mps.is_available(),
    }
    if not there.get(device.type, False):
        raise DeviceError(f"--device {name} does not exist", "--device auto uses what is available")
    return device
