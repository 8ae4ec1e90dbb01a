"""The first pass over all data: moments, a uniform sample to start from, and the held-out vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from lfq_cli.errors import TensorError
from lfq_cli.floats import Floats
from lfq_cli.training.holdout import Reservoir, is_held_out
from lfq_cli.training.moments import Moments, MomentsCounter
from lfq_cli.training.source import Source
from lfq_cli.wording import counted

SAMPLE_VALUES = 1 << 25
"""128 MiB of float32, which holds most data sets completely; larger ones are read again in shuffled runs."""
MIN_SAMPLE_VECTORS = 1 << 14
MAX_HELD_OUT_VALUES = 1 << 22
MIN_HELD_OUT_VECTORS = 1 << 12
FEWEST_HELD_OUT = 8
OUTLIER_SHARE = 0.5


@dataclass(frozen=True)
class Survey:
    """count: all vectors. moments: of the training vectors. sample: of these [n, dim]. held_out: [m, dim]."""

    count: int
    moments: Moments
    sample: Floats
    held_out: Floats

    @property
    def is_whole(self) -> bool:
        """Whether the sample holds every training vector."""
        return len(self.sample) == self.moments.count


def survey(
    source: Source, *, bits: int, seed: int, holdout: float, advance: Callable[[int], None] = lambda _: None
) -> Survey:
    """Reads all vectors once; calls `advance` with how many were read.

    Raises TensorError if there are too few vectors, if all are equal, or if one of them dominates the variance.
    """
    counter = MomentsCounter(source.dim)
    sample = Reservoir(max(SAMPLE_VALUES // source.dim, MIN_SAMPLE_VECTORS), source.dim, seed=seed)
    capacity = max(MAX_HELD_OUT_VALUES // source.dim, MIN_HELD_OUT_VECTORS)
    held_out = Reservoir(capacity, source.dim, seed=seed + 1)
    count = 0
    for vectors in source.scan():
        apart = is_held_out(count, len(vectors), seed=seed, share=holdout)
        numbers = np.arange(count, count + len(vectors))
        counter.add(vectors[~apart], numbers[~apart])
        sample.add(vectors[~apart])
        held_out.add(vectors[apart])
        count += len(vectors)
        advance(len(vectors))
    _check_counts(count, held_out.seen, bits, holdout)
    share, number = counter.furthest()
    moments = counter.moments()
    _check_variance(source, moments, share, number)
    return Survey(count, moments, sample.vectors(), held_out.vectors())


def _check_counts(count: int, held_out: int, bits: int, holdout: float) -> None:
    trained = count - held_out
    if trained < max(bits, 2):
        raise TensorError(
            f"{counted(trained, 'vector')} to train {bits} bits on ({held_out:,} more are held out), expected at least"
            f" {max(bits, 2):,}, and many times that for a useful tokenizer",
            "give more data, or use fewer --bits",
        )
    if held_out < FEWEST_HELD_OUT:
        raise TensorError(
            f"{held_out} of {count:,} vectors are held out, expected at least {FEWEST_HELD_OUT} to measure the error",
            f"give more data, or a larger --holdout than {holdout:g}",
        )


def _check_variance(source: Source, moments: Moments, share: float, number: int) -> None:
    if moments.variance <= np.square(moments.mean).sum() * 1e-12:
        raise TensorError(
            f"all {moments.count:,} vectors are equal: there is nothing to learn",
            "--tensor chooses other tensors; --channel-axis says where the features are",
        )
    if share > OUTLIER_SHARE and moments.count > 2 / OUTLIER_SHARE:
        raise TensorError(
            f"{source.name(number)} alone has {share:.0%} of the variance of {moments.count:,} vectors: every bit would"
            " be spent on it",
            "leave the outlier out",
        )
