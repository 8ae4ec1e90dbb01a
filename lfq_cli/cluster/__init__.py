"""Encoding and decoding on a Ray cluster (extra `[ray]`).

Actors hold the quantizer and do ten jobs a call; outputs are written by the actors, on a file system that all machines
see. Ray itself lives in a process of its own (driver.py): its core ends the process where a cluster goes away, prints
to stdout, and takes the signal handlers. This side reads what became of each job from a pipe.

run.py      this side: starts the driver, gives outcomes in the order of the jobs
driver.py   connects, and hands batches of jobs to actors (schedule.py)
work.py     what an actor does with jobs
"""

from __future__ import annotations

from lfq_cli.cluster.messages import Cluster
from lfq_cli.cluster.run import run_on
from lfq_cli.cluster.work import DecodeWork, EncodeWork

__all__ = ["Cluster", "DecodeWork", "EncodeWork", "run_on"]
