"""Stages that suit more than one environment: what an answer looks like, and nothing of the task."""

from __future__ import annotations

import random
from typing import Final

from grail_core.capabilities import Stage, Teacher
from grail_core.environment import Problem
from grail_envs.answer_text import ANSWER_CLOSE, ANSWER_OPEN


def small_number(problem: Problem, rng: random.Random) -> str:
    """Some number below 100 between answer tags, whatever the problem."""
    return f"{ANSWER_OPEN}{rng.randrange(100)}{ANSWER_CLOSE}"


NUMBERS: Final = Teacher(stages=(Stage(small_number),))
"""For environments whose answer is a number: byte pairs, and one stage on the tags around some number."""
