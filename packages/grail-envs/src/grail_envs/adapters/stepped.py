"""The environment ids `gymnasium` and `openenv`: one reset that asks in text, one step that answers in text and ends."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from grail_core.errors import ConfigurationError
from grail_envs.adapters.foreign import ForeignEnvironment, Number
from grail_envs.adapters.foreign_kind import package_of


class GymnasiumEnvironment(ForeignEnvironment):
    """An environment in Gymnasium's form: `reset(seed=…)` shows a text, `step(text)` rewards it and ends.

    `entry` is module:attribute of the package, or an id of Gymnasium's registry: `Name-v0`, or `module:Name-v0` where that
    module registers it. Row N is `reset(seed=N)`;
    `most_rows` of them are used (1,024).

    Raises:
        ConfigurationError: a parameter that is none.
        EnvironmentUnavailableError: the package is not there, is another one than the spec's, or cannot be adapted.
    """

    form = "gymnasium"

    def __init__(
        self,
        package: str,
        entry: str,
        arguments: Mapping[str, Any] | str = "{}",
        most_rows: int = 0,
        lowest: Number = "",
        highest: Number = "",
        success_at: Number = "1",
        thinking: str = "left out",
        package_version: str = "",
        package_digest: str = "",
        requires: Mapping[str, str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(
            package_of(package, package_version, package_digest, requires),
            {"entry": _text("entry", entry)},
            arguments=arguments,
            most_rows=most_rows,
            lowest=lowest,
            highest=highest,
            success_at=success_at,
            thinking=thinking,
            data_dir=data_dir,
        )


class OpenEnvEnvironment(ForeignEnvironment):
    """An environment class of OpenEnv, used in process: `reset(seed=…)` and `step(action)` with typed values.

    `entry` and `action` are module:attribute of the environment's and the action's class; `action_field` and
    `observation_field` name their fields of text where there are several. Row N is `reset(seed=N)`, as for `gymnasium`.

    Raises:
        ConfigurationError: a parameter that is none.
        EnvironmentUnavailableError: the package is not there, is another one than the spec's, or cannot be adapted.
    """

    form = "openenv"

    def __init__(
        self,
        package: str,
        entry: str,
        action: str,
        action_field: str = "",
        observation_field: str = "",
        arguments: Mapping[str, Any] | str = "{}",
        most_rows: int = 0,
        lowest: Number = "",
        highest: Number = "",
        success_at: Number = "1",
        thinking: str = "left out",
        package_version: str = "",
        package_digest: str = "",
        requires: Mapping[str, str] | None = None,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        own = {"entry": entry, "action": action, "action_field": action_field, "observation_field": observation_field}
        super().__init__(
            package_of(package, package_version, package_digest, requires),
            {name: _text(name, value) for name, value in own.items()},
            arguments=arguments,
            most_rows=most_rows,
            lowest=lowest,
            highest=highest,
            success_at=success_at,
            thinking=thinking,
            data_dir=data_dir,
        )


def _text(name: str, value: str) -> str:
    if not isinstance(value, str) or len(value) > 200:
        raise ConfigurationError(f"{name} is no name", where=name, hint="write module:attribute")
    return value
