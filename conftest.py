"""What holds for every test: property tests draw the same examples in every run, no machine is too slow for one, and what all
tests have imported is left out of every garbage collection (a run of the suite has a million such objects).

Several workers (`-n 2`) share the processors: each computes with its part of the threads, and so do the processes it starts.
"""

import gc
import os

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("grail", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("grail")

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
if WORKERS > 1:  # before torch is imported, which reads it once
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // WORKERS)))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)  # collecting every 700 objects takes a twentieth of the suite's processor time
