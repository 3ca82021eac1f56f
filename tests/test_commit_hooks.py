"""The commit hooks fetch nothing, and lint runs them instead of listing them a second time."""

from __future__ import annotations

import re
import tomllib

from tooling import REPOSITORY

HOOKS = (REPOSITORY / ".pre-commit-config.yaml").read_text(encoding="utf-8")


def test_every_hook_is_local_and_calls_what_is_installed() -> None:
    assert set(re.findall(r"^ *(?:- )?repo: (\S+)", HOOKS, re.MULTILINE)) == {"local"}
    hooks = re.findall(r"^ *- id: (\S+)", HOOKS, re.MULTILINE)
    assert hooks
    assert re.findall(r"^ *language: (\S+)", HOOKS, re.MULTILINE) == ["system"] * len(hooks)


def test_lint_runs_the_hooks_and_none_of_them_by_itself() -> None:
    environment = tomllib.loads((REPOSITORY / "hatch.toml").read_text(encoding="utf-8"))["envs"]["default"]
    lint = environment["scripts"]["lint"]
    assert lint[0] == "pre-commit run --all-files"
    tools = {entry.split()[0] for entry in re.findall(r"^ *entry: (.+)", HOOKS, re.MULTILINE)}
    assert not tools & {command.split()[0] for command in lint}
    installed = {re.split(r"[=><]", name)[0] for name in environment["dependencies"]}
    assert tools - {"python"} <= installed
