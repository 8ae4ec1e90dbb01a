"""`--shard auto` on a real SLURM cluster of one node, which the test starts and ends: `make test-slurm`."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.quantizer import Quantizer

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))),
        reason="SLURM is not installed (slurmctld, slurmd, munge)",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons are started as root"),
]

CONFIG = """ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:8
"""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "slurm"
    for name in (folder, folder / "state", folder / "spool"):
        name.mkdir()
    host = socket.gethostname().partition(".")[0]
    config = folder / "slurm.conf"
    ports = [free_port(), free_port()]
    config.write_text(CONFIG.format(host=host, ports=ports, folder=folder, cores=os.cpu_count()))
    monkeypatch.setenv("SLURM_CONF", str(config))
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    pids = [folder / f"{name}.pid" for name in ("slurmd", "slurmctld", "munged")]
    files = {"key-file": key.name, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "log"}
    files["seed-file"] = "seed"
    munge = [f"--{name}={folder}/{value}" for name, value in files.items()]
    try:
        subprocess.run(["munged", "--force", *munge], check=True, capture_output=True)
        subprocess.run(["slurmctld", "-c", "-f", str(config)], check=True, capture_output=True)
        subprocess.run(["slurmd", "-f", str(config), "-N", host], check=True, capture_output=True)
        deadline = time.monotonic() + 30
        while b"idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], capture_output=True, check=False).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.2)
        yield tmp_path
    finally:
        for pid in pids:
            with suppress(OSError, ValueError):
                os.kill(int(pid.read_text()), signal.SIGTERM)


LFQ = f"{sys.executable} -m lfq_cli"


def submit(folder: Path, script: str, *options: str) -> list[str]:
    """What each job of the script printed."""
    path = folder / "job.sh"
    path.write_text(f"#!/bin/bash\n{script}\n")
    output = ["--output", str(folder / "out-%A_%a.txt"), "--chdir", str(folder)]
    subprocess.run(["sbatch", "--wait", *output, *options, str(path)], check=False, capture_output=True, timeout=90)
    found = [each.read_text() for each in sorted(folder.glob("out-*.txt"))]
    for each in folder.glob("out-*.txt"):
        each.unlink()
    return found


def test_arrays_and_steps_share_the_work_and_a_script_alone_does_not(cluster: Path) -> None:
    native.write(Quantizer(dim=5, codebook_dim=5), cluster / "c.safetensors")
    (cluster / "in").mkdir()
    for k in range(40):
        np.save(cluster / "in" / f"{k:02}.npy", np.random.default_rng(k).standard_normal((9, 5)))
    encode = f"{LFQ} encode c.safetensors in -o OUT --shard auto --no-fsync --no-progress --json"

    outputs = submit(cluster, f"srun {encode.replace('OUT', 'both')} | cat", "--array=3-4", "--ntasks=2")
    assert len(outputs) == 2, outputs
    assert sum(text.count('"status": "written"') for text in outputs) == 40
    command = [*LFQ.split(), "encode", "c.safetensors", "in", "-o", "both", "--status", "--json"]
    status = subprocess.run(command, cwd=cluster, capture_output=True, check=False)
    assert status.returncode == 0
    assert json.loads(status.stdout)["current"]["files"] == 40

    (output_alone,) = submit(cluster, encode.replace("OUT", "alone"), "--ntasks=2")
    assert "not a step of srun" in output_alone
    assert not (cluster / "alone").exists()
    (one,) = submit(cluster, encode.replace("OUT", "one"), "--ntasks=1")
    assert one.count('"status": "written"') == 40

    nested = cluster / "nested.sh"
    nested.write_text(f"#!/bin/bash\n{encode.replace('OUT', 'nested')} > nested-$1.txt 2>&1\n")
    lines = [f"sbatch --wait {options} nested.sh {k}" for k, options in enumerate(("-n 1", "", "-n 2"))]
    (cluster / "outer.sh").write_text("#!/bin/bash\nif [ $SLURM_PROCID = 1 ]; then\n" + "\n".join(lines) + "\nfi\n")
    (cluster / "outer.sh").chmod(0o755)
    subprocess.run(["srun", "-n", "2", "./outer.sh"], cwd=cluster, check=False, capture_output=True, timeout=90)
    for k in range(len(lines)):
        assert "submitted from within a step" in (cluster / f"nested-{k}.txt").read_text()
    assert not (cluster / "nested").exists()
