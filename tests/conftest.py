"""How hypothesis runs here, how commands do, and an object store for them."""

import secrets
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import faulty_proxy
import object_store
import pytest
from typer.main import get_command

from lfq_cli import cli

if find_spec("hypothesis") is not None:  # `make gpu` runs where it may be missing
    from hypothesis import settings

    settings.register_profile("lfq", deadline=None)  # a busy machine is not a failure
    settings.load_profile("lfq")

COMMAND = get_command(cli.app_for([]))  # once: it takes longer than what most tests run


@pytest.fixture
def lfq(monkeypatch, capsys, tmp_path):
    """lfq(*arguments) -> (exit code, stdout, stderr), in this process and an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli, "app_for", lambda _: COMMAND)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lfq", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        return ended.value.code or 0, captured.out, captured.err

    return call


@pytest.fixture(scope="session")
def server():
    """The URL of an S3 server."""
    with tempfile.TemporaryDirectory(prefix="lfq-s3-") as folder, object_store.seaweed(folder) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def client(server):
    """A client of that server which is not lfq's."""
    import s3fs

    return s3fs.S3FileSystem(
        key=object_store.KEY, secret=object_store.SECRET, endpoint_url=server, use_listings_cache=False
    )


@pytest.fixture
def bucket(server, client, monkeypatch, lfq):
    """A new bucket's URL, which commands of this process can read and write; c.safetensors lies in the folder."""
    from lfq_cli import native
    from lfq_cli.quantizer import Quantizer
    from lfq_cli.storage import stores

    object_store.connect(monkeypatch, server)
    name = f"b{secrets.token_hex(6)}"
    client.mkdir(name)
    native.write(Quantizer(dim=16, codebook_dim=16), Path("c.safetensors"))
    yield f"s3://{name}"
    stores.store_of.cache_clear()


@pytest.fixture
def proxy(bucket, server, monkeypatch):
    """A proxy before the server, to which commands of this process now go."""
    from lfq_cli.storage import stores

    with faulty_proxy.proxy_before(server) as proxy:
        object_store.connect(monkeypatch, proxy.url)
        yield proxy
    stores.store_of.cache_clear()
