"""What is graded and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Limits:
    """What a grade may use; part of an environment's version.

    `cpu_s` is processor time of one process, `wall_s` time without the time spent in line for a processor, `memory_bytes`
    address space. A limit counts at its value; processes are stopped at 1.2 times of it.
    """

    cpu_s: float = 8.0
    wall_s: float = 16.0
    memory_bytes: int = 2**30


@dataclass(frozen=True)
class Job:
    """Python to run and how it is graded.

    `code` is the answer, run as module `name` (a program if `program`: it may exit with 0, and its output is kept) with
    `stdin` and with `random` seeded by `seed`, after `given` has run in the same module: the data set's own Python that the
    answer builds on, compiled by itself. `tests` run on the grading side after `prelude`; `remote` are the names that
    stand there for the answer's. Without tests, running to the end passes.
    """

    code: str
    given: str = ""
    tests: tuple[str, ...] = ()
    prelude: str = ""
    remote: tuple[str, ...] = ()
    name: str = "answer"
    stdin: str = ""
    seed: int = 0
    program: bool = False


LOST: Final = "sandbox"


@dataclass(frozen=True)
class Ruling:
    """What became of a job.

    `conclusive` is False only where the grading side failed before it was given the job: from then on nothing that happens is
    anybody's fault but the answer's. `limit` names the limit that the answer ran into ("cpu", "time", "memory", "" for none),
    `limit_share` is the largest share of one that was used, `stage` where it ended (LOST: with the lane it ran on).
    """

    passed: bool
    stage: str
    detail: str = ""
    output: str = ""
    limit: str = ""
    limit_share: float = 0.0
    conclusive: bool = True
