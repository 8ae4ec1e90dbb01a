"""What the processes of distributed training agree on: a mean, a seed. Nothing happens in a single process."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether several processes train together now. Asked at every call: a process group may start late."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class _SumOverRanks(torch.autograd.Function):
    """The sum over ranks, whose gradient is the sum of the ranks' gradients.

    torch.distributed.nn.functional.all_reduce does the same, but warns that it is deprecated (torch 2.13),
    and what it names instead is private.
    """

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        total = t.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _sum_over_ranks(grad)


def _sum_over_ranks(t: Tensor) -> Tensor:
    total: Tensor = _SumOverRanks.apply(t)  # type: ignore[no-untyped-call]
    return total


def shared_seed(device: torch.device) -> int:
    """A natural number from the device's generator, the same on all ranks of distributed training.

    Below 10,000, the reference's limit; over several ranks it is the sum of their draws.
    """
    seed = torch.randint(0, 10_000, (), device=device)
    if is_distributed():
        dist.all_reduce(seed)
    return int(seed.item())


def mean_over_ranks(t: Tensor, *, counts: bool) -> Tensor:
    """t [...] -> its mean over the ranks that say `counts`, the same on every rank; t itself in one process.

    A rank that does not count (it had no vectors) passes zeros. It has to call too, or the others wait for it.
    """
    if not is_distributed():
        return t
    ranks = torch.tensor(float(counts), device=t.device)
    dist.all_reduce(ranks)
    return _sum_over_ranks(t) / ranks.clamp(min=1)
