"""The bytes of a pickle, read in order."""

from __future__ import annotations

from lfq_cli.regions import InputFile
from lfq_cli.torchfile.values import BrokenError

MAX_BYTES = 1 << 28
"""The most bytes of one pickle, without long texts, which are skipped; a state dict of 10,000 tensors has 2 MB."""
MAX_LINE = 4096
_PIECE = 1 << 16


class Stream:
    """The bytes of a file from `start` to `end` at most, read a piece at a time."""

    def __init__(self, file: InputFile, start: int, end: int) -> None:
        self._file = file
        self._end = end
        self._held = b""
        self._held_start = start
        self._at = 0
        self._left = MAX_BYTES

    @property
    def position(self) -> int:
        """The position of the next byte in the file."""
        return self._held_start + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes. Raises BrokenError if there are not as many."""
        end = self._at + count
        if end > len(self._held):
            self._fetch(count)
            end = count
        taken = self._held[self._at : end]
        self._at = end
        return taken

    def number(self, count: int) -> int:
        """The next `count` bytes as a natural number, little-endian."""
        return int.from_bytes(self.take(count), "little")

    def skip(self, count: int) -> None:
        """Skips `count` bytes without reading them."""
        if self.position + count > self._end:
            raise BrokenError(f"it ends within {count} bytes at byte {self.position}")
        self._held, self._held_start, self._at = b"", self.position + count, 0

    def line(self) -> bytes:
        """The bytes up to the next line feed, which is skipped."""
        end = self._held.find(b"\n", self._at)
        if end < 0:
            self._fetch(min(MAX_LINE, self._end - self.position))
            end = self._held.find(b"\n")
        if not 0 <= end - self._at < MAX_LINE:
            raise BrokenError(f"it has no line feed within {MAX_LINE} bytes of byte {self.position}")
        taken = self._held[self._at : end]
        self._at = end + 1
        return taken

    def _fetch(self, count: int) -> None:
        """Reads on, so that at least `count` bytes from the next one on are held, and drops earlier ones."""
        start = self.position
        if start + count > self._end:
            raise BrokenError(f"it ends within {count} bytes at byte {start}")
        kept = self._held[self._at :]
        wanted = min(max(count, _PIECE), self._end - start) - len(kept)
        self._left -= wanted
        if self._left < 0:
            raise BrokenError(f"its pickle has more than {MAX_BYTES >> 20} MiB")
        self._held = kept + self._file.read(start + len(kept), wanted)
        self._held_start, self._at = start, 0
