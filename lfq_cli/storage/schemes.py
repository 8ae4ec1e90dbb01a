"""Which library serves which kind of URL, and its names for things."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

REQUESTS_AT_ONCE = 64


@dataclass(frozen=True)
class Scheme:
    """A kind of store.

    library, extra: what fsspec needs for it. options: arguments of its file system. tag_keys: fields that identify a
    version of an object; the first one present is used. foreign: dotted names of exceptions that are not OSError.
    """

    library: str
    extra: str
    tag_keys: tuple[str, ...]
    foreign: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    lists: bool = True
    writes: bool = True


_AIOHTTP = ("aiohttp.ClientError", "asyncio.TimeoutError")
_HTTP = Scheme("aiohttp", "http", ("ETag", "Last-Modified"), _AIOHTTP, lists=False, writes=False)
_S3 = Scheme(
    "s3fs",
    "s3",
    ("ETag",),
    (*_AIOHTTP, "botocore.exceptions.BotoCoreError", "botocore.exceptions.ClientError"),
    MappingProxyType(
        {
            "config_kwargs": {
                "max_pool_connections": REQUESTS_AT_ONCE,  # botocore's 10 would limit the ranges read at once
                # Of 1.19 ms of processor time for each request of a header, botocore takes 0.17 to make its own name,
                # 0.10 to check parameters (5,000 requests, the least of nine runs).
                "user_agent": "lfq",
                "parameter_validation": False,
            }
        }
    ),
)
_GCS = Scheme("gcsfs", "gcs", ("generation", "etag"), (*_AIOHTTP, "google.auth.exceptions.GoogleAuthError"))
_AZURE = Scheme("adlfs", "azure", ("etag",), (*_AIOHTTP, "azure.core.exceptions.AzureError"))
_HF = Scheme("huggingface_hub", "hf", ("blob_id",), ("httpx.HTTPError", "httpx2.HTTPError"), writes=False)

SCHEMES = {
    "s3": _S3,
    "gs": _GCS,
    "gcs": _GCS,
    "az": _AZURE,
    "abfs": _AZURE,
    "hf": _HF,
    "http": _HTTP,
    "https": _HTTP,
}
"""scheme -> who serves it. hf is read only: it has commits, and no condition on what is there already."""
