"""`make bench-storage`: encoding from an object store over a link of 30 ms and 80 MB/s a connection; planning there.

The floor is a loop of the client itself, s3fs, with 16 ranges of 8 MiB in flight that drops what comes. The store is
SeaweedFS on this machine, so that server, link and client share its cores: only the ratio is meaningful.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import object_store  # of tests/
from safetensors.numpy import save

from lfq_cli import native
from lfq_cli.quantizer import Quantizer

MILLISECONDS, MEGABYTES = 30, 80
RANGE_BYTES, AT_ONCE = 8 << 20, 16
BUCKET = "bench"


def main() -> None:
    arguments = parse()
    if arguments.contender is not None:
        print(json.dumps(CONTENDERS[arguments.contender]()))
        return
    with tempfile.TemporaryDirectory(prefix="lfq-bench-") as name, object_store.seaweed(name) as endpoint:
        folder = Path(name)
        os.environ |= object_store.environment(endpoint)
        filling = multiprocessing.get_context("spawn").Process(
            target=fill, args=(folder, arguments.bytes, arguments.objects)
        )
        filling.start()  # apart: a process counts as its own peak what the one that started it held
        filling.join()
        with link(endpoint) as slow:
            os.environ["AWS_ENDPOINT_URL"] = slow
            print(json.dumps(measure(folder, arguments.bytes, arguments.rounds), indent=2))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.object_store", description=__doc__)
    parser.add_argument("--bytes", type=int, default=1 << 29, help="of the large object (default 512 MiB)")
    parser.add_argument("--objects", type=int, default=5000, help="small ones to plan (default 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of every contender (default 3)")
    parser.add_argument("--contender", choices=sorted(CONTENDERS), help=argparse.SUPPRESS)
    return parser.parse_args()


def client() -> Any:
    import s3fs

    return s3fs.S3FileSystem(use_listings_cache=False, config_kwargs={"max_pool_connections": 64})


def fill(folder: Path, nbytes: int, objects: int) -> None:
    system = client()
    system.mkdir(BUCKET)
    native.write(Quantizer(dim=16, codebook_dim=16), folder / "c.safetensors")
    large = folder / "large.npy"
    np.save(large, np.random.default_rng(0).standard_normal((nbytes // 64, 16), np.float32))
    system.put_file(str(large), f"{BUCKET}/large.npy", chunksize=16 << 20)
    large.unlink()
    small = save({"z": np.ones((64, 16), np.float32)})
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda k: system.pipe_file(f"{BUCKET}/small/{k % 20}/{k:05}.safetensors", small), range(objects)))


@contextmanager
def link(endpoint: str) -> Iterator[str]:
    port = endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "benchmarks.link", port, str(MILLISECONDS), str(MEGABYTES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def measure(folder: Path, nbytes: int, rounds: int) -> dict[str, Any]:
    """Medians; the ratio is that of each round's own."""
    runs: dict[str, list[float]] = {"ours": [], "floor": [], "plan": []}
    peak = 0
    for number in range(rounds):
        command = ["encode", str(folder / "c.safetensors"), f"s3://{BUCKET}/large.npy"]
        ours, memory = lfq([*command, "-o", str(folder / f"out{number}")])
        runs["ours"].append(ours)
        peak = max(peak, memory)
        for name in ("floor", "plan"):
            runs[name].append(contender(name))
    loop = [round(floor / ours, 2) for ours, floor in zip(runs["ours"], runs["floor"], strict=True)]
    return {
        "link": f"{MILLISECONDS} ms, {MEGABYTES} MB/s a connection",
        "encode MB/s": round(nbytes / 1e6 / statistics.median(runs["ours"])),
        "client's loop MB/s": round(nbytes / 1e6 / statistics.median(runs["floor"])),
        "encode / loop": {
            "median": statistics.median(loop),
            "target": 0.8,
            "each": loop,
        },
        "peak MiB of encode": peak >> 20,
        "seconds to plan": {"median": round(statistics.median(runs["plan"]), 1), "target": 10},
    }


def lfq(arguments: list[str]) -> tuple[float, int]:
    """(seconds of the work, imports left out; bytes of memory at the peak) of one command."""
    command = [sys.executable, "-m", "lfq_cli", *arguments, "--json", "--no-progress"]
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"{command} ended with {process.returncode}")
        output.seek(0)
        return json.load(output)["seconds"], usage.ru_maxrss * 1024


def contender(name: str) -> float:
    command = [sys.executable, "-m", "benchmarks.object_store", "--contender", name]
    return float(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))


def client_loop() -> float:
    """Seconds in which the client brings the large object, in order."""
    system = client()
    path = f"{BUCKET}/large.npy"
    size = system.info(path)["size"]
    began = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        under_way: deque[Any] = deque()
        for start in range(0, size, RANGE_BYTES):
            end = min(start + RANGE_BYTES, size)
            under_way.append(pool.submit(system.cat_file, path, start=start, end=end))
            if len(under_way) == AT_ONCE:
                under_way.popleft().result()
        for each in under_way:
            each.result()
    return time.perf_counter() - began


def plan() -> float:
    """Seconds in which it is known what to encode: every object's header is looked at."""
    from lfq_cli.jobs.plan import plan_encoding
    from lfq_cli.storage.urlpath import path_of

    began = time.perf_counter()
    assert plan_encoding([f"s3://{BUCKET}/small"], path_of(f"s3://{BUCKET}/out"))
    return time.perf_counter() - began


CONTENDERS = {"floor": client_loop, "plan": plan}

if __name__ == "__main__":
    main()
