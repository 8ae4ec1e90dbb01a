"""One store: what exists, ranges of an object, uploads. Every library's exceptions come out as an OSError of one
line.
"""

from __future__ import annotations

import errno
import hashlib
import random
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from lfq_cli.errors import OptionError
from lfq_cli.extras import require
from lfq_cli.storage.schemes import SCHEMES, Scheme

RANGES_AT_ONCE = 16
"""8 MiB each: over a link of 30 ms and 80 MB/s a connection two of 4 MiB give 100 to 120 MB/s, sixteen 300."""
TRIES = 5
_FIRST_PAUSE = 0.2
_LAST_PAUSE = 5.0
_PART_BYTES = 16 << 20
_PARTS_AT_ONCE = 8
"""Of an upload: 128 MiB in memory at most."""
_FINAL = (FileNotFoundError, PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError)
_FINAL_NUMBERS = (errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENAMETOOLONG, errno.ENOSPC)
"""What another try does not change."""

_REFUSED_CONDITION = (409, 412)
"""Conflict with an upload under way, Precondition Failed: something has the name, or is about to."""

_PIECE_BYTES = 1 << 20
"""At most: what came together, up to 256 KiB, stays as it is."""

R = TypeVar("R")


@dataclass(frozen=True)
class ObjectStatus:
    """A store's status of a name. size: None if a server does not report it. tag: changes with every version."""

    is_folder: bool
    size: int | None = None
    tag: str | None = None
    modified: float = 0.0

    @property
    def version(self) -> tuple[int, ...]:
        """The same as numbers that change when the object is written again."""
        digest = hashlib.sha256(f"{self.tag}\0{self.modified}".encode()).digest()
        return self.size or 0, int.from_bytes(digest[:8], "little")


async def _as_it_comes(system: Any, url: str, start: int, count: int) -> list[bytes]:
    """A range from s3fs in the pieces in which it arrives.

    Its `cat_file` joins them: 512 MiB in ranges of 8 MiB take 0.46 s of processor time, without that 0.37.
    """
    bucket, key, version = system.split_path(url)
    wanted = {"Bucket": bucket, "Key": key, "Range": f"bytes={start}-{start + count - 1}"}
    if version:
        wanted["VersionId"] = version
    answer = await system._call_s3("get_object", **wanted, **system.req_kw)  # which says who pays
    body = answer["Body"]
    try:
        return [piece async for piece in body.iter_chunks(_PIECE_BYTES)]
    finally:
        body.close()


class RangesIgnoredError(OSError):
    """A server that does not answer a range request with that range."""


@cache
def store_of(scheme: str, process: int) -> Store:
    """The store of a scheme. process: connections do not survive a fork, so each process has its own."""
    return Store(scheme, SCHEMES[scheme])


class Store:
    """Objects by URL. Every method raises OSError, with the URL as its file name, for refusals of the store or
    network.
    """

    def __init__(self, name: str, scheme: Scheme) -> None:
        self.scheme = scheme
        self._name = name
        self._known: dict[str, ObjectStatus] = {}
        self.has_conditions: dict[str, bool] = {}
        """Of each bucket that was written to: whether it refuses an upload where something is."""

    @cached_property
    def pool(self) -> ThreadPoolExecutor:
        """The threads that fetch ranges."""
        return ThreadPoolExecutor(RANGES_AT_ONCE, thread_name_prefix="lfq-ranges")

    @cached_property
    def _system(self) -> Any:
        """fsspec's file system, without its cache of listings."""
        scheme = self.scheme
        place = Path(f"{self._name}://")
        fsspec = require("fsspec", scheme.extra, place, OptionError)
        require(scheme.library, scheme.extra, place, OptionError)
        system = fsspec.filesystem(
            self._name, use_listings_cache=False, skip_instance_cache=True, **_copied(scheme.options)
        )
        if hasattr(system, "retries"):
            system.retries = 1  # `_again` retries instead, with growing pauses
        return system

    @cached_property
    def _foreign(self) -> tuple[type[BaseException], ...]:
        classes = []
        for dotted in self.scheme.foreign:
            module, _, name = dotted.rpartition(".")
            with suppress(ModuleNotFoundError):  # other versions of the library lack it
                classes.append(getattr(import_module(module), name))
        return tuple(classes)

    # what exists

    def find(self, url: str) -> ObjectStatus | None:
        """The current status of the URL; None if nothing exists."""
        try:
            return self.fresh(url)
        except FileNotFoundError:
            self._known.pop(url, None)
            return None

    def fresh(self, url: str) -> ObjectStatus:
        """The current status of the URL. Raises FileNotFoundError if nothing exists."""
        info = self._again(url, lambda: self._system.info(url))
        found = self._known[url] = self._status_from(info)
        return found

    def known(self, url: str) -> ObjectStatus:
        """The last known status of the URL, from a listing of its folder or by asking."""
        return self._known.get(url) or self.fresh(url)

    def below(self, url: str) -> Iterator[tuple[str, ...]]:
        """The names below a prefix, each as its parts, in any order."""
        self._require_listing()
        found: dict[str, Any] = self._again(url, lambda: self._system.find(url, withdirs=False, detail=True))
        skipped = len(self._system._strip_protocol(url)) + 1
        for key, info in found.items():
            below = key[skipped:]
            if not below or below.endswith("/") or info.get("type") == "directory":
                continue  # a folder marker
            self._known[f"{url}/{below}"] = self._status_from(info)
            yield tuple(below.split("/"))

    def _require_listing(self) -> None:
        if not self.scheme.lists:
            raise OSError(errno.ENOTSUP, "web servers cannot be listed: name the file itself")

    def children(self, url: str) -> dict[str, ObjectStatus]:
        """Name -> status of the objects and prefixes directly below a prefix; nothing if it does not exist."""
        self._require_listing()
        try:
            found: list[dict[str, Any]] = self._again(url, lambda: self._system.ls(url, detail=True))
        except FileNotFoundError:
            return {}
        skipped = len(self._system._strip_protocol(url)) + 1
        children: dict[str, ObjectStatus] = {}
        for info in found:
            name, status = info["name"].rstrip("/")[skipped:], self._status_from(info)
            if name and not (status.is_folder and name in children):  # an object and a prefix: it means the object
                children[name] = status
        return children

    def _status_from(self, info: dict[str, Any]) -> ObjectStatus:
        tag = next((str(info[key]) for key in self.scheme.tag_keys if info.get(key)), None)
        return ObjectStatus(info.get("type") == "directory", info.get("size"), tag and tag.strip('"'), _seconds(info))

    # reading

    def start_range(self, url: str, start: int, count: int) -> Future[list[bytes]]:
        """Starts fetching `count` bytes from byte `start` on."""
        return self.pool.submit(self.range, url, start, count)

    def range(self, url: str, start: int, count: int) -> list[bytes]:
        """`count` bytes from byte `start` on, in pieces of any size. Raises RangesIgnoredError if the server sends
        more.
        """

        def fetch() -> list[bytes]:
            pieces = self._pieces(url, start, count)
            came = sum(map(len, pieces))
            if came > count:
                raise RangesIgnoredError(errno.EINVAL, f"the server sent {came} bytes, {count} were asked for")
            if came < count:
                raise OSError(errno.EIO, f"the server sent {came} of {count} bytes")
            return pieces

        return self._again(url, fetch)

    def _pieces(self, url: str, start: int, count: int) -> list[bytes]:
        if self.scheme.library != "s3fs":
            return [self._system.cat_file(url, start=start, end=start + count)]
        run = import_module("fsspec.asyn").sync
        pieces: list[bytes] = run(self._system.loop, _as_it_comes, self._system, url, start, count)
        return pieces

    def download(self, url: str, path: str) -> None:
        """The whole object, in one request, into a local file."""
        self._again(url, lambda: self._system.get_file(url, path))

    # writing

    def upload(self, local: Path, url: str, *, new: bool) -> None:
        """Uploads the file as an object. new: only if its name is free; raises FileExistsError otherwise."""
        sized: dict[str, Any] = {}
        if self.scheme.library == "s3fs":
            sized = {"chunksize": _PART_BYTES, "max_concurrency": _PARTS_AT_ONCE}
        mode = "create" if new else "overwrite"
        self._known.pop(url, None)
        try:
            self._again(url, lambda: self._system.put_file(str(local), url, mode=mode, **sized))
        except OSError as reason:
            if new and _status_of(reason) in _REFUSED_CONDITION:
                raise FileExistsError(errno.EEXIST, "exists", url) from reason
            raise

    def remove(self, url: str) -> None:
        """Removes an object."""
        self._known.pop(url, None)
        self._again(url, lambda: self._system.rm_file(url))

    # errors

    def _again(self, url: str, work: Callable[[], R]) -> R:
        """The result of the work, which is retried where the network or the store failed."""
        for number in range(1, TRIES):
            try:
                with self._translated(url):
                    return work()
            except OSError as reason:
                if isinstance(reason, _FINAL) or reason.errno in _FINAL_NUMBERS:
                    raise
                time.sleep(min(_FIRST_PAUSE * 2**number, _LAST_PAUSE) * random.uniform(0.5, 1))
        with self._translated(url):
            return work()

    @contextmanager
    def _translated(self, url: str) -> Iterator[None]:
        self._system  # noqa: B018 - reports a missing library
        try:
            yield
        except OSError as reason:
            cause = reason.__cause__
            if isinstance(reason, FileNotFoundError) and isinstance(cause, self._foreign) and _status_of(cause) != 404:
                # fsspec's http raises it also where the network is down
                raise OSError(errno.EIO, _one_line(cause), url) from reason
            raise type_of(reason)(reason.errno or _number_of(reason), _one_line(reason), url) from reason
        except self._foreign as reason:
            raise OSError(errno.EIO, _one_line(reason), url) from reason


def type_of(reason: OSError) -> type[OSError]:
    """The type of an OSError, of those that are distinguished."""
    types = (*_FINAL, RangesIgnoredError)
    return next((known for known in types if isinstance(reason, known)), OSError)


_NUMBERS: dict[type[OSError], int] = {
    FileNotFoundError: errno.ENOENT,
    PermissionError: errno.EACCES,
    FileExistsError: errno.EEXIST,
    IsADirectoryError: errno.EISDIR,
    NotADirectoryError: errno.ENOTDIR,
}


def _number_of(reason: OSError) -> int:
    return _NUMBERS.get(type_of(reason), errno.EIO)


def _status_of(reason: BaseException | None) -> int | None:
    """The HTTP status that caused a refusal, as the libraries report it; None if there is none."""
    while reason is not None:
        response = getattr(reason, "response", None)  # botocore's
        if isinstance(response, dict):
            return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)) or None
        for name in ("status", "status_code", "code"):  # of aiohttp, azure, gcsfs
            status = getattr(reason, name, None)
            if isinstance(status, int):
                return status
        reason = reason.__cause__
    return None


def _one_line(reason: BaseException) -> str:
    reason_text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(reason_text).split())[:300]


def _seconds(info: dict[str, Any]) -> float:
    found = info.get("LastModified") or info.get("last_modified") or info.get("updated")
    return found.timestamp() if isinstance(found, datetime) else 0.0


def _copied(options: Any) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, dict) else value for name, value in options.items()}
