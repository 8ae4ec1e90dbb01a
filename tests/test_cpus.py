"""cpus.py: the cores that a container leaves us, and as many threads as were asked for."""

import os
import threading
from math import ceil
from pathlib import Path

import pytest

from lfq_cli import cpus
from lfq_cli.cpus import cgroup_cpus, threads, use_threads


@pytest.fixture
def system(tmp_path):
    """system({"proc/self/cgroup": ..., ...}) -> a root with these files."""

    def make(files):
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


GROUP = "sys/fs/cgroup"


V1 = f"{GROUP}/cpu,cpuacct/a"
CASES = {
    "no groups": ({}, None),
    "no file": ({"proc/self/cgroup": "0::/\n"}, None),
    "no limit": ({"proc/self/cgroup": "0::/\n", f"{GROUP}/cpu.max": "max 100000\n"}, None),
    "two and a half": ({"proc/self/cgroup": "0::/\n", f"{GROUP}/cpu.max": "250000 100000\n"}, 2.5),
    "the group above": (
        {"proc/self/cgroup": "0::/a/b\n", f"{GROUP}/a/b/cpu.max": "max 100000", f"{GROUP}/a/cpu.max": "50000 100000"},
        0.5,
    ),
    "the tightest": (
        {"proc/self/cgroup": "0::/a\n", f"{GROUP}/a/cpu.max": "300000 100000", f"{GROUP}/cpu.max": "100000 50000"},
        2,
    ),
    "version 1": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/a\n3:memory:/b\n0::/\n",
            f"{V1}/cpu.cfs_quota_us": "150000",
            f"{V1}/cpu.cfs_period_us": "100000",
        },
        1.5,
    ),
    "version 1 without limit": (
        {
            "proc/self/cgroup": "4:cpu,cpuacct:/a\n",
            f"{V1}/cpu.cfs_quota_us": "-1",
            f"{V1}/cpu.cfs_period_us": "100000",
        },
        None,
    ),
    "outside": ({"proc/self/cgroup": "0::/../outside\n", f"{GROUP}/cpu.max": "100000 100000"}, 1),
}


@pytest.mark.parametrize(("files", "expected"), CASES.values(), ids=CASES)
def test_cgroup_cpus(system, files, expected):
    assert cgroup_cpus(system(files)) == expected


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.0, 2), (1.2, 2), (0.3, 1), (100.0, 8)])
def test_the_quota_limits_the_threads(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cpus, "cgroup_cpus", lambda _: quota)
    cpus._usable_cpus.cache_clear()
    assert threads() == expected
    cpus._usable_cpus.cache_clear()


def test_this_machine():
    quota = cgroup_cpus(Path("/"))
    assert 1 <= threads() <= len(os.sched_getaffinity(0))
    assert quota is None or threads() <= ceil(quota)


def test_threads_that_are_asked_for_are_given_back():
    before = threads()
    with use_threads(7):
        assert threads() == 7
        with use_threads(None):
            assert threads() == 7
        with pytest.raises(ZeroDivisionError), use_threads(3):
            _ = 1 / 0
        assert threads() == 7
        seen = []
        other = threading.Thread(target=lambda: seen.append(threads()))
        other.start()
        other.join()
        assert seen == [before]
    assert threads() == before
