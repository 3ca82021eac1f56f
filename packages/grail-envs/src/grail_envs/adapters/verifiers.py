"""The environment id `verifiers`: a package of that library, by `load_environment` (before 0.4) or as a task set."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from grail_core.errors import ConfigurationError
from grail_envs.adapters.foreign import ForeignEnvironment, Number
from grail_envs.adapters.foreign_kind import package_of


class VerifiersEnvironment(ForeignEnvironment):
    """A `verifiers` package, single-turn tasks.

    `package` is its distribution, `module` what is imported where that has another name; `arguments` what `load_environment` or
    the task set's configuration takes; `split` train or eval (of `load_environment`); `most_rows` the first rows alone;
    `lowest` and `highest` what the sum of rewards lies in.

    Raises:
        ConfigurationError: a parameter that is none.
        EnvironmentUnavailableError: the package is not there, is another one than the spec's, or cannot be adapted.
    """

    form = "verifiers"

    def __init__(
        self,
        package: str,
        arguments: Mapping[str, Any] | str = "{}",
        module: str = "",
        split: str = "train",
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
        if split not in ("train", "eval"):
            raise ConfigurationError(f"there is no split {split!r}", where="split", hint="train or eval")
        if not isinstance(module, str) or len(module) > 200:
            raise ConfigurationError("module is no name", where="module", hint="write it as Python imports it")
        super().__init__(
            package_of(package, package_version, package_digest, requires, library="verifiers"),
            {"split": split, "module": module},
            arguments=arguments,
            most_rows=most_rows,
            lowest=lowest,
            highest=highest,
            success_at=success_at,
            thinking=thinking,
            data_dir=data_dir,
        )
