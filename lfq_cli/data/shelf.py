"""Many codes files, few of them open at a time, in whichever process reads."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lfq_cli.codesfile import CodesFile, open_codes
from lfq_cli.errors import CodesFileError
from lfq_cli.storage.places import version

MOST_OPEN = 64


class Shelf:
    """Opens files on demand, at most MOST_OPEN at a time.

    A file that was written to or replaced since it was first read is an error: what is known of it would be wrong, and
    another process would read another file. Each process has its own descriptors: after a fork files are opened again,
    and pickling leaves them out.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = list(paths)
        self._states: dict[int, tuple[int, ...]] = {}
        self._forget()

    def _forget(self) -> None:
        self._open: OrderedDict[int, CodesFile] = OrderedDict()
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def get(self, number: int) -> CodesFile:
        """The open file. Raises CodesFileError if it is damaged, or has changed."""
        if self._pid != os.getpid():
            self._forget()  # the parent's descriptors: it may close them at any time
        with self._lock:
            codes = self._open.get(number)
            if codes is None:
                codes = self._opened(number)
            elif self._state_of(number) != self._states[number]:
                raise self._changed(number)
            self._open.move_to_end(number)
            return codes

    def _opened(self, number: int) -> CodesFile:
        codes = open_codes(self.paths[number])
        if self._states.setdefault(number, codes.state) != codes.state:
            codes.close()
            raise self._changed(number)
        self._open[number] = codes
        if len(self._open) > MOST_OPEN:
            self._open.popitem(last=False)[1].close()
        return codes

    def _state_of(self, number: int) -> tuple[int, ...] | None:
        """The state of the file that has the name now; None if there is none. 2 µs, where a read takes 10.

        For an object, its state when it was opened: asking the store for each sample would take longer than reading it.
        """
        return version(self.paths[number], known=True)

    def _changed(self, number: int) -> CodesFileError:
        return CodesFileError(f"{self.paths[number]}: changed since it was opened", "open the data set again")

    def __del__(self) -> None:
        if "_pid" in self.__dict__:
            self.close()

    def close(self) -> None:
        """Closes all files."""
        if self._pid == os.getpid():
            for codes in self._open.values():
                codes.close()
        self._forget()

    def __getstate__(self) -> dict[str, Any]:
        return {"paths": self.paths, "states": self._states}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.paths, self._states = state["paths"], state["states"]
        self._forget()
