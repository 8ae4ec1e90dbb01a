"""Files of a web server: with ranges, without them, without a size; nothing is written there."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lfq_cli import native
from lfq_cli.quantizer import Quantizer
from lfq_cli.storage import stores

pytest.importorskip("aiohttp")

SHAPE = (300_000, 16)  # 19 MB: three ranges


class Files(BaseHTTPRequestHandler):
    """Files of a folder. `mode`: "ranges", "whole" (a range is answered with all) or "streamed" (without a size)."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(with_body=False)

    def do_GET(self):
        self.answer(with_body=True)

    def answer(self, *, with_body):
        path = self.server.folder / self.path.partition("?")[0].lstrip("/")
        mode = self.server.mode
        if not path.is_file():
            self.send_error(404)
            return
        data, status = path.read_bytes(), 200
        wanted = self.headers.get("Range")
        self.server.seen.append((self.command, wanted))
        whole = len(data)
        if wanted and mode == "ranges":
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            data, status = data[int(first) : int(last) + 1], 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
        if mode == "streamed":
            self.close_connection = True
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", self.server.etag)
        self.end_headers()
        if with_body:
            self.wfile.write(data)


@pytest.fixture
def web(lfq, monkeypatch):
    """A server of the folder `www`; its URL is `.url`."""
    monkeypatch.setattr(stores, "_FIRST_PAUSE", 0.01)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    server.daemon_threads = True
    server.block_on_close = False  # the client keeps connections open
    server.folder, server.mode, server.seen, server.etag = Path("www").absolute(), "ranges", [], '"1"'
    server.folder.mkdir()
    server.url = f"http://127.0.0.1:{server.server_port}"
    native.write(Quantizer(dim=16, codebook_dim=16), server.folder / "c.safetensors")
    np.save(server.folder / "a.npy", np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    stores.store_of.cache_clear()
    yield server
    stores.store_of.cache_clear()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("mode", ["ranges", "whole", "streamed"])
def test_a_file_of_a_web_server_is_encoded_as_one_that_is_here(web, lfq, mode):
    web.mode = mode
    assert lfq("encode", "www/c.safetensors", "www/a.npy", "-o", "here")[0] == 0
    code, _, err = lfq("encode", f"{web.url}/c.safetensors", f"{web.url}/a.npy?token=x", "-o", "there", "-v")
    assert code == 0, err
    here, there = (Path(name, "a.codes.safetensors").read_bytes() for name in ("here", "there"))
    assert here[-600_000:] == there[-600_000:]
    assert ("copied into" in err) == (mode != "ranges")
    assert lfq("verify", "there")[0] == 0


def test_hugging_face_is_for_reading(lfq):
    pytest.importorskip("huggingface_hub")
    native.write(Quantizer(dim=16, codebook_dim=16), Path("c.safetensors"))
    np.save("a.npy", np.ones((5, 16), np.float32))
    code, _, err = lfq("encode", "c.safetensors", "a.npy", "-o", "hf://datasets/user/name/out")
    assert code == 1
    assert "hf:// is read-only" in err


def test_a_file_that_changes_while_it_is_read(web, lfq):
    read = Files.answer

    def changing(self, *, with_body):
        if self.path.startswith("/a.npy") and with_body and self.headers.get("Range", "").startswith("bytes=8388608"):
            self.server.etag = '"2"'
        read(self, with_body=with_body)

    Files.answer = changing
    try:
        code, _, err = lfq("encode", "www/c.safetensors", f"{web.url}/a.npy", "-o", "there")
    finally:
        Files.answer = read
    assert code == 1
    assert "changed while it was read" in err
    assert not Path("there/a.codes.safetensors").exists()


def test_what_a_web_server_does_not_do(web, lfq):
    code, _, err = lfq("encode", "www/c.safetensors", "www/a.npy", "-o", f"{web.url}/out")
    assert (code, "http:// is read-only" in err) == (1, True)
    code, _, err = lfq("encode", "www/c.safetensors", f"{web.url}/nothing.npy", "-o", "there")
    assert (code, f"{web.url}/nothing.npy: no such file or folder" in err) == (1, True)
    web.shutdown()
    web.server_close()
    code, _, err = lfq("encode", "www/c.safetensors", f"{web.url}/a.npy", "-o", "there")
    assert code == 1
    assert "cannot be read: Connect" in err or "cannot be read: Cannot connect" in err
