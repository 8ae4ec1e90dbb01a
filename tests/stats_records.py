"""Records of small arrays, counted by plain numpy: what the counters end in, without the counters."""

from pathlib import Path

import numpy as np

from lfq_cli.jobs.stats import Report, TensorUsage
from lfq_cli.statistics.profile import profile_of
from lfq_cli.statistics.usage import BitStatistics, PositionStatistics, TokenUsage, Usage


def random_bits(count, bits, seed=0, ones=0.5):
    """[count, bits] bool, independent; `ones`: the probability of each bit, or of all."""
    return np.random.default_rng(seed).random((count, bits)) < ones


def integers(bits):
    """Codes of bits [count, bits] as Python integers, first bit highest."""
    return [int("".join("01"[bit] for bit in row), 2) for row in bits.tolist()]


def usage_of(bits, *, known=True, times=1, **more):
    """Usage of bits [count, bits], each counted so many times.

    known: whether codes and bits are, as they are not where codes are hashes.
    """
    counts, found = {}, integers(bits)
    for code in found:
        counts[code] = counts.get(code, 0) + times
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    rarest = sorted(counts.items(), key=lambda item: (item[1], item[0]))
    ones = bits.astype(np.int64)
    return Usage(
        bits=bits.shape[1],
        count=len(bits) * times,
        profile=profile_of(np.array([count for _, count in ordered], np.int64)),
        bit_statistics=BitStatistics(len(bits) * times, ones.T @ ones * times) if known else None,
        most_used=tuple(ordered[:10]) if known else (),
        least_used=tuple(rarest[:10]) if known else (),
        **more,
    )


def token_of(*codebooks, positions=None, **more):
    """The usage of bits [count, bits] of each codebook, and of them together."""
    joint = np.concatenate(codebooks, 1)
    return TokenUsage(
        codebooks=tuple(usage_of(bits, **more) for bits in codebooks),
        joint=usage_of(joint, known=joint.shape[1] <= 64, **more) if len(codebooks) > 1 else None,
        positions=positions,
    )


def positions_of(bits):
    """Statistics by position of bits [count, *axes, bits]."""
    count, *axes, width = bits.shape
    used, entropy, most = [], [], []
    for column in np.moveaxis(bits.reshape(count, -1, width), 1, 0):
        counts = np.unique(integers(column), return_counts=True)[1]
        used.append(counts.size)
        entropy.append(float(-(counts / count) @ np.log2(counts / count)))
        most.append(counts.max() / count)
    shaped = [np.array(values).reshape(axes) for values in (used, entropy, most)]
    return PositionStatistics(tuple(axes), count, *shaped)


def report_of(*usages, overall="same", names=None, failed=None, files=None):
    """A report of tensors with these usages; overall: the first one's unless it is given."""
    files = files or [Path("codes.safetensors")] * len(usages)
    names = names or [f"tensor{k}" for k in range(len(usages))]
    tensors = [TensorUsage(file, name, usage) for file, name, usage in zip(files, names, usages, strict=True)]
    found = (usages[0] if usages else None) if isinstance(overall, str) else overall
    return Report(tensors, found, failed or {}, [])
