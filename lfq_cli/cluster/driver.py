"""The process that runs Ray: `python -m lfq_cli.cluster.driver`, with a request on stdin and reports on stdout.

It ends when its stdin is closed. It watches the cluster itself, since Ray would kill the process after a minute without
one.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any

from lfq_cli.cluster.actor import Actor
from lfq_cli.cluster.messages import Cluster, Done, Ended, Failed, Lost, Message, Request, send
from lfq_cli.cluster.schedule import Schedule, batches_of
from lfq_cli.errors import LfqError
from lfq_cli.jobs.outcome import Outcome

_TURN_SECONDS = 1.0
_LOST_AFTER_SECONDS = 10.0
_CONNECT_SECONDS = 5.0


class _UnwantedError(Exception):
    """Nobody reads the reports any more."""


def main() -> None:
    """Carries out the request on stdin."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(1), "wb") as reports:
        os.dup2(2, 1)  # Ray prints to stdout
        request: Request = pickle.load(sys.stdin.buffer)  # our own process wrote it
        try:
            _Driver(request, reports).run()
        except LfqError as error:
            _report(reports, Failed(error))
        except (_UnwantedError, BrokenPipeError):
            return
        except Exception:
            _report(reports, Failed(bug=traceback.format_exc()))


def _report(reports: IO[bytes], message: Message) -> None:
    with suppress(BrokenPipeError):
        send(reports, message)


class _Driver:
    def __init__(self, request: Request, reports: IO[bytes]) -> None:
        self._request = request
        self._reports = reports
        self._started = time.monotonic()
        self._up_at: float | None = None
        self._worked_until = self._started
        self._most_actors = 0
        self._is_unwanted = threading.Event()
        threading.Thread(target=self._watch_stdin, daemon=True).start()

    def _watch_stdin(self) -> None:
        sys.stdin.buffer.read()
        self._is_unwanted.set()

    def run(self) -> None:
        """Connects, does the jobs, and ends everything that was started."""
        cluster = self._request.cluster
        with _connected(cluster) as ray:
            count = _actors_for(ray, cluster, len(self._request.jobs))
            work = ray.put(self._request.work)
            make = ray.remote(Actor).options(
                num_cpus=cluster.num_cpus, num_gpus=cluster.num_gpus, max_restarts=-1, max_task_retries=1
            )
            actors = [make.remote(work, cluster.threads, self._request.folder) for _ in range(count)]
            try:
                self._do_all(ray, actors)
            finally:
                for actor in actors:
                    with suppress(ray.exceptions.RayError):
                        ray.kill(actor)
        now = time.monotonic()
        up = self._up_at or now
        send(self._reports, Ended(self._most_actors, up - self._started, self._worked_until - up))

    def _do_all(self, ray: Any, actors: Sequence[Any]) -> None:
        schedule = Schedule(
            batches_of(len(self._request.jobs), len(actors)),
            lambda actor, batch: actor.run.remote([self._request.jobs[place] for place in batch]),
        )
        starting = {actor.ready.remote(): actor for actor in actors}
        watch = _Watch(ray)
        while not schedule.is_done:
            if self._is_unwanted.is_set():
                raise _UnwantedError
            schedule.hand_out()
            done, _ = ray.wait([*starting, *schedule.calls], num_returns=1, timeout=_TURN_SECONDS)
            for reference in done:
                if reference in starting:
                    self._add(ray, schedule, starting, reference, watch)
                else:
                    self._take(ray, schedule, starting, reference)
            if not done:
                watch.require_cluster()
        self._worked_until = time.monotonic()

    def _add(self, ray: Any, schedule: Schedule, starting: dict[Any, Any], reference: Any, watch: _Watch) -> None:
        """Adds an actor that is up. Raises LfqError if it did not start, or reports that it cannot work."""
        actor = starting.pop(reference)
        try:
            error = ray.get(reference)
        except ray.exceptions.ActorUnavailableError:  # killed again, or its machine is unreachable: try again
            watch.require_cluster()
            time.sleep(_TURN_SECONDS)
            starting[actor.ready.remote()] = actor
            return
        except ray.exceptions.RayError as reason:
            raise LfqError(f"--ray: an actor cannot start: {_one_line(reason)}", _SAME_EVERYWHERE) from reason
        if error is not None:
            raise error
        self._up_at = self._up_at or time.monotonic()
        schedule.add(actor)
        self._most_actors = max(self._most_actors, schedule.actors)

    def _take(self, ray: Any, schedule: Schedule, starting: dict[Any, Any], reference: Any) -> None:
        """Reports the result of a call."""
        try:
            outcomes, notes, decoded_with = ray.get(reference)
        except ray.exceptions.RayActorError:
            call = schedule.killed(reference)
            send(self._reports, Lost())
            if call.alone:
                send(self._reports, Done(call.batch, [self._killed(place) for place in call.batch]))
            schedule.remove(call.actor)
            if not any(actor is call.actor for actor in starting.values()):
                starting[call.actor.ready.remote()] = call.actor
            return
        send(self._reports, Done(schedule.finished(reference).batch, outcomes, notes, decoded_with))

    def _killed(self, place: int) -> Outcome:
        job = self._request.jobs[place]
        error = LfqError(
            f"{job.source}: the actor that worked on it was killed twice",
            "if it ran out of memory, --ray-num-cpus gives each actor a larger share of a machine",
        )
        return Outcome(job.source, job.output, "failed", part=job.part, error=error)


_SAME_EVERYWHERE = "all machines of the cluster need the same version of lfq-cli, and what the checkpoint needs"


@contextmanager
def _connected(cluster: Cluster) -> Iterator[Any]:
    """Ray, connected to the cluster; a local one ends with the block."""
    if cluster.address.startswith("ray://"):
        raise LfqError(f"--ray {cluster.address}: Ray Client is not used", "name the cluster itself, as HOST:6379")
    if cluster.address not in ("local", "auto"):
        _require_listener(cluster.address)
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "3")  # a minute instead of 16
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as later versions do; avoids a warning
    if cluster.address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as reason:
        raise LfqError(f"--ray: needs ray: {reason}", "pip install 'lfq-cli[ray]'") from reason
    options: dict[str, Any] = {"include_dashboard": False} if cluster.address == "local" else {}
    try:
        ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as reason:
        raise LfqError(f"--ray {cluster.address}: {_one_line(reason)}", "ray start --head starts one") from reason
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_listener(address: str) -> None:
    """Raises LfqError if nothing listens at the address: Ray itself would keep trying for a quarter of an hour."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not host:
        raise LfqError(f"--ray {address!r}: expected local, auto or HOST:PORT", "ray status shows the address")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
    except (OSError, OverflowError) as reason:
        raise LfqError(
            f"--ray {address}: there is no cluster: {reason}", "ray start --head starts one; ray status shows it"
        ) from reason


def _actors_for(ray: Any, cluster: Cluster, jobs: int) -> int:
    """The number of actors: as many as the cluster has room for, but no more than jobs. Raises LfqError if it is 0."""
    resources = ray.cluster_resources()
    rooms = []
    for name, each in (("CPU", cluster.num_cpus), ("GPU", cluster.num_gpus)):
        if each:
            rooms.append(int(resources.get(name, 0) / each))
            if not rooms[-1]:
                raise LfqError(
                    f"--ray: the cluster has {resources.get(name, 0):g} {name}s, but each actor needs {each:g}",
                    f"--ray-num-{name.lower()}s sets how many",
                )
    return max(1, min(jobs, *rooms) if rooms else min(jobs, int(resources.get("CPU", 1))))


class _Watch:
    """Detects that a cluster is gone: nothing listens at its address, or none of its machines is alive."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._address: str = ray.get_runtime_context().gcs_address
        self._away_since: float | None = None

    def require_cluster(self) -> None:
        """Raises LfqError if the cluster has been gone for a while."""
        if self._is_there():
            self._away_since = None
            return
        self._away_since = self._away_since or time.monotonic()
        if time.monotonic() - self._away_since > _LOST_AFTER_SECONDS:
            raise LfqError(
                f"--ray: the cluster at {self._address} went away", "the same command continues when it is back"
            )

    def _is_there(self) -> bool:
        try:
            _require_listener(self._address)
        except LfqError:
            return False
        return any(node["Alive"] for node in self._ray.nodes())


def _one_line(reason: BaseException) -> str:
    """The last non-empty line of an error."""
    lines = [line.strip() for line in str(reason).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(reason).__name__


if __name__ == "__main__":
    main()
