"""`webdataset`: tar shards of KEY.npy and KEY.cls, as webdataset and Energon read them.

A dot in a key would end it, and samples that then have one key would be one: dots, and what a path cannot hold, are
written as %2E and so on, as in an URL. Source: github.com/webdataset/webdataset, README, "The WebDataset Format".
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from urllib.parse import quote

import numpy as np

from lfq_cli.exports.format import Format, Part


def member_name(key: str) -> str:
    """The key as the name of a member: without dots, "..", leading slashes and control characters."""
    return "/".join(quote(step, safe=" !#$&'()+,;=@[]^_`{}~-").replace(".", "%2E") for step in key.split("/") if step)


def write(part: Part, folder: Path, stem: str) -> None:
    """STEM.tar: of each sample its ids as .npy and its label as .cls."""
    with tarfile.open(folder / f"{stem}.tar", "x", format=tarfile.PAX_FORMAT) as archive:
        for rows in part.rows():
            for k, (key, ids) in enumerate(zip(rows.keys, rows.ids, strict=True)):
                name = member_name(key)
                data = io.BytesIO()
                np.save(data, ids)
                _add(archive, f"{name}.npy", data.getvalue())
                if rows.labels is not None:
                    _add(archive, f"{name}.cls", str(int(rows.labels[k])).encode())


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


FORMAT = Format(write, ("int32", "int64", "uint16", "uint32"), readers="webdataset", samples_per_file=10_000)
