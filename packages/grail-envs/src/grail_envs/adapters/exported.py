"""What an exported package of ours runs on: the environment that it names, if it is still the same one, and our own judge.

`export` writes packages that hold little more than an `Exported`; prompts and grades come from here, so an exported package
and the network judge by the same code. Both forms of `verifiers` are served: `exported_tasks`, `exported_environment`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from grail_core.environment import Environment, Grade, GradeOutcome
from grail_core.errors import EnvironmentUnavailableError
from grail_envs.registry import load


class JudgeUnavailableError(Exception):
    """A grade could not be made, through no fault of the answer."""


@dataclass(frozen=True)
class Exported:
    """An environment as it was exported: `parameters` as JSON, `digest` of its spec in hex, and how many problems."""

    env_id: str
    parameters: str
    digest: str
    problems: int

    def environment(self, data_dir: str = "") -> Environment:
        """The environment of that name here, made once.

        Raises:
            EnvironmentUnavailableError: it is not there, or is another one than was exported (another version or other data).
        """
        return _environment(self, data_dir)

    def messages(self, seed: int, data_dir: str = "") -> list[dict[str, str]]:
        """What asks the problem of a seed."""
        environment = self.environment(data_dir)
        asked = environment.messages(environment.problem(seed))
        return [{"role": message.role, "content": message.content} for message in asked]

    def grade(self, seed: int, completion: str, data_dir: str = "") -> Grade:
        """Our own grade.

        Raises:
            JudgeUnavailableError: it is inconclusive.
        """
        environment = self.environment(data_dir)
        grade = environment.grade(environment.problem(seed), completion)
        if grade.outcome is GradeOutcome.INCONCLUSIVE:
            raise JudgeUnavailableError(grade.detail)
        return grade


def has_task_sets() -> bool:
    """Whether the installed `verifiers` has the task sets of its releases from 0.4."""
    try:
        major, minor = (int(part) for part in version("verifiers").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return False
    return (major, minor) >= (0, 4)


@functools.cache
def _environment(exported: Exported, data_dir: str) -> Environment:
    parameters: Mapping[str, Any] = json.loads(exported.parameters)
    environment = load(exported.env_id, data_dir=data_dir or None, **parameters)
    if environment.spec.digest.hex() != exported.digest:
        raise EnvironmentUnavailableError(
            f"the environment {exported.env_id} here is not the one that was exported: digest "
            f"{environment.spec.digest.hex()[:16]}…, not {exported.digest[:16]}…",
            where=exported.env_id,
            hint="install the grail-envs that the package asks for, and use the data set that it was exported with",
        )
    return environment
