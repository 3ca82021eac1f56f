"""Benchmarks, each with a function `measure() -> dict[str, float]` whose keys are the names of the figures."""
