"""Where the kernels' threads run: never on the caller's CPU, and on no CPU that the caller may not use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from edgead.kernels._native import native

pytestmark = [
    pytest.mark.skipif(native() is None, reason="the native module is not built"),
    pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no CPU affinity here"),
]

CPUS = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()

# The workers are the threads that appear with the first call on more than one.
PROGRAM = """
import os, sys
import numpy as np
from edgead import kernels

cpus = {int(cpu) for cpu in sys.argv[1].split(",")}
os.sched_setaffinity(0, cpus)
x = np.random.default_rng(0).standard_normal((900, 300), dtype=np.float32)
wanted = kernels.kmeans_assign(x, x[:99] + 1, threads=1)
before = set(os.listdir("/proc/self/task"))
for _ in range(20):
    given = kernels.kmeans_assign(x, x[:99] + 1, threads=3)
    assert all((a == b).all() for a, b in zip(given, wanted, strict=True))
workers = set(os.listdir("/proc/self/task")) - before
assert os.sched_getaffinity(0) == cpus, "the caller's own CPUs were changed"
print(*(",".join(map(str, sorted(os.sched_getaffinity(int(worker))))) for worker in workers))
"""


def workers_of(cpus: set[int]) -> list[set[int]]:
    """The CPUs that each worker of a process may use, whose caller may use `cpus`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, ",".join(map(str, sorted(cpus)))],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd="/",  # not a checkout: its package lies there without the native module
    )
    assert done.returncode == 0, done.stderr
    return [{int(cpu) for cpu in worker.split(",")} for worker in done.stdout.split()]


@pytest.mark.skipif(len(CPUS) < 2, reason="one CPU")
def test_workers_leave_the_callers_cpu_alone() -> None:
    workers = workers_of(CPUS)
    assert workers
    for allowed in workers:
        assert allowed < CPUS
        assert len(allowed) == len(CPUS) - 1


def test_a_caller_with_one_cpu_shares_it() -> None:
    one = {min(CPUS)}
    assert workers_of(one) == [one, one]
