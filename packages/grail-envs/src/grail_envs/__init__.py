"""Environments of GRAIL: problems fixed by a seed, parsers, rewards. `load(env_id, **params)` gives one."""

from grail_envs.registry import known_ids, load

__version__ = "0.1.0"

__all__ = ["__version__", "known_ids", "load"]
