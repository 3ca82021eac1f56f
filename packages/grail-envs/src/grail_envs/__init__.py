"""Environments of GRAIL: problems fixed by a seed, parsers, rewards. `load(env_id, **params)` gives one."""

from grail_envs.registry import DEFAULT_ENV_ID, known_ids, load, load_held_out

__version__ = "0.1.0"

__all__ = ["DEFAULT_ENV_ID", "__version__", "known_ids", "load", "load_held_out"]
