"""What `make gpu` times: encoding and decoding on a GPU, the loops that only move the bytes, and the CPU.

Every contender is called once before it is timed, which fills the page cache and has the device set up; then they take
turns. A ratio is the median of each round's own. The inputs are those of the other benchmarks (data.py).
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.data import TENSOR, Tensor, checkpoint_file, tensor_file
from lfq_cli import checkpoints, open_codes
from lfq_cli.backends.lanes import Lane
from lfq_cli.bits import unpack
from lfq_cli.cpus import threads
from lfq_cli.jobs.decode import DecodeOptions, decode
from lfq_cli.jobs.encode import EncodeOptions, encode
from lfq_cli.jobs.plan import Job
from lfq_cli.nn.saved import module_of

DIM, BITS = 512, 18
DTYPES = ("F32", "F16", "BF16")
BLOCK_BYTES = 16 << 20
TARGET = 0.8
"""Of the speed of the loop that only moves the bytes."""
CLEAR = 1e-5
_COMPARED_VECTORS = 1 << 16

Work = Callable[[], Any]


def machine(device: str) -> dict[str, Any]:
    """The machine that was measured."""
    found: dict[str, Any] = {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": "cpu",
    }
    if device != "cpu":
        properties = torch.cuda.get_device_properties(torch.device(device))
        found |= {
            "device": properties.name,
            "device_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "cuda": torch.version.cuda,
        }
    return found


def measure_all(folder: Path, nbytes: int, rounds: int, device: str) -> list[dict[str, Any]]:
    """Every case, shown as it is done."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = checkpoint_file(folder, dim=DIM, bits=BITS)
    vectors = nbytes // 4 // DIM
    cases = [_encode_case(folder, checkpoint, Tensor(name, (vectors, DIM)), rounds, device) for name in DTYPES]
    cases.append(_decode_case(folder, checkpoint, Tensor("F32", (vectors, DIM)), rounds, device))
    return cases


def _encode_case(folder: Path, checkpoint: Path, tensor: Tensor, rounds: int, device: str) -> dict[str, Any]:
    path, out = tensor_file(folder, tensor), folder / "gpu.codes.safetensors"
    contenders = {
        "ours": partial(_encode, path, checkpoint, out, device),
        "loop": partial(copy_in, path, torch.device(device), 1),
        "loop, as many threads": partial(copy_in, path, torch.device(device), threads()),
        "cpu": partial(_encode, path, checkpoint, folder / "cpu.codes.safetensors", "cpu"),
    }
    case = _measure(f"encode {DIM} -> {BITS} {tensor.dtype}", tensor.nbytes, contenders, rounds)
    case["tokens"] = _compare(path, checkpoint, out, folder / "cpu.codes.safetensors")
    return case


def _decode_case(folder: Path, checkpoint: Path, tensor: Tensor, rounds: int, device: str) -> dict[str, Any]:
    codes, out = folder / "cpu.codes.safetensors", folder / "gpu.out.safetensors"
    _encode(tensor_file(folder, tensor), checkpoint, codes, "cpu")
    contenders = {
        "ours": partial(_decode, codes, checkpoint, out, device),
        "loop": partial(copy_out, tensor.nbytes, out, torch.device(device), 1),
        "loop, as many threads": partial(copy_out, tensor.nbytes, out, torch.device(device), threads()),
        "cpu": partial(_decode, codes, checkpoint, out, "cpu"),
    }
    case = _measure(f"decode {BITS} -> {DIM} {tensor.dtype}", tensor.nbytes, contenders, rounds)
    out.unlink()
    return case


def _measure(name: str, nbytes: int, contenders: dict[str, Work], rounds: int) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {each: [] for each in contenders}
    for number in range(rounds + 1):
        for each, work in contenders.items():
            begin = time.perf_counter()
            work()
            if number:
                seconds[each].append(time.perf_counter() - begin)
    case: dict[str, Any] = {"case": name, "bytes": nbytes, "target": TARGET}
    for each, times in seconds.items():
        case[each] = {"seconds": statistics.median(times), "gb_per_second": nbytes / statistics.median(times) / 1e9}
        if each != "ours":
            ratios = [other / own for own, other in zip(seconds["ours"], times, strict=True)]
            case[each]["ours_to_it"] = statistics.median(ratios)
    case["meets_target"] = case["loop"]["ours_to_it"] >= TARGET
    compared = ", ".join(f"{case[each]['ours_to_it']:.2f} of {each}" for each in contenders if each != "ours")
    verdict = "" if case["meets_target"] else f"; the target is {TARGET} of the loop"
    print(f"{name}: {case['ours']['gb_per_second']:.2f} GB/s, {compared}{verdict}", flush=True)
    return case


# Ours, on a device and on the CPU


def _encode(path: Path, checkpoint: Path, out: Path, device: str) -> None:
    """File to file, as `lfq encode --no-fsync --overwrite --device`, without the imports."""
    options = EncodeOptions(device=device, durable=False, overwrite=True)
    for outcome in encode(checkpoints.load(checkpoint), [Job(path, out)], options):
        if outcome.error is not None:
            raise outcome.error


def _decode(codes: Path, checkpoint: Path, out: Path, device: str) -> None:
    """File to file, as `lfq decode --no-fsync --overwrite --device`, without the imports."""
    options = DecodeOptions(device=device, durable=False, overwrite=True)
    for outcome in decode(checkpoints.load(checkpoint), [Job(codes, out)], options):
        if outcome.error is not None:
            raise outcome.error


# The loops that only move the bytes


def copy_in(path: Path, device: torch.device, readers: int) -> None:
    """Reads the file into pinned memory and copies it to the device; each reader has two blocks, one on its way."""

    def read(positions: Iterator[int]) -> None:
        lanes, there = (Lane(device), Lane(device)), torch.empty(BLOCK_BYTES, dtype=torch.uint8, device=device)
        for turn, position in enumerate(positions):
            lane = lanes[turn % 2]
            lane.stream.wait()
            memory = lane.taken.get(BLOCK_BYTES)
            count = os.preadv(descriptor, [memory.numpy()], position)
            with lane.stream.queueing():
                there[:count].copy_(memory[:count], non_blocking=lane.stream.asynchronous)
            lane.stream.mark()
        for lane in lanes:
            lane.stream.wait()

    descriptor = os.open(path, os.O_RDONLY)
    try:
        _share(read, path.stat().st_size, readers)
    finally:
        os.close(descriptor)


def copy_out(nbytes: int, path: Path, device: torch.device, writers: int) -> None:
    """Copies as many bytes from the device into pinned memory and writes them to a file; two blocks for each writer."""

    def write(positions: Iterator[int]) -> None:
        lanes, there = (Lane(device), Lane(device)), torch.zeros(BLOCK_BYTES, dtype=torch.uint8, device=device)
        under_way: list[tuple[Lane, int]] = []
        for turn, position in enumerate(positions):
            lane = lanes[turn % 2]
            with lane.stream.queueing():
                lane.given.get(BLOCK_BYTES).copy_(there, non_blocking=lane.stream.asynchronous)
            lane.stream.mark()
            under_way.append((lane, position))
            if len(under_way) == 2:
                put(*under_way.pop(0))
        for each in under_way:
            put(*each)

    def put(lane: Lane, position: int) -> None:
        lane.stream.wait()
        os.pwrite(descriptor, lane.given.get(min(BLOCK_BYTES, nbytes - position)).numpy(), position)

    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        _share(write, nbytes, writers)
    finally:
        os.close(descriptor)


def _share(work: Callable[[Iterator[int]], None], nbytes: int, count: int) -> None:
    """work(positions of blocks) in so many threads, each with every count-th block."""
    with ThreadPoolExecutor(count) as pool:
        shares = [iter(range(first * BLOCK_BYTES, nbytes, count * BLOCK_BYTES)) for first in range(count)]
        for done in [pool.submit(work, share) for share in shares]:
            done.result()


# Whether the tokens are right


def _compare(path: Path, checkpoint: Path, found: Path, expected: Path) -> dict[str, Any]:
    """The device's bits of the first vectors against the CPU's; raises AssertionError where a clear one differs."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        x = file.get_slice(TENSOR)[:_COMPARED_VECTORS].float()
    z = module_of(checkpoints.load(checkpoint)).latents(x)
    bits = []
    for codes_path in (found, expected):
        with open_codes(codes_path) as codes:
            bits.append(unpack(codes[TENSOR].stream(0, len(x)), len(x), BITS))
    differ = torch.from_numpy(bits[0] ^ bits[1])
    assert not differ[z.abs() > CLEAR].any(), f"{path.name}: a bit differs where |z| is above {CLEAR:g}"
    return {"compared_bits": differ.numel(), "differ": int(differ.sum()), "differ_where_clear": 0}
