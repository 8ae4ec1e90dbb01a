"""An HTTP proxy before an object store that makes chosen requests fail: answers 503, cut bodies, slow ones, expiry."""

import http.client
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

EXPIRED = b"<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message></Error>"
_BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class Proxy:
    """`fault(method, path, range, number)` names what happens to a request: None, "busy", "cut", "slow", "expired",
    "whole" (the range is ignored), "unconditional" (a refusal by the condition becomes a success), "lost" (it is done,
    and answered 503). `seen`: (method,
    path) of all.
    """

    def __init__(self, upstream):
        self.upstream = urlsplit(upstream)
        self.fault = lambda method, path, wanted, number: None
        self.seen = []
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self.server.daemon_threads = True
        self.server.block_on_close = False  # clients keep connections open
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def count(self, method, part=""):
        return sum(method == each and part in path for each, path in self.seen)


@contextmanager
def proxy_before(upstream):
    proxy = Proxy(upstream)
    thread = threading.Thread(target=proxy.server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.server.shutdown()
        proxy.server.server_close()
        thread.join()


def _handler(proxy):
    class Handler(_Forwarding):
        through = proxy

    return Handler


class _Forwarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def forward(self):
        body = self.read_body()
        proxy = self.through
        with proxy.lock:
            number = len(proxy.seen)
            proxy.seen.append((self.command, self.path))
        fault = proxy.fault(self.command, self.path, self.headers.get("Range"), number)
        if fault == "busy":
            return self.answer(503, {}, _BUSY)
        if fault == "expired":
            return self.answer(400, {"Content-Type": "application/xml"}, EXPIRED)
        status, headers, data = self.ask_upstream(body, with_range=fault != "whole")
        if fault == "lost":
            return self.answer(503, {}, _BUSY)
        if fault == "unconditional" and status == 412:
            return self.answer(200, {"ETag": '"0"'}, b"")
        return self.answer(status, headers, data, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = forward  # noqa: N815 - http.server's names

    def ask_upstream(self, body, *, with_range):
        upstream = http.client.HTTPConnection(self.through.upstream.hostname, self.through.upstream.port)
        try:
            upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if with_range or name.lower() != "range":
                    upstream.putheader(name, value)
            upstream.endheaders(body)
            answer = upstream.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read()
        finally:
            upstream.close()

    def read_body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(b"%x\r\n%s\r\n" % (size, self.rfile.read(size)))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join([*parts, b"0\r\n\r\n"])

    def answer(self, status, headers, data, fault=None):
        self.send_response_only(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", headers.get("Content-Length", "0") if is_head else str(len(data)))
        self.end_headers()
        if is_head:
            return
        if fault == "cut":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        step = max(len(data) // 10, 1) if fault == "slow" else len(data) or 1
        for start in range(0, len(data), step):
            self.wfile.write(data[start : start + step])
            if fault == "slow":
                time.sleep(0.05)
