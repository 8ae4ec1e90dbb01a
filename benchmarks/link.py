"""A link to a server on this machine that is as slow as one to a store.

`python -m benchmarks.link PORT MILLISECONDS MEGABYTES` prints its own port. Every message to the server at PORT waits
so many milliseconds, every connection brings so many MB/s.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from contextlib import suppress

_PIECE = 1 << 18


def main() -> None:
    port, milliseconds, megabytes = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    listening = socket.create_server(("127.0.0.1", 0), backlog=256)
    print(listening.getsockname()[1], flush=True)
    while True:
        near, _ = listening.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for each in (near, far):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=send_late, args=(near, far, milliseconds / 1e3), daemon=True).start()
        threading.Thread(target=send_at_rate, args=(far, near, megabytes * 1e6), daemon=True).start()


def send_late(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """What follows without a pause belongs to the same message and does not wait again."""
    last = 0.0
    with suppress(OSError):
        while data := source.recv(_PIECE):
            if time.monotonic() - last > 1e-3:
                time.sleep(seconds)
            target.sendall(data)
            last = time.monotonic()
        target.shutdown(socket.SHUT_WR)


def send_at_rate(source: socket.socket, target: socket.socket, bytes_per_second: float) -> None:
    due = time.monotonic()
    with suppress(OSError):
        while data := source.recv(_PIECE):
            target.sendall(data)
            due = max(due, time.monotonic() - 0.01) + len(data) / bytes_per_second
            time.sleep(max(0.0, due - time.monotonic()))
        target.shutdown(socket.SHUT_WR)


if __name__ == "__main__":
    main()
