"""What holds for every test: property tests draw the same examples in every run, no machine is too slow for one, and what all
tests have imported is left out of every garbage collection (a run of the suite has a million such objects)."""

import gc

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("grail", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("grail")


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
