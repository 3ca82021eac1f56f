"""What holds for every test: property tests draw the same examples in every run, and no machine is too slow for one."""

from hypothesis import HealthCheck, settings

settings.register_profile("grail", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("grail")
