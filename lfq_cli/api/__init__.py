"""What `import lfq_cli` offers besides torch modules: codecs, tokens, codes files and statistics (docs/python.md)."""

from __future__ import annotations

from lfq_cli.api.codec import Codec, load
from lfq_cli.api.creator import Creator, create
from lfq_cli.api.files import decode_files, encode_files
from lfq_cli.api.statistics import Statistics, stats
from lfq_cli.api.tokens import Tokens

__all__ = ["Codec", "Creator", "Statistics", "Tokens", "create", "decode_files", "encode_files", "load", "stats"]
