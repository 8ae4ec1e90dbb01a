"""`--ray`: the bytes of one machine, whatever is killed. With Ray, where it is installed: `make test-ray`."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.quantizer import Quantizer

pytest.importorskip("ray", reason="Ray is not installed: make test-ray")

LFQ = [sys.executable, "-m", "lfq_cli"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a checkpoint and 40 inputs; Ray without a token in the user's home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    native.write(Quantizer(dim=5, codebook_dim=5), Path("c.safetensors"))
    for k in range(40):
        Path(f"in/{k % 3}").mkdir(parents=True, exist_ok=True)
        np.save(f"in/{k % 3}/{k:02}.npy", np.random.default_rng(k).standard_normal((9, 5)).astype(np.float32))
    return tmp_path


def run(*arguments: object, code: int = 0, seconds: float = 300) -> tuple[str, str]:
    done = subprocess.run([*LFQ, *map(str, arguments)], capture_output=True, text=True, timeout=seconds, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


def contents(folder: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def processes_below(folder: Path) -> list[str]:
    """Ray's own processes and actors of this test, which have its folder as working directory, or its HOME."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (each / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            home = f"HOME={folder}\0".encode()
            if home in (each / "environ").read_bytes() and ("ray" in command or "lfq_cli" in command):
                found.append(command[:100])
    return found


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_bytes_tables_and_json_are_those_of_one_machine(folder: Path) -> None:
    Path("in/bad.npy").write_text("no array")
    ray = ("--ray", "local", "--ray-num-cpus", "0.5", "--json")
    plain = run("encode", "c.safetensors", "in", "-o", "plain", "--json", code=3)
    there = run("encode", "c.safetensors", "in", "-o", "there", *ray, code=3)
    assert contents("there") == contents("plain")
    outputs = [json.loads(text.replace("there/", "plain/"))["outputs"] for text in (plain[0], there[0])]
    assert outputs[0] == outputs[1]
    assert plain[1] in there[1]
    again = run("encode", "c.safetensors", "in", "-o", "there", *ray, code=3)
    assert [each["status"] for each in json.loads(again[0])["outputs"]].count("up to date") == 40
    run("decode", "c.safetensors", "plain", "-o", "plain-back")
    run("decode", "c.safetensors", "plain", "-o", "there-back", *ray)
    assert contents("there-back") == contents("plain-back")
    assert wait_until(lambda: not processes_below(folder)), processes_below(folder)


def test_parts_of_one_file_on_actors() -> None:
    np.save("big.npy", np.random.default_rng(0).standard_normal((1000, 5)).astype(np.float32))
    run("encode", "c.safetensors", "big.npy", "-o", "parts", "--part-rows", "37", "--ray", "local")
    run("merge", "parts", "-o", "merged")
    run("encode", "c.safetensors", "big.npy", "-o", "once")
    assert contents("merged") == contents("once")


# faults in actors: a module that is imported before all others in every process that has it on its path

KILL_THE_WORKER = """
import os, sys, signal
if "lfq_cli.cluster.driver" not in sys.orig_argv and any("default_worker" in a for a in sys.orig_argv):
    import lfq_cli.jobs.encode as encode
    plain = encode._encode_file
    def encode_file(job, *rest):
        if job.source.name in os.environ["KILLERS"].split(","):
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(job, *rest)
    encode._encode_file = encode_file
"""


def in_every_process(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder / "site"))


def test_a_job_that_kills_its_worker_fails_alone_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_every_process(folder, monkeypatch, KILL_THE_WORKER)
    monkeypatch.setenv("KILLERS", "07.npy,08.npy")
    run("encode", "c.safetensors", "in", "-o", "plain")
    out, err = run("encode", "c.safetensors", "in", "-o", "there", "--ray", "local", "--json", code=3)
    failed = [each for each in json.loads(out)["outputs"] if each["status"] == "failed"]
    assert [each["input"] for each in failed] == ["in/1/07.npy", "in/2/08.npy"]
    assert "in/1/07.npy: the actor that worked on it was killed twice" in err
    expected = contents("plain")
    del expected["1/07.codes.safetensors"], expected["2/08.codes.safetensors"]
    assert contents("there") == expected


SLOW = """
import sys, time
if any("default_worker" in a for a in sys.orig_argv):
    import lfq_cli.jobs.encode as encode
    plain = encode._encode_file
    def encode_file(*given):
        time.sleep(0.15)
        return plain(*given)
    encode._encode_file = encode_file
"""


def actors_at_work(folder: Path) -> list[int]:
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            command = (each / "cmdline").read_bytes()
            if command.startswith(b"ray::Actor") and f"HOME={folder}\0".encode() in (each / "environ").read_bytes():
                found.append(int(each.name))
    return found


def test_workers_that_are_killed_lose_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_every_process(folder, monkeypatch, SLOW)
    run("encode", "c.safetensors", "in", "-o", "plain")
    command = [*LFQ, "encode", "c.safetensors", "in", "-o", "there", "--ray", "local", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        kills = 0
        for count in (2, 9, 15):
            assert wait_until(lambda count=count: len(contents("there")) >= count if Path("there").exists() else False)
            for pid in actors_at_work(folder)[:1]:
                os.kill(pid, signal.SIGKILL)
                kills += 1
        out, err = process.communicate(timeout=150)
    assert kills >= 2
    assert process.returncode == 0, err
    outputs = json.loads(out)["outputs"]
    assert [each["input"] for each in outputs] == sorted(f"in/{k % 3}/{k:02}.npy" for k in range(40))
    assert {each["status"] for each in outputs} <= {"written", "up to date"}
    assert contents("there") == contents("plain")  # and nothing else, half-written files for one


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_running(
    folder: Path, monkeypatch: pytest.MonkeyPatch, signum: signal.Signals
) -> None:
    in_every_process(folder, monkeypatch, SLOW)
    command = [*LFQ, "encode", "c.safetensors", "in", "-o", "there", "--ray", "local"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert wait_until(lambda: Path("there").exists() and len(contents("there")) > 2, 150)
        process.send_signal(signum)
        _, err = process.communicate(timeout=150)
    assert process.returncode == (-9 if signum == signal.SIGKILL else 128 + signum)
    if signum != signal.SIGKILL:
        assert err.splitlines()[-1] == "lfq: interrupted: nothing half-written is left; the same command goes on"
        assert all(name.endswith(".codes.safetensors") for name in contents("there"))
    assert wait_until(lambda: not processes_below(folder)), processes_below(folder)


# clusters


@pytest.fixture
def cluster(folder: Path) -> Iterator[Callable[..., str]]:
    """cluster(**environment) starts one of two CPUs; its address."""
    home = Path("/tmp") / f"lfq-{os.getpid()}"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]

    def start(**environment: str) -> str:
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--port", str(port)]
        options = ["--include-dashboard", "false", "--num-cpus", "2", "--disable-usage-stats", "--temp-dir", str(home)]
        done = subprocess.run(
            [*command, *options], env=os.environ | environment, capture_output=True, text=True, check=False, timeout=180
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return f"127.0.0.1:{port}"

    yield start
    end_cluster(home)
    shutil.rmtree(home, ignore_errors=True)


def end_cluster(home: Path) -> None:
    """Kills every process whose command names the cluster's folder."""
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(home).encode() in (each / "cmdline").read_bytes():
                os.kill(int(each.name), signal.SIGKILL)


def test_a_cluster_that_runs(cluster: Callable[..., str]) -> None:
    address = cluster()
    run("encode", "c.safetensors", "in", "-o", "plain")
    run("encode", "c.safetensors", "in", "-o", "there", "--ray", address)
    assert contents("there") == contents("plain")
    _, err = run("encode", "c.safetensors", "in", "-o", "x", "--ray", address, "--ray-num-cpus", "3", code=1)
    assert "the cluster has 2 CPUs, but each actor needs 3" in err
    _, err = run("encode", "c.safetensors", "in", "-o", "x", "--ray", address, "--ray-num-gpus", "1", code=1)
    assert "the cluster has 0 GPUs, but each actor needs 1" in err


def test_a_cluster_that_goes_away(cluster: Callable[..., str], folder: Path) -> None:
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(SLOW)
    address = cluster(PYTHONPATH=str(folder / "site"))
    command = [*LFQ, "encode", "c.safetensors", "in", "-o", "there", "--ray", address]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert wait_until(lambda: Path("there").exists() and len(contents("there")) > 2, 150)
        end_cluster(Path("/tmp") / f"lfq-{os.getpid()}")
        _, err = process.communicate(timeout=150)
    assert process.returncode == 1
    (error,) = [line for line in err.splitlines() if line.startswith("lfq: error")]
    assert "went away" in error
    assert all(name.endswith(".codes.safetensors") for name in contents("there"))
    run("encode", "c.safetensors", "in", "-o", "there")
    assert len(contents("there")) == 40


def test_an_actor_without_torch(cluster: Callable[..., str], folder: Path) -> None:
    (folder / "site" / "torch").mkdir(parents=True)
    (folder / "site" / "torch" / "__init__.py").write_text("raise ImportError('no torch on this machine')")
    address = cluster(PYTHONPATH=str(folder / "site"))
    weights = {
        "project_in.weight": np.ones((4, 5), np.float32),
        "project_in.bias": np.zeros(4, np.float32),
        "project_out.weight": np.ones((5, 4), np.float32),
        "project_out.bias": np.zeros(5, np.float32),
    }
    native.write(Quantizer(dim=5, codebook_dim=4, weights=weights), Path("p.safetensors"))
    _, err = run("encode", "p.safetensors", "in", "-o", "there", "--ray", address, code=1)
    (error,) = [line for line in err.splitlines() if line.startswith("lfq: error")]
    assert "lacks a library: no torch on this machine" in error
    assert not Path("there").exists()


def test_a_cluster_that_is_not_there() -> None:
    started = time.monotonic()
    for address, message in (
        ("127.0.0.1:1", "there is no cluster"),
        ("auto", "Could not find any running Ray instance"),
        ("ray://127.0.0.1:1", "Ray Client is not used"),
        ("somewhere", "expected local, auto or HOST:PORT"),
    ):
        _, err = run("encode", "c.safetensors", "in", "-o", "there", "--ray", address, code=1)
        assert message in err
        assert len(err.splitlines()) == 2  # the error and its hint
    assert time.monotonic() - started < 60


# Ray Data

STAGES = """
import sys
import numpy as np
import ray
import ray.data
from lfq_cli import load
from lfq_cli.ray import Decoder, Encoder

ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=3)
ray.data.DataContext.get_current().enable_progress_bars = False
codec = load("c.safetensors")
x = np.concatenate([np.load(f"in/{k % 3}/{k:02}.npy")[None] for k in range(8)])
ray.data.from_items([{"data": each, "key": k} for k, each in enumerate(x)]).write_parquet("table")
import webdataset, warnings
with webdataset.TarWriter("shard.tar") as shard:
    for k, each in enumerate(x):
        shard.write({"__key__": f"{k}", "npy": each})
np.save("stack.npy", x)
stages = {
    "read_parquet": (lambda: ray.data.read_parquet("table"), "data"),
    "read_numpy": (lambda: ray.data.read_numpy("stack.npy"), "data"),
    "read_webdataset": (lambda: ray.data.read_webdataset("shard.tar"), "npy"),
}
expected = sorted(codec.encode(x).indices.reshape(8, -1).tolist())
values = sorted(codec.decode(codec.encode(x)).reshape(8, -1).tolist())
for name, (read, column) in stages.items():
    encoded = read().map_batches(
        Encoder, fn_constructor_args=("c.safetensors",), fn_constructor_kwargs={"column": column}, concurrency=1
    )
    rows = encoded.take_all()
    assert sorted(np.ravel(row["tokens"]).tolist() for row in rows) == expected, name
    assert all(column not in row for row in rows), name
    decoded = encoded.map_batches(Decoder, fn_constructor_args=("c.safetensors",), concurrency=1).take_all()
    assert sorted(np.ravel(row["data"]).tolist() for row in decoded) == values, name
    print(name)
"""


def test_stages_of_ray_data() -> None:
    done = subprocess.run([sys.executable, "-c", STAGES], capture_output=True, text=True, check=False, timeout=400)
    assert done.stdout.split() == ["read_parquet", "read_numpy", "read_webdataset"], done.stderr[-3000:]


def test_the_example_of_the_documentation() -> None:
    text = (Path(__file__).parent.parent / "docs" / "scaling.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    before = """
import numpy as np, ray, ray.data
ray.init(address="local", include_dashboard=False, log_to_driver=False, num_cpus=3)
x = np.random.default_rng(0).standard_normal((8, 4, 5)).astype(np.float32)
ray.data.from_items([{"latents": each} for each in x]).write_parquet("latents.parquet")
"""
    after = """
from lfq_cli import load
codec = load("lfq.safetensors")
found = sorted(np.ravel(row["data"]).tolist() for row in back.take_all())
assert found == sorted(codec.decode(codec.encode(x)).reshape(8, -1).tolist())
print("done")
"""
    Path("c.safetensors").rename("lfq.safetensors")
    command = [sys.executable, "-c", before + example + after]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=400)
    assert done.stdout.split() == ["done"], done.stderr[-3000:]
