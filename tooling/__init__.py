"""Tools around the five packages: localnet, benchmarks, adversaries, release checks. Never shipped in a wheel."""
