"""Random 3-SAT: `environment` has problems and grades, `answers` reads answers, `teaching` is for tiny models."""

from grail_envs.sat.answers import MAX_ANSWER_CHARACTERS, format_answer, parse_answer
from grail_envs.sat.environment import SatEnvironment, SatPayload

__all__ = ["MAX_ANSWER_CHARACTERS", "SatEnvironment", "SatPayload", "format_answer", "parse_answer"]
