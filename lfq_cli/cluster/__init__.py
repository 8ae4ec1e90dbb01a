"""Encoding and decoding on a Ray cluster (extra `[ray]`).

Actors hold the quantizer and do ten jobs per call. They write the outputs themselves, to a file system that all
machines share. Ray runs in a separate process (driver.py), because its core kills the process when a cluster goes away,
prints to stdout, and replaces signal handlers. The command reads the outcome of each job from a pipe.

run.py      in the command's process: starts the driver, yields outcomes in the order of the jobs
driver.py   connects to the cluster and gives batches of jobs to actors (schedule.py)
work.py     what an actor does with its jobs
"""

from __future__ import annotations

from lfq_cli.cluster.messages import Cluster
from lfq_cli.cluster.run import run_on
from lfq_cli.cluster.work import DecodeWork, EncodeWork

__all__ = ["Cluster", "DecodeWork", "EncodeWork", "run_on"]
