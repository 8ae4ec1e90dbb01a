"""Moving blocks to a device and back: host memory, copies and kernels of several blocks at once.

A lane is host memory for one block, and a stream of the device on which its work is queued in order: copy in, kernels,
copy out. Lanes are not ordered among each other, so one block is read from the file while another is copied and a third
is computed. CUDA copies at full speed, and asynchronously, only from and to pinned memory. Where a device has no
streams (the CPU, MPS) the same code uses plain memory, and every step is complete when its call returns.
"""

from __future__ import annotations

import queue
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

from lfq_cli.errors import LfqNote

if TYPE_CHECKING:
    import torch

T = TypeVar("T")


class Stream(Protocol):
    """A queue of a device's work, done in order."""

    asynchronous: bool
    """Whether calls return before their work is done."""

    def queueing(self) -> AbstractContextManager[object]:
        """A block whose work is queued here."""
        ...

    def mark(self) -> None:
        """Marks the end of what is queued so far."""
        ...

    def wait(self) -> None:
        """Waits until everything before the last mark is done."""
        ...


class CudaStream:
    """A CUDA stream, with the event that marks its progress."""

    asynchronous = True

    def __init__(self, device: torch.device) -> None:
        import torch

        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        # waiting uses no core that the reading threads need
        self._marked: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]

    def queueing(self) -> AbstractContextManager[object]:
        """As in Stream."""
        import torch

        return torch.cuda.stream(self._stream)

    def mark(self) -> None:
        """As in Stream."""
        self._marked.record(self._stream)

    def wait(self) -> None:
        """As in Stream."""
        self._marked.synchronize()


class NoStream:
    """The stream of a device whose calls return when their work is done."""

    asynchronous = False

    def queueing(self) -> AbstractContextManager[object]:
        """As in Stream."""
        return nullcontext()

    def mark(self) -> None:
        """Nothing is queued."""

    def wait(self) -> None:
        """There is nothing to wait for."""


def stream_on(device: torch.device) -> Stream:
    """A new stream of the device."""
    return CudaStream(device) if device.type == "cuda" else NoStream()


class HostMemory:
    """Host memory that grows as needed and is reused, pinned on request."""

    def __init__(self, *, pinned: bool) -> None:
        self._pinned = pinned
        self._held: torch.Tensor | None = None

    def get(self, nbytes: int) -> torch.Tensor:
        """uint8 [nbytes]; its previous content is lost."""
        if self._held is None or self._held.numel() < nbytes:
            self._held = None  # release the old memory first
            self._held = self._new(nbytes)
        return self._held[:nbytes]

    def _new(self, nbytes: int) -> torch.Tensor:
        import torch

        if self._pinned:
            try:
                return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
            except RuntimeError as refused:
                reason = str(refused).partition("\n")[0]
                self._pinned = False
                warnings.warn(
                    f"cannot pin {nbytes / 2**20:.0f} MiB of memory: copies to the device are slower ({reason})",
                    LfqNote,
                    stacklevel=2,
                )
        return torch.empty(nbytes, dtype=torch.uint8)


class Lane:
    """A block's stream and its host memory: `taken` for input to the device, `given` for output."""

    def __init__(self, device: torch.device) -> None:
        self.stream = stream_on(device)
        self.taken = HostMemory(pinned=self.stream.asynchronous)
        self.given = HostMemory(pinned=self.stream.asynchronous)

    @contextmanager
    def settled_on_error(self) -> Iterator[None]:
        """A block after which no work on this lane's memory is in flight, even if it fails."""
        try:
            yield
        except BaseException:
            self.stream.mark()
            self.stream.wait()
            raise


Start = Callable[[Lane], Callable[[], T]]
"""Queues a block's work on a lane; the call that it returns gives the result when the lane's mark was waited for."""


class Ring:
    """A limited number of lanes, shared by any number of threads."""

    def __init__(self, device: torch.device, count: int) -> None:
        self._device = device
        # last used first, so a small load creates few lanes
        self._free: queue.LifoQueue[Lane | None] = queue.LifoQueue()
        for _ in range(count):
            self._free.put(None)  # a lane not created yet

    def run(self, starts: Iterable[Start[T]]) -> Generator[T]:
        """The result of each start, in order; several are in flight at once. A result may lie in its lane's memory,
        which is valid until the next one is requested.

        A thread waits for a lane only while it holds none: those that hold some finish their own first.
        """
        under_way: deque[tuple[Lane, Callable[[], T]]] = deque()
        try:
            for start in starts:
                while (lane := self._take(wait=not under_way)) is None:
                    yield from self._end(*under_way.popleft())
                try:
                    with lane.settled_on_error():
                        finish = start(lane)
                    lane.stream.mark()
                except BaseException:
                    self._free.put(lane)
                    raise
                under_way.append((lane, finish))
            while under_way:
                yield from self._end(*under_way.popleft())
        finally:
            for lane, _ in under_way:
                lane.stream.wait()
                self._free.put(lane)

    def _take(self, *, wait: bool) -> Lane | None:
        """A free lane; None if there is none and the caller does not wait."""
        try:
            lane = self._free.get(block=wait)
        except queue.Empty:
            return None
        if lane is not None:
            return lane
        try:
            return Lane(self._device)
        except BaseException:
            self._free.put(None)
            raise

    def _end(self, lane: Lane, finish: Callable[[], T]) -> Generator[T]:
        try:
            lane.stream.wait()
            yield finish()
        finally:
            self._free.put(lane)
