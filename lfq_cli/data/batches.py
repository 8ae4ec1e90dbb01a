"""`CodesBatches`: ready batches in a shuffled order, the same for any number of ranks and workers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lfq_cli.data.dataset import CodesDataset
from lfq_cli.data.epochs import EpochCounter
from lfq_cli.data.shuffle import Permutation
from lfq_cli.errors import OptionError

if TYPE_CHECKING:
    _Base = object
else:
    try:
        from torch.utils.data import IterableDataset as _Base  # a DataLoader requires its own class
    except ImportError:
        _Base = object


_PLACES_AT_ONCE = 1 << 12
"""Of the order, worked out at once: numpy takes as long for 64."""


class CodesBatches(_Base):
    """Batches of a data set, each a dict as from `CodesDataset.batch`; an iteration is an epoch.

    The batches of an epoch are one list: batch j holds batch_size items of the epoch's order, from place j * batch_size
    on. Rank r of W takes batches r, r + W, ..., as many as every other rank; items that do not fill a batch for every
    rank are left out of the epoch. Workers of a DataLoader share the batches of their rank, in the same order. Every
    iteration begins the next epoch, in a new order. Give it to a DataLoader with `batch_size=None`.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
        **options: Any,
    ) -> None:
        """dataset: a CodesDataset, or what to make one of, with `options`. rank, world_size: which batches to take.

        Raises OptionError if there is no batch for every rank.
        """
        super().__init__()
        self.dataset = dataset if isinstance(dataset, CodesDataset) else CodesDataset(dataset, **options)
        if batch_size < 1 or not 0 <= rank < world_size:
            raise OptionError(
                f"batch_size {batch_size}, rank {rank} of {world_size}", "a batch of 1 or more, a rank below world_size"
            )
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.rank = rank
        self.world_size = world_size
        self._epochs = EpochCounter()
        self._at: _Place | None = None
        """Where the iteration under way in this process is."""
        self._resume: _Place | None = None
        """Where the next iteration goes on."""
        if not len(self):
            raise OptionError(
                f"{len(self.dataset)} items are not a batch of {batch_size} for each of {world_size} ranks",
                "a smaller batch",
            )

    def __len__(self) -> int:
        """The number of batches in an epoch for this rank."""
        return len(self.dataset) // self.batch_size // self.world_size

    def __repr__(self) -> str:
        return f"<CodesBatches: {len(self):,} batches of {self.batch_size} of {self.dataset!r}>"

    @property
    def fingerprint(self) -> str:
        """What decides the batches besides seed, epoch and step; a state fits only data with the same fingerprint."""
        facts = (self.dataset.checkpoint_sha256, len(self.dataset), self.batch_size, self.world_size, self.shuffle)
        return hashlib.sha256(repr(facts).encode() + self.dataset.catalog.starts.tobytes()).hexdigest()[:16]

    def state_dict(self, step: int | None = None) -> dict[str, Any]:
        """This rank's position, `{seed, epoch, step, fingerprint}`: to resume from, with any number of workers.

        step: batches used so far in this epoch. Required where a DataLoader's workers read, since they are ahead of
        training. In a worker the state is that worker's own, and resumes in one of as many workers.

        Raises OptionError if workers read and step is missing.
        """
        worker = _worker()
        place = self._at or self._resume
        if step is not None:
            place = _Place(self._epochs.current, step)
        elif worker is None and self._epochs.has_begun_elsewhere:
            raise OptionError(
                "workers read the batches, ahead of this process", "state_dict(step=batches that were used)"
            )
        elif place is None:
            place = _Place(self._epochs.upcoming(worker), 0)
        state = {"seed": self.seed, "epoch": place.epoch, "step": place.step, "fingerprint": self.fingerprint}
        return state | {"workers": place.workers} if place.workers else state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The next iteration resumes after the state. Raises OptionError for the state of other batches."""
        if state.get("fingerprint") != self.fingerprint:
            raise OptionError(
                "the state belongs to other data, or to other batches", "the same files, batch_size and world_size"
            )
        self.seed = state["seed"]
        self._at = None
        self._resume = _Place(state["epoch"], state["step"], state.get("workers", 0))
        self._epochs.set(state["epoch"])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = _worker()
        number, workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        epoch = self._epochs.begin(worker)
        order = Permutation(len(self.dataset), self.seed, epoch) if self.shuffle else None
        own = 0 if worker is None else workers
        steps = range(self._first(epoch, number, workers), len(self), workers)
        at_once = -(-_PLACES_AT_ONCE // self.batch_size)
        for first in range(0, len(steps), at_once):
            run = steps[first : first + at_once]
            for step, items in zip(run, self._items(run, order), strict=True):
                self._at = _Place(epoch, step, own)
                batch = self.dataset.batch(items)
                self._at = _Place(epoch, step + workers, own)
                yield batch
        self._at = self._resume = None

    def _items(self, steps: range, order: Permutation | None) -> NDArray[np.int64]:
        """The items of the batches of some steps: [steps, batch_size]."""
        begins = (np.array(steps, np.int64) * self.world_size + self.rank) * self.batch_size
        places = begins[:, None] + np.arange(self.batch_size)
        return places if order is None else order(places.reshape(-1)).reshape(places.shape)

    def _first(self, epoch: int, number: int, workers: int) -> int:
        """The first step of worker `number` in an iteration."""
        place = self._resume
        if place is None or place.epoch != epoch:
            return number
        if not place.workers:
            return place.step + number
        if place.workers != workers:
            raise OptionError(
                f"the state is that of one of {place.workers} workers, there are {workers}",
                "as many workers, or state_dict(step) of the process that trains",
            )
        return place.step


class _Place(NamedTuple):
    """A place in an epoch. `step`: the next of one worker among so many `workers`; with 0 workers, the next of all
    together.
    """

    epoch: int
    step: int
    workers: int = 0


def _worker() -> Any:
    """torch's information on this worker process; None if it is not one."""
    try:
        from torch.utils.data import get_worker_info
    except ImportError:
        return None
    return get_worker_info()
